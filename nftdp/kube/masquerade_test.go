package kube_test

import (
	"net/netip"
	"testing"

	"github.com/nftdp/go-nftdp/nftdp/kube"
)

// Semantics 15: who is masqueraded, beside TestFlowsInternalExternalMasquerade.
func TestMasquerade(t *testing.T) {
	newWorld(func(w *world) {
		w.options.DetectLocal, w.node.Spec.PodCIDRs = kube.DetectLocalNodeCIDR, []string{"10.180.0.0/24", "fd00:10:180::/64"}
	}).flows(t, `
		client   clusterIP        externalIP       nodePort         loadBalancer
		pod      1,2              1,2 masqueraded  1,2 masqueraded  1,2 masqueraded
		outside  1,2 masqueraded  1,2 masqueraded  1,2 masqueraded  1,2 masqueraded`)
	// Pods are known of one family only.
	w := newWorld(func(w *world) { w.options.ClusterCIDRs = w.options.ClusterCIDRs[:1] })
	node, _ := w.program(t)
	for family, want := range []string{"1,2 masqueraded", "1,2"} {
		if got := answer(node, clients["outside"][family], netip.MustParseAddrPort(places["clusterIP"][family])); got != want {
			t.Errorf("family %d: %s", family, got)
		}
	}
	// A pod that reaches itself.
	node, _ = newWorld(replaceSlices(pod(200, "here"))).program(t)
	if got := answer(node, clients["pod"][0], netip.MustParseAddrPort(places["clusterIP"][0])); got != "200 masqueraded" {
		t.Errorf("hairpin: %s", got)
	}
}

// Semantics 15: pods are those that come by an interface, whatever their addresses.
func TestMasqueradeByInterface(t *testing.T) {
	for mode, change := range map[kube.DetectLocal]func(*kube.Options){
		kube.DetectLocalBridgeInterface:     func(o *kube.Options) { o.PodBridgeInterface = "cni0" },
		kube.DetectLocalInterfaceNamePrefix: func(o *kube.Options) { o.PodInterfaceNamePrefix = "cni" },
	} {
		w := newWorld(spec(externalLocal), func(w *world) {
			w.options.DetectLocal, w.options.ClusterCIDRs = mode, nil
			change(&w.options)
		})
		node, _ := w.program(t)
		for _, test := range []struct{ client, by, to, want string }{
			{"pod", "cni0", "clusterIP", "1,2"},
			{"outside", "cni0", "clusterIP", "1,2"},
			{"pod", "eth0", "clusterIP", "1,2 masqueraded"},
			{"outside", "eth0", "clusterIP", "1,2 masqueraded"},
			{"node", "", "clusterIP", "1,2 masqueraded"},
			{"pod", "cni0", "externalIP", "1,2"},
			{"pod", "eth0", "externalIP", "1"},
			{"outside", "eth0", "nodePort", "1"},
		} {
			for family, to := range places[test.to] {
				if got := answerBy(node, test.by, clients[test.client][family], netip.MustParseAddrPort(to)); got != test.want {
					t.Errorf("%s: %s by %q to %s: %s, want %s", mode, test.client, test.by, to, got, test.want)
				}
			}
		}
	}
}

// Semantics 15: the pods' prefixes of the Node are followed, also if they come later.
func TestNodeCIDRComes(t *testing.T) {
	w := newWorld(func(w *world) { w.options.DetectLocal = kube.DetectLocalNodeCIDR })
	w.want(t, "pod clusterIP: 1,2", "outside clusterIP: 1,2")
	w.node.Spec.PodCIDRs = []string{"10.180.0.0/24", "fd00:10:180::/64"}
	w.want(t, "pod clusterIP: 1,2", "outside clusterIP: 1,2 masqueraded")
}

// Beside another proxy that serves other Services, nothing of theirs is rejected or
// dropped.
func TestBesideAnotherProxy(t *testing.T) {
	w := newWorld(func(w *world) {
		w.options.ProxyName, w.services[0].Labels = "nftdp", map[string]string{kube.LabelProxyName: "nftdp"}
	})
	w.want(t, "pod clusterIP: 1,2", "pod unallocated: passes", "pod unusedPort: passes")
}
