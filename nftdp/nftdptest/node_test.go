package nftdptest_test

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/nftdp/go-nftdp/nftdp"
	"github.com/nftdp/go-nftdp/nftdp/nftdptest"
)

func addr(s string) netip.Addr         { return netip.MustParseAddr(s) }
func addrPort(s string) netip.AddrPort { return netip.MustParseAddrPort(s) }

// newNode has an address of each family.
func newNode() *nftdptest.Node {
	return nftdptest.NewNode(addr("192.0.2.1"), addr("2001:db8::1"), addr("10.180.0.254"))
}

func open(t *testing.T, n *nftdptest.Node, c nftdp.Config) *nftdp.Dataplane {
	t.Helper()
	d, err := n.Open(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	})
	return d
}

func apply(t *testing.T, d *nftdp.Dataplane, services ...nftdp.Service) *nftdp.Plan {
	t.Helper()
	plan, err := d.Apply(t.Context(), services)
	if err != nil {
		t.Fatal(err)
	}
	return plan
}

func backends(list ...string) (out []nftdp.Backend) {
	for _, b := range list {
		out = append(out, nftdp.Backend{Addr: addrPort(b)})
	}
	return out
}

// web has the frontend port 80 of the node and these backends.
func web(list ...string) nftdp.Service {
	return nftdp.Service{Name: "web", Frontends: []nftdp.Frontend{{Port: 80}}, Backends: backends(list...)}
}

// dns is the same for UDP.
func dns(list ...string) nftdp.Service {
	return nftdp.Service{Name: "dns", Protocol: nftdp.ProtocolUDP, Frontends: []nftdp.Frontend{{Port: 53}}, Backends: backends(list...)}
}

func tcp(from, to string) nftdptest.Packet {
	return nftdptest.Packet{Source: addrPort(from), Destination: addrPort(to)}
}

func udp(from, to string) nftdptest.Packet {
	p := tcp(from, to)
	p.Protocol = nftdp.ProtocolUDP
	return p
}

// TestOutcomes sends first packets to services of many kinds.
func TestOutcomes(t *testing.T) {
	n := newNode()
	cluster := func(name, at string, s nftdp.Service) nftdp.Service {
		s.Name, s.Frontends = name, append([]nftdp.Frontend{{Addr: addr(at), Port: 80}}, s.Frontends...)
		return s
	}
	local := nftdp.Backend{Addr: addrPort("10.180.0.9:9"), Local: true}
	remote := nftdp.Backend{Addr: addrPort("10.180.7.9:9")}
	hidden := cluster("hidden", "10.96.0.3", nftdp.Service{SNAT: []netip.Addr{addr("198.51.100.1")}, Backends: backends("10.180.0.1:1")})
	near := cluster("near", "10.96.0.4", nftdp.Service{Backends: []nftdp.Backend{local, remote}})
	near.Frontends[0].Policy = nftdp.PolicyLocalOnly
	guarded := cluster("guarded", "10.96.0.5", nftdp.Service{Backends: backends("10.180.0.1:1")})
	guarded.Frontends[0].Allow = []netip.Prefix{netip.MustParsePrefix("203.0.113.0/25")}
	bridged := cluster("bridged", "10.96.0.7", nftdp.Service{Backends: backends("10.180.0.1:1")})
	bridged.Frontends[0].MasqueradeClients = []netip.Prefix{netip.MustParsePrefix("10.180.0.0/24")}
	silent := cluster("silent", "10.96.0.6", nftdp.Service{})
	silent.Frontends[0].NoBackend = nftdp.ActionDrop
	d := open(t, n, nftdp.Config{
		Internal:     []netip.Prefix{netip.MustParsePrefix("10.180.0.0/16")},
		ServiceCIDRs: []netip.Prefix{netip.MustParsePrefix("10.96.0.0/16")},
		NodeAddrs:    []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24"), netip.MustParsePrefix("2001:db8::/32")},
		Localhost:    true,
	})
	both := web("10.180.0.1:8080", "[fd00::1]:8080")
	apply(t, d, both, dns(), hidden, near, guarded, bridged, silent)

	const client = "203.0.113.7:40000"
	for name, c := range map[string]struct {
		packet nftdptest.Packet
		want   []string
	}{
		"node":             {tcp(client, "192.0.2.1:80"), []string{"web: delivered to 10.180.0.1:8080 from 192.0.2.1:40000, masqueraded"}},
		"IPv6":             {tcp("[2001:db8:9::9]:1", "[2001:db8::1]:80"), []string{"web: delivered to [fd00::1]:8080 from [2001:db8::1]:1, masqueraded"}},
		"mapped addresses": {tcp("[::ffff:203.0.113.7]:40000", "192.0.2.1:80"), []string{"web: delivered to 10.180.0.1:8080 from 192.0.2.1:40000, masqueraded"}},
		"internal client":  {tcp("10.180.3.3:1", "192.0.2.1:80"), []string{"web: delivered to 10.180.0.1:8080 from 10.180.3.3:1"}},
		"itself":           {tcp("10.180.0.1:1", "192.0.2.1:80"), []string{"web: delivered to 10.180.0.1:8080 from 192.0.2.1:1, masqueraded"}},
		"process":          {tcp("192.0.2.1:1", "192.0.2.1:80"), []string{"web: delivered to 10.180.0.1:8080 from 192.0.2.1:1, masqueraded"}},
		"loopback":         {tcp("127.0.0.1:1", "127.0.0.1:80"), []string{"web: delivered to 10.180.0.1:8080 from 192.0.2.1:1, masqueraded"}},
		"loopback outside": {tcp(client, "127.0.0.1:80"), []string{"dropped"}},
		"not NodeAddrs":    {tcp(client, "10.180.0.254:80"), []string{"delivered to 10.180.0.254:80 from 203.0.113.7:40000"}},
		"other port":       {tcp(client, "192.0.2.1:81"), []string{"delivered to 192.0.2.1:81 from 203.0.113.7:40000"}},
		"other protocol":   {udp(client, "192.0.2.1:80"), []string{"delivered to 192.0.2.1:80 from 203.0.113.7:40000"}},
		"not the node":     {tcp(client, "198.51.100.9:80"), []string{"delivered to 198.51.100.9:80 from 203.0.113.7:40000"}},
		"no backend, UDP":  {udp(client, "192.0.2.1:53"), []string{"dns: unreachable"}},
		"service CIDR":     {tcp(client, "10.96.9.9:80"), []string{"reset"}},
		"SNAT":             {tcp(client, "10.96.0.3:80"), []string{"hidden: delivered to 10.180.0.1:1 from 198.51.100.1:40000"}},
		"local only":       {tcp(client, "10.96.0.4:80"), []string{"near: delivered to 10.180.0.9:9 from 203.0.113.7:40000"}},
		"allowed":          {tcp(client, "10.96.0.5:80"), []string{"guarded: delivered to 10.180.0.1:1 from 192.0.2.1:40000, masqueraded"}},
		"not allowed":      {tcp("203.0.113.200:1", "10.96.0.5:80"), []string{"guarded: dropped"}},
		"on the bridge":    {tcp("10.180.0.7:1", "10.96.0.7:80"), []string{"bridged: delivered to 10.180.0.1:1 from 192.0.2.1:1, masqueraded"}},
		"off the bridge":   {tcp(client, "10.96.0.7:80"), []string{"bridged: delivered to 10.180.0.1:1 from 203.0.113.7:40000"}},
		"drop":             {tcp(client, "10.96.0.6:80"), []string{"silent: dropped"}},
	} {
		t.Run(name, func(t *testing.T) {
			var got []string
			for _, o := range n.Outcomes(c.packet) {
				got = append(got, o.String())
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Error(diff)
			}
			if sent := n.Send(c.packet).String(); !slices.Contains(c.want, sent) {
				t.Error("sent:", sent)
			}
		})
	}
}

// TestNodePort: a port of the node is at its first address, and at the loopback address
// for its own processes; without an address of the family nobody can be redirected. Its
// flows are drained and cut like others.
func TestNodePort(t *testing.T) {
	n := newNode()
	d := open(t, n, nftdp.Config{Localhost: true})
	proxy := web()
	proxy.Frontends = append(proxy.Frontends, nftdp.Frontend{Addr: addr("198.51.100.1"), Port: 80})
	proxy.Backends = []nftdp.Backend{{NodePort: 8080}}
	apply(t, d, proxy)
	for packet, want := range map[nftdptest.Packet]string{
		{Source: addrPort("203.0.113.1:1"), Destination: addrPort("10.180.0.254:80")}: "web: delivered to 192.0.2.1:8080 from 203.0.113.1:1",
		{Source: addrPort("203.0.113.1:2"), Destination: addrPort("198.51.100.1:80")}: "web: delivered to 192.0.2.1:8080 from 203.0.113.1:2",
		{Source: addrPort("192.0.2.1:3"), Destination: addrPort("198.51.100.1:80")}:   "web: delivered to 127.0.0.1:8080 from 192.0.2.1:3",
		{Source: addrPort("127.0.0.1:4"), Destination: addrPort("127.0.0.1:80")}:      "web: delivered to 127.0.0.1:8080 from 127.0.0.1:4",
		{Source: addrPort("[2001:db8::7]:5"), Destination: addrPort("[2001:db8::1]:80")}: "web: delivered to [2001:db8::1]:8080 " +
			"from [2001:db8::7]:5",
	} {
		if got := n.Send(packet).String(); got != want {
			t.Errorf("%+v: %s, want %s", packet, got, want)
		}
	}
	apply(t, d, web("10.180.0.1:8080"))
	if cut, err := d.Cut(t.Context(), "web", addrPort("0.0.0.0:8080"), addrPort("[::]:8080")); cut != 3 || err != nil {
		t.Errorf("cut %d, %v", cut, err) // the frontend of two of the five is gone
	}

	bare := nftdptest.NewNode()
	apply(t, open(t, bare, nftdp.Config{}), proxy)
	packet := nftdptest.Packet{Source: addrPort("203.0.113.1:1"), Destination: addrPort("198.51.100.1:80")}
	if got := bare.Send(packet); got.Verdict != nftdptest.VerdictDropped || got.Service != "web" {
		t.Errorf("without addresses: %v", got)
	}
}

func TestChoice(t *testing.T) {
	n := newNode()
	d := open(t, n, nftdp.Config{})
	apply(t, d, web("10.180.0.1:1", "10.180.0.2:1", "10.180.0.3:1"))
	send := func(i int) netip.AddrPort {
		return n.Send(tcp(fmt.Sprintf("203.0.113.7:%d", 40000+i), "192.0.2.1:80")).Destination
	}
	var got []netip.AddrPort
	for i := range 4 {
		got = append(got, send(i))
	}
	all := []netip.AddrPort{addrPort("10.180.0.1:1"), addrPort("10.180.0.2:1"), addrPort("10.180.0.3:1"), addrPort("10.180.0.1:1")}
	if !slices.Equal(got, all) {
		t.Error("in turn:", got)
	}
	n.Choose = func(possible []nftdptest.Outcome) int {
		return slices.IndexFunc(possible, func(o nftdptest.Outcome) bool { return o.Destination == all[2] })
	}
	for i := range 4 {
		if got := send(10 + i); got != all[2] {
			t.Error("chosen:", got)
		}
	}
}

// TestSourcePortHash: the ports of one client spread over all backends, and so do
// clients with one port. Each of them has one backend, on every node.
func TestSourcePortHash(t *testing.T) {
	service := web("10.180.0.1:1", "10.180.0.2:1", "10.180.0.3:1")
	service.Scheduler = nftdp.SchedulerSourcePortHash
	n, other := newNode(), newNode()
	apply(t, open(t, n, nftdp.Config{}), service)
	slices.Reverse(service.Backends)
	apply(t, open(t, other, nftdp.Config{}), service)
	for name, source := range map[string]func(i int) string{
		"one client": func(i int) string { return fmt.Sprintf("203.0.113.7:%d", 40000+i) },
		"one port":   func(i int) string { return fmt.Sprintf("203.0.113.%d:40000", i) },
	} {
		got := map[netip.AddrPort]bool{}
		for i := range 40 {
			p := tcp(source(i), "192.0.2.1:80")
			outcomes := n.Outcomes(p)
			if len(outcomes) != 1 || !slices.Equal(outcomes, other.Outcomes(p)) {
				t.Errorf("from %v: %v, and on the other node %v", p.Source, outcomes, other.Outcomes(p))
			}
			got[outcomes[0].Destination] = true
		}
		if len(got) != len(service.Backends) {
			t.Errorf("%s meets %v, want all backends", name, got)
		}
	}
}

// TestWrongPackets: they are mistakes of the test.
func TestWrongPackets(t *testing.T) {
	for name, p := range map[string]nftdptest.Packet{
		"zero":     {},
		"families": tcp("203.0.113.7:1", "[2001:db8::1]:80"),
		"protocol": {Protocol: 9, Source: addrPort("203.0.113.7:1"), Destination: addrPort("192.0.2.1:80")},
	} {
		t.Run(name, func(t *testing.T) {
			defer func() {
				if recover() == nil {
					t.Error("no panic")
				}
			}()
			newNode().Send(p)
		})
	}
}

// TestTwoTables: services of both take packets.
func TestTwoTables(t *testing.T) {
	n := newNode()
	apply(t, open(t, n, nftdp.Config{}), web("10.180.0.1:1"))
	other := open(t, n, nftdp.Config{Table: "other"})
	apply(t, other, dns("10.180.0.2:2"))
	for want, p := range map[string]nftdptest.Packet{
		"web": tcp("203.0.113.7:1", "192.0.2.1:80"),
		"dns": udp("203.0.113.7:1", "192.0.2.1:53"),
		"":    udp("203.0.113.7:1", "192.0.2.1:54"),
	} {
		if got := n.Send(p); got.Service != want {
			t.Errorf("%s, want service %q", got, want)
		}
	}
	if err := other.Remove(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := n.Send(udp("203.0.113.7:2", "192.0.2.1:53")); got.Service != "" {
		t.Error(got)
	}
}

// TestCounters: connections are counted, and counts carried on when the pool
// changes.
func TestCounters(t *testing.T) {
	n := newNode()
	d := open(t, n, nftdp.Config{})
	apply(t, d, web("10.180.0.1:1", "10.180.0.2:1"))
	for i := range 4 {
		p := tcp(fmt.Sprintf("203.0.113.7:%d", 40000+i), "192.0.2.1:80")
		n.Send(p)
		n.Send(p) // the same connection
	}
	counts := func() map[string]uint64 {
		status, err := d.Inspect(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		out := map[string]uint64{}
		for _, f := range status[0].Frontends {
			out[f.Addr.String()] = f.Counter.Connections
			for _, b := range f.Backends {
				out[b.Addr.String()] = b.Counter.Connections
			}
		}
		return out
	}
	want := map[string]uint64{"0.0.0.0": 4, "::": 0, "10.180.0.1:1": 2, "10.180.0.2:1": 2}
	if diff := cmp.Diff(want, counts()); diff != "" {
		t.Error(diff)
	}
	if _, err := d.Update(t.Context(), nftdp.Change{Set: []nftdp.Service{web("10.180.0.2:1", "10.180.0.3:1", "10.180.0.4:1")}}); err != nil {
		t.Fatal(err)
	}
	want = map[string]uint64{"0.0.0.0": 4, "::": 0, "10.180.0.2:1": 2, "10.180.0.3:1": 0, "10.180.0.4:1": 0}
	if diff := cmp.Diff(want, counts()); diff != "" {
		t.Error(diff)
	}
}

func flowsOf(t *testing.T, d *nftdp.Dataplane, service string) []nftdp.Flow {
	t.Helper()
	list, err := d.Flows(t.Context(), service)
	if err != nil {
		t.Fatal(err)
	}
	return list
}

// TestFlows follows a connection from its first packet until it is cut.
func TestFlows(t *testing.T) {
	n := newNode()
	d := open(t, n, nftdp.Config{})
	apply(t, d, web("10.180.0.1:1"))
	p := tcp("203.0.113.7:40000", "192.0.2.1:80")
	n.Send(p)
	want := []nftdp.Flow{{
		Client: p.Source, Frontend: p.Destination, Backend: addrPort("10.180.0.1:1"), Source: addrPort("192.0.2.1:40000"),
	}}
	same := cmp.Comparer(func(x, y netip.AddrPort) bool { return x == y })
	if diff := cmp.Diff(want, flowsOf(t, d, "web"), same); diff != "" {
		t.Error(diff)
	}
	apply(t, d, web("10.180.0.2:1"))
	if got := n.Send(p).Destination; got != addrPort("10.180.0.1:1") {
		t.Error("an established connection goes to", got)
	}
	if cut, err := d.Cut(t.Context(), "web"); cut != 1 || err != nil {
		t.Error("cut:", cut, err)
	}
	if got := n.Send(p).Destination; got != addrPort("10.180.0.2:1") {
		t.Error("after the cut it goes to", got)
	}

	if !n.End(p) || n.End(p) || n.End(tcp("203.0.113.7:1", "192.0.2.1:80")) {
		t.Error("End does not tell whether there was a connection")
	}
	if list := flowsOf(t, d, "web"); len(list) != 1 || !list[0].Ended {
		t.Error("ended:", list)
	}
	n.Advance(2 * time.Minute)
	if list := flowsOf(t, d, "web"); len(list) != 0 {
		t.Error("after two minutes:", list)
	}
}

// TestUDPFlows: those that lead to a backend that has gone are deleted, those to
// a draining one stay.
func TestUDPFlows(t *testing.T) {
	n := newNode()
	d := open(t, n, nftdp.Config{})
	apply(t, d, dns("10.180.0.1:5", "10.180.0.2:5"))
	one, two := udp("203.0.113.7:1", "192.0.2.1:53"), udp("203.0.113.7:2", "192.0.2.1:53")
	n.Send(one)
	n.Send(two)
	next := dns("10.180.0.2:5", "10.180.0.3:5")
	next.Backends[0].State = nftdp.StateDraining
	apply(t, d, next)
	for want, p := range map[string]nftdptest.Packet{"10.180.0.3:5": one, "10.180.0.2:5": two} {
		if got := n.Send(p).Destination; got != addrPort(want) {
			t.Errorf("%v, want %s", got, want)
		}
	}
	n.End(one)
	n.Advance(time.Minute)
	n.Send(two)
	n.Advance(time.Minute)
	if list := flowsOf(t, d, "dns"); len(list) != 1 {
		t.Error(list)
	}
	n.Advance(time.Minute)
	if list := flowsOf(t, d, "dns"); len(list) != 0 {
		t.Error("unused for two minutes:", list)
	}
}

// TestUDPBeforeFrontend: a flow that began before the frontend did reaches it
// with its next datagram.
func TestUDPBeforeFrontend(t *testing.T) {
	n := newNode()
	d := open(t, n, nftdp.Config{})
	apply(t, d)
	p := udp("203.0.113.7:1", "192.0.2.1:53")
	if got := n.Send(p).Destination; got != p.Destination {
		t.Error("without services:", got)
	}
	apply(t, d, dns("10.180.0.1:5"))
	if got := n.Send(p).Destination; got != addrPort("10.180.0.1:5") {
		t.Error("with them:", got)
	}
}

// TestWithoutTables: the kernel does not translate then.
func TestWithoutTables(t *testing.T) {
	n := newNode()
	d := open(t, n, nftdp.Config{})
	apply(t, d, web("10.180.0.1:1"))
	p := tcp("203.0.113.7:40000", "192.0.2.1:80")
	n.Send(p)
	n.FlushRuleset()
	if got := n.Send(p); got.Service != "" || got.Destination != p.Destination {
		t.Error(got)
	}
	apply(t, d, web("10.180.0.1:1"))
	if got := n.Send(p); got.Destination != addrPort("10.180.0.1:1") {
		t.Error(got)
	}
}

// sticky remembers its clients for ten seconds.
func sticky(list ...string) nftdp.Service {
	s := web(list...)
	s.Affinity = nftdp.Duration(10 * time.Second)
	return s
}

// TestAffinity: a client comes back to its backend while it comes often enough
// and the backend is there. Another node can be told of it.
func TestAffinity(t *testing.T) {
	n := newNode()
	d := open(t, n, nftdp.Config{AffinitySize: 2})
	apply(t, d, sticky("10.180.0.1:1", "10.180.0.2:1", "10.180.0.3:1"))
	port := 40000
	client := func(last int) nftdptest.Packet {
		port++
		return tcp(fmt.Sprintf("203.0.113.%d:%d", last, port), "192.0.2.1:80")
	}
	first := n.Send(client(1)).Destination
	for range 5 {
		n.Advance(6 * time.Second)
		if got := n.Send(client(1)).Destination; got != first {
			t.Error("came back to", got)
		}
	}
	n.Advance(4 * time.Second)
	second := n.Send(client(2)).Destination
	n.Send(client(3)) // the map is full
	list, err := d.Affinities(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	want := []nftdp.Affinity{
		{Service: "web", Client: addr("203.0.113.1"), Frontend: addrPort("0.0.0.0:80"), Backend: first, Expires: nftdp.Duration(6 * time.Second)},
		{Service: "web", Client: addr("203.0.113.2"), Frontend: addrPort("0.0.0.0:80"), Backend: second, Expires: nftdp.Duration(10 * time.Second)},
	}
	byValue := []cmp.Option{
		cmp.Comparer(func(x, y netip.AddrPort) bool { return x == y }), cmp.Comparer(func(x, y netip.Addr) bool { return x == y }),
	}
	if diff := cmp.Diff(want, list, byValue...); diff != "" {
		t.Error(diff)
	}

	m := newNode()
	e := open(t, m, nftdp.Config{AffinitySize: 2})
	apply(t, e, sticky("10.180.0.1:1", "10.180.0.2:1", "10.180.0.3:1"))
	if added, err := e.AddAffinities(t.Context(), list); added != 2 || err != nil {
		t.Error("added:", added, err)
	}
	for i, of := range want {
		if got := m.Send(client(1 + i)).Destination; got != of.Backend {
			t.Errorf("client %d came back to %v, want %v", 1+i, got, of.Backend)
		}
	}
	more := list[0]
	more.Client = addr("203.0.113.3")
	if added, err := e.AddAffinities(t.Context(), []nftdp.Affinity{more}); added != 0 || !errors.Is(err, syscall.ENFILE) {
		t.Error("to a full map:", added, err)
	}
	other := list[0]
	other.Backend = second
	if added, err := e.AddAffinities(t.Context(), []nftdp.Affinity{other}); added != 0 || err != nil {
		t.Error("of another backend:", added, err)
	}

	apply(t, d, sticky(second.String())) // the first backend has gone
	if list, err = d.Affinities(t.Context()); err != nil || len(list) != 1 || list[0].Client != addr("203.0.113.2") {
		t.Error("without the first backend:", list, err)
	}
	n.Advance(10 * time.Second)
	if list, err = d.Affinities(t.Context()); err != nil || len(list) != 0 {
		t.Error("after the timeout:", list, err)
	}
}

// TestAffinityForgotten: the entries go with their map.
func TestAffinityForgotten(t *testing.T) {
	for name, forget := range map[string]func(*testing.T, *nftdptest.Node){
		"tables deleted": func(_ *testing.T, n *nftdptest.Node) { n.FlushRuleset() },
		"map of other size": func(t *testing.T, n *nftdptest.Node) {
			apply(t, open(t, n, nftdp.Config{AffinitySize: 9}), sticky("10.180.0.1:1", "10.180.0.2:1"))
		},
	} {
		t.Run(name, func(t *testing.T) {
			n := newNode()
			d := open(t, n, nftdp.Config{})
			apply(t, d, sticky("10.180.0.1:1", "10.180.0.2:1"))
			n.Send(tcp("203.0.113.7:1", "192.0.2.1:80"))
			forget(t, n)
			apply(t, d, sticky("10.180.0.1:1", "10.180.0.2:1"))
			if list, err := d.Affinities(t.Context()); err != nil || len(list) != 0 {
				t.Error(list, err)
			}
		})
	}
}
