//go:build linux

package integration

import (
	"maps"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/nftdp/go-nftdp/internal/conntrack"
	"github.com/nftdp/go-nftdp/internal/nstest"
	"github.com/nftdp/go-nftdp/internal/ruleset"
)

// trackedFlow is an entry of the conntrack table.
type trackedFlow struct {
	proto                        uint8
	src, dst, replySrc, replyDst netip.AddrPort
}

// flowTable lists the flows of a protocol in both families.
func flowTable(tb testing.TB, ns *nstest.Namespace, proto uint8) map[trackedFlow]bool {
	tb.Helper()
	all := map[trackedFlow]bool{}
	for _, family := range ruleset.Families {
		maps.Copy(all, listed(tb, ns, conntrack.Filter{Family: family, Proto: proto}))
	}
	return all
}

// listed lists the flows that pass the filter.
func listed(tb testing.TB, ns *nstest.Namespace, f conntrack.Filter) map[trackedFlow]bool {
	tb.Helper()
	flows, err := listFlows(tb.Context(), ns, f)
	if err != nil {
		tb.Fatal(err)
	}
	out := map[trackedFlow]bool{}
	for _, f := range flows {
		out[trackedFlow{f.Proto, f.Src, f.Dst, f.ReplySrc, f.ReplyDst}] = true
	}
	return out
}

// addFlows adds UDP flows to a namespace's table, as if packets had made them.
func addFlows(tb testing.TB, ns *nstest.Namespace, flows []trackedFlow) {
	tb.Helper()
	err := ns.Track(func(yield func(nstest.Tracked) bool) {
		for _, f := range flows {
			add := nstest.Tracked{Src: f.src, Dst: f.dst}
			if f.replySrc != f.dst {
				add.To = f.replySrc
			}
			if !yield(add) {
				return
			}
		}
	})
	if err != nil {
		tb.Fatal(err)
	}
}

// TestFlowFilter: listing returns exactly the flows that pass the filter.
func TestFlowFilter(t *testing.T) {
	t.Parallel()
	inFamilies(t, func(t *testing.T, a nstest.Addrs) {
		t.Parallel()
		ns := newNamespace(t)
		var all []trackedFlow
		for i, dst := range []netip.Addr{a.Node, a.ClusterIP, a.External} {
			for j, port := range []uint16{53, 54, 255} {
				for k, to := range []netip.AddrPort{netip.AddrPortFrom(dst, port), netip.AddrPortFrom(a.Backend(0), 8080)} {
					src := netip.AddrPortFrom(a.Client, uint16(1000+100*i+10*j+k))
					all = append(all, trackedFlow{unix.IPPROTO_UDP, src, netip.AddrPortFrom(dst, port), to, src})
				}
			}
		}
		addFlows(t, ns, all)
		for _, f := range []conntrack.Filter{
			{},
			{Port: 53},
			{Addr: a.Node},
			{Addr: a.Node, Port: 54},
			{Translated: true},
			{Translated: true, Port: 255},
			{Translated: true, Addr: a.ClusterIP, Port: 53},
			{Addr: a.PodGW},
			{Port: 1},
		} {
			f.Family, f.Proto = ruleset.FamilyOf(a.Client), unix.IPPROTO_UDP
			want := map[trackedFlow]bool{}
			for _, flow := range all {
				if (f.Port == 0 || f.Port == flow.dst.Port()) && (!f.Addr.IsValid() || f.Addr == flow.dst.Addr()) &&
					(!f.Translated || flow.replySrc != flow.dst) {
					want[flow] = true
				}
			}
			if diff := cmp.Diff(want, listed(t, ns, f), cmp.AllowUnexported(trackedFlow{}), equateAddrs()); diff != "" {
				t.Errorf("%+v (-want +got):\n%s", f, diff)
			}
		}
	})
}

// TestFlowReplaced: deleting a flow leaves a newer one with the same addresses,
// and deleting a flow that is gone is not an error.
func TestFlowReplaced(t *testing.T) {
	t.Parallel()
	inFamilies(t, func(t *testing.T, a nstest.Addrs) {
		t.Parallel()
		ns := newNamespace(t)
		// The kernel makes the identifier from the entry's address in memory, which
		// a new entry may reuse. Others are added first to take that address.
		const tries, others = 20, 100
		for i := range tries {
			src, dst := netip.AddrPortFrom(a.Client, 1), netip.AddrPortFrom(a.Node, uint16(1000+i))
			flow := []trackedFlow{{unix.IPPROTO_UDP, src, dst, dst, src}}
			addFlows(t, ns, flow)
			old := findFlow(t, ns, dst)
			if !deleteFlow(t, ns, old) {
				t.Fatal("the flow was not deleted")
			}
			if deleteFlow(t, ns, old) {
				t.Fatal("the flow was deleted twice")
			}
			for j := range others {
				src := netip.AddrPortFrom(a.Client, uint16(2000+i*others+j))
				addFlows(t, ns, []trackedFlow{{unix.IPPROTO_UDP, src, dst, dst, src}})
			}
			addFlows(t, ns, flow)
			if !deleteFlow(t, ns, old) {
				return
			}
		}
		t.Errorf("in %d tries the newer flow was always deleted in place of the old one", tries)
	})
}

// findFlow finds the only flow to a destination.
func findFlow(t *testing.T, ns *nstest.Namespace, dst netip.AddrPort) *conntrack.Flow {
	t.Helper()
	found, err := listFlows(t.Context(), ns, conntrack.Filter{
		Family: ruleset.FamilyOf(dst.Addr()), Proto: unix.IPPROTO_UDP, Addr: dst.Addr(), Port: dst.Port(),
	})
	if err != nil || len(found) != 1 {
		t.Fatalf("found %v, %v; want one flow", found, err)
	}
	return &found[0]
}
