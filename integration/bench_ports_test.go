//go:build linux

package integration

import (
	"fmt"
	"testing"
)

// BenchmarkSourcePorts sets up connections of one client that are masqueraded, all to
// one backend: with random source ports as the library programs them, and with ports
// that the kernel keeps where it can, on another node. So many ports of the node are
// in use already, of the 64,512 that the kernel chooses from. The ratio is that of the
// medians.
func BenchmarkSourcePorts(b *testing.B) {
	for _, used := range []int{0, 50_000} {
		b.Run(fmt.Sprintf("in-use=%d", used), func(b *testing.B) { benchmarkSourcePorts(b, used) })
	}
}

func benchmarkSourcePorts(b *testing.B, used int) {
	b.Helper()
	const connections = 200
	needTool(b, "nft")
	random, kept := newConnecting(b, 0, 0), newConnecting(b, 0, 0)
	tool(b, kept.Node, "nft", "flush chain ip nftdp masquerade-external; add rule ip nftdp masquerade-external masquerade")
	randomLaps, keptLaps := newLaps(), newLaps()
	sides := []side{{random, randomLaps}, {kept, keptLaps}}
	const first = 1024
	fill := func() {
		for _, s := range sides {
			s.flushConntrack(b)
			for at := first; at < first+used; at += connections {
				if err := s.send(at, connections); err != nil {
					b.Fatal(err)
				}
			}
		}
	}
	fill()
	b.ResetTimer()
	takeTurns(b, sides, first+used, first+60_000, connections, fill)
	randomLaps.report(b, "random-p50-ns")
	keptLaps.report(b, "kept-p50-ns")
	b.ReportMetric(randomLaps.median()/keptLaps.median(), "ratio")
}
