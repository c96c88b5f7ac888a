//go:build linux

package integration

import (
	"fmt"
	"math"
	"net/netip"
	"testing"

	"github.com/nftdp/go-nftdp/internal/nstest"
	"github.com/nftdp/go-nftdp/nftdp"
)

// sample is the number of connections in one distribution. It is divisible by
// both numbers of backends.
const sample = 840

// falseAlarm is the probability that one distribution fails by chance. There are
// eight of them, so the whole test fails by chance in less than one of a million
// runs.
const falseAlarm = 1e-7

// TestDistribution compares the backends' shares of a fixed number of connections
// with equal shares by Pearson's chi-square test. For n backends the statistic has
// n-1 degrees of freedom, so that at falseAlarm the bounds are 32.2 for 3 backends
// and 43.3 for 7. If one backend were never chosen, it would be at least 140, and
// if one were chosen twice as often as the others, at least 78 on average.
//
// The counters in the kernel must equal the servers' exactly.
func TestDistribution(t *testing.T) {
	t.Parallel()
	for _, n := range []int{3, 7} {
		t.Run(fmt.Sprintf("%d-backends", n), func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, nftdp.Config{}, n)
			w.apply(t, nftdp.Service{
				Name:      "web",
				Frontends: append(nodeWide(30644), on(clusterIP, 80)...),
				Backends:  backends(upTo(n)...),
			})
			for _, a := range nstest.Families() {
				t.Run(a.Family+"/nodeport", func(t *testing.T) {
					counts := count(t, sample, w.Client, "tcp", netip.AddrPortFrom(a.Node, 30644))
					checkShares(t, counts, n)
					w.wantCounts(t, a, netip.AddrPortFrom(a.Any().Addr(), 30644), sample, counts)
				})
				t.Run(a.Family+"/clusterip", func(t *testing.T) {
					dst := netip.AddrPortFrom(a.ClusterIP, 80)
					counts := count(t, sample, w.Backends[0], "tcp", dst)
					checkShares(t, counts, n)
					w.wantCounts(t, a, dst, sample, counts)
				})
			}
		})
	}
}

// checkShares fails if the probability that counts differ this much from equal
// shares is below falseAlarm.
func checkShares(t *testing.T, counts map[string]int, n int) {
	t.Helper()
	expected, chi2 := float64(sample)/float64(n), 0.0
	for i := range n {
		d := float64(counts[fmt.Sprintf("backend-%d", i+1)]) - expected
		chi2 += d * d / expected
	}
	p := chiSquareTail(chi2, n-1)
	t.Logf("%v: chi-square %.1f, p = %.3g", counts, chi2, p)
	if p < falseAlarm {
		t.Errorf("shares are not equal: %v", counts)
	}
}

// chiSquareTail is the probability that a chi-square variable with an even
// number of degrees of freedom exceeds x: that of fewer than df/2 events where
// x/2 are expected (Abramowitz and Stegun, 26.4.21).
func chiSquareTail(x float64, df int) float64 {
	sum, term := 0.0, math.Exp(-x/2)
	for i := range df / 2 {
		sum += term
		term *= x / 2 / float64(i+1)
	}
	return sum
}

// upTo is 0, 1 … n-1.
func upTo(n int) []int {
	all := make([]int, n)
	for i := range all {
		all[i] = i
	}
	return all
}
