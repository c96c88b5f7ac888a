//go:build linux

package integration

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/nftdp/go-nftdp/internal/nstest"
	"github.com/nftdp/go-nftdp/nftdp"
)

// TestServiceCIDRs: packets to the service CIDRs that no frontend takes are
// refused at once, whether they are to another port of an address in use or to
// an address that no service has: TCP with a reset and no other answer,
// everything else with the ICMP error "port unreachable".
func TestServiceCIDRs(t *testing.T) {
	t.Parallel()
	w := newCaseWorld(t, nftdp.Config{ServiceCIDRs: serviceNets()})
	w.apply(t, nftdp.Service{Name: "vip", Frontends: on(clusterIP, 80), Backends: to("L1", "R1")})
	for _, from := range []place{"C", "L2", "N"} {
		for _, a := range nstest.Families() {
			t.Run(string(from)+"/"+a.Family, func(t *testing.T) { w.wantUnreachable(t, from, a) })
		}
	}
}

// wantUnreachable tries what the services leave over, with every protocol.
func (w *caseWorld) wantUnreachable(t *testing.T, from place, a nstest.Addrs) {
	t.Helper()
	ns := w.namespace(from)
	listener := listenICMP(t, ns, a)
	var want []icmpError
	for _, dst := range []netip.AddrPort{
		netip.AddrPortFrom(a.ClusterIP, 81), netip.AddrPortFrom(unassigned(a), 80),
	} {
		for _, protocol := range []string{"tcp", "udp", "sctp", "icmp"} {
			local := from == "N" && protocol != "tcp"
			refused := map[bool]string{false: "refused", true: "not permitted"}[local]
			if got := reach(ns, protocol, dst, askTimeout); got != refused {
				t.Errorf("%s to %v: %s, want %s", protocol, dst, got, refused)
			}
			if protocol != "tcp" { // the node's own processes get the message and an error
				want = append(want, portUnreachable(dst.Addr(), protocol))
			}
		}
	}
	if diff := cmp.Diff(want, listener.errors(t), equateAddrs()); diff != "" {
		t.Errorf("ICMP errors (-want +got):\n%s", diff)
	}
	w.send(t, a, packet{from: from, to: clusterIP, port: 80, want: "L1 or R1"})
}

// TestServiceCIDRsAreNotForwarded: another router has the addresses of the
// service CIDRs and answers there, and the node has a route to it. With
// ServiceCIDRs it receives no packet to these addresses, and every packet to
// others.
func TestServiceCIDRsAreNotForwarded(t *testing.T) {
	t.Parallel()
	w := newCaseWorld(t, nftdp.Config{})
	w.routeToRouter(t)
	vip := nftdp.Service{Name: "vip", Frontends: on(clusterIP, 80), Backends: to("L1")}
	everyone := func(t *testing.T, addr func(nstest.Addrs) netip.Addr, port uint16, want func(from place, protocol string) string) {
		t.Helper()
		for _, a := range nstest.Families() {
			for _, from := range []place{"C", "L2", "N"} {
				for _, protocol := range []string{"tcp", "udp", "sctp", "icmp"} {
					dst := netip.AddrPortFrom(addr(a), port)
					if got := reach(w.namespace(from), protocol, dst, askTimeout); got != want(from, protocol) {
						t.Errorf("%s from %s to %v: %s, want %s", protocol, from, dst, got, want(from, protocol))
					}
				}
			}
		}
	}
	router := func(_ place, protocol string) string {
		return map[bool]string{false: w.Router.Name, true: "echo"}[protocol == "icmp"]
	}
	refused := func(from place, protocol string) string {
		return map[bool]string{false: "refused", true: "not permitted"}[from == "N" && protocol != "tcp"]
	}

	w.apply(t, vip)
	everyone(t, unassigned, 80, router)
	everyone(t, clusterIP, 81, router)

	closeOrFail(t, w.dataplane)
	w.open(t, nftdp.Config{ServiceCIDRs: serviceNets()})
	w.apply(t, vip)
	before := receivedSegments(t, w.Router)
	everyone(t, unassigned, 80, refused)
	everyone(t, clusterIP, 81, refused)
	if n := receivedSegments(t, w.Router) - before; n != 0 {
		t.Errorf("the router received %d packets, want none", n)
	}
	everyone(t, external, 80, router)
}

// routeToRouter gives the other router the addresses of services and one outside
// of their prefixes, and the node routes to it.
func (w *caseWorld) routeToRouter(t *testing.T) {
	t.Helper()
	for i, a := range nstest.Families() {
		for _, addr := range []netip.Addr{a.ClusterIP, unassigned(a), a.External} {
			if err := w.Router.AddAddr("lo", single(addr)); err != nil {
				t.Fatal(err)
			}
		}
		for _, p := range []netip.Prefix{serviceNets()[i], single(a.External)} {
			if err := w.Node.AddRoute(nstest.RouterLink, p, a.Router, a.PodGW); err != nil {
				t.Fatal(err)
			}
		}
	}
	serve(t, w.Router, 80, "tcp", "udp", "sctp")
	serve(t, w.Router, 81, "tcp", "udp", "sctp")
}

// reach is attempt with one protocol more: "icmp" sends an echo request, whose
// outcome is "echo" if it is answered.
func reach(from *nstest.Namespace, protocol string, dst netip.AddrPort, timeout time.Duration) string {
	if protocol != "icmp" {
		return attempt(from, protocol, dst, timeout)
	}
	if err := echo(from, dst.Addr(), timeout); err != nil {
		return outcome(nstest.Answer{}, err)
	}
	return "echo"
}

// Types of ICMP messages, for IPv4 and IPv6.
const (
	echoRequest4, echoReply4 = 8, 0
	echoRequest6, echoReply6 = 128, 129
)

// echo sends an echo request and waits for the reply.
func echo(from *nstest.Namespace, dst netip.Addr, timeout time.Duration) error {
	network, request, reply := "ip4:1", byte(echoRequest4), byte(echoReply4)
	if dst.Is6() {
		network, request, reply = "ip6:58", echoRequest6, echoReply6
	}
	c, err := nstest.Open(from, network, netip.Addr{}, netip.AddrPortFrom(dst, 0), timeout)
	if err != nil {
		return err
	}
	defer c.Close()
	// Conntrack uses the identifier as it does ports of other protocols.
	message := binary.BigEndian.AppendUint32([]byte{request, 0, 0, 0}, rand.Uint32())
	if dst.Is4() { // the kernel fills in that of IPv6
		binary.BigEndian.PutUint16(message[2:], internetChecksum(message))
	}
	if _, err := c.Write(message); err != nil {
		return err
	}
	b := make([]byte, 2048)
	for {
		n, _, err := c.(net.PacketConn).ReadFrom(b)
		if err != nil {
			return err
		}
		if n >= len(message) && b[0] == reply {
			return nil
		}
	}
}

// icmpError is an ICMP message about a packet that could not be delivered.
type icmpError struct {
	Type, Code, Protocol uint8
	Dst                  netip.Addr // of that packet
}

// portUnreachable is the error about a packet to an address.
func portUnreachable(dst netip.Addr, protocol string) icmpError {
	number := map[string]uint8{"udp": unix.IPPROTO_UDP, "sctp": unix.IPPROTO_SCTP, "icmp": unix.IPPROTO_ICMP}[protocol]
	if dst.Is4() {
		return icmpError{3, 3, number, dst} // RFC 792
	}
	if protocol == "icmp" {
		number = unix.IPPROTO_ICMPV6
	}
	return icmpError{1, 4, number, dst} // RFC 4443, section 3.1
}

// icmpListener receives all ICMP messages of a family that reach a namespace.
type icmpListener struct{ net.PacketConn }

func listenICMP(t *testing.T, ns *nstest.Namespace, a nstest.Addrs) icmpListener {
	t.Helper()
	network := map[string]string{"v4": "ip4:1", "v6": "ip6:58"}[a.Family]
	var l icmpListener
	err := ns.Do(func() (err error) { l.PacketConn, err = net.ListenPacket(network, a.Any().Addr().String()); return err })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closeOrFail(t, l) })
	return l
}

// errors are the ICMP errors that have arrived. The kernel delivers them to
// listeners before it reports them to the socket that they are about.
func (l icmpListener) errors(t *testing.T) []icmpError {
	t.Helper()
	var all []icmpError
	b := make([]byte, 2048)
	for {
		if err := l.SetReadDeadline(time.Now().Add(time.Millisecond)); err != nil {
			t.Fatal(err)
		}
		n, _, err := l.ReadFrom(b)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return all
		}
		if err != nil {
			t.Fatal(err)
		}
		if e, ok := parseICMPError(b[:n]); ok {
			all = append(all, e)
		}
	}
}

// parseICMPError parses a message that quotes a packet's header.
func parseICMPError(b []byte) (e icmpError, ok bool) {
	if len(b) < 8+20 {
		return icmpError{}, false
	}
	e = icmpError{Type: b[0], Code: b[1]}
	switch inner := b[8:]; {
	case inner[0]>>4 == 4:
		e.Protocol, e.Dst = inner[9], netip.AddrFrom4([4]byte(inner[16:20]))
	case inner[0]>>4 == 6 && len(inner) >= 40 && e.Type < echoRequest6:
		e.Protocol, e.Dst = inner[6], netip.AddrFrom16([16]byte(inner[24:40]))
	default:
		return icmpError{}, false
	}
	return e, true
}

func (e icmpError) String() string {
	return fmt.Sprintf("type %d code %d for protocol %d to %v", e.Type, e.Code, e.Protocol, e.Dst)
}
