//go:build linux

package conntrack

import (
	"context"
	"errors"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nftdp/go-nftdp/internal/netlink"
	"github.com/nftdp/go-nftdp/internal/nstest"
	"github.com/nftdp/go-nftdp/internal/ruleset"
)

func TestMain(m *testing.M) { nstest.Main(m) }

func dial(t *testing.T) *Conn {
	t.Helper()
	ns, err := nstest.New("node")
	if err != nil {
		t.Fatal(err)
	}
	c, err := Dial(int(ns.Handle()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(c.Close(), ns.Close()); err != nil {
			t.Error(err)
		}
	})
	return c
}

// flows is how many flows createFlows creates. They fill several datagrams of a
// dump.
const flows = 2000

func client(i int) netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}), 1000)
}

var (
	frontend = addrPort("10.96.0.1:53")
	backend  = addrPort("10.8.0.1:5353")
)

// createFlows adds UDP flows to the kernel's table, each from another client and
// not translated.
func createFlows(t *testing.T, c *Conn) {
	t.Helper()
	const create, timeout = 0, 7 // IPCTNL_MSG_CT_NEW, CTA_TIMEOUT
	tuple := func(b *netlink.Buffer, typ uint16, src, dst netip.AddrPort) {
		outer := b.Nest(typ)
		ip := b.Nest(ctaTupleIP)
		b.Put(ctaIPv4Src, src.Addr().AsSlice())
		b.Put(ctaIPv4Dst, dst.Addr().AsSlice())
		b.Unnest(ip)
		proto := b.Nest(ctaTupleProto)
		b.PutUint8(ctaProtoNum, unix.IPPROTO_UDP)
		b.PutUint16(ctaProtoSrcPort, src.Port())
		b.PutUint16(ctaProtoDstPort, dst.Port())
		b.Unnest(proto)
		b.Unnest(outer)
	}
	for i := range flows {
		var b netlink.Buffer
		tuple(&b, ctaTupleOrig, client(i), frontend)
		tuple(&b, ctaTupleReply, frontend, client(i))
		b.PutUint32(timeout, 3600)
		err := c.socket.AskNetfilter(t.Context(), unix.NFNL_SUBSYS_CTNETLINK<<8|create, unix.NLM_F_CREATE|unix.NLM_F_EXCL|unix.NLM_F_ACK,
			unix.AF_INET, b, func([]byte) error { return nil })
		if err != nil {
			t.Fatal("create a flow:", err)
		}
	}
}

func all(*Flow) bool { return true }

func udp() Filter { return Filter{Family: ruleset.IPv4, Proto: unix.IPPROTO_UDP} }

// wantFlows lists the flows, and checks that each is there once.
func wantFlows(t *testing.T, c *Conn, want int) []Flow {
	t.Helper()
	got, err := c.List(t.Context(), udp(), all)
	if err != nil {
		t.Fatal(err)
	}
	seen := map[netip.AddrPort]bool{}
	for _, f := range got {
		seen[f.Src] = true
		if f.Dst != frontend || f.ReplySrc != frontend || f.ReplyDst != f.Src {
			t.Errorf("flow %+v", f)
		}
	}
	if len(got) != want || len(seen) != want {
		t.Fatalf("%d flows of %d clients, want %d", len(got), len(seen), want)
	}
	return got
}

// TestListAbandoned: the rest of an abandoned list is not waited for, and the next
// request receives its own replies.
func TestListAbandoned(t *testing.T) {
	c := dial(t)
	createFlows(t, c)
	some := wantFlows(t, c, flows)[:2]
	for i := range some {
		ctx, cancel := context.WithCancel(t.Context())
		calls := 0
		_, err := c.List(ctx, udp(), func(*Flow) bool {
			if calls++; calls == 10 {
				cancel()
			}
			return true
		})
		if !errors.Is(err, context.Canceled) || calls >= flows {
			t.Fatalf("after %d flows: %v", calls, err)
		}
		if err := c.socket.Wait(t.Context(), time.Second); err != nil {
			t.Errorf("nothing is left to read, so the rest was waited for: %v", err)
		}
		for _, there := range []bool{true, false} {
			if deleted, err := c.Delete(t.Context(), &some[i]); err != nil || deleted != there {
				t.Errorf("deleted %t, error %v, want %t", deleted, err, there)
			}
		}
		wantFlows(t, c, flows-i-1)
	}
}

// TestListFilters: flows that the filter or the caller does not accept are not
// listed.
func TestListFilters(t *testing.T) {
	c := dial(t)
	createFlows(t, c)
	with := func(change func(*Filter)) Filter {
		f := udp()
		change(&f)
		return f
	}
	for name, filter := range map[string]Filter{
		"protocol":   with(func(f *Filter) { f.Proto = unix.IPPROTO_TCP }),
		"family":     with(func(f *Filter) { f.Family = ruleset.IPv6 }),
		"port":       with(func(f *Filter) { f.Port = 54 }),
		"address":    with(func(f *Filter) { f.Addr = backend.Addr() }),
		"translated": with(func(f *Filter) { f.Translated = true }),
	} {
		if got, err := c.List(t.Context(), filter, all); err != nil || len(got) > 0 {
			t.Errorf("another %s: %d flows, error %v", name, len(got), err)
		}
	}
	this := with(func(f *Filter) { f.Addr, f.Port = frontend.Addr(), frontend.Port() })
	got, err := c.List(t.Context(), this, func(f *Flow) bool { return f.Src == client(7) })
	if err != nil || len(got) != 1 || got[0].Src != client(7) {
		t.Errorf("of one client: %+v, error %v", got, err)
	}
}

// TestMatches: Matches checks every field, since the kernel may list more flows
// than it was asked for.
func TestMatches(t *testing.T) {
	filter := Filter{Family: ruleset.IPv4, Proto: unix.IPPROTO_UDP, Addr: frontend.Addr(), Port: frontend.Port(), Translated: true}
	flow := Flow{Proto: unix.IPPROTO_UDP, Src: client(1), Dst: frontend, ReplySrc: backend, ReplyDst: client(1)}
	for name, c := range map[string]struct {
		change func(*Filter, *Flow)
		want   bool
	}{
		"the same":         {func(*Filter, *Flow) {}, true},
		"any address":      {func(f *Filter, flow *Flow) { f.Addr, flow.Dst = netip.Addr{}, addrPort("10.96.0.2:53") }, true},
		"any port":         {func(f *Filter, flow *Flow) { f.Port, flow.Dst = 0, addrPort("10.96.0.1:54") }, true},
		"translated":       {func(f *Filter, _ *Flow) { f.Translated = false }, true},
		"not translated":   {func(_ *Filter, flow *Flow) { flow.ReplySrc = frontend }, false},
		"another protocol": {func(_ *Filter, flow *Flow) { flow.Proto = unix.IPPROTO_TCP }, false},
		"another address":  {func(_ *Filter, flow *Flow) { flow.Dst = addrPort("10.96.0.2:53") }, false},
		"another port":     {func(_ *Filter, flow *Flow) { flow.Dst = addrPort("10.96.0.1:54") }, false},
		"another family":   {func(_ *Filter, flow *Flow) { flow.Dst = addrPort("[fd00::2]:53") }, false},
	} {
		filter, flow := filter, flow
		c.change(&filter, &flow)
		if got := filter.Matches(&flow); got != c.want {
			t.Errorf("%s: %t, want %t", name, got, c.want)
		}
	}
}

// TestCancelled: a context that has ended is respected.
func TestCancelled(t *testing.T) {
	c := dial(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := c.List(ctx, udp(), all); !errors.Is(err, context.Canceled) {
		t.Errorf("list: %v", err)
	}
	if _, err := c.Delete(ctx, &Flow{Dst: frontend}); !errors.Is(err, context.Canceled) {
		t.Errorf("delete: %v", err)
	}
}
