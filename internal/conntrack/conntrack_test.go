//go:build linux

package conntrack

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/nftdp/go-nftdp/internal/nstest"
	"github.com/nftdp/go-nftdp/internal/ruleset"
)

func TestMain(m *testing.M) { nstest.Main(m) }

func dial(tb testing.TB) (*nstest.Namespace, *Conn) {
	tb.Helper()
	ns, err := nstest.New("node")
	if err != nil {
		tb.Fatal(err)
	}
	c, err := Dial(int(ns.Handle()))
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := errors.Join(c.Close(), ns.Close()); err != nil {
			tb.Error(err)
		}
	})
	return ns, c
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
func createFlows(tb testing.TB, ns *nstest.Namespace) {
	tb.Helper()
	track(tb, ns, flows, func(i int) nstest.Tracked { return nstest.Tracked{Src: client(i), Dst: frontend} })
}

func track(tb testing.TB, ns *nstest.Namespace, n int, flow func(i int) nstest.Tracked) {
	tb.Helper()
	err := ns.Track(func(yield func(nstest.Tracked) bool) {
		for i := range n {
			if !yield(flow(i)) {
				return
			}
		}
	})
	if err != nil {
		tb.Fatal(err)
	}
}

func all(*Flow) bool { return true }

func each(*Flow) Fate { return Delete }

func alike(*Flow) Fate { return DeleteAlike }

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

// TestListAbandoned: a list ends at once with its context, and what follows does not
// wait for the rest of it.
func TestListAbandoned(t *testing.T) {
	ns, c := dial(t)
	createFlows(t, ns)
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
		for _, want := range []int{1, 0} {
			if deleted, err := c.Delete(t.Context(), some[i:i+1]); err != nil || deleted != want {
				t.Errorf("deleted %d, error %v, want %d", deleted, err, want)
			}
		}
		wantFlows(t, c, flows-i-1)
	}
}

// TestConcurrent: nobody waits for a list that is going on, and Close ends it.
func TestConcurrent(t *testing.T) {
	ns, c := dial(t)
	createFlows(t, ns)
	left := flows
	var once sync.Once
	_, err := c.List(t.Context(), udp(), func(*Flow) bool {
		once.Do(func() {
			for list := wantFlows(t, c, left); left > flows-10; left-- {
				if n, err := c.Delete(t.Context(), list[left-1:left]); err != nil || n != 1 {
					t.Errorf("deleted %d, error %v", n, err)
				}
			}
			wantFlows(t, c, left)
		})
		return true
	})
	if err != nil || left == flows {
		t.Error(err)
	}
	_, err = c.List(t.Context(), udp(), func(*Flow) bool {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
		return true
	})
	if !errors.Is(err, os.ErrClosed) {
		t.Errorf("a list while the connection is closed: %v", err)
	}
	if _, err := c.List(t.Context(), udp(), all); !errors.Is(err, os.ErrClosed) {
		t.Errorf("a list after that: %v", err)
	}
}

// TestDelete: Delete counts exactly the flows that were still there, wherever the
// others are in the list. It deletes nothing after its context has ended.
func TestDelete(t *testing.T) {
	ns, c := dial(t)
	createFlows(t, ns)
	list := wantFlows(t, c, flows)
	for _, part := range [][]Flow{list[:1], list[63:65], list[100:300], list[1234:1235], list[flows-1:]} {
		if n, err := c.Delete(t.Context(), part); n != len(part) || err != nil {
			t.Errorf("deleted %d of %d, error %v", n, len(part), err)
		}
	}
	const left = flows - 205
	wantFlows(t, c, left)
	if n, err := c.Delete(&endingContext{t.Context(), 1}, list[300:500]); n != atOnce || !errors.Is(err, context.Canceled) {
		t.Errorf("deleted %d until the context ended, error %v", n, err)
	}
	if n, err := c.Delete(t.Context(), list); n != left-atOnce || err != nil {
		t.Errorf("deleted %d of the %d that are left, error %v", n, left-atOnce, err)
	}
	wantFlows(t, c, 0)
}

// endingContext ends after it was asked a number of times.
type endingContext struct {
	context.Context
	left int
}

func (c *endingContext) Err() error {
	if c.left--; c.left < 0 {
		return context.Canceled
	}
	return nil
}

// TestDeleteRefused: a flow that the kernel does not delete is named, and the others
// are deleted.
func TestDeleteRefused(t *testing.T) {
	ns, c := dial(t)
	createFlows(t, ns)
	list := wantFlows(t, c, flows)
	ofAnotherFamily := slices.Clone(list[70].name)
	ofAnotherFamily[0] = unix.AF_INET6
	list[70].name = ofAnotherFamily
	n, err := c.Delete(t.Context(), list)
	if n != flows-1 || !errors.Is(err, unix.EINVAL) || !strings.Contains(err.Error(), list[70].Src.String()) {
		t.Errorf("deleted %d of %d, error %v", n, flows, err)
	}
}

// TestListFilters: flows that the filter or the caller does not accept are not
// listed.
func TestListFilters(t *testing.T) {
	ns, c := dial(t)
	createFlows(t, ns)
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
		"source":     with(func(f *Filter) { f.From = addrPort("10.0.0.1:1001") }),
		"target":     with(func(f *Filter) { f.To = netip.AddrPortFrom(backend.Addr(), 0) }),
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

// TestCount: the flows of the namespace are counted, whatever their protocol.
func TestCount(t *testing.T) {
	ns, c := dial(t)
	if n, err := c.Count(t.Context()); err != nil || n != 0 {
		t.Errorf("%d flows, error %v, want none", n, err)
	}
	createFlows(t, ns)
	if n, err := c.Count(t.Context()); err != nil || n != flows {
		t.Errorf("%d flows, error %v, want %d", n, err, flows)
	}
	if got, err := c.List(t.Context(), Filter{}, all); err != nil || len(got) != flows {
		t.Errorf("listed %d flows of any kind, error %v, want %d", len(got), err, flows)
	}
}

// TestGet: a flow that was listed can be read again, until it is gone.
func TestGet(t *testing.T) {
	ns, c := dial(t)
	createFlows(t, ns)
	some := wantFlows(t, c, flows)[:1]
	if got, ok, err := c.Get(t.Context(), &some[0]); err != nil || !ok || got.Src != some[0].Src {
		t.Errorf("flow %+v, found %t, error %v", got, ok, err)
	}
	if n, err := c.Delete(t.Context(), some); err != nil || n != 1 {
		t.Fatalf("%d deleted, error %v", n, err)
	}
	if _, ok, err := c.Get(t.Context(), &some[0]); err != nil || ok {
		t.Errorf("a deleted flow: found %t, error %v", ok, err)
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
		"its source":       {func(f *Filter, _ *Flow) { f.From = client(1) }, true},
		"another source":   {func(f *Filter, _ *Flow) { f.From = client(2) }, false},
		"its target":       {func(f *Filter, _ *Flow) { f.To = backend }, true},
		"another target":   {func(f *Filter, _ *Flow) { f.To = frontend }, false},
		"no reply":         {func(f *Filter, flow *Flow) { f.Unreplied, flow.Unreplied = true, true }, true},
		"a reply":          {func(f *Filter, _ *Flow) { f.Unreplied = true }, false},
		"any protocol":     {func(f *Filter, _ *Flow) { f.Proto = 0 }, true},
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
	_, c := dial(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := c.List(ctx, udp(), all); !errors.Is(err, context.Canceled) {
		t.Errorf("list: %v", err)
	}
	if _, err := c.Delete(ctx, []Flow{{Dst: frontend}}); !errors.Is(err, context.Canceled) {
		t.Errorf("delete: %v", err)
	}
}

// TestListKernelFilters: the kernel leaves out flows that do not match, as far as it
// can: fewer reach Matches.
func TestListKernelFilters(t *testing.T) {
	for _, family := range []struct{ clients, to, other string }{
		{"10.0.0.1:1000", "10.8.0.1:5353", "10.8.0.2:5354"},
		{"[fd00::1]:1000", "[fd08::1]:5353", "[fd08::2]:5354"},
	} {
		ns, c := dial(t)
		src, dst := addrPort(family.clients), addrPort(family.other)
		front := netip.AddrPortFrom(dst.Addr().Next(), 53)
		track(t, ns, 100, func(i int) nstest.Tracked {
			to := addrPort([]string{family.to, family.other}[i%2])
			return nstest.Tracked{Src: netip.AddrPortFrom(src.Addr(), uint16(1000+i)), Dst: front, To: to, Replied: i%10 != 0}
		})
		to := addrPort(family.to)
		for name, want := range map[string]struct {
			filter Filter
			n      int
		}{
			"to a backend":           {Filter{To: to}, 50},
			"to an address":          {Filter{To: netip.AddrPortFrom(to.Addr(), 0)}, 50},
			"to a port":              {Filter{To: netip.AddrPortFrom(netip.Addr{}, to.Port())}, 50},
			"from a port":            {Filter{From: netip.AddrPortFrom(netip.Addr{}, 1007)}, 1},
			"from a client":          {Filter{From: netip.AddrPortFrom(src.Addr(), 1007)}, 1},
			"unreplied":              {Filter{Unreplied: true}, 10},
			"translated":             {Filter{Translated: true}, 100},
			"translated, unreplied":  {Filter{Translated: true, Unreplied: true, To: to}, 10},
			"at the frontend":        {Filter{Addr: front.Addr(), Port: 53, To: to}, 50},
			"at another address":     {Filter{Addr: to.Addr()}, 0},
			"any protocol, by state": {Filter{Unreplied: true}, 10},
		} {
			want.filter.Family = ruleset.FamilyOf(src.Addr())
			if !strings.HasPrefix(name, "any protocol") {
				want.filter.Proto = unix.IPPROTO_UDP
			}
			got, err := c.List(t.Context(), want.filter, all)
			if err != nil || len(got) != want.n {
				t.Errorf("%s, %s: %d flows, want %d, error %v", name, family.to, len(got), want.n, err)
			}
		}
	}
}

// TestListAllocations: flows that are not accepted cost no allocation each.
func TestListAllocations(t *testing.T) {
	ns, c := dial(t)
	createFlows(t, ns)
	allocs := testing.AllocsPerRun(5, func() {
		if _, err := c.List(t.Context(), udp(), func(*Flow) bool { return false }); err != nil {
			t.Fatal(err)
		}
	})
	if allocs > flows/10 {
		t.Errorf("%v allocations for %d flows", allocs, flows)
	}
}
