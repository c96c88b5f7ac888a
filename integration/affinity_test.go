//go:build linux

package integration

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/nftdp/go-nftdp/internal/nstest"
	"github.com/nftdp/go-nftdp/internal/ruleset"
	"github.com/nftdp/go-nftdp/nftdp"
)

// anHour is longer than any test takes.
const anHour = nftdp.Duration(time.Hour)

// clientsOfAffinity is the number of clients that shows that each is free to
// choose: the probability that all of them choose the same one of two backends
// is 2^-39.
const clientsOfAffinity = 40

// sticky is a service with affinity and frontends of every kind.
func sticky(affinity nftdp.Duration, backends ...nftdp.Backend) nftdp.Service {
	return nftdp.Service{
		Name: "web", Affinity: affinity, Backends: backends,
		Frontends: slices.Concat(nodeWide(30644), on(clusterIP, 80), on(external, 80)),
	}
}

// stickyAddrs are the addresses of its frontends.
func stickyAddrs(a nstest.Addrs) []netip.AddrPort {
	return []netip.AddrPort{
		netip.AddrPortFrom(a.Node, 30644), netip.AddrPortFrom(a.Uplink, 30644),
		netip.AddrPortFrom(a.ClusterIP, 80), netip.AddrPortFrom(a.External, 80),
	}
}

// settle makes a connection for each client and returns who answered.
func (w *world) settle(t *testing.T, clients []netip.Addr, dst netip.AddrPort) map[netip.Addr]string {
	t.Helper()
	out := map[netip.Addr]string{}
	for _, c := range clients {
		answer, err := nstest.Dial(w.Client, "tcp", c, dst, askTimeout)
		if err != nil {
			t.Fatalf("from %v to %v: %v", c, dst, err)
		}
		out[c] = answer.Server
	}
	return out
}

// wantSettled fails unless every client reaches the same server as before.
func (w *world) wantSettled(t *testing.T, before map[netip.Addr]string, dst netip.AddrPort) {
	t.Helper()
	after := w.settle(t, slices.SortedFunc(maps.Keys(before), netip.Addr.Compare), dst)
	if diff := cmp.Diff(before, after, equateAddrs()); diff != "" {
		t.Errorf("clients of %v (-before +after):\n%s", dst, diff)
	}
}

func (w *world) affinities(t *testing.T) []nftdp.Affinity {
	t.Helper()
	list, err := w.dataplane.Affinities(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return list
}

// TestAffinity: a client that returns reaches the same backend, at each frontend
// and with each protocol, whether it is outside, a pod, a backend or the node
// itself; all clients together reach every backend. A scheduler that hashes
// address and port chooses by a client's first port only.
func TestAffinity(t *testing.T) {
	t.Parallel()
	for _, scheduler := range []nftdp.Scheduler{nftdp.SchedulerRandom, nftdp.SchedulerSourcePortHash} {
		t.Run(scheduler.String(), func(t *testing.T) {
			t.Parallel()
			testAffinity(t, scheduler)
		})
	}
}

func testAffinity(t *testing.T, scheduler nftdp.Scheduler) {
	t.Helper()
	w := newCaseWorld(t, nftdp.Config{Internal: podNets(), Localhost: true})
	w.meetRequirements(t)
	for _, p := range protocols() {
		web := sticky(anHour, to("L1", "L2", "R1")...)
		web.Name, web.Protocol, web.Scheduler = p.name, p.proto, scheduler
		w.update(t, nftdp.Change{Set: []nftdp.Service{web}})
	}
	for _, a := range nstest.Families() {
		got := map[string]int{}
		for _, p := range protocols() {
			for _, from := range []place{"C", "C2", "N", "L1", "L2", "R1"} {
				for _, dst := range stickyAddrs(a) {
					got[w.wantSame(t, a, from, p.name, dst)]++
				}
			}
			got[w.wantSame(t, a, "N", p.name, netip.AddrPortFrom(loopback(a), 30644))]++
		}
		wantOnly(t, got, "backend-1", "backend-2", "remote-1")
	}
}

// wantSame makes connections that must all reach the same server, and returns
// its name.
func (w *caseWorld) wantSame(t *testing.T, a nstest.Addrs, from place, protocol string, dst netip.AddrPort) string {
	t.Helper()
	var src netip.Addr
	if from == "C" || from == "C2" {
		src = from.addr(a)
	}
	got := map[string]int{}
	first := ""
	for range 8 {
		answer, err := nstest.Dial(w.namespace(from), protocol, src, dst, askTimeout)
		if first = outcome(answer, err); err != nil {
			t.Errorf("%s from %s to %v: %v", protocol, from, dst, err)
		}
		got[first]++
	}
	if len(got) != 1 {
		t.Errorf("%s from %s to %v: %v, want one server", protocol, from, dst, got)
	}
	return first
}

// TestAffinityOnNode: affinity works where the backends are on the node itself,
// so that connections end in the input hook.
func TestAffinityOnNode(t *testing.T) {
	t.Parallel()
	w := newCaseWorld(t, nftdp.Config{Internal: podNets()})
	serveAs(t, "own-1", w.Node, 8081, "tcp")
	serveAs(t, "own-2", w.Node, 8082, "tcp")
	web := sticky(anHour, slices.Concat(onPort(8081, to("N")), onPort(8082, to("N")))...)
	w.apply(t, web)
	for _, a := range nstest.Families() {
		clients := crowd(t, w.Client, a)[:clientsOfAffinity]
		for _, dst := range stickyAddrs(a) {
			before := w.settle(t, clients, dst)
			wantOnly(t, tally(before), "own-1", "own-2")
			w.wantSettled(t, before, dst)
			w.wantSame(t, a, "N", "tcp", dst)
			w.wantSame(t, a, "L1", "tcp", dst)
		}
	}
}

// TestAffinityHairpin: a backend that has reached itself once reaches itself
// again, with an address of the node as its source.
func TestAffinityHairpin(t *testing.T) {
	t.Parallel()
	w := newCaseWorld(t, nftdp.Config{Internal: podNets()})
	w.apply(t, sticky(anHour, to("L1")...))
	for _, a := range nstest.Families() {
		dst := netip.AddrPortFrom(a.ClusterIP, 80)
		askFor(t, "backend-1", w.Backends[0], "tcp", dst)
	}
	w.apply(t, sticky(anHour, to("L1", "L2", "R1")...))
	for _, a := range nstest.Families() {
		for range 8 {
			answer := askFor(t, "backend-1", w.Backends[0], "tcp", netip.AddrPortFrom(a.ClusterIP, 80))
			checkSource(t, a, answer.Client.Addr(), netip.Addr{}, false)
		}
	}
}

// TestAffinityExpires: a client that stays away for the time of the affinity is
// free to reach another backend.
func TestAffinityExpires(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nftdp.Config{}, 2)
	w.apply(t, sticky(nftdp.Duration(time.Second), backends(0, 1)...))
	inFamilies(t, func(t *testing.T, a nstest.Addrs) {
		clients, dst := crowd(t, w.Client, a)[:clientsOfAffinity], netip.AddrPortFrom(a.Node, 30644)
		before := w.settle(t, clients, dst)
		poll := time.NewTicker(10 * time.Millisecond)
		defer poll.Stop()
		for deadline := time.Now().Add(askTimeout); len(w.affinities(t)) > 0; <-poll.C {
			if time.Now().After(deadline) {
				t.Fatal("clients do not expire")
			}
		}
		if after := w.settle(t, clients, dst); maps.Equal(before, after) {
			t.Error("all clients still go where they went before their affinity expired")
		}
	})
}

// TestAffinityIsRefreshed: the time starts again with each connection.
func TestAffinityIsRefreshed(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nftdp.Config{}, 2)
	w.apply(t, sticky(anHour, backends(0, 1)...))
	inFamilies(t, func(t *testing.T, a nstest.Addrs) {
		dst := netip.AddrPortFrom(a.ClusterIP, 80)
		want := nftdp.Affinity{Service: "web", Client: a.Client, Frontend: dst}
		want.Backend = netip.AddrPortFrom(a.Backend(slices.Index(backendNames(2), ask(t, w.Client, "tcp", dst).Server)), backendPort)
		const passed = time.Hour - 200*time.Millisecond
		expires := func() time.Duration {
			t.Helper()
			list := slices.DeleteFunc(w.affinities(t), func(x nftdp.Affinity) bool { return x.Client != a.Client || x.Frontend != dst })
			if len(list) != 1 {
				t.Fatalf("affinities of the client: %+v, want one", list)
			}
			left := time.Duration(list[0].Expires)
			if list[0].Expires = 0; list[0] != want {
				t.Errorf("affinity is %+v, want %+v", list[0], want)
			}
			return left
		}
		poll := time.NewTicker(10 * time.Millisecond)
		defer poll.Stop()
		for expires() > passed {
			<-poll.C
		}
		begin := time.Now()
		ask(t, w.Client, "tcp", dst)
		// The kernel counts in jiffies, which last up to 10 ms.
		if left := expires(); left < time.Hour-time.Since(begin)-20*time.Millisecond {
			t.Errorf("%v left after a connection that began %v ago", left, time.Since(begin))
		}
	})
}

// TestAffinityIsKept: clients keep their backends when services change, theirs
// included, when a backend is added, and when a new process takes over.
func TestAffinityIsKept(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nftdp.Config{}, 4)
	web := sticky(anHour, backends(0, 1)...)
	other := nftdp.Service{Name: "other", Frontends: nodeWide(30999), Backends: backends(0)}
	w.apply(t, web)
	before := map[netip.AddrPort]map[netip.Addr]string{}
	for _, a := range nstest.Families() {
		clients := crowd(t, w.Client, a)[:clientsOfAffinity]
		for _, dst := range stickyAddrs(a) {
			before[dst] = w.settle(t, clients, dst)
		}
	}
	for _, step := range []struct {
		name   string
		change func()
	}{
		{"another service added", func() { w.update(t, nftdp.Change{Set: []nftdp.Service{other}}) }},
		{"another service removed", func() { w.apply(t, web) }},
		{"backends added", func() { web.Backends = backends(0, 1, 2, 3); w.apply(t, web) }},
		{"another backend removed", func() { web.Backends = backends(0, 1, 3); w.apply(t, web) }},
		{"weights and scheduler", func() {
			setWeight(&web, 0, 3)
			web.Scheduler = nftdp.SchedulerSourceHash
			w.update(t, nftdp.Change{Set: []nftdp.Service{web}})
		}},
		{"a frontend added", func() { web.Frontends = append(web.Frontends, nodeWide(30645)...); w.apply(t, web) }},
		{"a longer time", func() { web.Affinity = 2 * anHour; w.apply(t, web) }},
		{"a policy", func() { web.Frontends[1].Deny = podNets()[:1]; w.apply(t, web) }},
		{"the process ended", func() { closeOrFail(t, w.dataplane) }},
		{"another process took over", func() { w.open(t, nftdp.Config{}); w.apply(t, web) }},
	} {
		step.change()
		for dst, at := range before {
			w.wantSettled(t, at, dst)
		}
		if t.Failed() {
			t.Fatal("after:", step.name)
		}
	}
}

// TestAffinityBackendGoes: when a backend no longer takes new connections, its
// clients move to another one at once, and stay there even after the first one
// has returned. Clients of other backends do not move.
func TestAffinityBackendGoes(t *testing.T) {
	t.Parallel()
	for name, goes := range map[string]func(*nftdp.Service){
		"removed":  func(s *nftdp.Service) { s.Backends = backends(1, 2) },
		"draining": func(s *nftdp.Service) { setState(s, 0, nftdp.StateDraining) },
		"down":     func(s *nftdp.Service) { setState(s, 0, nftdp.StateDown) },
		"backup":   func(s *nftdp.Service) { setBackup(s, 0, true) },
		"other port": func(s *nftdp.Service) {
			s.Backends = append(onPort(backendPort+1, backends(0)), backends(1, 2)...)
		},
	} {
		for _, by := range []string{"apply", "update", "restart"} {
			t.Run(name+"/"+by, func(t *testing.T) {
				t.Parallel()
				testAffinityBackendGoes(t, by, goes)
			})
		}
	}
}

func testAffinityBackendGoes(t *testing.T, by string, goes func(*nftdp.Service)) {
	t.Helper()
	w := newWorld(t, nftdp.Config{}, 3)
	serveAs(t, "backend-1:moved", w.Backends[0], backendPort+1, "tcp")
	web := sticky(anHour, backends(0, 1, 2)...)
	w.apply(t, web)
	before := map[netip.AddrPort]map[netip.Addr]string{}
	for _, a := range nstest.Families() {
		clients := crowd(t, w.Client, a)[:clientsOfAffinity]
		for _, dst := range stickyAddrs(a)[1:3] {
			before[dst] = w.settle(t, clients, dst)
			wantOnly(t, tally(before[dst]), backendNames(3)...)
		}
	}
	w.set(t, by, changed(web, goes))
	for dst, at := range before {
		after := w.settle(t, slices.SortedFunc(maps.Keys(at), netip.Addr.Compare), dst)
		for c, server := range after {
			if server == "backend-1" || at[c] != "backend-1" && at[c] != server {
				t.Errorf("%v of %s went to %s", c, at[c], server)
			}
		}
		w.wantSettled(t, after, dst)
		before[dst] = after
	}
	w.set(t, by, web)
	for dst, at := range before {
		maps.DeleteFunc(at, func(_ netip.Addr, server string) bool { return server == "backend-1:moved" })
		w.wantSettled(t, at, dst)
	}
}

// changed returns a changed copy of a service.
func changed(s nftdp.Service, by func(*nftdp.Service)) nftdp.Service {
	s.Frontends, s.Backends = slices.Clone(s.Frontends), slices.Clone(s.Backends)
	by(&s)
	return s
}

// set programs the service by Apply, by Update, or by a new process.
func (w *world) set(t *testing.T, by string, s nftdp.Service) {
	t.Helper()
	switch by {
	case "update":
		w.update(t, nftdp.Change{Set: []nftdp.Service{s}})
	case "restart":
		closeOrFail(t, w.dataplane)
		w.open(t, nftdp.Config{})
		w.apply(t, s)
	default:
		w.apply(t, s)
	}
}

// TestAffinityFull: when the map is full, the clients in it still return to
// their backends, and all others are served without affinity.
func TestAffinityFull(t *testing.T) {
	t.Parallel()
	const room = 4
	w := newWorld(t, nftdp.Config{AffinitySize: room}, 2)
	w.apply(t, sticky(anHour, backends(0, 1)...))
	inFamilies(t, func(t *testing.T, a nstest.Addrs) {
		clients, dst := crowd(t, w.Client, a)[:clientsOfAffinity], netip.AddrPortFrom(a.Node, 30644)
		wide := netip.AddrPortFrom(ruleset.FamilyOf(a.Node).Unspecified(), dst.Port())
		first := w.settle(t, clients, dst)
		remembered := map[netip.Addr]string{}
		for _, x := range w.affinities(t) {
			if x.Frontend == wide {
				remembered[x.Client] = first[x.Client]
			}
		}
		if len(remembered) != room {
			t.Errorf("%d clients are remembered, want %d", len(remembered), room)
		}
		moved := 0
		for range 3 {
			for c, server := range w.settle(t, clients, dst) {
				if was, ok := remembered[c]; ok && was != server {
					t.Errorf("%v is remembered at %s and went to %s", c, was, server)
				} else if first[c] != server {
					moved++
				}
			}
		}
		if moved == 0 {
			t.Error("all clients that are not remembered went where they had been before")
		}
	})
}

// TestAffinityTakeover: a standby node that has been given the affinities sends
// clients to the same backends as the other node, for the time that is left.
func TestAffinityTakeover(t *testing.T) {
	t.Parallel()
	w, standby := newWorld(t, nftdp.Config{}, 3), newWorld(t, nftdp.Config{}, 3)
	web := sticky(anHour, backends(0, 1, 2)...)
	w.apply(t, web)
	standby.apply(t, web)
	before := map[netip.AddrPort]map[netip.Addr]string{}
	for _, a := range nstest.Families() {
		clients := crowd(t, w.Client, a)[:clientsOfAffinity]
		crowd(t, standby.Client, a)
		for _, dst := range stickyAddrs(a) {
			before[dst] = w.settle(t, clients, dst)
		}
	}
	list := w.affinities(t)
	for i := range list {
		list[i].Expires /= 2
	}
	if n, err := standby.dataplane.AddAffinities(t.Context(), list); n != len(list) || err != nil {
		t.Fatalf("added %d of %d affinities: %v", n, len(list), err)
	}
	for i, x := range standby.affinities(t) {
		if left := x.Expires; left > list[i].Expires || left < list[i].Expires-nftdp.Duration(askTimeout) {
			t.Errorf("%v: %v left, want %v", x.Client, left, list[i].Expires)
		}
		if x.Expires = list[i].Expires; x != list[i] {
			t.Errorf("remembered as %+v, want %+v", x, list[i])
		}
	}
	for dst, at := range before {
		standby.wantSettled(t, at, dst)
	}
}

// TestAffinityPolicies: a client returns to one of the backends that the policy
// of its frontend allows.
func TestAffinityPolicies(t *testing.T) {
	t.Parallel()
	w := newCaseWorld(t, nftdp.Config{Internal: podNets()})
	web := sticky(anHour, to("L1", "L2", "R1", "R2")...)
	isLocal(web.Backends)
	withPolicy(nftdp.PolicyExternalLocalOnly, web.Frontends)
	w.apply(t, web)
	for _, a := range nstest.Families() {
		clients := crowd(t, w.Client, a)[:clientsOfAffinity]
		for _, dst := range stickyAddrs(a) {
			before := w.settle(t, clients, dst)
			wantOnly(t, tally(before), "backend-1", "backend-2")
			w.wantSettled(t, before, dst)
			for _, from := range []place{"N", "L1", "L2"} {
				w.wantSame(t, a, from, "tcp", dst)
			}
		}
	}
	// No internal client is remembered at a backend that it may no longer use.
	withPolicy(nftdp.PolicyLocalOnly, web.Frontends)
	w.apply(t, web)
	for _, a := range nstest.Families() {
		for _, dst := range stickyAddrs(a) {
			for _, from := range []place{"N", "L1", "L2"} {
				if got := w.wantSame(t, a, from, "tcp", dst); got != "backend-1" && got != "backend-2" {
					t.Errorf("from %s to %v: %s, want a local backend", from, dst, got)
				}
			}
		}
	}
}

// BenchmarkAffinity measures a datagram and its answer, for a client that
// returns: more backends do not make it slower.
func BenchmarkAffinity(b *testing.B) {
	for _, n := range []int{2, 1_000} {
		b.Run(fmt.Sprintf("backends=%d", n), func(b *testing.B) { benchmarkAffinity(b, n) })
	}
}

func benchmarkAffinity(b *testing.B, n int) {
	b.Helper()
	top := newTopology(b, 1)
	serve(b, top.Backends[0], backendPort, "udp")
	d := open(b, top.Node, nftdp.Config{})
	b.Cleanup(func() { closeOrFail(b, d) })

	a := nstest.IPv4()
	dst, live := netip.AddrPortFrom(a.ClusterIP, 80), netip.AddrPortFrom(a.Backend(0), backendPort)
	dns := nftdp.Service{
		Name: "dns", Protocol: nftdp.ProtocolUDP, Affinity: anHour,
		Frontends: on(clusterIP, 80)[:1], Backends: []nftdp.Backend{{Addr: live}},
	}
	for i := range n - 1 { // addresses that nobody has
		dns.Backends = append(dns.Backends, nftdp.Backend{Addr: backendAddr(i, 0)})
	}
	plan, err := d.Apply(b.Context(), []nftdp.Service{dns})
	mustChange(b, plan, err)
	set, err := d.AddAffinities(b.Context(), []nftdp.Affinity{{
		Service: "dns", Protocol: nftdp.ProtocolUDP, Client: a.Client, Frontend: dst, Backend: live, Expires: anHour,
	}})
	if set != 1 || err != nil {
		b.Fatalf("added %d affinities: %v", set, err)
	}
	laps := newLaps()
	for b.Loop() {
		begin := time.Now()
		if _, err := nstest.Dial(top.Client, "udp", a.Client, dst, askTimeout); err != nil {
			b.Fatal(err)
		}
		laps.add(begin)
	}
	laps.report(b, "p50-ns")
}

// TestAffinityNoRoom: adding more affinities than the map has room for is an
// error, and adds none.
func TestAffinityNoRoom(t *testing.T) {
	t.Parallel()
	const room = 4
	w := newWorld(t, nftdp.Config{AffinitySize: room}, 1)
	w.apply(t, nftdp.Service{Name: "web", Affinity: anHour, Frontends: on(clusterIP, 80), Backends: backends(0)})
	a := nstest.IPv4()
	var list []nftdp.Affinity
	for client := netip.MustParseAddr("198.51.100.1"); len(list) <= room; client = client.Next() {
		list = append(list, nftdp.Affinity{
			Service: "web", Client: client, Frontend: netip.AddrPortFrom(a.ClusterIP, 80),
			Backend: netip.AddrPortFrom(a.Backend(0), backendPort), Expires: nftdp.Duration(time.Minute),
		})
	}
	if n, err := w.dataplane.AddAffinities(t.Context(), list); n != 0 || !errors.Is(err, syscall.ENFILE) {
		t.Errorf("%d clients more than there is room for: %d added, error %v", len(list)-room, n, err)
	}
	if n, err := w.dataplane.AddAffinities(t.Context(), list[:room]); n != room || err != nil {
		t.Errorf("%d clients: %d added, error %v", room, n, err)
	}
}
