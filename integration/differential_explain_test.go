//go:build linux

package integration

import (
	"fmt"
	"slices"
	"testing"

	"github.com/nftdp/go-nftdp/internal/ruleset"
	"github.com/nftdp/go-nftdp/nftdp"
)

// explains compares what Explain says before a connection with what the rules mean,
// and with what the documentation says about the service.
func (r *round) explains(t *testing.T, p *probe, want []ruleset.Outcome, paths []ruleset.Path) bool {
	t.Helper()
	x, err := r.d.Explain(t.Context(), nftdp.Probe{Protocol: p.protocol.proto, Source: p.src, Destination: p.dst})
	if err != nil {
		t.Error(p, err)
		return false
	}
	if flaw := r.explained(p, x, want, paths); flaw != "" {
		t.Errorf("%s: %s\n%v\n%s", p, flaw, x, r.report(p, want, paths))
		return false
	}
	return true
}

// explained says what is wrong with an explanation, or "".
func (r *round) explained(p *probe, x *nftdp.Explanation, want []ruleset.Outcome, paths []ruleset.Path) string {
	service, name := r.service(p)
	verdicts := map[ruleset.Fate]nftdp.TraceVerdict{
		ruleset.Dropped: nftdp.VerdictDropped, ruleset.Reset: nftdp.VerdictRejected, ruleset.Unreachable: nftdp.VerdictRejected,
	}
	var got []ruleset.Outcome
	chosen := 0
	for _, c := range x.Backends {
		if c.Chosen {
			chosen++
		}
	}
	for _, c := range x.Backends {
		if chosen == 0 || c.Chosen {
			got = append(got, ruleset.Outcome{Dst: c.Addr, Masquerade: c.Masqueraded, SNAT: c.SNAT})
		}
	}
	fate := paths[0].Fate
	switch {
	case x.Service != name:
		return fmt.Sprintf("service %q, want %q", x.Service, name)
	case fate != ruleset.Passed && (x.Verdict != verdicts[fate] || len(got) > 0):
		return fmt.Sprintf("%s, want %s", x.Verdict, verdicts[fate])
	case fate != ruleset.Passed:
		return ""
	case x.Code == nftdp.CodeNoService || x.Code == nftdp.CodeNoBackend:
		if len(want) != 1 || want[0] != (ruleset.Outcome{Dst: p.dst}) {
			return "not taken, but it is"
		}
		return ""
	case len(got) != len(paths):
		return fmt.Sprintf("%d candidates, want %d", len(got), len(paths))
	case x.Code != nftdp.CodeDelivered:
		return "everything is reachable here"
	}
	for _, path := range paths {
		if !slices.Contains(got, path.Outcome) {
			return fmt.Sprintf("%v is missing", path.Outcome)
		}
	}
	if service == nil {
		return "there is no service"
	}
	return ""
}

// service is the one that takes a packet, by the documentation, and its name.
func (r *round) service(p *probe) (*nftdp.Service, string) {
	s, _ := r.spec.frontend(p)
	if s == nil {
		return nil, ""
	}
	return s, s.Name
}
