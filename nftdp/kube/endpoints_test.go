package kube

import (
	"testing"

	v1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
)

// An address that is listed twice counts as the last that does not terminate, whatever
// its other conditions, in whichever order they come.
func TestEndpointListedTwice(t *testing.T) {
	ready := discoveryv1.EndpointConditions{Ready: new(true)}
	starting := discoveryv1.EndpointConditions{Ready: new(false), Serving: new(false)}
	unready := discoveryv1.EndpointConditions{Ready: new(false), Serving: new(true)}
	leaving := discoveryv1.EndpointConditions{Ready: new(false), Serving: new(true), Terminating: new(true)}
	for _, c := range []struct {
		name        string
		listed      []discoveryv1.EndpointConditions
		ready, used bool
	}{
		{"ready after terminating", []discoveryv1.EndpointConditions{leaving, ready}, true, true},
		{"terminating after ready", []discoveryv1.EndpointConditions{ready, leaving}, true, true},
		{"starting after terminating", []discoveryv1.EndpointConditions{leaving, starting}, false, false},
		{"terminating after starting", []discoveryv1.EndpointConditions{starting, leaving}, false, false},
		{"ready after unready", []discoveryv1.EndpointConditions{unready, ready}, true, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			slice := &discoveryv1.EndpointSlice{
				AddressType: discoveryv1.AddressTypeIPv4,
				Ports:       []discoveryv1.EndpointPort{{Name: new("web"), Port: new(int32(8080)), Protocol: new(v1.ProtocolTCP)}},
			}
			for _, conditions := range c.listed {
				slice.Endpoints = append(slice.Endpoints, discoveryv1.Endpoint{Addresses: []string{"10.0.0.1"}, Conditions: conditions})
			}
			got := (&translation{}).endpoints([]*discoveryv1.EndpointSlice{slice})
			if c.used != (len(got) == 1) {
				t.Fatalf("endpoints: %v; want one: %v", got, c.used)
			}
			if c.used && got[0].ready != c.ready {
				t.Errorf("ready: %v, want %v", got[0].ready, c.ready)
			}
		})
	}
}
