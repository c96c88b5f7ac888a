//go:build linux

package integration

import (
	"fmt"
	"net/netip"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/nftdp/go-nftdp/internal/nstest"
	"github.com/nftdp/go-nftdp/nftdp"
)

// BenchmarkUpdateFlows removes one of four backends of a UDP service with 200,000
// flows (fewer if the kernel keeps fewer), and so deletes a quarter of them. At the
// same time, another service is updated every 5 ms: the slowest of these Updates
// is reported, too.
func BenchmarkUpdateFlows(b *testing.B) {
	a := nstest.IPv4()
	w := newTopology(b, 4)
	node := open(b, w.Node, nftdp.Config{})
	defer closeOrFail(b, node)
	n := min(200_000, conntrackMax(b, w.Node)*3/4)
	other := func(i int) nftdp.Service {
		return nftdp.Service{Name: "other", Frontends: on(external, 80), Backends: backends(i % 2)}
	}
	if _, err := node.Apply(b.Context(), []nftdp.Service{udpService(0, 1, 2, 3), other(0)}); err != nil {
		b.Fatal(err)
	}
	removes, others, slowest := newLaps(), newLaps(), time.Duration(0)
	for b.Loop() {
		untimed(b, func() {
			addFlows(b, w.Node, missing(b, w.Node, manyFlows(a, n)))
			if _, err := node.Update(b.Context(), nftdp.Change{Set: []nftdp.Service{udpService(0, 1, 2, 3)}}); err != nil {
				b.Fatal(err)
			}
		})
		var beside sync.WaitGroup
		end := make(chan struct{})
		beside.Go(func() {
			pace := time.NewTicker(5 * time.Millisecond)
			defer pace.Stop()
			for i := 1; ; i++ {
				select {
				case <-end:
					return
				case <-pace.C:
				}
				begin := time.Now()
				if _, err := node.Update(b.Context(), nftdp.Change{Set: []nftdp.Service{added(other(0), i)}}); err != nil {
					b.Error(err)
					return
				}
				others.add(begin)
				slowest = max(slowest, time.Since(begin))
			}
		})
		begin := time.Now()
		if _, err := node.Update(b.Context(), nftdp.Change{Set: []nftdp.Service{udpService(0, 1, 2)}}); err != nil {
			b.Fatal(err)
		}
		removes.add(begin)
		close(end)
		beside.Wait()
	}
	removes.report(b, "remove-p50-ns")
	if len(*others) > 0 {
		others.report(b, "other-p50-ns")
	}
	b.ReportMetric(float64(slowest), "other-max-ns")
	b.ReportMetric(float64(n), "flows")
}

// BenchmarkUpdateBeside replaces the backend of a TCP service beside flows that do
// not concern it: since there are some, the kernel's table has to be walked through.
func BenchmarkUpdateBeside(b *testing.B) {
	for _, n := range []int{0, 1, 100_000} {
		b.Run(fmt.Sprintf("flows=%d", n), func(b *testing.B) {
			w := newTopology(b, 1)
			node := open(b, w.Node, nftdp.Config{})
			defer closeOrFail(b, node)
			addFlows(b, w.Node, manyFlows(nstest.IPv4(), min(n, conntrackMax(b, w.Node)*3/4)))
			services := []nftdp.Service{
				{Name: "web", Frontends: on(external, 80), Backends: backends(0)},
				{Name: "web", Frontends: on(external, 80), Backends: backends(1)},
			}
			laps := newLaps()
			for i := 0; b.Loop(); i++ {
				begin := time.Now()
				if _, err := node.Update(b.Context(), nftdp.Change{Set: services[i%2 : i%2+1]}); err != nil {
					b.Fatal(err)
				}
				laps.add(begin)
			}
			laps.report(b, "p50-ns")
		})
	}
}

// added adds a weight to the first backend, which makes no flow stale.
func added(s nftdp.Service, i int) nftdp.Service {
	s.Backends = backends(0, 1)
	s.Backends[0].Weight = uint16(1 + i%2)
	return s
}

// manyFlows are flows to a frontend of udpService, a quarter of them to each of
// four backends.
func manyFlows(a nstest.Addrs, n int) []trackedFlow {
	flows := make([]trackedFlow, n)
	addr := netip.MustParseAddr("198.18.0.0")
	for i := range flows {
		if i%1000 == 0 {
			addr = addr.Next()
		}
		src, dst := netip.AddrPortFrom(addr, uint16(1024+i%1000)), netip.AddrPortFrom(a.ClusterIP, 53)
		flows[i] = trackedFlow{syscall.IPPROTO_UDP, src, dst, netip.AddrPortFrom(a.Backend(i%4), backendPort), src}
	}
	return flows
}

// missing returns those flows that the kernel does not have.
func missing(tb testing.TB, ns *nstest.Namespace, flows []trackedFlow) (out []trackedFlow) {
	tb.Helper()
	held := flowTable(tb, ns, syscall.IPPROTO_UDP)
	for _, f := range flows {
		if !held[f] {
			out = append(out, f)
		}
	}
	return out
}
