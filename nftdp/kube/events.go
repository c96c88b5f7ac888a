package kube

import v1 "k8s.io/api/core/v1"

const (
	// actionProgram is what was tried when an Event happened.
	actionProgram = "Program"
	// maxNote is how many bytes the API server takes as the text of an Event.
	maxNote = 1024
)

// record makes an Event at the Service of a problem. It waits for nobody. The recorder
// takes Events of one version of a Service with one reason and action for a series, of
// which it keeps the first text, so that the count of Events is bounded, whatever changes
// elsewhere.
func (k *Controller) record(p Problem) {
	if k.events == nil {
		return
	}
	if svc, err := k.sources.services.Services(p.Object.Namespace).Get(p.Object.Name); err == nil {
		k.events.Eventf(svc, nil, v1.EventTypeWarning, p.Reason, actionProgram, "%s", p.Message[:min(len(p.Message), maxNote)])
	}
}
