package kube

import (
	"net/netip"
	"strings"

	netutils "k8s.io/utils/net"
)

// parseAddr reads an address as Kubernetes does, which allows leading zeros in IPv4
// addresses of old objects.
func parseAddr(text string) (netip.Addr, bool) {
	a, ok := netip.AddrFromSlice(netutils.ParseIPSloppy(text))
	return a.Unmap(), ok
}

// parsePrefix reads a prefix as Kubernetes does. What it returns is valid: an IPv4-mapped
// prefix, which nftdp refuses, becomes the IPv4 prefix that it means.
func parsePrefix(text string) (netip.Prefix, bool) {
	_, n, err := netutils.ParseCIDRSloppy(strings.TrimSpace(text))
	if err != nil {
		return netip.Prefix{}, false
	}
	a, ok := netip.AddrFromSlice(n.IP)
	bits, _ := n.Mask.Size()
	if a.Is4In6() { // the host bits are zero here, so the length is 96 at least
		a, bits = a.Unmap(), bits-96
	}
	p := netip.PrefixFrom(a, bits)
	return p, ok && p.IsValid()
}

// takesNodePorts reports whether nftdp.Config.NodeAddrs can have a prefix: clients
// send to link-local IPv6 addresses what the kernel does not forward.
func takesNodePorts(p netip.Prefix) bool {
	return p.Addr().Is4() || p.Bits() < 10 || !p.Addr().IsLinkLocalUnicast()
}
