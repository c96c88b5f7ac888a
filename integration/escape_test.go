//go:build linux

package integration

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"net"
	"net/netip"
	"runtime"
	"syscall"
	"testing"
	"time"

	"github.com/nftdp/go-nftdp/internal/nstest"
	"github.com/nftdp/go-nftdp/nftdp"
)

// TestNoPacketEscapesDuringChanges: the kernel replaces the rules, and the contents
// of each set, as a whole. But a packet that is being evaluated during a commit may
// see some of the old state and some of the new. Whatever it sees, it must be
// translated or dropped. If it escaped untranslated, conntrack would leave all
// later packets of its connection untranslated, too.
//
// First packets are sent as fast as one processor can, while another changes the
// size of the pool, so that slots vanish, and chains for pools of other sizes come
// and go. A packet that escapes follows the node's default route back to the
// client, which counts it as one for an address that is not its own.
func TestNoPacketEscapesDuringChanges(t *testing.T) {
	w := newSilentWorld(t, 3)
	vip := nstest.IPv4().ClusterIP
	escaped := func() int { return snmpSum(t, w.Client, "snmp", "Ip.InAddrErrors") }
	before := escaped()
	sendEach(t, w.Client, netip.AddrPortFrom(vip, 79), 1)
	if n := escaped() - before; n != 1 {
		t.Fatalf("of one packet to an address without a service %d came back: the test shows nothing", n)
	}

	dns := nftdp.Service{
		Name: "dns", Protocol: nftdp.ProtocolUDP, Backends: backends(0, 1, 2),
		Frontends: on(clusterIP, 80),
	}
	w.apply(t, dns)
	before = escaped()
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		sendEach(t, w.Client, netip.AddrPortFrom(vip, 80), math.MaxUint16)
	}()
	n := 0
	for done := false; !done; n++ {
		dns.Backends = firstActive(1+n%3, 3)
		w.update(t, nftdp.Change{Set: []nftdp.Service{dns}})
		select {
		case <-sent:
			done = true
		default:
		}
	}
	t.Logf("%d changes while %d connections began", n, math.MaxUint16)
	if n < 100 {
		t.Error("too few to show anything")
	}
	if escaped := escaped() - before; escaped != 0 {
		t.Errorf("%d packets escaped", escaped)
	}
}

// firstActive are n backends, of which the first ones are active and the others
// draining.
func firstActive(active, n int) []nftdp.Backend {
	out := backends(upTo(n)...)
	for i := len(nstest.Families()) * active; i < len(out); i++ {
		out[i].State = nftdp.StateDraining
	}
	return out
}

// newSilentWorld is a world whose backends take UDP datagrams and never answer,
// so that they take little time of the processors.
func newSilentWorld(t *testing.T, backends int) *world {
	t.Helper()
	w := &world{Topology: newTopology(t, backends)}
	for i, pod := range w.Backends {
		sink(t, pod, netip.AddrPortFrom(nstest.IPv4().Backend(i), backendPort))
	}
	w.open(t, nftdp.Config{})
	return w
}

// sendTimeout is for all packets of one test. They take a second; the rest is for
// an emulated processor with other work.
const sendTimeout = 5 * askTimeout

// sendEach sends n UDP datagrams, each from a port of its own.
func sendEach(t *testing.T, from *nstest.Namespace, dst netip.AddrPort, n int) {
	t.Helper()
	f, err := openFlood(from, dst)
	if err == nil {
		defer closeOrFail(t, f)
		err = f.send(1, n)
	}
	if err != nil {
		t.Error(err)
	}
}

// flood sends UDP datagrams to one address through a raw socket, each from
// another port: one system call makes one new connection.
type flood struct {
	net.Conn
	header []byte
}

func openFlood(from *nstest.Namespace, dst netip.AddrPort) (*flood, error) {
	socket, err := nstest.Open(from, "ip4:17", netip.Addr{}, netip.AddrPortFrom(dst.Addr(), 0), sendTimeout)
	if err != nil {
		return nil, err
	}
	header := make([]byte, 8) // without a checksum, which is optional in IPv4
	binary.BigEndian.PutUint16(header[2:], dst.Port())
	binary.BigEndian.PutUint16(header[4:], uint16(len(header)))
	return &flood{socket, header}, nil
}

// send sends n datagrams from n consecutive ports.
func (f *flood) send(first, n int) error {
	if err := f.SetDeadline(time.Now().Add(sendTimeout)); err != nil {
		return err
	}
	for port := first; port < first+n; port++ {
		binary.BigEndian.PutUint16(f.header, uint16(port))
		// The socket's buffer is full (__ip_append_data in net/ipv4/ip_output.c)
		// until another processor has taken what was sent before. The socket's
		// deadline bounds the number of tries.
		_, err := f.Write(f.header)
		for errors.Is(err, syscall.ENOBUFS) {
			runtime.Gosched()
			_, err = f.Write(f.header)
		}
		if err != nil {
			return fmt.Errorf("packet from port %d: %w", port, err)
		}
	}
	return nil
}
