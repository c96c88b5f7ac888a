//go:build linux

package integration

import (
	"encoding/binary"
	"hash/crc32"
	"net/netip"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/nftdp/go-nftdp/internal/nstest"
	"github.com/nftdp/go-nftdp/nftdp"
)

// TestOlderConnections: connections to a process of the node that are older than the
// rules, and than conntrack, go on when a frontend takes their port, whichever side
// sends first. New connections go to the backend.
func TestOlderConnections(t *testing.T) {
	t.Parallel()
	for name, frontends := range map[string][]nftdp.Frontend{
		"node-wide":  nodeWide(80),
		"addressed":  on(nodeAddr, 80),
		"range":      upToPort(81, nodeWide(80)),
		"every port": upToPort(65535, on(nodeAddr, 1)),
		"dropping":   withPolicy(nftdp.PolicyLocalOnly, nodeWide(80)),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			inFamilies(t, func(t *testing.T, a nstest.Addrs) {
				t.Parallel()
				testOlderConnections(t, a, frontends)
			})
		})
	}
}

func testOlderConnections(t *testing.T, a nstest.Addrs, frontends []nftdp.Frontend) {
	t.Helper()
	w := newWorld(t, nftdp.Config{}, 1)
	serve(t, w.Node, 80, "tcp")
	serve(t, w.Client, 81, "tcp")
	at := netip.AddrPortFrom(a.Node, 80)
	older := slices.Concat(connect(t, 1, w.Client, at), connect(t, 1, w.Node, at), connect(t, 1, w.Backends[0], at))
	// The node's own connection, whose source is the frontend.
	out, err := nstest.DialTCPFrom(w.Node, netip.AddrPortFrom(a.Node, 81), netip.AddrPortFrom(a.Client, 81), askTimeout)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = out.Close() })
	older = append(older, out)

	b := backends(0)
	if frontends[0].EndPort > 0 {
		b[0].Addr, b[1].Addr = netip.AddrPortFrom(b[0].Addr.Addr(), 0), netip.AddrPortFrom(b[1].Addr.Addr(), 0)
	}
	w.apply(t, nftdp.Service{Name: "web", Frontends: frontends, Backends: b})
	wantAlive(t, older)
	if frontends[0].Policy == nftdp.PolicyAnyBackend && frontends[0].EndPort == 0 {
		askFor(t, "backend-1", w.Client, "tcp", at)
		askFor(t, "backend-1", w.Node, "tcp", at)
	}
	w.forgetFlows(t)
	wantAlive(t, older)
}

// TestMiddleOfAConnection: where no process of the node has the connection, a segment
// in the middle of one is translated, although conntrack has forgotten it: with a
// hash, and without masquerading, the connection goes on, also on an address that the
// node holds. So Cut ends
// connections to frontends of all kinds, whoever else listens on their port.
func TestMiddleOfAConnection(t *testing.T) {
	t.Parallel()
	inFamilies(t, func(t *testing.T, a nstest.Addrs) {
		t.Parallel()
		w := newWorld(t, nftdp.Config{Internal: clientNets()}, 3)
		frontends := slices.Concat(nodeWide(80), on(nodeAddr, 81), on(clusterIP, 82), on(external, 83))
		web := nftdp.Service{Name: "web", Frontends: frontends, Backends: backends(0, 1, 2), Scheduler: nftdp.SchedulerSourcePortHash}
		w.apply(t, web)
		at := []netip.AddrPort{
			netip.AddrPortFrom(a.Node, 80), netip.AddrPortFrom(a.Node, 81),
			netip.AddrPortFrom(a.ClusterIP, 82), netip.AddrPortFrom(a.External, 83),
		}
		var outside, inside []*nstest.Conn
		for _, dst := range at {
			outside = append(outside, connect(t, 5, w.Client, dst)...)
			inside = append(inside, connect(t, 5, w.Node, dst)...)
		}
		w.forgetFlows(t)
		wantAlive(t, outside)
		wantAlive(t, inside[2*5:])
		if t.Failed() {
			return
		}
		for _, port := range []uint16{80, 81, 82, 83} {
			serve(t, w.Node, port, "tcp")
		}
		conns := slices.Concat(outside, inside[2*5:])
		web.Scheduler, web.Backends = nftdp.SchedulerRandom, backends(2)
		w.apply(t, web)
		broken := slices.DeleteFunc(conns, func(c *nstest.Conn) bool { return c.Answer.Server == "backend-3" })
		w.cut(t, len(broken))
		wantBroken(t, broken)
	})
}

// TestMiddleOfAnAssociation: an SCTP packet in the middle of an association to the
// node is left to the node, while an INIT is translated.
func TestMiddleOfAnAssociation(t *testing.T) {
	t.Parallel()
	inFamilies(t, func(t *testing.T, a nstest.Addrs) {
		t.Parallel()
		w := newWorld(t, nftdp.Config{}, 1)
		w.apply(t, nftdp.Service{Name: "s", Protocol: nftdp.ProtocolSCTP, Frontends: append(nodeWide(80), on(clusterIP, 80)...), Backends: backends(0)})
		for _, c := range []struct {
			from       *nstest.Namespace
			dst        netip.Addr
			port       uint16
			chunk      byte
			translated bool
		}{
			{w.Client, a.Node, 40001, 4, false},
			{w.Client, a.Node, 40002, 1, true},
			{w.Client, a.ClusterIP, 40003, 4, true},
			{w.Node, a.Node, 40004, 4, false},
			{w.Node, a.ClusterIP, 40005, 4, true},
		} {
			w.sendSCTP(t, c.from, netip.AddrPortFrom(c.dst, 80), c.port, c.chunk)
			want := c.dst
			if c.translated {
				want = a.Backend(0)
			}
			if got := w.replySource(t, unix.IPPROTO_SCTP, c.port); got != want {
				t.Errorf("chunk %d from %s to %v: replies come from %v, want %v", c.chunk, c.from.Name, c.dst, got, want)
			}
		}
	})
}

// sendSCTP sends a packet with a chunk: 1 is INIT, 4 HEARTBEAT.
func (w *world) sendSCTP(t *testing.T, from *nstest.Namespace, dst netip.AddrPort, port uint16, chunk byte) {
	t.Helper()
	tag := byte(1) // verification tag, of which an INIT has none
	if chunk == 1 {
		tag = 0
	}
	b := binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16(nil, port), dst.Port())
	b = append(b, 0, 0, 0, tag, 0, 0, 0, 0)
	b = append(b, chunk, 0, 0, 20, 0, 0, 0, 1, 0, 1, 0, 0, 0, 1, 0, 1, 0, 0, 0, 1) // of an INIT: tag, window, streams, TSN
	binary.LittleEndian.PutUint32(b[8:], crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli)))
	c, err := nstest.Open(from, "ip:132", netip.Addr{}, netip.AddrPortFrom(dst.Addr(), 0), askTimeout)
	if err != nil {
		t.Fatal(err)
	}
	defer closeOrFail(t, c)
	if _, err := c.Write(b); err != nil {
		t.Fatal(err)
	}
}

// replySource is where conntrack expects replies to a client's port to come from.
func (w *world) replySource(t *testing.T, protocol uint8, port uint16) netip.Addr {
	t.Helper()
	for f := range flowTable(t, w.Node, protocol) {
		if f.src.Port() == port {
			return f.replySrc.Addr()
		}
	}
	return netip.Addr{}
}
