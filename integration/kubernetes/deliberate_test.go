//go:build linux

package kubernetes_test

import (
	"net/netip"
	"slices"
	"strings"

	"github.com/nftdp/go-nftdp/integration/kubernetes/cluster"
)

// deliberate is the reason for which the agent does something else than kube-proxy, or
// empty where it must not. Each reason is in README.md, too.
func deliberate(s randomService, p probe, kubeProxy, agent outcomes) string {
	ranges := s.service.Spec.LoadBalancerSourceRanges
	ofFamily := func(text string) bool {
		prefix, err := netip.ParsePrefix(strings.TrimSpace(text))
		return err == nil && prefix.Addr().Is4() == p.to.Addr().Is4()
	}
	if p.kind == "lb" && len(ranges) > 0 && !slices.ContainsFunc(ranges, ofFamily) &&
		agent.String() == silence && kubeProxy.String() != silence {
		return "source ranges of one family close the addresses of the other one"
	}
	if p.from == "pod-a0" && p.reachesItself(s) && slices.Contains(kubeProxy, silence) &&
		(p.affine || slices.Equal(kubeProxy.without(silence), agent.without("pod-a0 from node-a"))) {
		return "a pod reaches itself, also if its endpoint does not name the node"
	}
	return ""
}

// reachesItself reports whether the client is an endpoint that does not name its node.
func (p probe) reachesItself(s randomService) bool {
	for _, slice := range s.slices {
		for _, e := range slice.Endpoints {
			addr := netip.MustParseAddr(e.Addresses[0])
			if e.NodeName == nil && (addr == cluster.V4.Pod(0, 0) || addr == cluster.V6.Pod(0, 0)) {
				return true
			}
		}
	}
	return false
}
