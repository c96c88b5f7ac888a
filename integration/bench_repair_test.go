//go:build linux

package integration

import (
	"context"
	"os"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nftdp/go-nftdp/internal/nstest"
	"github.com/nftdp/go-nftdp/internal/ruleset"
	"github.com/nftdp/go-nftdp/nftdp"
)

// BenchmarkRepair measures the time from the beginning of another program's
// commit until Keep has repaired what it did.
func BenchmarkRepair(b *testing.B) {
	inSizes(b, func(b *testing.B, n int) {
		held := compiled(n)
		t := held.Table(ruleset.IPv4)
		at := ruleset.Change{Verb: ruleset.Delete, Family: t.Family, Table: t.Name}
		b.Run("of=element", func(b *testing.B) {
			c := at
			c.Set = t.Set("backends")
			repair(b, n, func(i int) []ruleset.Change {
				j := i % len(c.Set.Elements)
				c.Elements = c.Set.Elements[j : j+1]
				return []ruleset.Change{c}
			})
		})
		b.Run("of=chain", func(b *testing.B) {
			c := at
			c.Verb, c.Chain = ruleset.Flush, t.Chain("services")
			repair(b, n, func(int) []ruleset.Change { return []ruleset.Change{c} })
		})
		b.Run("of=tables", func(b *testing.B) {
			other := at
			other.Family = ruleset.IPv6
			repair(b, n, func(int) []ruleset.Change { return []ruleset.Change{at, other} })
		})
	})
}

// repair measures one repair after the other, each by a new Keep, since one that
// has had much to repair pauses before the next repair.
func repair(b *testing.B, n int, changes func(i int) []ruleset.Change) {
	b.Helper()
	ns := newNamespace(b)
	d := open(b, ns, nftdp.Config{})
	b.Cleanup(func() { closeOrFail(b, d) })
	plan, err := d.Apply(b.Context(), manyServices(n))
	mustChange(b, plan, err)
	conn := dialKernel(b, ns)
	defer closeOrFail(b, conn)
	laps := newLaps()
	for i := 0; b.Loop(); i++ {
		var repaired <-chan error
		var stop func()
		var change []ruleset.Change
		untimed(b, func() {
			repaired, stop = keep(b, d)
			awaitMonitor(b, ns)
			change = changes(i)
		})
		begin := time.Now()
		commit(b, conn, change)
		err := <-repaired
		laps.add(begin)
		if err != nil {
			b.Fatal(err)
		}
		untimed(b, stop)
	}
	laps.report(b, "p50-ns")
	plan, err = d.Apply(b.Context(), manyServices(n))
	mustKeep(b, plan, err)
}

// keep runs Keep, which reports each repair, until it is stopped.
func keep(tb testing.TB, d *nftdp.Dataplane) (repaired <-chan error, stop func()) {
	tb.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	reports, ended := make(chan error, 100), make(chan struct{})
	go func() {
		defer close(ended)
		_ = d.Keep(ctx, func(_ *nftdp.Drift, err error) { reports <- err })
	}()
	return reports, func() {
		cancel()
		<-ended
	}
}

// awaitMonitor waits until a socket of the namespace receives the events of
// nf_tables. A Keep that begins after a change reads all tables to find it.
func awaitMonitor(b *testing.B, ns *nstest.Namespace) {
	b.Helper()
	const events = 1 << (unix.NFNLGRP_NFTABLES - 1)
	for {
		var sockets []byte
		err := ns.Do(func() (err error) { sockets, err = os.ReadFile("/proc/thread-self/net/netlink"); return err })
		if err != nil {
			b.Fatal(err)
		}
		for line := range strings.Lines(string(sockets)) {
			fields := strings.Fields(line) // sk, protocol, port, groups, ...
			groups, _ := strconv.ParseUint(fields[3], 16, 32)
			if fields[1] == strconv.Itoa(unix.NETLINK_NETFILTER) && groups&events != 0 {
				return
			}
		}
		runtime.Gosched()
	}
}
