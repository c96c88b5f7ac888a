//go:build linux

package conntrack

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/nftdp/go-nftdp/internal/netlink"
	"github.com/nftdp/go-nftdp/internal/nstest"
)

// BenchmarkDelete finds and deletes 50,000 flows to one backend among 200,000 at one
// frontend: with a request and an answer for each, in bulk, while they are listed, and
// by the kernel itself. It needs net.netfilter.nf_conntrack_max of 200,000, which only root in the
// initial user namespace can raise.
func BenchmarkDelete(b *testing.B) {
	const total, gone = 200_000, 50_000
	filter := udp()
	filter.Addr, filter.Port, filter.To = frontend.Addr(), frontend.Port(), backend
	list := func(b *testing.B, c *Conn) []Flow {
		b.Helper()
		found, err := c.List(b.Context(), filter, all)
		if err != nil {
			b.Fatal(err)
		}
		return found
	}
	for _, way := range []struct {
		name string
		do   func(b *testing.B, c *Conn) (int, error)
	}{
		{"each", func(b *testing.B, c *Conn) (n int, err error) {
			for flow := range slices.Chunk(list(b, c), 1) {
				deleted, failed := c.Delete(b.Context(), flow)
				n, err = n+deleted, errors.Join(err, failed)
			}
			return n, err
		}},
		{"bulk", func(b *testing.B, c *Conn) (int, error) { return c.Delete(b.Context(), list(b, c)) }},
		{"matching", func(b *testing.B, c *Conn) (int, error) { return c.DeleteMatching(b.Context(), filter, each) }},
		{"alike", func(b *testing.B, c *Conn) (int, error) { return c.DeleteMatching(b.Context(), filter, alike) }},
	} {
		b.Run(way.name, func(b *testing.B) {
			for b.Loop() {
				b.StopTimer()
				ns, c := dial(b)
				track(b, ns, total, func(i int) nstest.Tracked { return toTwoBackends(i, i < gone) })
				b.StartTimer()
				if n, err := way.do(b, c); n != gone || err != nil {
					b.Fatalf("deleted %d of %d, error %v", n, gone, err)
				}
			}
		})
	}
}

// toTwoBackends returns the flow of a client, to the backend or to its neighbour.
func toTwoBackends(i int, first bool) nstest.Tracked {
	addr := netip.AddrFrom4([4]byte{10, 0, byte(i >> 16), byte(i >> 8)})
	f := nstest.Tracked{Src: netip.AddrPortFrom(addr, 1000+uint16(i&0xff)), Dst: frontend, To: backend, Replied: true}
	if !first {
		f.To = netip.AddrPortFrom(backend.Addr().Next(), backend.Port())
	}
	return f
}

// TestDeleteMatching: flows are deleted while they are listed, and counted exactly;
// also if there is only one socket, and up to where the context ends.
func TestDeleteMatching(t *testing.T) {
	ns, c := dial(t)
	dials := 0
	pool, err := netlink.NewPool(int(ns.Handle()), func(ns int) (*netlink.Socket, error) {
		if dials++; dials > 1 {
			return nil, os.ErrPermission
		}
		return netlink.Dial(unix.NETLINK_NETFILTER, ns)
	})
	if err != nil {
		t.Fatal(err)
	}
	lone := &Conn{sockets: pool}
	defer lone.Close()
	for name, by := range map[string]*Conn{"two sockets": c, "one socket": lone} {
		createFlows(t, ns)
		odd := func(f *Flow) Fate { return Fate(f.Src.Addr().As4()[3] % 2) }
		for _, want := range []int{flows / 2, 0} {
			if n, err := by.DeleteMatching(t.Context(), udp(), odd); n != want || err != nil {
				t.Errorf("%s: deleted %d, want %d, error %v", name, n, want, err)
			}
		}
		wantFlows(t, c, flows/2)
		ctx, cancel := context.WithCancel(t.Context())
		n, err := by.DeleteMatching(ctx, udp(), func(*Flow) Fate { cancel(); return Delete })
		if !errors.Is(err, context.Canceled) {
			t.Errorf("%s: a context ends: %v", name, err)
		}
		wantFlows(t, c, flows/2-n)
		if n, err := by.DeleteMatching(t.Context(), udp(), each); err != nil {
			t.Errorf("%s: deleted %d, error %v", name, n, err)
		}
		wantFlows(t, c, 0)
	}
}

// TestDeleteAlike: of many flows that are alike the kernel deletes those that have not
// been listed, and no others; also a kernel that cannot ends up without them.
func TestDeleteAlike(t *testing.T) {
	for _, lists := range []bool{false, true} {
		ns, c := dial(t)
		c.lists.Store(lists)
		const n = 8 * many
		track(t, ns, n, func(i int) nstest.Tracked { return toTwoBackends(i, i%2 == 0) })
		first := udp()
		first.To = backend
		judged := 0
		deleted, err := c.DeleteMatching(t.Context(), udp(), func(f *Flow) Fate {
			if f.ReplySrc != backend {
				return Keep
			}
			judged++
			return DeleteAlike
		})
		if deleted != n/2 || err != nil {
			t.Errorf("deleted %d of %d, error %v", deleted, n/2, err)
		}
		if lists && judged != n/2 {
			t.Errorf("%d flows were listed, want %d", judged, n/2)
		}
		left, err := c.List(t.Context(), udp(), all)
		if err != nil || len(left) != n/2 || slices.ContainsFunc(left, func(f Flow) bool { return f.ReplySrc == backend }) {
			t.Errorf("%d flows are left, want %d to the other backend; error %v", len(left), n/2, err)
		}
	}
}

// TestFlush: a request to delete by a filter deletes what the filter passes, and says so
// if the kernel cannot.
func TestFlush(t *testing.T) {
	ns, c := dial(t)
	const n = 100
	track(t, ns, n, func(i int) nstest.Tracked { return toTwoBackends(i, i%4 == 0) })
	one := udp()
	one.Addr, one.Port, one.To = frontend.Addr(), frontend.Port(), backend
	others := map[string]Filter{}
	for name, change := range map[string]func(*Filter){
		"another address": func(f *Filter) { f.Addr = f.Addr.Next() },
		"another port":    func(f *Filter) { f.Port++ },
		"another backend": func(f *Filter) { f.To = netip.AddrPortFrom(f.To.Addr(), f.To.Port()+1) },
		"another host":    func(f *Filter) { f.To = netip.AddrPortFrom(f.To.Addr().Next().Next(), f.To.Port()) },
		"TCP":             func(f *Filter) { f.Proto = unix.IPPROTO_TCP },
	} {
		other := one
		change(&other)
		others[name] = other
	}
	err := c.sockets.Do(t.Context(), func(s *netlink.Socket) error {
		d := deleter{ctx: t.Context(), socket: s}
		for name, f := range others {
			if d.flush(&f); d.deleted != 0 || d.failed != nil {
				t.Errorf("%s: deleted %d, error %v", name, d.deleted, d.failed)
			}
		}
		if d.flush(&one); d.failed != nil || d.left != (d.deleted == 0) || !d.left && d.deleted != n/4 {
			t.Errorf("deleted %d, not possible: %t, error %v", d.deleted, d.left, d.failed)
		}
		wantLeft := n
		if !d.left {
			wantLeft -= n / 4
		}
		if got, err := count(t.Context(), s); got != wantLeft || err != nil {
			t.Errorf("%d flows are left, want %d, error %v", got, wantLeft, err)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}
