//go:build linux

package integration

import (
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/nftdp/go-nftdp/internal/nstest"
	"github.com/nftdp/go-nftdp/nftdp"
)

var (
	soakFor  = flag.Duration("soak", 8*time.Second, "how long TestSoak runs")
	soakSeed = flag.Uint64("soakseed", 0, "seed of TestSoak; 0: a different one in every run")
)

// TestSoak changes services at random for the given time, while other programs edit
// the tables and new processes take over, all under traffic. After every change the
// kernel holds exactly the services, and no connection fails or breaks. Nobody
// connects while another program has broken the tables.
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
		t.Error("too few steps or connections to show anything")
	}
}

// soak holds the services that there should be, and how often each step was made.
type soak struct {
	*world
	*rand.Rand
	services map[string]nftdp.Service
	steps    map[string]int
	meddled  bool         // another program has added something
	whole    sync.RWMutex // locked for reading while connecting, and for writing while the tables are broken
}

func (s *soak) step(t *testing.T) {
	t.Helper()
	name, do := s.choose()
	s.steps[name]++
	do(t)
	if t.Failed() {
		t.Errorf("in a step of kind %q", name)
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
		return "their chain", s.meddle(s.addTheirChain)
	case n < 17:
		return "their element", s.meddle(s.addTheirElement)
	case n < 18:
		return "flushed map", s.breakAndMend(s.flushMap)
	case n < 19:
		return "flushed chain", s.breakAndMend(s.flushChain)
	}
	return "deleted table", s.breakAndMend(s.deleteTable)
}

// random is a service with at least one active backend in each family.
func (s *soak) random(name string, port uint16) nftdp.Service {
	out := nftdp.Service{Name: name, Frontends: nodeWide(port)}
	all := schedulers()
	out.Scheduler = all[s.IntN(len(all))]
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

// change replaces some services, adds some and deletes some.
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
	if s.meddled { // which an Update does not look for
		s.apply(t)
	}
	s.check(t)
}

func (s *soak) applyAll(t *testing.T) {
	t.Helper()
	s.change()
	s.apply(t)
}

// apply programs all services.
func (s *soak) apply(t *testing.T) {
	t.Helper()
	s.world.apply(t, s.all()...)
	s.meddled = false
	s.check(t)
}

func (s *soak) all() []nftdp.Service { return slices.Collect(maps.Values(s.services)) }

func (s *soak) check(t *testing.T) {
	t.Helper()
	s.wantExactly(t, s.all()...)
}

// restart lets a new process take over, which may or may not apply all services.
func (s *soak) restart(t *testing.T) {
	t.Helper()
	closeOrFail(t, s.dataplane)
	s.open(t, nftdp.Config{})
	if s.IntN(2) == 0 {
		s.apply(t)
	}
}

// edits are what another program does to the table of one family.
type edits func(*testing.T, nftTable) []edit

// meddle has another program add something harmless, which the next Apply removes.
func (s *soak) meddle(do edits) func(*testing.T) {
	return func(t *testing.T) {
		t.Helper()
		s.edit(t, do)
		s.meddled = true
		if plan, err := s.dataplane.Plan(t.Context(), s.all()); err != nil || plan.Empty() {
			t.Errorf("Plan does not see the edit: error %v", err)
		}
	}
}

// breakAndMend has another program break the tables while nobody connects.
func (s *soak) breakAndMend(do edits) func(*testing.T) {
	return func(t *testing.T) {
		t.Helper()
		s.whole.Lock()
		defer s.whole.Unlock()
		s.edit(t, do)
		s.apply(t)
	}
}

func (s *soak) edit(t *testing.T, do edits) {
	t.Helper()
	ours := bothTables(nftdp.DefaultTable)
	meddle(t, s.Node, do(t, ours[s.IntN(len(ours))])...)
}

func (*soak) addTheirChain(t *testing.T, tb nftTable) []edit {
	t.Helper()
	return []edit{tb.addChain("theirs"), tb.insertRule(t, "theirs", &expr.Verdict{Kind: expr.VerdictAccept})}
}

// addTheirElement drops packets to a port that no service has.
func (s *soak) addTheirElement(_ *testing.T, tb nftTable) []edit {
	key := []byte{6, 0, 0, 0, 3, byte(s.IntN(256)), 0, 0} // TCP, a port from 768; each takes a register
	drop := attrNested(unix.NFTA_DATA_VERDICT, attr32(unix.NFTA_VERDICT_CODE, 0))
	return []edit{tb.addElement("node_frontends", key, attrNested(unix.NFTA_SET_ELEM_DATA, drop))}
}

func (s *soak) flushMap(_ *testing.T, tb nftTable) []edit {
	maps := []string{"node_frontends", "node_backends", "node_masq", "hairpin", "protocols"}
	return []edit{tb.flushSet(maps[s.IntN(len(maps))])}
}

func (s *soak) flushChain(t *testing.T, tb nftTable) []edit {
	t.Helper()
	chains := listObjects(t, dialOther(t, s.Node), tb, unix.NFT_MSG_GETCHAIN)
	name := attribute(t, chains[s.IntN(len(chains))], unix.NFTA_CHAIN_NAME)
	return []edit{tb.flushChain(strings.TrimSuffix(string(name), "\x00"))}
}

func (*soak) deleteTable(_ *testing.T, tb nftTable) []edit { return []edit{tb.delete()} }
