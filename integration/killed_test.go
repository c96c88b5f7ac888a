//go:build linux

package integration

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nftdp/go-nftdp/internal/nstest"
	"github.com/nftdp/go-nftdp/nftdp"
)

var kills = flag.Int("kills", 250, "number of processes that TestKilled kills")

// TestKilled kills processes at random moments while they change services as fast
// as they can. Each leaves the state before or after a change, never anything in
// between. Another process goes on from there, and no connection fails meanwhile.
func TestKilled(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nftdp.Config{}, 3)
	w.apply(t, alternatives()[0]...)
	stop := w.startClients(t, &sync.RWMutex{}, map[string]netip.AddrPort{
		"untouched": netip.AddrPortFrom(nstest.IPv4().Node, 90),
		"changed":   netip.AddrPortFrom(nstest.IPv6().ClusterIP, 80),
	})
	socket, err := nstest.Open(w.Client, "udp", netip.Addr{}, netip.AddrPortFrom(nstest.IPv4().ClusterIP, 53), time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	defer closeOrFail(t, socket)

	var found [3]int
	changes, unfinished := 0, 0
	for range *kills {
		changes += w.killOne(t)
		state, exact := w.alternative(t)
		found[state]++
		if !exact {
			unfinished++
		}
		if rand.N(2) == 0 { // otherwise the next process to be killed goes on from this state
			if _, err := exchange(socket, "begin a flow or go on with it"); err != nil {
				t.Errorf("udp: %v", err)
			}
			w.takeOver(t, rand.N(len(found)))
		}
		if t.Failed() {
			break
		}
	}
	t.Logf("%d processes were killed after %d changes and left the states %v times, %d times with leftovers; %d connections meanwhile",
		*kills, changes, found, unfinished, stop())
	if *kills >= 100 && (changes < *kills/2 || min(found[0], found[1]) < *kills/10) {
		t.Error("too few to show anything")
	}
}

// alternatives are states. The changes between them contain nearly everything that
// a change can: pools of other sizes, so that chains come and go, backends and
// frontends that come and go, a frontend with a chain of its own. Changes to and
// from the last state have to delete UDP flows, which takes longer than anything
// else. The first service is the same in all states.
func alternatives() [3][]nftdp.Service {
	untouched := nftdp.Service{Name: "untouched", Frontends: nodeWide(90), Backends: backends(0, 1, 2)}
	changed := nftdp.Service{Name: "changed", Frontends: on(clusterIP, 80)}
	turns := nftdp.Service{Name: "turns", Frontends: on(clusterIP, 81), Scheduler: nftdp.SchedulerRoundRobin}
	dns := nftdp.Service{Name: "dns", Protocol: nftdp.ProtocolUDP, Frontends: on(clusterIP, 53)}
	other := nftdp.Service{Name: "other", Frontends: append(nodeWide(92), on(external, 92)...), Backends: backends(1, 2)}
	with := func(s nftdp.Service, indices ...int) nftdp.Service { s.Backends = backends(indices...); return s }
	return [...][]nftdp.Service{
		{untouched, with(changed, 0), with(turns, 0, 1), with(dns, 0)},
		{untouched, with(changed, 1, 2), with(turns, 0, 1, 2), with(dns, 0), other},
		{untouched, with(changed, 1, 2), with(turns, 0, 1, 2), with(dns, 1), other},
	}
}

// alternate is a process that changes from state to state, by Apply and Update,
// until it is killed. Three of four such processes leave out the last state.
func alternate() error {
	fmt.Println("started")
	ctx := context.Background()
	d, err := nftdp.Config{}.Open(ctx)
	if err != nil {
		return err
	}
	among := 2 + rand.N(4)/3
	for i := rand.N(among); ; i = (i + 1) % among {
		state := alternatives()[i]
		if rand.N(2) == 0 {
			_, err = d.Apply(ctx, state)
		} else {
			change := nftdp.Change{Set: state[1:]}
			if i == 0 {
				change.Delete = []string{"other"}
			}
			_, err = d.Update(ctx, change)
		}
		if err != nil {
			return err
		}
		fmt.Println("changed")
	}
}

// killOne runs a process and kills it at a random moment of a step, and returns
// how many changes it has made.
func (w *world) killOne(t *testing.T) (changes int) {
	t.Helper()
	c := startChild(t, w.Node, "alternate")
	var step time.Duration
	changes = rand.N(3)
	for range 1 + changes { // until it has started, or has made a change or two
		begun := time.Now()
		c.line(t)
		step = time.Since(begun)
	}
	<-time.After(rand.N(step))
	return changes + bytes.Count(c.kill(t), []byte("changed"))
}

// leftover matches the commands that remove what may be left of an unfinished
// change: chains that no element leads to, and elements that are looked up only
// in postrouting.
var leftover = regexp.MustCompile(`^(flush|delete) chain |^delete element \S+ \S+ (masq|node_masq|affinities|hairpin) `)

// alternative returns which state the kernel holds, and whether without leftovers.
func (w *world) alternative(t *testing.T) (state int, exact bool) {
	t.Helper()
	held, err := w.dataplane.Ruleset(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var plans []string
	for state, services := range alternatives() {
		plan := held.PlanTo(mustCompile(t, services...))
		if plan.Empty() {
			return state, true
		}
		plans = append(plans, plan.String())
	}
	for state, plan := range plans {
		lines := strings.Split(strings.TrimSuffix(plan, "\n"), "\n")
		if !slices.ContainsFunc(lines, func(line string) bool { return !leftover.MatchString(line) }) {
			return state, false
		}
	}
	t.Fatalf("the kernel holds none of the states; the differences:\n%s", strings.Join(plans, "\nor\n"))
	return 0, false
}

func mustCompile(t *testing.T, services ...nftdp.Service) *nftdp.Ruleset {
	t.Helper()
	r, err := nftdp.Config{}.Compile(services)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// takeOver is a process that follows one that was killed. It removes what is left
// of an unfinished change, and UDP flows that lead to a wrong backend.
func (w *world) takeOver(t *testing.T, state int) {
	t.Helper()
	services := alternatives()[state]
	closeOrFail(t, w.dataplane)
	w.open(t, nftdp.Config{})
	w.apply(t, services...)
	w.wantExactly(t, services...)
	flows, err := w.dataplane.Flows(t.Context(), "dns")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range flows {
		if i := slices.IndexFunc(services, func(s nftdp.Service) bool { return s.Name == "dns" }); f.Backend != services[i].Backends[0].Addr {
			t.Errorf("a flow leads to %v, want %v", f.Backend, services[i].Backends[0].Addr)
		}
	}
}

// wantExactly fails unless the kernel holds exactly these services.
func (w *world) wantExactly(t *testing.T, services ...nftdp.Service) {
	t.Helper()
	held, err := w.dataplane.Ruleset(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if plan := held.PlanTo(mustCompile(t, services...)); !plan.Empty() {
		t.Errorf("the kernel holds something else; the difference:\n%v", plan)
	}
}

// pace leaves time for others, and keeps clients from using up their ports, each
// of which stays in use for a minute.
const pace = 5 * time.Millisecond

// startClients connects to each of the services all the time until stop is
// called. A service must answer whenever whole can be locked for reading.
func (w *world) startClients(t *testing.T, whole *sync.RWMutex, services map[string]netip.AddrPort) (stop func() (connections int64)) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	var wait sync.WaitGroup
	var n atomic.Int64
	for name, dst := range services {
		wait.Go(func() {
			for tick := time.NewTicker(pace); ctx.Err() == nil; n.Add(1) {
				whole.RLock()
				got := attempt(w.Client, "tcp", dst, askTimeout)
				whole.RUnlock()
				if !slices.Contains(backendNames(3), got) {
					t.Errorf("service %s after %d connections: %s", name, n.Load(), got)
					return
				}
				<-tick.C
			}
		})
	}
	stop = func() int64 { cancel(); wait.Wait(); return n.Load() }
	t.Cleanup(func() { stop() })
	return stop
}
