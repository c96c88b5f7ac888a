//go:build linux

package integration

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/nftdp/go-nftdp/internal/nstest"
	"github.com/nftdp/go-nftdp/nftdp"
)

// backendPort is where the backends listen, with every protocol and family.
const backendPort = 8080

// askTimeout is for exchanges that should succeed. They take less than a
// millisecond; the rest is for a machine under load.
const askTimeout = 20 * time.Second

// silence is how long a client waits that should get no answer.
const silence = 300 * time.Millisecond

// world is a topology whose backends serve, with a Dataplane on its node.
type world struct {
	*nstest.Topology
	dataplane *nftdp.Dataplane
}

func newWorld(t *testing.T, config nftdp.Config, backends int) *world {
	t.Helper()
	w := &world{Topology: newTopology(t, backends)}
	for _, pod := range w.Backends {
		serve(t, pod, backendPort, "tcp", "udp", "sctp")
	}
	w.open(t, config)
	return w
}

func newTopology(tb testing.TB, backends int) *nstest.Topology {
	tb.Helper()
	top, err := nstest.NewTopology(backends)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { closeOrFail(tb, top) })
	return top
}

// open opens the Dataplane, which is closed at the end of the test.
func (w *world) open(t *testing.T, config nftdp.Config) {
	t.Helper()
	w.dataplane = openDataplane(t, w.Node, config)
}

// openDataplane opens a Dataplane, which is closed at the end of the test.
func openDataplane(t *testing.T, node *nstest.Namespace, config nftdp.Config) *nftdp.Dataplane {
	t.Helper()
	d := open(t, node, config)
	t.Cleanup(func() {
		if err := d.Close(); err != nil && !errors.Is(err, nftdp.ErrClosed) {
			t.Errorf("close: %v", err)
		}
	})
	return d
}

// open opens a Dataplane, which the caller closes.
func open(tb testing.TB, node *nstest.Namespace, config nftdp.Config) *nftdp.Dataplane {
	tb.Helper()
	d, err := config.OpenIn(tb.Context(), node.Handle())
	if err != nil {
		tb.Fatalf("open: %v", err)
	}
	return d
}

func newNamespace(tb testing.TB) *nstest.Namespace {
	tb.Helper()
	ns, err := nstest.New("node")
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { closeOrFail(tb, ns) })
	return ns
}

// serve starts a server with the name of its namespace.
func serve(tb testing.TB, ns *nstest.Namespace, port uint16, protocols ...string) {
	tb.Helper()
	serveAs(tb, ns.Name, ns, port, protocols...)
}

// serveAs starts a server with another name, which has no spaces.
func serveAs(tb testing.TB, name string, ns *nstest.Namespace, port uint16, protocols ...string) {
	tb.Helper()
	server, err := nstest.Serve(ns, name, port, protocols...)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { closeOrFail(tb, server) })
}

// sink opens a socket that takes UDP datagrams. Nobody reads them, so that the
// kernel drops what does not fit into the socket's buffer.
func sink(tb testing.TB, ns *nstest.Namespace, at netip.AddrPort) {
	tb.Helper()
	socket, err := nstest.ListenUDP(ns, at)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { closeOrFail(tb, socket) })
}

func closeOrFail(tb testing.TB, c interface{ Close() error }) {
	tb.Helper()
	if err := c.Close(); err != nil {
		tb.Error(err)
	}
}

// apply programs exactly these services.
func (w *world) apply(t *testing.T, services ...nftdp.Service) *nftdp.Plan {
	t.Helper()
	plan, err := w.dataplane.Apply(t.Context(), services)
	if err != nil {
		t.Fatalf("apply: %v", err)
	}
	return plan
}

// update changes these services and leaves the others.
func (w *world) setConfig(t *testing.T, config nftdp.Config) *nftdp.Plan {
	t.Helper()
	plan, err := w.dataplane.SetConfig(t.Context(), config)
	if err != nil {
		t.Fatal("set configuration:", err)
	}
	return plan
}

func (w *world) update(t *testing.T, change nftdp.Change) *nftdp.Plan {
	t.Helper()
	plan, err := w.dataplane.Update(t.Context(), change)
	if err != nil {
		t.Fatalf("update: %v", err)
	}
	return plan
}

// frontend returns a frontend as the kernel has it.
func (w *world) frontend(t *testing.T, service string, dst netip.AddrPort) nftdp.FrontendStatus {
	t.Helper()
	services, err := w.dataplane.Inspect(t.Context())
	if err != nil {
		t.Fatalf("inspect: %v", err)
	}
	for _, s := range services {
		for _, f := range s.Frontends {
			if s.Name == service && netip.AddrPortFrom(f.Addr, f.Port) == dst {
				return f
			}
		}
	}
	t.Fatalf("service %s has no frontend %v in the kernel: %+v", service, dst, services)
	return nftdp.FrontendStatus{}
}

// ask makes one connection, which must succeed.
func ask(t *testing.T, from *nstest.Namespace, protocol string, dst netip.AddrPort) nstest.Answer {
	t.Helper()
	answer, err := nstest.Dial(from, protocol, netip.Addr{}, dst, askTimeout)
	if err != nil {
		t.Fatalf("%s from %s to %v: %v", protocol, from.Name, dst, err)
	}
	return answer
}

// askFor makes one connection, which must reach a certain server.
func askFor(t *testing.T, server string, from *nstest.Namespace, protocol string, dst netip.AddrPort) nstest.Answer {
	t.Helper()
	answer := ask(t, from, protocol, dst)
	if answer.Server != server {
		t.Errorf("%s from %s to %v: %s answered, want %s", protocol, from.Name, dst, answer.Server, server)
	}
	return answer
}

// count makes n connections and counts them by server.
func count(t *testing.T, n int, from *nstest.Namespace, protocol string, dst netip.AddrPort) map[string]int {
	t.Helper()
	counts := map[string]int{}
	for range n {
		counts[ask(t, from, protocol, dst).Server]++
	}
	return counts
}

// attempt makes one connection and returns its outcome in a word: the server's
// name, or "refused", "not permitted", "silence".
func attempt(from *nstest.Namespace, protocol string, dst netip.AddrPort, timeout time.Duration) string {
	return outcome(nstest.Dial(from, protocol, netip.Addr{}, dst, timeout))
}

// outcome is the outcome of a connection in a word.
func outcome(answer nstest.Answer, err error) string {
	switch {
	case err == nil:
		return answer.Server
	case errors.Is(err, syscall.ECONNREFUSED):
		return "refused"
	case errors.Is(err, syscall.EPERM):
		return "not permitted"
	case nstest.IsTimeout(err):
		return "silence"
	}
	return err.Error()
}

// wantRefused fails unless a connection is refused.
func wantRefused(t *testing.T, from *nstest.Namespace, protocol string, dst netip.AddrPort) {
	t.Helper()
	if got := attempt(from, protocol, dst, askTimeout); got != "refused" {
		t.Errorf("%s from %s to %v: %s, want refused", protocol, from.Name, dst, got)
	}
}

// connect opens n TCP connections that stay open until the test ends.
func connect(t *testing.T, n int, from *nstest.Namespace, dst netip.AddrPort) []*nstest.Conn {
	t.Helper()
	conns := make([]*nstest.Conn, n)
	for i := range conns {
		c, err := nstest.DialTCP(from, netip.Addr{}, dst, askTimeout)
		if err != nil {
			t.Fatalf("tcp from %s to %v: %v", from.Name, dst, err)
		}
		t.Cleanup(func() { _ = c.Close() })
		conns[i] = c
	}
	return conns
}

// wantAlive fails unless data passes both ways over all connections.
func wantAlive(t *testing.T, conns []*nstest.Conn) {
	t.Helper()
	for i, c := range conns {
		if err := c.Echo(fmt.Sprintf("still here, %d", i), askTimeout); err != nil {
			t.Errorf("connection %d to %s broke: %v", i, c.Answer.Server, err)
		}
	}
}

// protocol is one of the library's protocols with its name in these tests.
type protocol struct {
	name  string
	proto nftdp.Protocol
}

func protocols() []protocol {
	return []protocol{{"tcp", nftdp.ProtocolTCP}, {"udp", nftdp.ProtocolUDP}, {"sctp", nftdp.ProtocolSCTP}}
}

// schedulers returns every Scheduler.
func schedulers() (all []nftdp.Scheduler) {
	for s := nftdp.SchedulerRandom; ; s++ {
		if _, err := s.MarshalText(); err != nil {
			return all
		}
		all = append(all, s)
	}
}

// backends are active backends: some of the topology's, in both families.
func backends(indices ...int) []nftdp.Backend {
	var all []nftdp.Backend
	for _, i := range indices {
		for _, a := range nstest.Families() {
			all = append(all, nftdp.Backend{Addr: netip.AddrPortFrom(a.Backend(i), backendPort)})
		}
	}
	return all
}

// nodeWide is a frontend on all node addresses.
func nodeWide(port uint16) []nftdp.Frontend { return []nftdp.Frontend{{Port: port}} }

// on are frontends on an address of the topology, one for each family.
func on(addr func(nstest.Addrs) netip.Addr, port uint16) []nftdp.Frontend {
	var all []nftdp.Frontend
	for _, a := range nstest.Families() {
		all = append(all, nftdp.Frontend{Addr: addr(a), Port: port})
	}
	return all
}

// with changes all of the frontends and returns them.
func with(frontends []nftdp.Frontend, change func(*nftdp.Frontend)) []nftdp.Frontend {
	for i := range frontends {
		change(&frontends[i])
	}
	return frontends
}

func withPolicy(p nftdp.Policy, frontends []nftdp.Frontend) []nftdp.Frontend {
	return with(frontends, func(f *nftdp.Frontend) { f.Policy = p })
}

func withNoBackend(a nftdp.Action, frontends []nftdp.Frontend) []nftdp.Frontend {
	return with(frontends, func(f *nftdp.Frontend) { f.NoBackend = a })
}

func withMasquerade(m nftdp.Masquerade, frontends []nftdp.Frontend) []nftdp.Frontend {
	return with(frontends, func(f *nftdp.Frontend) { f.Masquerade = m })
}

// withAllow sets Allow of each frontend to the prefixes of its family.
func withAllow(prefixes []netip.Prefix, frontends []nftdp.Frontend) []nftdp.Frontend {
	return with(frontends, func(f *nftdp.Frontend) { f.Allow = familyOf(f.Addr, prefixes) })
}

// withDeny sets Deny of each frontend to the prefixes of its family.
func withDeny(prefixes []netip.Prefix, frontends []nftdp.Frontend) []nftdp.Frontend {
	return with(frontends, func(f *nftdp.Frontend) { f.Deny = familyOf(f.Addr, prefixes) })
}

// familyOf are the prefixes of an address's family, or all if it is not valid.
func familyOf(addr netip.Addr, prefixes []netip.Prefix) []netip.Prefix {
	return slices.DeleteFunc(slices.Clone(prefixes), func(p netip.Prefix) bool {
		return addr.IsValid() && p.Addr().Is4() != addr.Is4()
	})
}

// upToPort makes ranges of the frontends.
func upToPort(last uint16, frontends []nftdp.Frontend) []nftdp.Frontend {
	return with(frontends, func(f *nftdp.Frontend) { f.EndPort = last })
}

// Addresses of the topology, for on.
func clusterIP(a nstest.Addrs) netip.Addr { return a.ClusterIP }
func external(a nstest.Addrs) netip.Addr  { return a.External }
func nodeAddr(a nstest.Addrs) netip.Addr  { return a.Node }
func uplink(a nstest.Addrs) netip.Addr    { return a.Uplink }
func podGW(a nstest.Addrs) netip.Addr     { return a.PodGW }

// unassigned is the address after clusterIP, which no service has.
func unassigned(a nstest.Addrs) netip.Addr { return a.ClusterIP.Next() }

// single is the prefix that holds one address.
func single(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, a.BitLen()) }

// podNets are the prefixes of the backends' addresses.
func podNets() []netip.Prefix {
	return []netip.Prefix{nstest.IPv4().PodNet, nstest.IPv6().PodNet}
}

// clientNets are the prefixes of the outside client's addresses.
func clientNets() []netip.Prefix {
	return []netip.Prefix{nstest.IPv4().ClientNet, nstest.IPv6().ClientNet}
}

// nearClient are those halves of the client's networks that contain its first
// address and the node's, and not its second.
func nearClient() []netip.Prefix {
	var all []netip.Prefix
	for _, a := range nstest.Families() {
		all = append(all, netip.PrefixFrom(a.ClientNet.Addr(), a.ClientNet.Bits()+1))
	}
	return all
}

// serviceNets contain clusterIP and unassigned.
func serviceNets() []netip.Prefix {
	var all []netip.Prefix
	for _, a := range nstest.Families() {
		all = append(all, netip.PrefixFrom(a.ClusterIP, a.ClusterIP.BitLen()-12).Masked())
	}
	return all
}

// perProtocol is a service for each protocol, with the protocol's name.
func perProtocol(frontends []nftdp.Frontend, backends []nftdp.Backend) []nftdp.Service {
	var all []nftdp.Service
	for _, p := range protocols() {
		all = append(all, nftdp.Service{Name: p.name, Protocol: p.proto, Frontends: frontends, Backends: backends})
	}
	return all
}

// inFamilies runs a subtest for each family.
func inFamilies(t *testing.T, test func(*testing.T, nstest.Addrs)) {
	t.Helper()
	for _, a := range nstest.Families() {
		t.Run(a.Family, func(t *testing.T) { test(t, a) })
	}
}
