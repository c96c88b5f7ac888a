//go:build linux

package cluster

import (
	"errors"
	"net"
	"net/netip"

	"github.com/nftdp/go-nftdp/internal/nstest"
)

// attach connects a namespace to a router as the ptp plug-in of CNI does: an address
// without a network on each end, so that every packet passes through the router. Addrs
// returns the namespace's address and the router's.
func attach(ns, router *nstest.Namespace, inRouter string, addrs func(Addrs) (addr, gateway netip.Addr)) error {
	if err := nstest.Connect(ns, "eth0", router, inRouter); err != nil {
		return err
	}
	for _, a := range Families() {
		addr, gateway := addrs(a)
		err := errors.Join(
			ns.AddAddr("eth0", single(addr)),
			router.AddAddr(inRouter, single(gateway)),
			ns.AddRoute("eth0", a.any(), gateway, addr),
			router.AddRoute(inRouter, single(addr), netip.Addr{}, gateway))
		if err != nil {
			return err
		}
	}
	return nil
}

func forward(ns *nstest.Namespace) error {
	return errors.Join(
		ns.Sysctl("net/ipv4/ip_forward", "1"),
		ns.Sysctl("net/ipv6/conf/all/forwarding", "1"))
}

func single(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, a.BitLen()) }

// nth returns an address some numbers behind another one.
func nth(addr netip.Addr, n int) netip.Addr {
	for range n {
		addr = addr.Next()
	}
	return addr
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}
