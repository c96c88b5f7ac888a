//go:build linux

package lab

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/nftdp/go-nftdp/internal/nstest"
)

// announce tells the neighbours on a link that an address is here now: by a gratuitous
// ARP request (RFC 5227, section 3) or an unsolicited neighbour advertisement (RFC
// 4861, section 7.2.6). They replace the link-layer address that they had for it.
func announce(ns *nstest.Namespace, link string, addr netip.Addr) error {
	l, err := ns.Links().LinkByName(link)
	if err != nil {
		return fmt.Errorf("%s: link %s: %w", ns.Name, link, err)
	}
	mac, index := l.Attrs().HardwareAddr, l.Attrs().Index
	send := gratuitousARP
	if addr.Is6() {
		send = unsolicitedAdvertisement
	}
	if err := ns.Do(func() error { return send(index, mac, addr) }); err != nil {
		return fmt.Errorf("%s: announce %v: %w", ns.Name, addr, err)
	}
	return nil
}

func gratuitousARP(link int, mac []byte, addr netip.Addr) error {
	const request = "\x00\x01\x08\x00\x06\x04\x00\x01" // of Ethernet, for IPv4
	packet := slices.Concat([]byte(request), mac, addr.AsSlice(), make([]byte, 6), addr.AsSlice())
	to := &unix.SockaddrLinklayer{Protocol: networkOrder(unix.ETH_P_ARP), Ifindex: link, Halen: 6}
	copy(to.Addr[:], "\xff\xff\xff\xff\xff\xff")
	return withSocket(unix.AF_PACKET, unix.SOCK_DGRAM, 0, func(s int) error { return unix.Sendto(s, packet, 0, to) })
}

func unsolicitedAdvertisement(link int, mac []byte, addr netip.Addr) error {
	const (
		advertisement    = "\x88\x00\x00\x00" // the kernel computes the checksum
		routerOverriding = "\xa0\x00\x00\x00"
		targetLinkLayer  = "\x02\x01"
	)
	packet := slices.Concat([]byte(advertisement+routerOverriding), addr.AsSlice(), []byte(targetLinkLayer), mac)
	allNodes := netip.IPv6LinkLocalAllNodes().As16()
	return withSocket(unix.AF_INET6, unix.SOCK_RAW, unix.IPPROTO_ICMPV6, func(s int) error {
		if err := unix.SetsockoptInt(s, unix.IPPROTO_IPV6, unix.IPV6_MULTICAST_HOPS, 255); err != nil {
			return err
		}
		if err := unix.Bind(s, &unix.SockaddrInet6{Addr: addr.As16()}); err != nil {
			return err
		}
		return unix.Sendto(s, packet, 0, &unix.SockaddrInet6{Addr: allNodes, ZoneId: uint32(link)})
	})
}

func withSocket(family, kind, protocol int, use func(int) error) error {
	s, err := unix.Socket(family, kind|unix.SOCK_CLOEXEC, protocol)
	if err != nil {
		return err
	}
	defer unix.Close(s)
	return use(s)
}

func networkOrder(n uint16) uint16 {
	return binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, n))
}
