package nftdp

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/nftdp/go-nftdp/internal/compile"
	"github.com/nftdp/go-nftdp/internal/ruleset"
)

// Probe is the first packet of a connection that Explain is asked about.
type Probe struct {
	// Protocol is that of the packet; 0 is TCP.
	Protocol Protocol `json:"protocol,omitzero"`
	// Source and Destination are of one family. A source port of 0 is any: where a
	// hash of the port chooses the backend, it counts as 0.
	Source      netip.AddrPort `json:"source"`
	Destination netip.AddrPort `json:"destination"`
	// Interface is the device on which the packet arrives. If it is empty, a packet
	// whose source is an address of the node is sent by a process on the node, and
	// any other one arrives where the node's route to its source leads.
	Interface string `json:"interface,omitempty"`
}

// ParseProbe reads "SOURCE[:PORT] DESTINATION[:PORT][/PROTOCOL]", as in
// "203.0.113.7 10.96.0.10:80/tcp" and "2001:db8::7 [fd00::a]:53/udp". Without a
// protocol it is TCP, without a destination port 80. Errors name what is wrong.
func ParseProbe(text string) (Probe, error) {
	words := strings.Fields(text)
	if len(words) != 2 {
		return Probe{}, fmt.Errorf("probe %q: want SOURCE DESTINATION[:PORT][/PROTOCOL]", text)
	}
	var p Probe
	to, proto, named := strings.Cut(words[1], "/")
	if named {
		if err := p.Protocol.UnmarshalText([]byte(proto)); err != nil {
			return Probe{}, fmt.Errorf("probe %q: %w", text, err)
		}
	}
	var err error
	if p.Source, err = parseEnd(words[0], 0); err == nil {
		p.Destination, err = parseEnd(to, defaultProbePort)
	}
	if err == nil {
		err = p.check()
	}
	if err != nil {
		return Probe{}, fmt.Errorf("probe %q: %w", text, err)
	}
	return p, nil
}

const defaultProbePort = 80

func parseEnd(s string, port uint16) (netip.AddrPort, error) {
	if a, err := netip.ParseAddr(strings.Trim(s, "[]")); err == nil {
		return netip.AddrPortFrom(a.Unmap(), port), nil
	}
	a, err := netip.ParseAddrPort(s)
	if err != nil {
		return a, fmt.Errorf("%q is no address with or without a port", s)
	}
	return unmapped(a), nil
}

// check returns what is wrong with the probe, as a *FieldError.
func (p *Probe) check() error {
	wrong := func(field, reason string) error { return &FieldError{Field: field, Reason: reason} }
	src, dst := p.Source.Addr(), p.Destination.Addr()
	switch {
	case !p.Protocol.word().known():
		return wrong("protocol", p.Protocol.word().flaw())
	case !src.IsValid():
		return wrong("source", "is missing")
	case !dst.IsValid():
		return wrong("destination", "is missing")
	case p.Destination.Port() == 0:
		return wrong("destination", "has no port")
	case src.Unmap().Is4() != dst.Unmap().Is4():
		return wrong("source", "is of another family than destination")
	case src.Zone() != "" || dst.Zone() != "":
		return wrong("destination", "addresses cannot have a zone")
	case len(p.Interface) > maxDeviceName || strings.ContainsAny(p.Interface, "/ \x00"):
		return wrong("interface", fmt.Sprintf("%q is no name of a network device", p.Interface))
	}
	return nil
}

// String is the probe as ParseProbe reads it.
func (p Probe) String() string {
	src := p.Source.Addr().String()
	if p.Source.Port() != 0 {
		src = p.Source.String()
	}
	return fmt.Sprintf("%s %v/%v", src, p.Destination, p.Protocol)
}

// lower returns the packet for the evaluator.
func (p *Probe) lower(local func(netip.Addr) bool) ruleset.Packet {
	src := unmapped(p.Source)
	return ruleset.Packet{
		Proto: p.Protocol.protoNumber(), Src: src, Dst: unmapped(p.Destination),
		Sent: p.Interface == "" && local(src.Addr()), Loopback: p.Interface == "lo", In: p.Interface,
	}
}

// Explanation says what happens to the first packet of a connection, and why. The
// words of Stages, Hint, Reply and Advice are for people; the rest is for programs.
type Explanation struct {
	Probe Probe `json:"probe"`
	// Verdict is what happens to the packet on this node, as far as it is known:
	// VerdictSent, VerdictDelivered, VerdictDropped, VerdictRejected or VerdictLost.
	// Code says why. If not all candidates fare alike, both are those of the first
	// one in Backends that gets no packets.
	Verdict TraceVerdict `json:"verdict"`
	Code    Code         `json:"code"`
	// Service is the service whose frontend takes the packet, and Frontend that
	// frontend; both are empty if there is none.
	Service  string `json:"service,omitempty"`
	Frontend string `json:"frontend,omitempty"`
	// Backends are the candidates, of which one gets the connection.
	Backends []Candidate `json:"backends,omitempty"`
	// Stages are what was looked up on the way, in order.
	Stages []ExplainedStage `json:"stages"`
	// Clients are the sources for which our rules have the same answer, if they arrive alike: the same
	// service, the same candidates, and the source rewritten for the same ones.
	Clients []netip.Prefix `json:"clients"`
	// Class says the same in words: "every client outside 10.0.0.0/8".
	Class string `json:"class"`
	// Reply is the way back of the reply.
	Reply string `json:"reply,omitempty"`
	// Hint is the nearest miss of a packet that no frontend takes: what differs
	// from a frontend that exists.
	Hint string `json:"hint,omitempty"`
	// By is the rule or policy of others that Code refers to.
	By string `json:"by,omitempty"`
	// Advice is what to do next, unless the packet is delivered.
	Advice string `json:"advice,omitempty"`
}

// Candidate is a backend that can get the connection.
type Candidate struct {
	// Addr is the backend. A port of the node itself (Backend.NodePort) has the
	// unspecified address.
	Addr netip.AddrPort `json:"addr"`
	// Share is the probability with which the backend is chosen, from 0 to 1: for a
	// hash that of a random client. Chosen says that a hash leads this client there,
	// or that the node remembers that from before.
	Share  float64 `json:"share"`
	Chosen bool    `json:"chosen,omitempty"`
	// Masqueraded says that the backend sees an address of this node, and SNAT
	// that it sees this one; otherwise it sees the client's. Why is the reason.
	Masqueraded bool       `json:"masqueraded,omitempty"`
	SNAT        netip.Addr `json:"snat,omitzero"`
	Why         string     `json:"why,omitempty"`
	// Code is DELIVERED, or what keeps packets from this backend. Out is the device
	// by which they leave; empty: the backend is on this node, or it is not known.
	Code Code   `json:"code"`
	Out  string `json:"out,omitempty"`

	by      string
	advice  string
	verdict TraceVerdict
}

// ExplainedStage is one stage of the way.
type ExplainedStage struct {
	Name string `json:"name"` // "frontend", "client", "policy", "affinity", "backend", "source", "route", "filter"
	Text string `json:"text"`
}

// Explain says what the rules make of a packet on a node with these addresses, besides
// loopback ones. It does not look at the kernel: routes, neighbours, other tables and
// kernel parameters are left out, and nobody has affinity yet. A wrong probe is a
// *FieldError. Rules that others have changed so that they cannot be understood are
// an error, too.
func (r *Ruleset) Explain(p Probe, node ...netip.Addr) (*Explanation, error) {
	prefixes := []netip.Prefix{
		netip.PrefixFrom(netip.AddrFrom4([4]byte{127}), 8), netip.PrefixFrom(netip.IPv6Loopback(), 128),
	}
	for _, a := range node {
		a = a.Unmap()
		prefixes = append(prefixes, netip.PrefixFrom(a, a.BitLen()))
	}
	if err := p.check(); err != nil {
		return nil, err
	}
	x := explainer{rules: r.rules, local: prefixes}
	x.begin(p)
	return x.explain()
}

// Explain says what happens to a packet, from what the kernel holds now: our tables,
// the clients that they remember, the node's addresses, kernel parameters, routes and
// neighbours, and the base chains of other tables, which are evaluated as far as they
// are understood. It changes nothing, but it makes the kernel ask for the link-layer
// address of a neighbour that it does not know, as a packet would; if one does not
// answer, Explain takes 3.5 seconds. A flow table, eBPF programs and iptables-legacy
// are not seen. What happens after the node is not known.
//
// A wrong probe is a *FieldError; tables of an older version are ErrOutdated. In
// package nftdptest only our rules, clients and the node's addresses are looked at.
func (d *Dataplane) Explain(ctx context.Context, p Probe) (*Explanation, error) {
	if err := p.check(); err != nil {
		return nil, err
	}
	view, err := d.engine.Look(ctx, ruleset.FamilyOf(p.Destination.Addr()))
	if err != nil {
		return nil, err
	}
	x := explainer{rules: view.Rules, local: view.Local, learned: view.Learned}
	x.begin(p)
	if view.Around == nil {
		return x.explain()
	}
	n := network{explainer: &x, ctx: ctx, dataplane: d, view: view}
	if err := n.arrive(); err != nil {
		return nil, err
	}
	out, err := x.explain()
	if err == nil {
		err = n.run()
	}
	if err != nil {
		return nil, err
	}
	return out, nil
}

// explainer explains what our rules make of packets.
type explainer struct {
	rules   *ruleset.Ruleset
	local   []netip.Prefix
	learned []ruleset.Learned

	probe    Probe
	packet   ruleset.Packet
	ways     *ruleset.Ways
	held     []compile.Held
	service  *compile.Held
	frontend *compile.HeldFrontend
	accounts []compile.Account // of ways
	out      *Explanation
}

func (x *explainer) isLocal(a netip.Addr) bool {
	return slices.ContainsFunc(x.local, func(p netip.Prefix) bool { return p.Contains(a) })
}

// onNode reports whether a candidate is on this node: a redirect leads to an address
// of it that the rules do not know.
func (x *explainer) onNode(a netip.Addr) bool { return a.IsUnspecified() || x.isLocal(a) }

// table is ours of the packet's family; one that does not exist is empty.
func (x *explainer) table() *ruleset.Table {
	if t := x.rules.Table(x.packet.Family()); t != nil {
		return t
	}
	return &ruleset.Table{Family: x.packet.Family()}
}

// begin sets the packet, of which more may become known.
func (x *explainer) begin(p Probe) {
	x.probe, x.packet = p, p.lower(x.isLocal)
	x.out = &Explanation{Probe: p, Stages: []ExplainedStage{}, Clients: []netip.Prefix{}}
}

func (x *explainer) explain() (out *Explanation, err error) {
	x.ways, err = ruleset.NewEvaluator(x.rules, x.isLocal).Ways(x.packet, x.learned, x.local)
	if err != nil {
		return nil, err
	}
	x.held = compile.Holds(x.rules)
	for i := range x.ways.Ways {
		x.candidate(&x.ways.Ways[i], i)
	}
	x.find()
	x.stages()
	x.decide()
	for _, r := range x.ways.Sources {
		x.out.Clients = append(x.out.Clients, r.Prefixes()...)
	}
	x.out.Class = class(x.ways)
	return x.out, nil
}

// candidate adds a way that leads to a backend or past our rules.
func (x *explainer) candidate(w *ruleset.Way, i int) {
	a := compile.AccountOf(x.packet.Family(), &w.Path)
	x.accounts = append(x.accounts, a)
	c := Candidate{Addr: w.Dst, Share: w.Share, Masqueraded: w.Masquerade, SNAT: w.SNAT, Code: CodeDelivered}
	c.Chosen = x.ways.Hashed && i == x.ways.Chosen || a.Affinity == compile.Remembered
	c.Why = sourceReason(a.Source)
	if w.Fate != ruleset.Passed { // others pass: an address of the node does where a loopback address does not
		c.Addr, c.Code, c.verdict, c.advice = netip.AddrPort{}, CodeNotRouted, VerdictLost, notRoutedAdvice
	}
	x.out.Backends = append(x.out.Backends, c)
}

// first is a way that leads to a backend, or else any way: up to the choice of a
// backend all are alike.
func (x *explainer) first() int {
	return max(0, slices.IndexFunc(x.ways.Ways, func(w ruleset.Way) bool { return w.Fate == ruleset.Passed }))
}

func (x *explainer) account() *compile.Account { return &x.accounts[x.first()] }

func (x *explainer) fate() ruleset.Fate { return x.ways.Ways[x.first()].Fate }

// untouched reports whether the packet goes where it would go without us.
func (x *explainer) untouched() bool {
	return x.fate() == ruleset.Passed && x.ways.Ways[x.first()].Dst == x.packet.Dst
}

// find finds the frontend.
func (x *explainer) find() {
	a := x.account()
	if a.Element == nil {
		return
	}
	x.out.Service = a.Element.Comment
	key, ok := compile.FrontendOf(a.Set, x.packet.Family(), a.Element.Key)
	if !ok {
		return
	}
	for i := range x.held {
		h := &x.held[i]
		for j := range h.Slots {
			f := &h.Slots[j]
			if h.Name == x.out.Service && h.Proto == key.Proto && f.Addr == key.Addr && f.Port == key.Port && (f.End > 0) == key.Ranged {
				x.service, x.frontend = h, f
				x.out.Frontend = frontendText(&f.Frontend)
			}
		}
	}
}

// frontendText is a frontend in words: "10.96.0.10:80", "node-wide port 80".
func frontendText(f *compile.Frontend) string {
	port := strconv.Itoa(int(f.Port))
	if f.End > 0 {
		port += "-" + strconv.Itoa(int(f.End))
	}
	switch {
	case f.Addr.IsUnspecified():
		return "node-wide port " + port
	case f.Addr.Is6():
		return "[" + f.Addr.String() + "]:" + port
	}
	return f.Addr.String() + ":" + port
}

// decide sets the verdict and the code as our rules alone decide them. Without a
// service, the candidate is the packet's own destination.
func (x *explainer) decide() {
	a := x.account()
	x.out.Verdict = x.passed(x.ways.Ways[x.first()].Dst)
	switch {
	case x.fate() != ruleset.Passed && a.Routed:
		x.out.Verdict, x.out.Code = VerdictLost, CodeNotRouted
		x.out.Advice = notRoutedAdvice
	case x.fate() != ruleset.Passed:
		x.out.Verdict = VerdictRejected
		if x.fate() == ruleset.Dropped {
			x.out.Verdict = VerdictDropped
		}
		x.refused()
	case x.out.Service == "" && !x.untouched():
		x.stage("backend", "elements that are left of a frontend translate the packet to %v", x.ways.Ways[x.first()].Dst)
		x.out.Code, x.out.Advice = CodeDrift, "others have changed our tables: program the services again, and let Keep run"
	case x.out.Service == "":
		x.out.Code = CodeNoService
		x.nearest()
	case x.frontend != nil && x.frontend.NoBackend && x.untouched():
		x.out.Code = CodeNoBackend
		x.out.Advice = noBackendAdvice
	default:
		x.out.Code = CodeDelivered
	}
	if x.fate() != ruleset.Passed || x.out.Service == "" || x.out.Code != CodeDelivered {
		x.out.Backends = nil
		return
	}
	x.out.Reply = x.reply()
	x.out.conclude()
}

const notRoutedAdvice = "use an address of the node instead of a loopback address, or Config.Localhost for processes on this node"

const noBackendAdvice = "add a backend of this family, or make one active"

// passed is the verdict of a packet that passes to a destination.
func (x *explainer) passed(to netip.AddrPort) TraceVerdict {
	if x.onNode(to.Addr()) {
		return VerdictDelivered
	}
	return VerdictSent
}

// refused sets the code of a packet that our rules refuse.
func (x *explainer) refused() {
	a := x.account()
	switch {
	case a.Refusal == compile.ClientDenied:
		x.out.Code, x.out.Advice = CodeClientDenied, "add the client to Frontend.Allow, or remove it from Frontend.Deny"
	case a.Refusal == compile.LimitReached:
		x.out.Code = CodeLimitReached
	case a.Element == nil:
		x.out.Code = CodeNoService
		x.nearest()
	case a.Split == compile.ExternalClient:
		x.out.Code = CodeLocalOnlyNone
		x.out.Advice = "send this client to a node that has a backend, add a backend on this node (Backend.Local), or set the policy to any-backend"
	default:
		x.out.Code, x.out.Advice = CodeNoBackend, noBackendAdvice
	}
}
