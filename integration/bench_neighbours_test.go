//go:build linux

package integration

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/nftdp/go-nftdp/internal/ruleset"
	"github.com/nftdp/go-nftdp/nftdp"
)

// BenchmarkNeighbour loads services while a Dataplane in another namespace is
// not there, is open, or is kept. Whoever listens makes the kernel write down
// everybody's transactions.
func BenchmarkNeighbour(b *testing.B) {
	services := manyServices(2000)
	for _, c := range []struct {
		name       string
		open, keep bool
	}{{"alone", false, false}, {"open", true, false}, {"kept", true, true}} {
		b.Run(c.name, func(b *testing.B) {
			if c.open {
				other := openLoaded(b, manyServices(1))
				if c.keep {
					ctx, stop := context.WithCancel(b.Context())
					ended := make(chan error, 1)
					go func() { ended <- other.Keep(ctx, nil) }()
					defer func() {
						stop()
						if err := <-ended; !errors.Is(err, context.Canceled) {
							b.Error(err)
						}
					}()
				}
			}
			var laps laps
			ns := newNamespace(b)
			for b.Loop() {
				begin := time.Now()
				load(b, ns, services)
				laps.add(begin)
				untimed(b, func() { remove(b, ns) })
			}
			laps.report(b, "p50-ns")
		})
	}
}

// BenchmarkUpdateAmongWriters replaces a backend while somebody else changes
// another table of the namespace without a pause.
func BenchmarkUpdateAmongWriters(b *testing.B) {
	services := manyServices(1000)
	ns := newNamespace(b)
	d := open(b, ns, nftdp.Config{})
	b.Cleanup(func() { closeOrFail(b, d) })
	plan, err := d.Apply(b.Context(), services)
	mustChange(b, plan, err)
	ctx, stop := context.WithCancel(b.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		conn := dialKernel(b, ns)
		defer closeOrFail(b, conn)
		c := ruleset.Change{Verb: ruleset.Add, Family: ruleset.IPv4, Table: "another"}
		for ctx.Err() == nil {
			commit(b, conn, []ruleset.Change{c})
			c.Verb = ruleset.Add + ruleset.Delete - c.Verb
		}
	}()
	defer func() {
		stop()
		<-ended
	}()
	var laps laps
	for i := 0; b.Loop(); i++ {
		s := services[i%len(services)]
		s.Backends = s.Backends[:len(s.Backends)-i/len(services)%2]
		if i%2 == 0 {
			s.Backends = s.Backends[1:]
		}
		begin := time.Now()
		if _, err := d.Update(b.Context(), nftdp.Change{Set: []nftdp.Service{s}}); err != nil {
			b.Fatal(err)
		}
		laps.add(begin)
	}
	laps.report(b, "p50-ns")
}
