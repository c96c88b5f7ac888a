//go:build linux

package integration

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nftdp/go-nftdp/internal/nstest"
	"github.com/nftdp/go-nftdp/nftdp"
)

// changes is the number of changes under load, and connectionsPerChange the
// number of connections that end at least between two changes, while others are
// still in progress.
const (
	changes              = 1000
	connectionsPerChange = 30
)

// poolBackends is the number of backends that there are to choose from.
const poolBackends = 4

// mutations are the ways in which a service changes. A mutation may leave no
// usable backend: mutate looks after that.
func mutations() map[string]func(*rand.Rand, *nftdp.Service) {
	return map[string]func(*rand.Rand, *nftdp.Service){
		"pool":      func(r *rand.Rand, s *nftdp.Service) { s.Backends = localBackends(somePool(r)...) },
		"state":     func(r *rand.Rand, s *nftdp.Service) { setState(s, r.IntN(poolBackends), nftdp.State(r.IntN(3))) },
		"weight":    func(r *rand.Rand, s *nftdp.Service) { setWeight(s, r.IntN(poolBackends), uint16(r.IntN(4))) },
		"backup":    func(r *rand.Rand, s *nftdp.Service) { setBackup(s, r.IntN(poolBackends), r.IntN(2) == 0) },
		"scheduler": func(r *rand.Rand, s *nftdp.Service) { setScheduler(s, schedulers()[r.IntN(len(schedulers()))]) },
		"frontend":  func(_ *rand.Rand, s *nftdp.Service) { toggleFrontend(s) },
		"affinity": func(r *rand.Rand, s *nftdp.Service) {
			s.Affinity = []nftdp.Duration{0, nftdp.Duration(time.Second), anHour}[r.IntN(3)]
		},
		"policy":  func(r *rand.Rand, s *nftdp.Service) { setPolicy(s, nftdp.Policy(r.IntN(3))) },
		"local":   func(r *rand.Rand, s *nftdp.Service) { setLocal(s, r.IntN(poolBackends), r.IntN(3) > 0) },
		"limit":   func(r *rand.Rand, s *nftdp.Service) { setLimit(s, r.IntN(poolBackends), uint32(r.IntN(3)*10_000)) },
		"clients": func(r *rand.Rand, s *nftdp.Service) { setClients(r, &s.Frontends[r.IntN(len(s.Frontends))]) },
		"masquerade": func(r *rand.Rand, s *nftdp.Service) {
			f := &s.Frontends[r.IntN(len(s.Frontends))]
			f.Masquerade, f.MasqueradeClients = nftdp.Masquerade(r.IntN(3)), nil
		},
		"masquerade clients": func(r *rand.Rand, s *nftdp.Service) {
			f := &s.Frontends[r.IntN(len(s.Frontends))]
			lists := [][]netip.Prefix{nil, clientNets(), podNets(), nodePrefixes()}
			f.Masquerade, f.MasqueradeClients = nftdp.MasqueradeAuto, familyOf(f.Addr, lists[r.IntN(len(lists))])
		},
		"snat": func(r *rand.Rand, s *nftdp.Service) { s.SNAT = someSNAT(r) },
		"range": func(r *rand.Rand, s *nftdp.Service) {
			setRange(&s.Frontends[r.IntN(len(s.Frontends))], uint16(r.IntN(5)))
		},
	}
}

// localBackends are backends of the topology with Local set.
func localBackends(indices ...int) []nftdp.Backend {
	all := backends(indices...)
	for i := range all {
		all[i].Local = true
	}
	return all
}

// setPolicy sets the policy of all frontends, so that they have the same usable
// backends.
func setPolicy(s *nftdp.Service, policy nftdp.Policy) {
	for i := range s.Frontends {
		s.Frontends[i].Policy = policy
	}
}

// each changes one of the topology's backends in both families.
func each(s *nftdp.Service, backend int, change func(*nftdp.Backend)) {
	for i := range s.Backends {
		for _, a := range nstest.Families() {
			if s.Backends[i].Addr.Addr() == a.Backend(backend) {
				change(&s.Backends[i])
			}
		}
	}
}

func setState(s *nftdp.Service, backend int, state nftdp.State) {
	each(s, backend, func(b *nftdp.Backend) { b.State = state })
}

func setWeight(s *nftdp.Service, backend int, weight uint16) {
	each(s, backend, func(b *nftdp.Backend) { b.Weight = weight })
}

func setBackup(s *nftdp.Service, backend int, backup bool) {
	each(s, backend, func(b *nftdp.Backend) { b.Backup = backup })
}

func setLocal(s *nftdp.Service, backend int, local bool) {
	each(s, backend, func(b *nftdp.Backend) { b.Local = local })
}

// setLimit sets a limit that connections do not reach. UDP services get none,
// since their flows would count long after the last datagram.
func setLimit(s *nftdp.Service, backend int, most uint32) {
	if s.Protocol == nftdp.ProtocolTCP {
		each(s, backend, func(b *nftdp.Backend) { b.MaxConns = most })
	}
}

// setClients sets lists of clients with which all clients of the test are
// allowed.
func setClients(r *rand.Rand, f *nftdp.Frontend) {
	f.Allow, f.Deny = nil, nil
	if r.IntN(2) == 0 {
		f.Allow = familyOf(f.Addr, slices.Concat(clientNets(), podNets(), nodePrefixes()))
	}
	if r.IntN(2) == 0 {
		f.Deny = familyOf(f.Addr, []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24"), netip.MustParsePrefix("2001:db8::/32")})
	}
}

// someSNAT is either no address, or one of the node in each family.
func someSNAT(r *rand.Rand) []netip.Addr {
	if r.IntN(2) == 0 {
		return nil
	}
	return []netip.Addr{nstest.IPv4().Node, nstest.IPv6().Node}
}

// setRange changes the length of a range.
func setRange(f *nftdp.Frontend, more uint16) {
	if f.EndPort > 0 {
		f.EndPort = f.Port + 1 + more
	}
}

// somePool selects any number of the backends, in any order.
func somePool(r *rand.Rand) []int { return r.Perm(poolBackends)[:r.IntN(poolBackends+1)] }

// setScheduler uses a small table with Maglev, since all of it is rewritten.
func setScheduler(s *nftdp.Service, scheduler nftdp.Scheduler) {
	s.Scheduler, s.MaglevSize = scheduler, 0
	if scheduler == nftdp.SchedulerMaglev {
		s.MaglevSize = 31
	}
}

// toggleFrontend adds frontends that no client uses, or removes them.
func toggleFrontend(s *nftdp.Service) {
	n := len(s.Frontends)
	s.Frontends = slices.DeleteFunc(s.Frontends, func(f nftdp.Frontend) bool {
		return slices.ContainsFunc(nstest.Families(), func(a nstest.Addrs) bool { return f.Addr == a.External })
	})
	if len(s.Frontends) == n {
		for _, f := range on(external, s.Frontends[0].Port) {
			f.EndPort, f.Policy = s.Frontends[0].EndPort, s.Frontends[0].Policy
			s.Frontends = append(s.Frontends, f)
		}
	}
}

// churning is a service that changes while clients use it.
type churning struct {
	nftdp.Service
	mayBeEmpty bool // it may have no usable backend
	// phase counts the phases that have begun. The outcome of a connection
	// that begins and ends in the same phase is known.
	phase atomic.Uint32
}

// The phases of a service follow each other in a circle.
const (
	usable = iota
	emptying
	empty
	filling
	phases
)

// mutate changes the service at random. A backend leaves a UDP service by
// draining: if it were removed, its flows would be deleted, and a client that
// has just sent a datagram would wait in vain.
func (c *churning) mutate(r *rand.Rand) {
	all := mutations()
	names := mutationNames()
	for {
		next := c.Service
		next.Frontends, next.Backends = slices.Clone(next.Frontends), slices.Clone(next.Backends)
		all[names[r.IntN(len(names))]](r, &next)
		if next.Protocol == nftdp.ProtocolUDP {
			drainInstead(&next)
		}
		if next.Frontends[0].EndPort > 0 {
			next.Backends = onPort(0, next.Backends)
		}
		if c.accepts(next) {
			c.Service = next
			return
		}
	}
}

// accepts reports whether a service is valid and has a usable backend, both for
// outside clients and for others.
func (c *churning) accepts(next nftdp.Service) bool {
	if (nftdp.Config{}).Validate([]nftdp.Service{next}) != nil {
		return false
	}
	local, all := len(poolOf(next, true)), len(poolOf(next, false))
	if all == 0 {
		return c.mayBeEmpty
	}
	return local > 0 || next.Frontends[0].Policy == nftdp.PolicyAnyBackend
}

// mutationNames lists mutations. Before Linux 6.18 the ends of ranges stay: 5.10.262,
// 6.1.0-56 and 6.12.118 refuse a connection at some changes of them. Such a change replaces
// the range in both sets that have it, and changes of interval sets take effect at the very
// end of a commit (nft_set_commit_update in net/netfilter/nf_tables_api.c).
func mutationNames() []string {
	var names []string
	for name := range mutations() {
		if name != "range" || !nstest.LinuxBefore(6, 18) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// drainInstead makes those backends draining that are down or missing.
func drainInstead(s *nftdp.Service) {
	for i := range s.Backends {
		if s.Backends[i].State == nftdp.StateDown {
			s.Backends[i].State = nftdp.StateDraining
		}
	}
	for _, b := range localBackends(upTo(poolBackends)...) {
		if !slices.ContainsFunc(s.Backends, func(have nftdp.Backend) bool { return have.Addr == b.Addr }) {
			b.State = nftdp.StateDraining
			s.Backends = append(s.Backends, b)
		}
	}
}

// usableServers are the servers that new connections of outside clients can
// reach. They are the same in both families.
func usableServers(s nftdp.Service) []string {
	return poolOf(s, s.Frontends[0].Policy != nftdp.PolicyAnyBackend)
}

func poolOf(s nftdp.Service, local bool) []string {
	var active, backup []string
	for i := range poolBackends {
		for _, b := range s.Backends {
			switch {
			case b.Addr.Addr() != nstest.IPv4().Backend(i) || b.State != nftdp.StateActive || local && !b.Local:
			case b.Backup:
				backup = append(backup, backendName(i))
			default:
				active = append(active, backendName(i))
			}
		}
	}
	if len(active) == 0 {
		return backup
	}
	return active
}

// before and after are called before and after a change, and begin a new phase
// if it makes a difference.
func (c *churning) before() {
	switch left := len(usableServers(c.Service)); {
	case left == 0 && c.phase.Load()%phases == usable, left > 0 && c.phase.Load()%phases == empty:
		c.phase.Add(1)
	}
}

func (c *churning) after() {
	if phase := c.phase.Load() % phases; phase == emptying || phase == filling {
		c.phase.Add(1)
	}
}

// churnClient connects to one frontend from one place, again and again.
type churnClient struct {
	service  *churning
	from     *nstest.Namespace
	protocol string
	dst      netip.AddrPort
	served   int
	refused  int
	slowest  time.Duration
	wrong    string // the first wrong outcome
	wrongs   int
}

// run makes connections until done is closed, and sends to made after each.
func (c *churnClient) run(done <-chan struct{}, made chan<- struct{}) {
	for {
		c.connect()
		select {
		case made <- struct{}{}:
		case <-done:
			return
		}
	}
}

func (c *churnClient) connect() {
	before, start := c.service.phase.Load(), time.Now()
	got := brief(c.from, c.protocol, c.dst)
	c.slowest = max(c.slowest, time.Since(start))
	phase := before % phases
	if before != c.service.phase.Load() {
		phase = emptying // either outcome is right
	}
	served := slices.Contains(backendNames(poolBackends), got)
	switch {
	case served && phase != empty:
		c.served++
	case got == "refused" && phase != usable:
		c.refused++
	default:
		if c.wrongs++; c.wrong == "" {
			c.wrong = fmt.Sprintf("%s in phase %d after %v", got, phase, time.Since(start))
		}
	}
}

// brief makes one connection and returns its outcome in a word. A TCP connection
// is reset once it has worked, so that clients do not run out of ports.
//
// A UDP client sends again, as all do: a change that treats its flow otherwise deletes
// the flow, and an answer that is under way gets lost.
func brief(from *nstest.Namespace, protocol string, dst netip.AddrPort) string {
	const again = time.Second
	switch protocol {
	case "udp":
		return outcome(nstest.DialUDP(from, netip.AddrPort{}, dst, again, askTimeout))
	case "sctp":
		return attempt(from, protocol, dst, askTimeout)
	}
	c, err := nstest.DialTCP(from, netip.Addr{}, dst, askTimeout)
	if err != nil {
		return outcome(nstest.Answer{}, err)
	}
	return outcome(c.Answer, c.Reset())
}

// TestNoConnectionFailsDuringChanges: clients of every kind connect all the time
// through frontends of every kind, while services change in every way, in a
// thousand transactions, by Apply, Update and SetConfig, in a process that is restarted now
// and then. No connection fails while its service has a usable backend, and every
// connection is refused while it has none.
func TestNoConnectionFailsDuringChanges(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nftdp.Config{Internal: podNets()}, poolBackends)
	services := []*churning{
		newChurning(0, nftdp.ProtocolTCP), newChurning(1, nftdp.ProtocolTCP), newChurning(2, nftdp.ProtocolTCP), newChurning(3, nftdp.ProtocolUDP),
	}
	services[2].mayBeEmpty = true
	ranged := newChurning(len(services), nftdp.ProtocolTCP)
	w.serveRange(t, ranged)
	services = append(services, ranged)
	w.apply(t, specs(services)...)
	conns := connect(t, attempts, w.Client, netip.AddrPortFrom(nstest.IPv4().Node, churnPort(0)))

	clients := w.churnClients(services)
	done, made := make(chan struct{}), make(chan struct{})
	var running sync.WaitGroup
	stop := sync.OnceFunc(func() { close(done); running.Wait() })
	defer stop()
	for _, c := range clients {
		running.Go(func() { c.run(done, made) })
	}
	start := time.Now()
	r := rand.New(rand.NewPCG(1, 2))
	for i := range changes {
		w.churn(t, r, i, services)
		for range connectionsPerChange {
			<-made
		}
		if t.Failed() {
			break
		}
	}
	stop()
	wantAlive(t, conns)
	reportChurn(t, clients, time.Since(start))
}

// churnPort is the port of the i-th service on its virtual address and on the
// node's addresses.
func churnPort(i int) uint16 { return uint16(80 + i) }

func newChurning(i int, protocol nftdp.Protocol) *churning {
	return &churning{Service: nftdp.Service{
		Name: fmt.Sprintf("service-%d", i), Protocol: protocol,
		Frontends: slices.Concat(nodeWide(churnPort(i)), nodeWide(30000+churnPort(i)), on(clusterIP, churnPort(i))),
		Backends:  localBackends(upTo(poolBackends)...),
	}}
}

// serveRange turns the frontends of a service into ranges, and makes the backends
// listen on the first ports of these.
func (w *world) serveRange(t *testing.T, s *churning) {
	t.Helper()
	s.Backends = onPort(0, s.Backends)
	for i := range s.Frontends {
		f := &s.Frontends[i]
		f.EndPort = f.Port + 1
		if f.Addr.IsValid() {
			continue // a node-wide frontend has the same port
		}
		for _, pod := range w.Backends {
			serve(t, pod, f.Port, "tcp")
		}
	}
}

func specs(services []*churning) []nftdp.Service {
	var all []nftdp.Service
	for _, c := range services {
		all = append(all, c.Service)
	}
	return all
}

// churnClients returns a client for each service, family, frontend and place.
func (w *world) churnClients(services []*churning) []*churnClient {
	var all []*churnClient
	for i, s := range services {
		protocol := "tcp"
		if s.Protocol == nftdp.ProtocolUDP {
			protocol = "udp"
		}
		for _, a := range nstest.Families() {
			for _, dst := range []netip.AddrPort{
				netip.AddrPortFrom(a.ClusterIP, churnPort(i)),
				netip.AddrPortFrom(a.Node, churnPort(i)),
				netip.AddrPortFrom(a.Node, 30000+churnPort(i)),
			} {
				for _, from := range []*nstest.Namespace{w.Client, w.Node, w.Backends[0]} {
					all = append(all, &churnClient{service: s, from: from, protocol: protocol, dst: dst})
				}
			}
		}
	}
	return all
}

// churn makes the i-th change, which is of one service or several.
func (w *world) churn(t *testing.T, r *rand.Rand, i int, services []*churning) {
	t.Helper()
	var changed []*churning
	for _, n := range r.Perm(len(services))[:1+r.IntN(len(services))] {
		services[n].mutate(r)
		services[n].before()
		changed = append(changed, services[n])
	}
	passing := nftdp.Service{Name: "passing", Frontends: nodeWide(79), Backends: backends(somePool(r)...)}
	switch {
	case i%250 == 249: // another process takes over
		closeOrFail(t, w.dataplane)
		w.open(t, nftdp.Config{Internal: podNets()})
		w.apply(t, specs(services)...)
	case i%8 == 0:
		w.apply(t, append(specs(services), passing)...)
	case i%8 == 4:
		w.apply(t, specs(services)...)
	default:
		w.update(t, nftdp.Change{Set: specs(changed)})
	}
	for _, c := range changed {
		c.after()
	}
	if i%4 == 2 {
		w.setConfig(t, churnConfig(r))
	}
	if i%20 == 0 { // connections follow a change at once
		s := services[0].Service
		// The configuration may count the client as internal.
		want := append(usableServers(s), poolOf(s, s.Frontends[0].Policy == nftdp.PolicyLocalOnly)...)
		if got := brief(w.Client, "tcp", netip.AddrPortFrom(nstest.IPv6().Node, churnPort(0))); !slices.Contains(want, got) {
			t.Errorf("change %d: %s answered, want one of %v", i, got, want)
		}
	}
}

// churnConfig is a configuration by which the clients reach the services.
func churnConfig(r *rand.Rand) nftdp.Config {
	either := func(lists ...[]netip.Prefix) []netip.Prefix { return lists[r.IntN(len(lists))] }
	return nftdp.Config{
		Internal: either(podNets(), append(podNets(), clientNets()...)), NodeAddrs: either(nil, nodePrefixes()),
		ServiceCIDRs: either(nil, serviceNets()), Unallocated: nftdp.Action(r.IntN(3)), InternalInterfaces: []string{"upl*", nstest.PodLink(0)}[:r.IntN(3)],
		Localhost: r.IntN(2) == 0, AffinitySize: uint32(r.IntN(2) * 5000),
	}
}

// reportChurn fails for each client that saw a wrong outcome, or did not see
// each outcome that was to be seen.
func reportChurn(t *testing.T, clients []*churnClient, took time.Duration) {
	t.Helper()
	var served, refused int
	var slowest time.Duration
	for _, c := range clients {
		name := fmt.Sprintf("%s from %s to %v", c.protocol, c.from.Name, c.dst)
		if c.wrongs > 0 {
			t.Errorf("%s: %d connections had a wrong outcome, the first: %s", name, c.wrongs, c.wrong)
		}
		if c.served == 0 || (c.refused == 0) == c.service.mayBeEmpty {
			t.Errorf("%s: %d served, %d refused", name, c.served, c.refused)
		}
		served, refused, slowest = served+c.served, refused+c.refused, max(slowest, c.slowest)
	}
	t.Logf("%d clients, %d connections served and %d refused in %v, the slowest in %v",
		len(clients), served, refused, took, slowest)
}
