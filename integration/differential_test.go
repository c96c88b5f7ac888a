//go:build linux

package integration

import (
	"cmp"
	"encoding/json"
	"flag"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nftdp/go-nftdp/internal/conntrack"
	"github.com/nftdp/go-nftdp/internal/nstest"
	"github.com/nftdp/go-nftdp/internal/ruleset"
	"github.com/nftdp/go-nftdp/nftdp"
	"github.com/nftdp/go-nftdp/nftdp/nftdptest"
)

var (
	differential     = flag.Int("differential", 1000, "number of connections that TestDifferential makes")
	differentialSeed = flag.Uint64("differentialseed", 0, "seed of TestDifferential; 0: a different one in every run")
)

const (
	probesPerRuleset   = 50
	differentialWorlds = 4
)

// Clients connect from these ports, in each world from each of them once unless
// there are very many connections. No server listens on one of them.
const (
	firstProbePort = 33000
	probePorts     = 13000
)

// TestDifferential makes random connections through random services, and compares
// what happens with three predictions: that of the documentation (spec), that of
// the rules in the kernel (ruleset.Evaluator), and that of a node in memory
// (nftdptest.Node), and with what Explain says. All must predict the same outcomes, and what happens must be
// one of them. Where chance decides, every backend must be chosen sometimes.
func TestDifferential(t *testing.T) {
	t.Parallel()
	seed := cmp.Or(*differentialSeed, rand.Uint64())
	t.Logf("-differentialseed %d", seed)
	rulesets := max(1, *differential/probesPerRuleset)
	var worlds [differentialWorlds]trial
	t.Run("worlds", func(t *testing.T) {
		for i := range worlds {
			t.Run(fmt.Sprint(i), func(t *testing.T) {
				t.Parallel()
				worlds[i].run(t, dice{rand.New(rand.NewPCG(seed, uint64(i)))}, (rulesets+differentialWorlds-1-i)/differentialWorlds)
			})
		}
	})
	var all trial
	for i := range worlds {
		all.add(&worlds[i])
	}
	t.Logf("%d connections: %v", all.probes, all.words)
	if !t.Failed() {
		all.checkChoices(t)
	}
}

// trial is one world and what has happened in it.
type trial struct {
	*caseWorld
	probes  int
	mu      sync.Mutex
	words   map[string]int
	choices map[choice]int
}

// choice is a backend that was chosen, by its position among so many.
type choice struct{ of, index int }

func (tr *trial) add(o *trial) {
	if tr.words == nil {
		tr.words, tr.choices = map[string]int{}, map[choice]int{}
	}
	tr.probes += o.probes
	for w, n := range o.words {
		tr.words[w] += n
	}
	for c, n := range o.choices {
		tr.choices[c] += n
	}
}

// run tries so many rulesets.
func (tr *trial) run(t *testing.T, d dice, rulesets int) {
	t.Helper()
	tr.words, tr.choices = map[string]int{}, map[choice]int{}
	tr.caseWorld = newCaseWorld(t, nftdp.Config{})
	for _, p := range []place{"L1", "L2", "R1", "R2", "N"} {
		for _, port := range tr.served(p) {
			serveAs(t, fmt.Sprintf("%s:%d", p, port), tr.namespace(p), port, "tcp", "udp")
		}
	}
	for range rulesets {
		before, config, services := d.config(), d.config(), d.services()
		if d.IntN(2) == 0 {
			before = config
		}
		probes := make([]probe, probesPerRuleset)
		for i := range probes {
			probes[i] = d.probe(services)
			probes[i].src = netip.AddrPortFrom(probes[i].src.Addr(), firstProbePort+uint16(tr.probes%probePorts))
			tr.probes++
		}
		if tr.compare(t, before, config, services, probes); t.Failed() {
			return
		}
	}
}

// served are the ports on which a place serves.
func (*trial) served(p place) []uint16 {
	switch p {
	case "L1", "L2", "R1", "R2":
		return probedPorts
	case "N":
		return probedPorts[:nodePorts]
	}
	return nil
}

// compare programs services, first with the configuration of before, sends the probes,
// and removes the services again.
func (tr *trial) compare(t *testing.T, before, config nftdp.Config, services []nftdp.Service, probes []probe) {
	t.Helper()
	d := openDataplane(t, tr.Node, before)
	defer d.Close()
	if _, err := d.Apply(t.Context(), services); err != nil {
		t.Fatalf("apply: %v\n%s", err, asJSON(services))
	}
	if _, err := d.SetConfig(t.Context(), config); err != nil {
		t.Fatalf("set configuration: %v\n%s\n%s", err, asJSON(before), asJSON(config))
	}
	conn := dialKernel(t, tr.Node)
	defer conn.Close()
	r := &round{
		trial: tr, d: d, spec: spec{config, services}, node: nodeInMemory(t, config, services),
		eval: ruleset.NewEvaluator(readRules(t, conn), func(a netip.Addr) bool {
			return slices.ContainsFunc(nstest.Families(), func(n nstest.Addrs) bool { return onNode(n, a) })
		}),
	}
	r.send(t, probes)
	if t.Failed() {
		t.Logf("the services:\n%s\n%s", asJSON(config), asJSON(services))
	}
	if err := d.Remove(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func asJSON(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		return err.Error()
	}
	return string(b)
}

// round is a trial of one ruleset.
type round struct {
	*trial
	d    *nftdp.Dataplane
	spec spec
	eval *ruleset.Evaluator
	node *nftdptest.Node
}

// send makes all connections at the same time, except those that may depend on each
// other: of one client to one frontend, and to all services that remember it.
func (r *round) send(t *testing.T, probes []probe) {
	t.Helper()
	type client struct {
		src      netip.Addr
		dst      netip.AddrPort
		protocol string
	}
	clients := map[client][]probe{}
	for _, p := range probes {
		c := client{src: p.src.Addr()}
		if s, _ := r.spec.frontend(&p); s == nil || s.Affinity == 0 {
			c.dst, c.protocol = p.dst, p.protocol.name
		}
		clients[c] = append(clients[c], p)
	}
	var done sync.WaitGroup
	for _, list := range clients {
		done.Go(func() {
			for _, p := range list {
				r.probe(t, &p)
			}
		})
	}
	done.Wait()
}

// probe makes one connection and compares.
func (r *round) probe(t *testing.T, p *probe) {
	t.Helper()
	learned := r.learned(t, p)
	want := r.spec.outcomes(p, r.known(p, learned))
	paths, err := r.eval.Eval(p.packet(), learned)
	if err != nil {
		t.Error(err)
		return
	}
	if !r.agree(p, want, paths) {
		t.Errorf("%s\n%s", p, r.report(p, want, paths))
		return
	}
	if got := r.imagined(p); !slices.EqualFunc(got, paths, func(o ruleset.Outcome, path ruleset.Path) bool { return o == p.onFirst(path.Outcome) }) {
		t.Errorf("%s\nin memory: %v\n%s", p, got, r.report(p, want, paths))
		return
	}
	if !r.explains(t, p, want, paths) {
		return
	}
	saw := r.dial(p, probeTimeout)
	fitting := r.fitting(p, paths, saw)
	if saw.word == "silence" && len(fitting) == 0 {
		learned, saw, paths = r.retry(t, p)
		fitting = r.fitting(p, paths, saw)
	}
	if len(fitting) == 0 {
		t.Errorf("%s\nhappened: %s\n%s\nconntrack: %s", p, saw, r.report(p, want, paths), r.flows(t, p))
		return
	}
	path, now := r.taken(t, p, learned, fitting)
	if path == nil {
		t.Errorf("%s\nhappened: %s\nremembered: %v, before: %v\n%s", p, saw, now, learned, r.report(p, want, paths))
		return
	}
	r.note(p, want, saw)
	r.repeat(p, path.Outcome)
}

func (p *probe) packet() ruleset.Packet {
	proto := uint8(unix.IPPROTO_TCP)
	if p.protocol.proto == nftdp.ProtocolUDP {
		proto = unix.IPPROTO_UDP
	}
	return ruleset.Packet{Proto: proto, Src: p.src, Dst: p.dst, Sent: p.sent(), In: p.input()}
}

func (p *probe) String() string {
	return fmt.Sprintf("%s from %s, %v to %v", p.protocol.name, p.from, p.src, p.dst)
}

// agree reports whether the rules do what is allowed: all of it, or one outcome
// if a hash decides.
func (r *round) agree(p *probe, want []ruleset.Outcome, paths []ruleset.Path) bool {
	for _, path := range paths {
		if !slices.Contains(want, path.Outcome) {
			return false
		}
	}
	if s, _ := r.spec.frontend(p); s != nil && s.Scheduler != nftdp.SchedulerRandom && s.Scheduler != nftdp.SchedulerRoundRobin {
		return len(paths) == 1
	}
	return len(paths) == len(want)
}

func (*round) report(p *probe, want []ruleset.Outcome, paths []ruleset.Path) string {
	var b strings.Builder
	packet := p.packet()
	fmt.Fprintf(&b, "services: %v", want)
	for _, path := range paths {
		fmt.Fprintf(&b, "\nrules: %v", path.Outcome)
		for _, s := range path.Trace {
			fmt.Fprintf(&b, "\n\t%s: %s", s.Chain, s.Rule.Text(packet.Family()))
		}
	}
	return b.String()
}

// flows are conntrack's entries of the connection.
func (r *round) flows(t *testing.T, p *probe) string {
	t.Helper()
	packet := p.packet()
	flows, err := listFlows(t.Context(), r.Node, conntrack.Filter{Family: packet.Family(), Proto: packet.Proto})
	if err != nil {
		return err.Error()
	}
	var words []string
	for _, f := range flows {
		if f.Src == p.src {
			words = append(words, fmt.Sprintf("%v to %v, replies %v to %v", f.Src, f.Dst, f.ReplySrc, f.ReplyDst))
		}
	}
	return cmp.Or(strings.Join(words, "; "), "none")
}

// expectation is what the client and the server should see.
type expectation struct {
	word   string // as outcome returns it
	source netip.Addr
	node   bool // the source is any address of the node
	addrs  nstest.Addrs
}

// observation is the outcome of a connection.
type observation struct {
	word   string
	source netip.Addr // as the server saw it
}

func (o observation) String() string {
	if o.source.IsValid() {
		return fmt.Sprintf("%s saw %v", o.word, o.source)
	}
	return o.word
}

// answered reports whether a server did.
func (o observation) answered() bool { return o.source.IsValid() }

func (e expectation) is(saw observation) bool {
	return e.word == saw.word && (e.source == saw.source || e.node && e.addrs.IsNode(saw.source))
}

// expect says what the client and the server see of an outcome in this world.
func (r *round) expect(p *probe, o ruleset.Outcome) expectation {
	e := expectation{addrs: p.addrs}
	at := whose(p.addrs, o.Dst.Addr())
	switch {
	case o.Fate != ruleset.Passed && p.sent() && p.protocol.proto == nftdp.ProtocolUDP:
		e.word = "not permitted" // the error of a process whose datagram is dropped
	case o.Fate == ruleset.Reset, o.Fate == ruleset.Unreachable:
		e.word = "refused"
	case o.Fate == ruleset.Dropped, at == "":
		e.word = "silence"
	case o.Dst != p.dst && p.from[0] == 'R' && at[0] == 'R' && !o.Masquerade && !o.SNAT.IsValid():
		e.word = "silence" // replies do not pass through the node
	case p.src.Addr().IsLoopback() && o.SNAT.IsValid() && at != "N":
		e.word = "silence" // replies are not delivered, as the address is not the node's
	case o.Dst.Addr().IsLoopback() && o.Dst.Addr() != loopback(p.addrs) && p.protocol.proto != nftdp.ProtocolTCP:
		e.word = "refused" // servers have sockets on the addresses of interfaces
	case !slices.Contains(r.served(at), o.Dst.Port()):
		e.word = "refused"
	default:
		e.word = fmt.Sprintf("%s:%d", at, o.Dst.Port())
		if e.source, e.node = p.src.Addr(), o.Masquerade; o.Masquerade {
			e.source = netip.Addr{}
		} else if o.SNAT.IsValid() {
			e.source = o.SNAT
		}
	}
	return e
}

// whose returns the place that has an address, or "".
func whose(a nstest.Addrs, addr netip.Addr) place {
	for _, p := range []place{"C", "C2", "L1", "L2", "R1", "R2"} {
		if p.addr(a) == addr {
			return p
		}
	}
	if onNode(a, addr) || addr.IsUnspecified() {
		return "N"
	}
	return ""
}

// probeTimeout is how long a client waits for an answer. If one is expected and
// does not come in time, the machine may be busy, and the connection is tried
// once more with a long timeout.
const probeTimeout = 200 * time.Millisecond

// fitting are the paths that lead to what was seen.
func (r *round) fitting(p *probe, paths []ruleset.Path, saw observation) (out []ruleset.Path) {
	for _, path := range paths {
		if r.expect(p, path.Outcome).is(saw) {
			out = append(out, path)
		}
	}
	return out
}

// retry makes the connection from another port, on which a hash may depend.
func (r *round) retry(t *testing.T, p *probe) ([]ruleset.Learned, observation, []ruleset.Path) {
	t.Helper()
	p.src = netip.AddrPortFrom(p.src.Addr(), p.src.Port()+probePorts)
	learned := r.learned(t, p) // also from the first attempt
	paths, err := r.eval.Eval(p.packet(), learned)
	if err != nil {
		t.Error(err)
	}
	return learned, r.dial(p, askTimeout), paths
}

func (r *round) dial(p *probe, timeout time.Duration) observation {
	answer, err := nstest.DialFrom(r.namespace(p.from), p.protocol.name, p.src, p.dst, timeout)
	return observation{outcome(answer, err), answer.Client.Addr()}
}

// note counts what happened, and which backend was chosen.
func (r *round) note(p *probe, want []ruleset.Outcome, saw observation) {
	r.mu.Lock()
	defer r.mu.Unlock()
	word := saw.word
	if saw.answered() {
		word = "answer"
	}
	r.words[word]++
	if s, _ := r.spec.frontend(p); s == nil || len(want) < 2 || s.Scheduler != nftdp.SchedulerRandom {
		return
	}
	chosen := -1
	slices.SortFunc(want, func(x, y ruleset.Outcome) int { return x.Dst.Compare(y.Dst) })
	for i, o := range want {
		e := r.expect(p, o)
		if !e.source.IsValid() && !e.node {
			return // no answer would show that this one was chosen
		}
		if e.is(saw) {
			chosen = i
		}
	}
	r.choices[choice{len(want), chosen}]++
}

// checkChoices fails if a position was never chosen among so many choices that it
// should have been. Weights are at most 3, so each of n backends has a share of
// at least 1/(3n-2). With 21(3n-2) choices the probability that one is never
// chosen is about 1e-9.
func (tr *trial) checkChoices(t *testing.T) {
	t.Helper()
	for of := 2; of <= 9; of++ {
		total, missing := 0, 0
		for i := range of {
			if n := tr.choices[choice{of, i}]; n > 0 {
				total += n
			} else {
				missing++
			}
		}
		if total > 0 {
			t.Logf("choices of %d: %d", of, total)
		}
		if enough := 21 * (3*of - 2); total >= enough && missing > 0 {
			t.Errorf("%d of %d possible backends were never chosen in %d connections", missing, of, total)
		}
	}
}
