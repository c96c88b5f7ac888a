package kube

import (
	"slices"
	"testing"

	v1 "k8s.io/api/core/v1"
)

// External addresses are served in the families of the ClusterIPs only, and a problem
// names each other one.
func TestAddressesOfOtherFamily(t *testing.T) {
	svc := &v1.Service{Spec: v1.ServiceSpec{
		Type: v1.ServiceTypeLoadBalancer, ClusterIP: "10.96.0.1", ClusterIPs: []string{"10.96.0.1"},
		ExternalIPs: []string{"198.18.0.1", "fd00:198::1"}, Ports: []v1.ServicePort{{Port: 80}},
	}}
	svc.Status.LoadBalancer.Ingress = []v1.LoadBalancerIngress{{IP: "198.18.0.2"}, {IP: "fd00:198::2"}}
	services, problems := Options{NodeName: "a"}.Services(svc, nil, nil)
	var got []string
	for _, f := range services[0].Frontends {
		got = append(got, f.Addr.String())
	}
	if want := []string{"10.96.0.1", "198.18.0.1", "198.18.0.2"}; !slices.Equal(got, want) {
		t.Errorf("frontends at %v, want %v", got, want)
	}
	if len(problems) != 2 || problems[0].Reason != "OtherFamily" || problems[1].Reason != "OtherFamily" {
		t.Errorf("problems: %v, want two of OtherFamily", problems)
	}
}
