package kube_test

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	v1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nftdp/go-nftdp/nftdp"
	"github.com/nftdp/go-nftdp/nftdp/kube"
)

// FuzzTranslation: whatever the objects of the API server say, also what it would refuse,
// each Service becomes services that are valid, or a problem that names it.
func FuzzTranslation(f *testing.F) {
	for seed := range uint64(50) {
		f.Add(seed, "198.51.100.1", "443:http", "10.0.0.0/8")
	}
	f.Fuzz(func(t *testing.T, seed uint64, addr, ports, prefix string) {
		r := &random{rand.New(rand.NewPCG(seed, 1)), []string{addr, ports, prefix}}
		w := r.world()
		config, services, problems := w.translate(t)
		if err := config.Validate(nil); err != nil {
			t.Errorf("configuration of %v: %v", w.node, err)
		}
		for _, s := range services {
			if err := config.Validate([]nftdp.Service{s}); err != nil {
				t.Errorf("%v", err)
			}
		}
		for _, p := range problems {
			if p.Object.Name != w.services[0].Name || p.Reason == "" || p.Message == "" {
				t.Errorf("%+v", p)
			}
		}
	})
}

// random makes objects of what is valid, what nearly is, and what the fuzzer wants.
type random struct {
	*rand.Rand
	texts []string
}

func (r *random) often() bool { return r.IntN(4) > 0 }

func (r *random) one(of ...string) string {
	if r.IntN(12) == 0 {
		of = append(r.texts, "", "\x00", "é", strings.Repeat("x", 300))
	}
	return of[r.IntN(len(of))]
}

func (r *random) addr() string {
	return r.one("10.96.0.1", "10.96.0.2", "010.096.000.001", "198.51.100.1", "2001:db8::1", "fd00:10:96::1", "::ffff:10.0.0.1",
		"127.0.0.1", "::1", "0.0.0.0", "::", "224.0.0.1", "ff02::1", "fe80::1", "fe80::1%eth0", "169.254.1.1", "255.255.255.255", "192.0.2.1", "None")
}

func (r *random) prefix() string {
	return r.one("10.0.0.0/8", "10.1.2.3/8", " 192.0.2.0/24 ", "0.0.0.0/0", "::/0", "2001:db8::/32", "fe80::/10", "169.254.0.0/16", "127.0.0.0/8",
		"::ffff:10.0.0.0/104", "::ffff:0:0/90", "10.0.0.0/33", "10.0.0.1")
}

func (r *random) some(of func() string) (out []string) {
	for range r.IntN(4) {
		out = append(out, of())
	}
	return out
}

func (r *random) truth() *bool { return []*bool{nil, new(false), new(true)}[r.IntN(3)] }

func (r *random) number() int32 {
	return []int32{80, 443, 30000, 65535, 0, -1, 65536, 1 << 30}[r.IntN(4+r.IntN(5))]
}

func (r *random) protocol() v1.Protocol {
	return v1.Protocol(r.one("TCP", "UDP", "SCTP", ""))
}

func (r *random) word() string { return r.one("http", "dns", "") }

func (r *random) world() *world {
	w := newWorld(func(w *world) {
		w.options.DetectLocal = []kube.DetectLocal{kube.DetectLocalNone, kube.DetectLocalClusterCIDR, kube.DetectLocalNodeCIDR}[r.IntN(3)]
		w.options.MasqueradeAll = !r.often()
		w.options.NodePortAddresses = [][]string{nil, {"primary", "localhost"}, {"all"}, {"192.0.2.0/24"}}[r.IntN(4)]
		w.cidrs = []*networkingv1.ServiceCIDR{{Spec: networkingv1.ServiceCIDRSpec{CIDRs: r.some(r.prefix)}}}
		w.node.Spec.PodCIDRs = r.some(r.prefix)
		w.node.Status.Addresses = nil
		for range r.IntN(3) {
			w.node.Status.Addresses = append(w.node.Status.Addresses, v1.NodeAddress{Type: v1.NodeAddressType(r.one("InternalIP", "ExternalIP", "Hostname")), Address: r.addr()})
		}
		if !r.often() {
			w.node = nil
		}
		w.slices = nil
		for i := range r.IntN(3) {
			w.slices = append(w.slices, r.slice(i))
		}
		w.services = []*v1.Service{r.service(w.services[0])}
	})
	return w
}

func (r *random) service(s *v1.Service) *v1.Service {
	s.Annotations = map[string]string{
		kube.AnnotationNodeIPPorts: r.one("443:http,80", "80:http", "", "0", "x:y"), kube.AnnotationNodePortAllow: strings.Join(r.some(r.prefix), ","),
		kube.AnnotationScheduler: r.one("", "maglev", "round-robin", "nonsense"), kube.AnnotationCutStale: r.one("", "true", "no"),
	}
	s.Spec = v1.ServiceSpec{
		Type: v1.ServiceType(r.one("ClusterIP", "NodePort", "LoadBalancer", "ExternalName")), ClusterIP: r.addr(), ClusterIPs: r.some(r.addr),
		ExternalIPs: r.some(r.addr), LoadBalancerSourceRanges: r.some(r.prefix),
		SessionAffinity:       v1.ServiceAffinity(r.one("ClientIP", "None")),
		ExternalTrafficPolicy: v1.ServiceExternalTrafficPolicy(r.one("Local", "Cluster", "")),
		InternalTrafficPolicy: new(v1.ServiceInternalTrafficPolicy(r.one("Local", "Cluster"))),
	}
	if r.often() {
		s.Spec.SessionAffinityConfig = &v1.SessionAffinityConfig{ClientIP: &v1.ClientIPConfig{TimeoutSeconds: new(r.number())}}
	}
	for range r.IntN(4) {
		s.Spec.Ports = append(s.Spec.Ports, v1.ServicePort{Name: r.word(), Port: r.number(), NodePort: r.number(), Protocol: r.protocol()})
	}
	s.Status = v1.ServiceStatus{}
	for range r.IntN(3) {
		s.Status.LoadBalancer.Ingress = append(s.Status.LoadBalancer.Ingress, v1.LoadBalancerIngress{IP: r.addr(), IPMode: new(v1.LoadBalancerIPMode(r.one("VIP", "Proxy")))})
	}
	return s
}

func (r *random) slice(i int) *discoveryv1.EndpointSlice {
	s := &discoveryv1.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: "default", Name: fmt.Sprint("web-", i), Labels: map[string]string{discoveryv1.LabelServiceName: "web"},
			Annotations: map[string]string{kube.AnnotationWeight: r.one("", "1", "65535", "65536", "-1"), kube.AnnotationBackup: r.one("", "true", "?")},
		},
		AddressType: discoveryv1.AddressType(r.one("IPv4", "IPv6", "FQDN")),
	}
	for range r.IntN(3) {
		s.Ports = append(s.Ports, discoveryv1.EndpointPort{Name: new(r.word()), Port: new(r.number()), Protocol: new(r.protocol())})
	}
	for range r.IntN(5) {
		e := discoveryv1.Endpoint{Addresses: r.some(r.addr), NodeName: new(r.one("here", "there")), Conditions: discoveryv1.EndpointConditions{Ready: r.truth(), Serving: r.truth(), Terminating: r.truth()}}
		if r.often() {
			hints(r.one("", "here", "there"), r.one("", "a", "b"))(&e)
		}
		s.Endpoints = append(s.Endpoints, e)
	}
	return s
}
