//go:build linux

package integration

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/nftdp/go-nftdp/internal/nstest"
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
	conn := dialKernel(b, ns)
	defer closeOrFail(b, conn)
	c := ruleset.Change{Verb: ruleset.Add, Family: ruleset.IPv4, Table: "another"}
	load := nstest.StartLoad(b, func() error {
		_, err := conn.Commit(b.Context(), 0, []ruleset.Change{c})
		c.Verb = ruleset.Add + ruleset.Delete - c.Verb
		return err
	})
	defer load.Stop(b)
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

// BenchmarkUpdateAmongOwners replaces the backends of one of 1,000 services in turn:
// in tables of one's own, in tables that have owners, and while another owner changes
// a service of its own in these tables without a pause.
func BenchmarkUpdateAmongOwners(b *testing.B) {
	for _, c := range []struct{ name, owner, other string }{
		{"without owners", "", ""}, {"one owner", "a", ""}, {"two owners", "a", "b"},
	} {
		b.Run(c.name, func(b *testing.B) {
			ns := newNamespace(b)
			services := manyServices(1000)
			for i := range services {
				if c.owner != "" {
					services[i].Name = c.owner + "/" + services[i].Name
				}
			}
			d := open(b, ns, nftdp.Config{Owner: c.owner})
			b.Cleanup(func() { closeOrFail(b, d) })
			plan, err := d.Apply(b.Context(), services)
			mustChange(b, plan, err)
			if c.other != "" {
				defer busyOwner(b, open(b, ns, nftdp.Config{Owner: c.other}))()
			}
			var laps laps
			for i := 0; b.Loop(); i++ {
				s := services[i%len(services)]
				s.Backends = s.Backends[i/len(services)%2:]
				begin := time.Now()
				if _, err := d.Update(b.Context(), nftdp.Change{Set: []nftdp.Service{s}}); err != nil {
					b.Fatal(err)
				}
				laps.add(begin)
			}
			laps.report(b, "p50-ns")
		})
	}
}

// busyOwner changes a service of the owner b without a pause, until it is stopped.
func busyOwner(b *testing.B, d *nftdp.Dataplane) (stop func()) {
	b.Helper()
	i := 0
	load := nstest.StartLoad(b, func() error {
		s := numbered(i % 4)
		s.Name, s.Frontends[0].Port = "b/busy", 9000
		i++
		_, err := d.Update(b.Context(), nftdp.Change{Set: []nftdp.Service{s}})
		return err
	})
	return func() {
		load.Stop(b)
		closeOrFail(b, d)
	}
}
