//go:build linux

package integration

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/nftdp/go-nftdp/internal/nstest"
	"github.com/nftdp/go-nftdp/nftdp"
)

// plugin is a process as a CNI plugin is: it adds or deletes one service and ends.
func plugin() error {
	i, err := strconv.Atoi(os.Getenv("NFTDP_TEST_SERVICE"))
	if err != nil {
		return err
	}
	ctx := context.Background()
	d, err := nftdp.Config{Owner: "cni"}.Open(ctx)
	if err != nil {
		return err
	}
	change := nftdp.Change{Set: []nftdp.Service{ofContainer(i)}}
	if os.Getenv("NFTDP_TEST_DELETE") != "" {
		change = nftdp.Change{Delete: []string{ofContainer(i).Name}}
	}
	_, err = d.Update(ctx, change)
	return errors.Join(err, d.Close())
}

// ofContainer is a container's service. Containers share schedulers, lists of
// clients and sizes of pools, and every third one is a backend of the agent's, too.
func ofContainer(i int) nftdp.Service {
	s := numbered(i)
	s.Name = fmt.Sprint("cni/", i)
	s.Frontends = append(s.Frontends, nftdp.Frontend{Addr: netip.MustParseAddr(fmt.Sprintf("fd00:96::%x", i+1)), Port: 80})
	s.Backends = append(s.Backends, nftdp.Backend{Addr: netip.MustParseAddrPort(fmt.Sprintf("[fd00:180::%x]:8080", i+1))})
	switch i % 4 {
	case 1:
		s.Scheduler = nftdp.SchedulerRoundRobin
	case 2:
		s.Frontends[0].Allow = []netip.Prefix{netip.MustParsePrefix(fmt.Sprintf("10.%d.0.0/16", i%8))}
	case 3:
		s.Protocol, s.Affinity = nftdp.ProtocolUDP, nftdp.Duration(3600e9)
	}
	return s
}

// agents returns services of the agent.
func agents() (out []nftdp.Service) {
	for i := range 20 {
		s := numbered(100 + i)
		s.Name = fmt.Sprint("agent/", i)
		s.Backends = append(s.Backends, numbered(3*i).Backends...)
		out = append(out, s)
	}
	return out
}

// TestPlugins: sixty processes that each add a service and end, beside an agent that
// keeps its own and one that changes its own without a pause, lose nothing and are
// not refused; and neither are sixty that delete them.
func TestPlugins(t *testing.T) {
	ns, err := nstest.New("plugins")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closeOrFail(t, ns) })
	open := func(owner string) *nftdp.Dataplane {
		d, err := nftdp.Config{Owner: owner}.OpenIn(t.Context(), ns.Handle())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { closeOrFail(t, d) })
		return d
	}
	agent, busy := open("agent"), open("busy")
	if _, err := agent.Apply(t.Context(), agents()); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var others sync.WaitGroup
	others.Go(func() {
		_ = agent.Keep(ctx, func(d *nftdp.Drift, err error) {
			if err != nil {
				t.Errorf("keep: %v", err)
			} else if strings.Contains(d.String(), "cni/") || strings.Contains(d.String(), "busy/") {
				t.Errorf("keep repaired:\n%v", d)
			}
		})
	})
	updates := 0
	others.Go(func() {
		for ; ctx.Err() == nil; updates++ {
			s := numbered(200 + updates%3)
			s.Name = fmt.Sprint("busy/", updates%3)
			s.Backends = append(s.Backends, numbered(updates%60).Backends...)
			if _, err := busy.Update(t.Context(), nftdp.Change{Set: []nftdp.Service{s}}); err != nil {
				t.Errorf("update %d: %v", updates, err)
			}
		}
	})
	const plugins = 60
	all := func(env ...string) {
		var processes []*child
		for i := range plugins {
			processes = append(processes, startChild(t, ns, "plugin", append(env, fmt.Sprint("NFTDP_TEST_SERVICE=", i))...))
		}
		for _, p := range processes {
			p.end(t)
		}
	}
	all()
	held := byOwner(t, agent)
	if held["cni"] != plugins || held["agent"] != len(agents()) || held["busy"] != 3 {
		t.Errorf("services by owner: %v", held)
	}
	all("NFTDP_TEST_DELETE=1")
	if held := byOwner(t, agent); held["cni"] != 0 || held["agent"] != len(agents()) || held["busy"] != 3 {
		t.Errorf("services by owner: %v", held)
	}
	stop()
	others.Wait()
	t.Logf("%d updates meanwhile", updates)
	if _, err := agent.Apply(t.Context(), agents()); err != nil {
		t.Fatal(err)
	}
	if err := busy.Remove(t.Context()); err != nil {
		t.Error(err)
	}
	last, err := agent.Ruleset(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	alone, err := nftdp.Config{Owner: "agent"}.Compile(agents())
	if err != nil {
		t.Fatal(err)
	}
	if left := last.PlanTo(alone); !left.Empty() {
		t.Errorf("left:\n%v", left)
	}
}

// byOwner counts the services that the kernel holds.
func byOwner(t *testing.T, d *nftdp.Dataplane) map[string]int {
	t.Helper()
	status, err := d.Inspect(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]int{}
	for _, s := range status {
		owner, _, _ := strings.Cut(s.Name, "/")
		out[owner]++
	}
	return out
}

// TestOwnersUnderTraffic: connections to one owner's services succeed while another
// one changes its own, with the same backends and chains, until the last of these
// goes, changes the configuration of all, and goes itself.
func TestOwnersUnderTraffic(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nftdp.Config{Owner: "a"}, 3)
	ours := []nftdp.Service{
		{Name: "a/wide", Frontends: nodeWide(90), Backends: backends(0, 1)},
		{Name: "a/one", Frontends: on(clusterIP, 80), Backends: backends(0, 1, 2)},
	}
	w.apply(t, ours...)
	config := nftdp.Config{Owner: "b"}
	b := openDataplane(t, w.Node, config)
	theirs := func(n int) (out []nftdp.Service) {
		for i := range n {
			out = append(out, nftdp.Service{
				Name: fmt.Sprint("b/", i), Frontends: append(nodeWide(uint16(91+i)), on(clusterIP, uint16(91+i))...), Backends: backends(0, 1, 2)[:1+i%3],
			})
		}
		return out
	}
	stop := w.startClients(t, &sync.RWMutex{}, map[string]netip.AddrPort{
		"wide": netip.AddrPortFrom(nstest.IPv4().Node, 90), "one": netip.AddrPortFrom(nstest.IPv6().ClusterIP, 80),
	})
	for round := range 100 {
		var err error
		switch round % 10 {
		case 9:
			config.AffinitySize = uint32(1000 + round)
			next := openDataplane(t, w.Node, config)
			_, err = next.TakeOver(t.Context(), theirs(3))
			b = next
		case 8:
			err = b.Remove(t.Context())
		default:
			_, err = b.Apply(t.Context(), theirs(round%5))
		}
		if err != nil {
			t.Fatalf("round %d: %v", round, err)
		}
		if round%10 != 9 {
			continue
		}
		if got := attempt(w.Client, "tcp", netip.AddrPortFrom(nstest.IPv4().ClusterIP, 91), askTimeout); got != backendNames(1)[0] {
			t.Errorf("round %d: service of b: %s", round, got)
		}
	}
	t.Logf("%d connections", stop())
}
