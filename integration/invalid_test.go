//go:build linux

package integration

import (
	"encoding/binary"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nftdp/go-nftdp/internal/nstest"
	"github.com/nftdp/go-nftdp/nftdp"
)

// TestSegmentsOutsideOfTheWindow: with the requirements met, a segment far outside of
// the window, from either side, ends no connection: it is translated like any other,
// and the receiver's TCP ignores it. Without, conntrack calls it INVALID, and it
// resets the connection untranslated.
func TestSegmentsOutsideOfTheWindow(t *testing.T) {
	t.Parallel()
	inFamilies(t, func(t *testing.T, a nstest.Addrs) {
		t.Parallel()
		w := newWorld(t, nftdp.Config{Internal: podNets()}, 2)
		frontends := append(nodeWide(80), on(clusterIP, 80)...)
		frontends = append(frontends, withMasquerade(nftdp.MasqueradeNever, on(external, 80))...)
		w.apply(t, nftdp.Service{Name: "web", Frontends: frontends, Backends: backends(0)})
		type way struct {
			from *nstest.Namespace
			dst  netip.Addr
		}
		ways := []way{
			{w.Client, a.Node},
			{w.Client, a.ClusterIP},
			{w.Client, a.External},
			{w.Backends[1], a.Node},
			{w.Backends[1], a.ClusterIP},
			{w.Node, a.ClusterIP},
			{w.Node, a.Node},
		}
		inject := func(v way, answers bool) error {
			conn := newTapped(t, w, v.from, netip.AddrPortFrom(v.dst, 80))
			return conn.inject(t, answers)
		}
		if inject(ways[0], true) == nil || inject(ways[3], true) == nil || inject(ways[0], false) == nil {
			t.Error("a segment outside of the window does no harm: the test shows nothing")
		}
		w.meetRequirements(t)
		for _, v := range ways {
			for _, answers := range []bool{true, false} {
				if err := inject(v, answers); err != nil {
					t.Errorf("from %s to %v, a segment from the backend: %v: %v", v.from.Name, v.dst, answers, err)
				}
			}
		}
	})
}

// tapped is a connection whose segments are seen at the backend.
type tapped struct {
	*nstest.Conn
	client, backend *nstest.Namespace
	dst             netip.AddrPort
	tap             int
}

func newTapped(t *testing.T, w *world, from *nstest.Namespace, dst netip.AddrPort) *tapped {
	t.Helper()
	c := &tapped{client: from, backend: w.Backends[0], dst: dst}
	err := c.backend.Do(func() (err error) {
		c.tap, err = unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, int(hostToNet(unix.ETH_P_ALL)))
		return err
	})
	if err != nil {
		t.Fatal("packet socket:", err)
	}
	t.Cleanup(func() { _ = unix.Close(c.tap) })
	c.Conn = connect(t, 1, from, dst)[0]
	wantAlive(t, []*nstest.Conn{c.Conn})
	return c
}

// inject sends a segment outside of the window, from the backend or from the client,
// and returns the error of the connection afterwards.
func (c *tapped) inject(t *testing.T, answers bool) error {
	t.Helper()
	seq, ack, ok := c.numbers()
	if !ok {
		t.Fatal("no segment of the connection was seen")
	}
	src, dst, from := netip.AddrPortFrom(c.backendAddr(), backendPort), c.Answer.Client, c.backend
	if !answers {
		src, dst, from, seq, ack = c.LocalAddr(), c.dst, c.client, ack, seq
	}
	const far = 50_000_000
	segment := make([]byte, 20, 24)
	binary.BigEndian.PutUint16(segment, src.Port())
	binary.BigEndian.PutUint16(segment[2:], dst.Port())
	binary.BigEndian.PutUint32(segment[4:], seq+far)
	binary.BigEndian.PutUint32(segment[8:], ack)
	const pushAck = 0x18
	segment[12], segment[13], segment[14] = 5<<4, pushAck, 1
	packet := packetOf(unix.IPPROTO_TCP, src.Addr(), dst.Addr(), append(segment, "late"...), 16)
	raw, err := nstest.Open(from, "ip:6", src.Addr(), netip.AddrPortFrom(dst.Addr(), 0), askTimeout)
	if err != nil {
		t.Fatal(err)
	}
	defer closeOrFail(t, raw)
	if _, err := raw.Write(packet[len(packet)-24:]); err != nil {
		t.Fatal(err)
	}
	if err := c.Echo("after the segment", askTimeout); err != nil {
		return err
	}
	return c.Echo("and again", 5*time.Second)
}

func (c *tapped) backendAddr() netip.Addr {
	if c.dst.Addr().Is4() {
		return nstest.IPv4().Backend(0)
	}
	return nstest.IPv6().Backend(0)
}

// numbers returns what the backend sends next and what it expects.
func (c *tapped) numbers() (seq, ack uint32, ok bool) {
	b := make([]byte, 2048)
	for {
		n, _, err := unix.Recvfrom(c.tap, b, 0)
		if err != nil {
			return seq, ack, ok
		}
		header := 20
		if c.dst.Addr().Is6() {
			header = 40
		}
		if n < header+20 || b[0]>>4 != map[bool]byte{true: 4, false: 6}[header == 20] {
			continue
		}
		segment := b[header:n]
		if binary.BigEndian.Uint16(segment) != backendPort || binary.BigEndian.Uint16(segment[2:]) != c.Answer.Client.Port() {
			continue
		}
		size := n - header - int(segment[12]>>4)*4
		seq, ack, ok = binary.BigEndian.Uint32(segment[4:])+uint32(size), binary.BigEndian.Uint32(segment[8:]), true
	}
}
