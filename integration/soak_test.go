//go:build linux

package integration

import (
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"

	"github.com/nftdp/go-nftdp/internal/nstest"
	"github.com/nftdp/go-nftdp/nftdp"
)

var (
	soakFor  = flag.Duration("soak", 8*time.Second, "how long TestSoak goes on")
	soakSeed = flag.Uint64("soakseed", 0, "seed of TestSoak; 0 takes another one in every run")
)

// TestSoak changes services at random for as long as it is told, lets others
// meddle with the tables and new processes take over, all under traffic. After
// every change the kernel holds exactly what is wanted, and no connection fails
// or breaks, but for those that somebody makes while the tables are broken:
// nobody does.
func TestSoak(t *testing.T) {
	t.Parallel()
	seed := *soakSeed
	if seed == 0 {
		seed = rand.Uint64()
	}
	s := &soak{
		world: newWorld(t, nftdp.Config{}, 3), Rand: rand.New(rand.NewPCG(seed, 0)),
		services: map[string]nftdp.Service{}, steps: map[string]int{},
	}
	s.services["untouched"] = nftdp.Service{Name: "untouched", Frontends: nodeWide(90), Backends: backends(0, 1, 2)}
	s.services["changed"] = s.random("changed", 91)
	s.apply(t)
	untouched, changed := netip.AddrPortFrom(nstest.IPv4().Node, 90), netip.AddrPortFrom(nstest.IPv6().Node, 91)
	established := slices.Concat(connect(t, 5, s.Client, untouched), connect(t, 5, s.Client, changed))
	stop := s.startClients(t, &s.whole, map[string]netip.AddrPort{"untouched": untouched, "changed": changed})

	for deadline := time.Now().Add(*soakFor); time.Now().Before(deadline) && !t.Failed(); {
		s.step(t)
	}
	connections := stop()
	s.apply(t)
	wantAlive(t, established)
	t.Logf("seed %d: %v, %d connections", seed, s.steps, connections)
	if *soakFor >= 5*time.Second && len(s.steps) < 7 || connections == 0 {
		t.Error("that is too little to show anything")
	}
}

// soak is what there shall be, and how often what was done.
type soak struct {
	*world
	*rand.Rand
	services map[string]nftdp.Service
	steps    map[string]int
	whole    sync.RWMutex // held by whoever connects, and by whoever breaks the tables until they are mended
}

func (s *soak) step(t *testing.T) {
	t.Helper()
	name, do := s.choose()
	s.steps[name]++
	do(t)
	if t.Failed() {
		t.Errorf("that was a step of %q", name)
	}
}

func (s *soak) choose() (name string, do func(*testing.T)) {
	switch n := s.IntN(20); {
	case n < 10:
		return "update", s.updateSome
	case n < 13:
		return "apply", s.applyAll
	case n < 15:
		return "restart", s.restart
	case n < 16:
		return "their chain", s.meddle(addTheirChain)
	case n < 17:
		return "their element", s.meddle(addTheirElement)
	case n < 18:
		return "flushed map", s.breakAndMend(flushMap)
	case n < 19:
		return "flushed chain", s.breakAndMend(flushChain)
	}
	return "deleted table", s.breakAndMend(deleteTable)
}

// random is a service with at least one active backend in each family.
func (s *soak) random(name string, port uint16) nftdp.Service {
	out := nftdp.Service{Name: name, Frontends: nodeWide(port)}
	out.Scheduler = []nftdp.Scheduler{nftdp.SchedulerRandom, nftdp.SchedulerRoundRobin, nftdp.SchedulerSourceHash, nftdp.SchedulerMaglev}[s.IntN(4)]
	if out.Scheduler == nftdp.SchedulerMaglev {
		out.MaglevSize = 13
	}
	for i, index := range s.Perm(3)[:1+s.IntN(3)] {
		pair := backends(index)
		for j := range pair {
			pair[j].Weight = uint16(s.IntN(4))
			if i > 0 {
				pair[j].State = []nftdp.State{nftdp.StateActive, nftdp.StateDraining, nftdp.StateDown}[s.IntN(3)]
			}
		}
		out.Backends = append(out.Backends, pair...)
	}
	return out
}

// change makes some services anew and deletes some.
func (s *soak) change() (c nftdp.Change) {
	for range 1 + s.IntN(3) {
		i := s.IntN(20)
		name := fmt.Sprint("service ", i)
		if i == 0 {
			name = "changed"
		}
		_, set := s.services[name]
		switch {
		case slices.ContainsFunc(c.Set, func(x nftdp.Service) bool { return x.Name == name }):
		case set && i > 0 && s.IntN(3) == 0:
			c.Delete = append(c.Delete, name)
			delete(s.services, name)
		case !slices.Contains(c.Delete, name):
			service := s.random(name, uint16(91+i))
			if i > 15 {
				service.Protocol = nftdp.ProtocolUDP
			}
			c.Set = append(c.Set, service)
			s.services[name] = service
		}
	}
	return c
}

func (s *soak) updateSome(t *testing.T) {
	t.Helper()
	s.update(t, s.change())
	s.check(t)
}

func (s *soak) applyAll(t *testing.T) {
	t.Helper()
	s.change()
	s.apply(t)
}

// apply programs all that there shall be.
func (s *soak) apply(t *testing.T) {
	t.Helper()
	s.world.apply(t, s.all()...)
	s.check(t)
}

func (s *soak) all() []nftdp.Service { return slices.Collect(maps.Values(s.services)) }

func (s *soak) check(t *testing.T) {
	t.Helper()
	s.wantExactly(t, s.all()...)
}

// restart lets a new process take over, which may know all services or only
// those that it changes.
func (s *soak) restart(t *testing.T) {
	t.Helper()
	closeOrFail(t, s.dataplane)
	s.open(t, nftdp.Config{})
	if s.IntN(2) == 0 {
		s.apply(t)
	}
}

// edit is what somebody else does to our table of a family.
type edit func(*soak, *nftables.Conn, *nftables.Table) error

// meddle adds what does no harm, and leaves it to the next change to take it
// away.
func (s *soak) meddle(do edit) func(*testing.T) {
	return func(t *testing.T) {
		t.Helper()
		s.edit(t, do)
		if plan, err := s.dataplane.Plan(t.Context(), s.all()); err != nil || plan.Empty() {
			t.Errorf("it is not seen: error %v", err)
		}
	}
}

// breakAndMend breaks the tables while nobody connects.
func (s *soak) breakAndMend(do edit) func(*testing.T) {
	return func(t *testing.T) {
		t.Helper()
		s.whole.Lock()
		defer s.whole.Unlock()
		s.edit(t, do)
		s.apply(t)
	}
}

func (s *soak) edit(t *testing.T, do edit) {
	t.Helper()
	conn := connectNftables(t, s.Node)
	family := []nftables.TableFamily{nftables.TableFamilyIPv4, nftables.TableFamilyIPv6}[s.IntN(2)]
	if err := do(s, conn, &nftables.Table{Family: family, Name: nftdp.DefaultTable}); err != nil {
		t.Fatal(err)
	}
	if err := conn.Flush(); err != nil {
		t.Fatal(err)
	}
}

func addTheirChain(_ *soak, conn *nftables.Conn, table *nftables.Table) error {
	chain := conn.AddChain(&nftables.Chain{Name: "theirs", Table: table})
	conn.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: []expr.Any{&expr.Verdict{Kind: expr.VerdictAccept}}})
	return nil
}

// addTheirElement sends a port to nowhere that no service has.
func addTheirElement(s *soak, conn *nftables.Conn, table *nftables.Table) error {
	key := []byte{6, 0, 0, 0, 3, byte(s.IntN(256)), 0, 0} // TCP, a port from 768; each takes a register
	set := &nftables.Set{Table: table, Name: "node_frontends", IsMap: true, DataType: nftables.TypeVerdict, KeyType: nftables.TypeInetService}
	return conn.SetAddElements(set, []nftables.SetElement{{Key: key, VerdictData: &expr.Verdict{Kind: expr.VerdictDrop}}})
}

func flushMap(s *soak, conn *nftables.Conn, table *nftables.Table) error {
	name := []string{"node_frontends", "node_backends", "node_masq", "hairpin", "protocols"}[s.IntN(5)]
	conn.FlushSet(&nftables.Set{Table: table, Name: name})
	return nil
}

func flushChain(s *soak, conn *nftables.Conn, table *nftables.Table) error {
	chains, err := conn.ListChainsOfTableFamily(table.Family)
	if err != nil {
		return err
	}
	ours := slices.DeleteFunc(chains, func(c *nftables.Chain) bool { return c.Table.Name != table.Name })
	conn.FlushChain(ours[s.IntN(len(ours))])
	return nil
}

func deleteTable(_ *soak, conn *nftables.Conn, table *nftables.Table) error {
	conn.DelTable(table)
	return nil
}
