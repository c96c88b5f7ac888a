//go:build linux

package integration

import (
	"net/netip"
	"testing"
	"time"

	"github.com/nftdp/go-nftdp/internal/nstest"
	"github.com/nftdp/go-nftdp/nftdp"
)

// BenchmarkRemoveBackendAmongFlows removes a UDP backend to which 50,000 of 200,000
// flows lead. It needs net.netfilter.nf_conntrack_max of 200,000, which only root in
// the initial user namespace can raise.
func BenchmarkRemoveBackendAmongFlows(b *testing.B) {
	const total, gone = 200_000, 50_000
	front := netip.MustParseAddrPort("10.96.0.1:53")
	both := nftdp.Service{
		Name: "dns", Protocol: nftdp.ProtocolUDP, Frontends: []nftdp.Frontend{{Addr: front.Addr(), Port: front.Port()}},
		Backends: []nftdp.Backend{{Addr: netip.MustParseAddrPort("10.8.0.1:5353")}, {Addr: netip.MustParseAddrPort("10.8.0.2:5353")}},
	}
	one := both
	one.Backends = both.Backends[1:]
	ns := newNamespace(b)
	d := open(b, ns, nftdp.Config{})
	b.Cleanup(func() { closeOrFail(b, d) })
	laps := newLaps()
	for b.Loop() {
		untimed(b, func() {
			plan, err := d.Apply(b.Context(), []nftdp.Service{both})
			mustChange(b, plan, err)
			trackClients(b, ns, front, total, func(i int) netip.AddrPort {
				if i < gone {
					return both.Backends[0].Addr
				}
				return both.Backends[1].Addr
			})
		})
		begin := time.Now()
		plan, err := d.Update(b.Context(), nftdp.Change{Set: []nftdp.Service{one}})
		laps.add(begin)
		mustChange(b, plan, err)
		untimed(b, func() {
			n, err := d.Cut(b.Context(), "dns", one.Backends[0].Addr)
			if err != nil || n != total-gone {
				b.Fatalf("%d flows are left of %d, error %v", n, total-gone, err)
			}
		})
	}
	laps.report(b, "p50-ns")
}

// trackClients adds the flows of n clients at a frontend to conntrack.
func trackClients(b *testing.B, ns *nstest.Namespace, front netip.AddrPort, n int, to func(i int) netip.AddrPort) {
	b.Helper()
	err := ns.Track(func(yield func(nstest.Tracked) bool) {
		for i := range n {
			src := netip.AddrPortFrom(ipv4(10, 0, i>>8), 1000+uint16(i&0xff))
			if !yield(nstest.Tracked{Src: src, Dst: front, To: to(i), Replied: true}) {
				return
			}
		}
	})
	if err != nil {
		b.Fatal(err)
	}
}
