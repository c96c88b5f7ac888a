//go:build linux

package integration

import (
	"errors"
	"net/netip"
	"slices"
	"syscall"
	"testing"

	"github.com/nftdp/go-nftdp/internal/nstest"
	"github.com/nftdp/go-nftdp/nftdp"
)

// meet makes a connection, which has to be answered, and returns who answered.
func (w *caseWorld) meet(t *testing.T, a nstest.Addrs, from place, protocol string, dst netip.AddrPort) string {
	t.Helper()
	var src netip.Addr
	if from == "C" || from == "C2" {
		src = from.addr(a)
	}
	answer, err := nstest.Dial(w.namespace(from), protocol, src, dst, askTimeout)
	if err != nil {
		t.Errorf("%s from %s to %v: %v", protocol, from, dst, err)
	}
	return outcome(answer, err)
}

// wantTogether makes connections to several frontends, which must all reach the same
// server, and returns its name.
func (w *caseWorld) wantTogether(t *testing.T, a nstest.Addrs, from place, protocol string, dsts ...netip.AddrPort) string {
	t.Helper()
	first := w.meet(t, a, from, protocol, dsts[0])
	for range 2 {
		for _, dst := range dsts {
			if got := w.meet(t, a, from, protocol, dst); got != first {
				t.Errorf("%s from %s to %v: %s, want %s as at %v", protocol, from, dst, got, first, dsts[0])
			}
		}
	}
	return first
}

// TestAffinityShared: a client meets its backend at each frontend of the service,
// whichever it has connected to first, before and after another process has taken
// over; and none of what is remembered is taken for damage.
func TestAffinityShared(t *testing.T) {
	t.Parallel()
	w := newCaseWorld(t, nftdp.Config{Internal: podNets()})
	var services []nftdp.Service
	for _, p := range protocols() {
		web := sticky(anHour, to("L1", "L2", "R1")...)
		web.Name, web.Protocol = p.name, p.proto
		services = append(services, web)
	}
	w.apply(t, services...)
	places := []place{"C", "C2", "L1", "L2", "R1"}
	met := map[string]string{}
	check := func() {
		t.Helper()
		for _, a := range nstest.Families() {
			for i, from := range places {
				for _, p := range protocols() {
					dsts := stickyAddrs(a)
					dsts = slices.Concat(dsts[i%4:], dsts[:i%4]) // another one is the first
					got, key := w.wantTogether(t, a, from, p.name, dsts...), a.Family+p.name+string(from)
					if was, known := met[key]; known && was != got {
						t.Errorf("%s has met %s and meets %s", key, was, got)
					}
					met[key] = got
				}
			}
		}
	}
	check()
	for _, change := range []func(){
		func() { w.update(t, nftdp.Change{Set: services[:1]}) },
		func() {
			closeOrFail(t, w.dataplane)
			w.open(t, nftdp.Config{Internal: podNets()})
		},
	} {
		change()
		if plan := w.apply(t, services...); !plan.Empty() {
			t.Errorf("nothing has changed, and the plan is\n%v", plan)
		}
		check()
	}
}

// TestAffinitySharedByPolicy: a backend that a policy keeps from a client is not
// remembered at the frontends that have it. At each frontend the client comes back to
// the backend that it has met there, and internal clients meet theirs at all of them.
func TestAffinitySharedByPolicy(t *testing.T) {
	t.Parallel()
	w := newCaseWorld(t, nftdp.Config{Internal: podNets()})
	local := func(f []nftdp.Frontend) []nftdp.Frontend { return withPolicy(nftdp.PolicyExternalLocalOnly, f) }
	web := sticky(anHour, append(isLocal(to("L1", "L2")), to("R1", "R2")...)...)
	web.Frontends = slices.Concat(on(clusterIP, 80), local(nodeWide(30644)), local(on(external, 80)))
	w.apply(t, web)
	near := func(server string) bool { return server == "backend-1" || server == "backend-2" }
	for _, a := range nstest.Families() {
		all, byOwn := netip.AddrPortFrom(a.ClusterIP, 80), stickyAddrs(a)[:2]
		byOwn = append(byOwn, netip.AddrPortFrom(a.External, 80))
		first := map[bool]int{}
		for i, c := range crowd(t, w.Client, a)[:clientsOfAffinity] {
			reach := func(dst netip.AddrPort) string {
				answer, err := nstest.Dial(w.Client, "tcp", c, dst, askTimeout)
				if err != nil {
					t.Fatalf("from %v to %v: %v", c, dst, err)
				}
				return answer.Server
			}
			if i%2 == 0 { // a local frontend first: its backend serves everywhere
				server := reach(byOwn[i%3])
				if got := reach(all); got != server || !near(server) {
					t.Errorf("%v met %s at a local frontend, and %s at the other one", c, server, got)
				}
				continue
			}
			anywhere, here := reach(all), reach(byOwn[i%3])
			first[near(anywhere)]++
			if !near(here) {
				t.Errorf("%v was sent to %s by a local frontend", c, here)
			}
			for range 2 {
				for _, dst := range byOwn {
					if got := reach(dst); got != here {
						t.Errorf("%v met %s at %v and %s at another local frontend", c, got, dst, here)
					}
				}
				if got := reach(all); got != anywhere {
					t.Errorf("%v met %s and then %s", c, anywhere, got)
				}
			}
		}
		if first[true] == 0 || first[false] == 0 {
			t.Errorf("%d clients met a local backend at first, and %d another one", first[true], first[false])
		}
		for _, from := range []place{"L1", "L2"} {
			w.wantTogether(t, a, from, "tcp", append(byOwn, all)...)
		}
	}
	if plan := w.apply(t, web); !plan.Empty() {
		t.Errorf("what is remembered is taken for damage:\n%v", plan)
	}
}

// TestAffinitySharedByClients: a client is remembered at a frontend only if it may
// connect there, and meets its backend as soon as it may.
func TestAffinitySharedByClients(t *testing.T) {
	t.Parallel()
	w := newCaseWorld(t, nftdp.Config{Internal: podNets()})
	web := sticky(anHour, to("L1", "L2", "R1")...)
	web.Frontends = slices.Concat(on(clusterIP, 80), withAllow(nearClient(), on(external, 80)))
	w.apply(t, web)
	for _, a := range nstest.Families() {
		w.wantTogether(t, a, "C", "tcp", netip.AddrPortFrom(a.ClusterIP, 80), netip.AddrPortFrom(a.External, 80))
		w.wantTogether(t, a, "C2", "tcp", netip.AddrPortFrom(a.ClusterIP, 80))
		if got := attemptFrom(w.Client, "tcp", place("C2").addr(a), netip.AddrPortFrom(a.External, 80), silence); got != "silence" {
			t.Errorf("C2 at the frontend for others: %s", got)
		}
		at := map[netip.Addr]int{}
		for _, x := range w.affinities(t) {
			at[x.Client]++
		}
		if c, c2 := at[place("C").addr(a)], at[place("C2").addr(a)]; c != 2 || c2 != 1 {
			t.Errorf("remembered at %d and %d frontends, want 2 and 1", c, c2)
		}
	}
	if plan := w.apply(t, web); !plan.Empty() {
		t.Errorf("what is remembered is taken for damage:\n%v", plan)
	}
}

// TestAffinitySharedBackendGoes: when the backend that a client has met is taken away,
// it meets another one at once, the same at all frontends; its UDP sockets too, which
// have sent to the former one.
func TestAffinitySharedBackendGoes(t *testing.T) {
	t.Parallel()
	for _, by := range []string{"apply", "update", "restart"} {
		t.Run(by, func(t *testing.T) {
			t.Parallel()
			w := newCaseWorld(t, nftdp.Config{})
			web, dns := sticky(anHour, to("L1")...), sticky(anHour, to("L1")...)
			dns.Name, dns.Protocol = "dns", nftdp.ProtocolUDP
			w.apply(t, web, dns)
			for _, a := range nstest.Families() {
				for _, p := range []string{"tcp", "udp"} {
					w.wantTogether(t, a, "C", p, stickyAddrs(a)[2])
				}
				for _, dst := range stickyAddrs(a) {
					wantFrom(t, "backend-1", w.Client, "udp", a.Client, dst)
				}
			}
			web.Backends, dns.Backends = to("L2", "R1"), to("L2", "R1")
			switch by {
			case "update":
				w.update(t, nftdp.Change{Set: []nftdp.Service{web, dns}})
			case "restart":
				closeOrFail(t, w.dataplane)
				w.open(t, nftdp.Config{})
				fallthrough
			default:
				w.apply(t, web, dns)
			}
			for _, a := range nstest.Families() {
				for _, dst := range stickyAddrs(a) {
					if got := attemptFrom(w.Client, "udp", a.Client, dst, askTimeout); got == "backend-1" || got == "silence" {
						t.Errorf("the socket that has sent to %v: %s", dst, got)
					}
				}
				for _, p := range []string{"tcp", "udp"} {
					if got := w.wantTogether(t, a, "C", p, stickyAddrs(a)...); got == "backend-1" {
						t.Errorf("%s met a backend that has gone", p)
					}
				}
			}
		})
	}
}

// TestAffinitySharedCut: a client whose connection is cut meets the same backend by
// another frontend.
func TestAffinitySharedCut(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nftdp.Config{}, 2)
	w.apply(t, sticky(anHour, backends(0, 1)...))
	for _, a := range nstest.Families() {
		dsts := stickyAddrs(a)
		conns := connect(t, 1, w.Client, dsts[2])
		server := conns[0].Answer.Server
		w.cut(t, 1, netip.AddrPortFrom(a.Backend(slices.Index(backendNames(2), server)), backendPort))
		wantBroken(t, conns)
		for _, dst := range dsts {
			askFor(t, server, w.Client, "tcp", dst)
		}
	}
	if plan, err := w.dataplane.Plan(t.Context(), []nftdp.Service{sticky(anHour, backends(0, 1)...)}); err != nil || !plan.Empty() {
		t.Errorf("what is remembered is taken for damage:\n%v, %v", plan, err)
	}
}

// TestAffinityOfOthers: a node-wide frontend does not remember clients that come by a
// frontend of another service with the same port and the same backends, whatever that
// service does with sources, and also if it has a range of ports.
func TestAffinityOfOthers(t *testing.T) {
	t.Parallel()
	w := newCaseWorld(t, nftdp.Config{Internal: podNets()})
	serveAs(t, "node", w.Node, backendPort, "tcp")
	backends := to("L1", "R1", "N")
	other := func(name string, addr func(nstest.Addrs) netip.Addr, m nftdp.Masquerade, last uint16) nftdp.Service {
		s := nftdp.Service{Name: name, Frontends: on(addr, 80), Backends: slices.Clone(backends)}
		for i := range s.Frontends {
			s.Frontends[i].Masquerade, s.Frontends[i].EndPort = m, last
		}
		if last > 0 {
			for i := range s.Backends {
				s.Backends[i].Addr = netip.AddrPortFrom(s.Backends[i].Addr.Addr(), 0)
			}
		}
		return s
	}
	w.apply(t, nftdp.Service{Name: "web", Affinity: anHour, Frontends: nodeWide(80), Backends: backends},
		other("auto", clusterIP, nftdp.MasqueradeAuto, 0),
		other("always", external, nftdp.MasqueradeAlways, 0),
		other("range", hiddenAddr, nftdp.MasqueradeAuto, 81))
	for _, a := range nstest.Families() {
		for range 10 {
			for _, addr := range []netip.Addr{clusterIP(a), external(a)} {
				w.meet(t, a, "C", "tcp", netip.AddrPortFrom(addr, 80))
			}
			// Nobody listens there, but the first packet passes all hooks.
			_, err := nstest.Dial(w.Client, "tcp", a.Client, netip.AddrPortFrom(hiddenAddr(a), 80), askTimeout)
			if !errors.Is(err, syscall.ECONNREFUSED) {
				t.Errorf("port 80 of the backends: %v", err)
			}
		}
	}
	if list := w.affinities(t); len(list) > 0 {
		t.Errorf("remembered: %v", list)
	}
	for _, a := range nstest.Families() {
		w.wantTogether(t, a, "C", "tcp", netip.AddrPortFrom(a.Node, 80), netip.AddrPortFrom(a.PodGW, 80))
	}
}
