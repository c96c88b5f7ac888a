//go:build linux

package integration

import (
	"math"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nftdp/go-nftdp/internal/nstest"
	"github.com/nftdp/go-nftdp/internal/ruleset"
	"github.com/nftdp/go-nftdp/nftdp"
)

// TestDenied: packets of clients that are denied, or not allowed, are dropped
// before they are translated: no backend receives one, the clients' network
// stacks receive no answer, and conntrack has no entry. All clients wait at the
// same time.
func TestDenied(t *testing.T) {
	t.Parallel()
	w := newCaseWorld(t, nftdp.Config{Internal: podNets()})
	w.apply(t, deniedServices()...)
	places := []place{"C", "L1", "L2", "R1", "N"}
	received := map[place]int{}
	for _, p := range places {
		received[p] = receivedSegments(t, w.namespace(p))
	}
	var waiting sync.WaitGroup
	for _, a := range nstest.Families() {
		for _, p := range deniedPackets() {
			for _, protocol := range protocols() {
				waiting.Go(func() { w.send(t, a, p.of(protocol.name).silent()) })
			}
		}
	}
	waiting.Wait()
	for _, p := range places {
		if n := receivedSegments(t, w.namespace(p)) - received[p]; n != 0 {
			t.Errorf("%s received %d packets, want none", p, n)
		}
	}
	for _, proto := range []uint8{unix.IPPROTO_TCP, unix.IPPROTO_UDP, unix.IPPROTO_SCTP} {
		if flows := flowTable(t, w.Node, proto); len(flows) != 0 {
			t.Errorf("conntrack has flows of denied clients: %v", flows)
		}
	}
	for _, a := range nstest.Families() {
		for _, f := range deniedServices()[0].Frontends {
			addr := f.Addr
			if !addr.IsValid() {
				addr = a.Any().Addr()
			}
			if addr.Is4() != a.Client.Is4() || len(f.Allow)+len(f.Deny) == 0 {
				continue
			}
			if n := w.frontend(t, "tcp", netip.AddrPortFrom(addr, f.Port)).Counter.Connections; n == 0 {
				t.Errorf("frontend %v:%d has counted no packet: the test shows nothing", addr, f.Port)
			}
		}
		w.send(t, a, packet{from: "C2", to: clusterIP, port: 80, want: "L1 or R1"})
	}
}

// silent is the packet with the outcome that the sender sees if it is dropped.
func (p packet) silent() packet {
	p.want = "silence"
	if p.from == "N" && p.protocol != "tcp" {
		p.want = "not permitted"
	}
	return p
}

// deniedServices have no frontend that takes one of deniedPackets.
func deniedServices() []nftdp.Service {
	everybody := []netip.Prefix{nstest.IPv4().Any(), nstest.IPv6().Any()}
	nobodyHere := []netip.Prefix{netip.MustParsePrefix("198.51.100.0/24"), netip.MustParsePrefix("2001:db8::/32")}
	frontends := slices.Concat(
		withDeny(everybody, on(external, 80)),
		withAllow(nobodyHere, on(external, 81)),
		withDeny(podNets(), withAllow(podNets(), nodeWide(82))),
		on(clusterIP, 80))
	return perProtocol(frontends, to("L1", "R1"))
}

// deniedPackets are packets to frontends that deny their clients.
func deniedPackets() []packet {
	var all []packet
	for _, from := range []place{"C", "C2", "L1", "L2", "N"} {
		all = append(all,
			packet{from: from, to: external, port: 80}, packet{from: from, to: external, port: 81},
			packet{from: from, to: nodeAddr, port: 82}, packet{from: from, to: podGW, port: 82})
	}
	return all
}

// manyPrefixes is the number of prefixes that a list has of each family.
const manyPrefixes = 5000

// TestManyPrefixes: with lists of thousands of prefixes, which overlap and adjoin
// each other, exactly those clients are served that are in a prefix of Allow and
// in none of Deny. The clients' addresses are the first and last ones of
// prefixes, and those next to them. A new process finds nothing to change.
func TestManyPrefixes(t *testing.T) {
	t.Parallel()
	w := newCaseWorld(t, nftdp.Config{})
	r := rand.New(rand.NewPCG(3, 4))
	var allow, deny []netip.Prefix
	for _, net := range farClients() {
		ownAddresses(t, w.Client, net)
		allow = append(allow, somePrefixes(r, net, manyPrefixes)...)
		deny = append(deny, somePrefixes(r, net, manyPrefixes/5)...)
	}
	for _, step := range []string{"all", "one prefix less", "restarted"} {
		switch step {
		case "one prefix less":
			deny = deny[1:]
		case "restarted":
			closeOrFail(t, w.dataplane)
			w.open(t, nftdp.Config{})
		}
		start := time.Now()
		plan := w.apply(t, nftdp.Service{
			Name: "web", Backends: to("L1"),
			Frontends: withDeny(deny, withAllow(allow, append(nodeWide(30644), on(external, 80)...))),
		})
		t.Logf("%s: %d changes in %v", step, plan.Len(), time.Since(start))
		if step == "restarted" && !plan.Empty() {
			t.Errorf("plan after the restart has %d changes, want none", plan.Len())
		}
	}
	w.wantServedByLists(t, r, allow, deny)
}

// wantServedByLists connects from addresses at the edges of prefixes, from all of
// them at the same time.
func (w *caseWorld) wantServedByLists(t *testing.T, r *rand.Rand, allow, deny []netip.Prefix) {
	t.Helper()
	const clients = 80 // of each family
	served := 0
	var waiting sync.WaitGroup
	for i, a := range nstest.Families() {
		for _, src := range edges(r, farClients()[i], append(allow, deny...), clients) {
			in := containsAddr(allow, src) && !containsAddr(deny, src)
			if in {
				served++
			}
			for _, dst := range []netip.AddrPort{netip.AddrPortFrom(a.Node, 30644), netip.AddrPortFrom(a.External, 80)} {
				waiting.Go(func() { w.wantServed(t, src, dst, in) })
			}
		}
	}
	waiting.Wait()
	if t.Logf("%d of %d clients are served", served, 2*clients); served < clients/3 || served > clients*5/3 {
		t.Error("too few or too many to show anything")
	}
}

// wantServed fails unless a client is served, or else gets no answer.
func (w *caseWorld) wantServed(t *testing.T, src netip.Addr, dst netip.AddrPort, served bool) {
	t.Helper()
	timeout, want := silence, "silence"
	if served {
		timeout, want = askTimeout, w.Backends[0].Name
	}
	if got := outcome(nstest.Dial(w.Client, "tcp", src, dst, timeout)); got != want {
		t.Errorf("%v to %v: %s, want %s", src, dst, got, want)
	}
}

// farClients are prefixes of addresses behind the client.
func farClients() []netip.Prefix {
	return []netip.Prefix{netip.MustParsePrefix("198.18.0.0/15"), netip.MustParsePrefix("2001:db8::/32")}
}

// somePrefixes are n prefixes within another one. Some overlap, and every fourth
// adjoins the one before it. Together they cover about half of it.
func somePrefixes(r *rand.Rand, net netip.Prefix, n int) []netip.Prefix {
	const longest = 17 // bits more than the network has
	var all []netip.Prefix
	for len(all) < n {
		if len(all)%4 == 3 {
			last := all[len(all)-1]
			if next := ruleset.LastAddr(last).Next(); net.Contains(next) {
				all = append(all, netip.PrefixFrom(next, last.Bits()))
				continue
			}
		}
		b := net.Addr().AsSlice()
		addBits(b, net.Bits()+longest, r.Uint32N(1<<longest))
		addr, _ := netip.AddrFromSlice(b)
		all = append(all, netip.PrefixFrom(addr, net.Bits()+longest-r.IntN(6)).Masked())
	}
	return all
}

// addBits sets bits of an address to those of a value, the last one before end.
func addBits(b []byte, end int, value uint32) {
	for bit := end - 1; value != 0; bit, value = bit-1, value>>1 {
		b[bit/8] |= byte(value&1) << (7 - bit%8)
	}
}

// edges are n addresses at the beginnings and ends of prefixes, inside of them
// and outside.
func edges(r *rand.Rand, net netip.Prefix, prefixes []netip.Prefix, n int) []netip.Addr {
	var all []netip.Addr
	for len(all) < n {
		p := prefixes[r.IntN(len(prefixes))]
		last := ruleset.LastAddr(p)
		addr := []netip.Addr{p.Addr(), p.Addr().Prev(), last, last.Next()}[r.IntN(4)]
		if net.Contains(addr) && addr != net.Addr() && !slices.Contains(all, addr) {
			all = append(all, addr)
		}
	}
	return all
}

// TestClientsChange: Allow and Deny decide about the first packet of a
// connection. Established TCP connections go on when the lists change; UDP flows and
// new connections follow them at once.
func TestClientsChange(t *testing.T) {
	t.Parallel()
	w := newCaseWorld(t, nftdp.Config{})
	inFamilies(t, func(t *testing.T, a nstest.Addrs) {
		frontends := append(nodeWide(30644), on(external, 80)...)
		set := func(allow, deny []netip.Prefix) {
			t.Helper()
			var all []nftdp.Service
			for _, p := range protocols()[:2] {
				all = append(all, nftdp.Service{
					Name: p.name, Protocol: p.proto, Backends: to("L1"),
					Frontends: withDeny(deny, withAllow(allow, slices.Clone(frontends))),
				})
			}
			w.update(t, nftdp.Change{Set: all})
		}
		set(nil, nil)
		var conns []*nstest.Conn
		var sockets []*udpClient
		for _, dst := range []netip.AddrPort{netip.AddrPortFrom(a.Node, 30644), netip.AddrPortFrom(a.External, 80)} {
			conns = append(conns, connect(t, 3, w.Client, dst)...)
			sockets = append(sockets, dialUDP(t, w.Client, dst))
		}
		wantAll(t, sockets, w.Backends[0].Name)
		for _, c := range []struct {
			name        string
			allow, deny []netip.Prefix
			first, next string // the outcomes for the client's two addresses
		}{
			{"all denied", nil, clientNets(), "silence", "silence"},
			{"both allowed, the first denied", clientNets(), nearClient(), "silence", "L1"},
			{"the first allowed", nearClient(), nil, "L1", "silence"},
			{"only others allowed", podNets(), nil, "silence", "silence"},
			{"no lists", nil, nil, "L1", "L1"},
		} {
			t.Run(c.name, func(t *testing.T) {
				set(c.allow, c.deny)
				wantAlive(t, conns)
				for _, s := range sockets {
					want := c.first
					if s.local().Addr() == a.Client2 { // which the kernel prefers in IPv6
						want = c.next
					}
					if want == "silence" {
						if got := s.try(t, silence); got != want {
							t.Errorf("a flow to %v goes on: %s", s.dst, got)
						}
						continue
					}
					s.want(t, w.Backends[0].Name)
				}
				var waiting sync.WaitGroup
				for _, protocol := range []string{"tcp", "udp"} {
					for _, p := range []packet{
						{from: "C", protocol: protocol, to: external, port: 80, want: c.first},
						{from: "C2", protocol: protocol, to: nodeAddr, port: 30644, want: c.next},
					} {
						waiting.Go(func() { w.send(t, a, p) })
					}
				}
				waiting.Wait()
			})
		}
	})
}

// TestClientsDuringChanges: while prefixes come and go, and with them the rules and the
// sets of the lists, a client that is always allowed is always served, and one that is
// always denied never is: of its flood no packet reaches the backend, and none
// escapes untranslated.
func TestClientsDuringChanges(t *testing.T) {
	w := newSilentWorld(t, 1)
	serve(t, w.Backends[0], backendPort, "tcp")
	a := nstest.IPv4()
	delivered := func() int { return snmpSum(t, w.Backends[0], "snmp", "Udp.InDatagrams", "Udp.RcvbufErrors") }
	escaped := func() int { return snmpSum(t, w.Client, "snmp", "Ip.InAddrErrors") }
	services := func(n int) []nftdp.Service {
		list := []netip.Prefix{single(a.Client), netip.PrefixFrom(netip.AddrFrom4([4]byte{100, 64, byte(n), 0}), 24)}
		if n%2 == 1 { // a set, not rules
			list = append(list, manyClients(a.Client)...)
		}
		return []nftdp.Service{
			{Name: "tcp", Frontends: withAllow(list, on(clusterIP, 80)[:1]), Backends: backends(0)[:1]},
			{Name: "udp", Protocol: nftdp.ProtocolUDP, Frontends: withDeny(list, on(clusterIP, 80)[:1]), Backends: backends(0)[:1]},
		}
	}
	w.apply(t, services(0)...)
	before := delivered() + escaped()
	dst := netip.AddrPortFrom(a.ClusterIP, 80)
	sent, done := make(chan struct{}), make(chan struct{})
	var changes, served atomic.Int64
	enough := func() bool { return min(changes.Load(), served.Load()) >= 100 }
	packets := 0
	go func() {
		defer close(sent)
		for begin := time.Now(); packets == 0 || !enough() && !t.Failed() && time.Since(begin) < time.Minute; {
			sendEach(t, w.Client, dst, math.MaxUint16)
			packets += math.MaxUint16
		}
	}()
	go func() {
		defer close(done)
		for ; !isClosed(sent); served.Add(1) {
			if got := brief(w.Client, "tcp", dst); got != w.Backends[0].Name {
				t.Errorf("connection %d of the allowed client: %s", served.Load(), got)
				return
			}
		}
	}()
	for ; !isClosed(sent); changes.Add(1) {
		w.update(t, nftdp.Change{Set: services(int(changes.Load()) % 200)})
	}
	<-done
	t.Logf("%d changes, %d connections served, %d packets denied", changes.Load(), served.Load(), packets)
	if !enough() {
		t.Error("too few to show anything")
	}
	if n := delivered() + escaped() - before; n != 0 {
		t.Errorf("%d packets of the denied client got through", n)
	}
}

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}
