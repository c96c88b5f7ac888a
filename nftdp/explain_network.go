package nftdp

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/nftdp/go-nftdp/internal/around"
	"github.com/nftdp/go-nftdp/internal/compile"
	"github.com/nftdp/go-nftdp/internal/engine"
)

// network adds to an explanation what is around our rules.
type network struct {
	*explainer
	ctx       context.Context // of this one call
	dataplane *Dataplane
	view      *engine.View

	in      around.Device  // zero: the packet is sent by a process, or it is not known where it arrives
	arrival string         // how that is said
	routes  []around.Route // of the candidates

	stopped bool // the packet does not come so far as our rules are asked
}

// run goes the packet's way: what is ahead of our rules, and for each candidate what is
// behind them.
func (n *network) run() error {
	ours := n.out.Stages
	n.out.Stages = []ExplainedStage{{"arrival", n.arrival}}
	for _, step := range []func() error{n.conntrack, n.ahead, n.toFrontend} {
		if err := step(); err != nil || n.stopped {
			return err
		}
	}
	n.out.Stages = append(n.out.Stages, ours...)
	n.routes = make([]around.Route, len(n.out.Backends))
	for i := range n.out.Backends {
		if err := n.route(i); err != nil {
			return err
		}
		n.filters(i)
	}
	n.sources()
	if err := errors.Join(n.neighbours(), n.limits()); err != nil {
		return err
	}
	n.out.conclude()
	return nil
}

// stop ends the packet's way ahead of its backends.
func (n *network) stop(v TraceVerdict, code Code, by, advice string) {
	n.out.Verdict, n.out.Code, n.out.By, n.out.Advice = v, code, by, advice
	n.out.Backends, n.out.Reply, n.out.Hint, n.stopped = nil, "", "", true
}

// arrive finds the device on which the packet arrives, which rules of ours may ask for.
func (n *network) arrive() (err error) {
	name := n.probe.Interface
	switch {
	case n.packet.Sent:
		n.arrival = "sent by a process of this node"
	case name != "":
		if n.in, err = n.view.Around.Device(n.ctx, name); err != nil {
			return &FieldError{Field: "interface", Reason: fmt.Sprintf("%q is no device of this node", name)}
		}
		n.arrival = "on " + name
	default:
		r, refused, err := n.view.Around.Route(n.ctx, around.Query{Dst: n.packet.Src.Addr()})
		if err != nil {
			return err
		}
		if refused != around.Routed || r.Out.Name == "" {
			n.arrival = fmt.Sprintf("this node has no route to %v, so replies do not reach it", n.packet.Src.Addr())
			return nil
		}
		n.in, n.packet.In = r.Out, r.Out.Name
		n.arrival = fmt.Sprintf("on %s, where the route to %v leads", n.in.Name, n.packet.Src.Addr())
	}
	return nil
}

// conntrack finds out whether there is room for a connection.
func (n *network) conntrack() error {
	have, most := n.number("net.netfilter.nf_conntrack_count"), n.number("net.netfilter.nf_conntrack_max")
	if most > 0 && have >= most {
		n.stage("conntrack", "%d of %d connections are tracked: the kernel drops new ones", have, most)
		n.stop(VerdictDropped, CodeConntrackFull, "", "raise net.netfilter.nf_conntrack_max, or shorten the timeouts of conntrack")
	}
	return nil
}

// sysctl reads a kernel parameter. One that cannot be read is empty.
func (n *network) sysctl(name string) (value string) {
	_ = n.dataplane.engine.Sysctls(n.ctx, func(s engine.Sysctls) (err error) {
		value, err = s.Sysctl(n.ctx, name)
		return err
	})
	return value
}

func (n *network) number(name string) int {
	v, err := strconv.Atoi(n.sysctl(name))
	if err != nil {
		return 0
	}
	return v
}

// ahead evaluates the chains of others that a packet passes before ours.
func (n *network) ahead() error {
	hook := "prerouting"
	if n.packet.Sent {
		hook = "output"
	}
	p := n.foreign(n.packet.Dst, false)
	early := *p
	early.Early = true
	if fate := n.walk("ingress", &early, func(c *around.Chain) bool { return c.Sees(n.in) }); fate != nil {
		n.stop(verdictOf(fate), CodeIngressDroppedBy, fateText(fate), "let the packet pass there")
		return nil
	}
	fate := n.walk(hook, p, func(c *around.Chain) bool { return c.Priority < compile.PriorityDNAT })
	beside := n.walk(hook, p, func(c *around.Chain) bool { return c.Type == "nat" && c.Priority == compile.PriorityDNAT })
	if fate == nil && beside != nil && beside.Kind == around.Translated {
		n.note(hook, "that chain has the priority of ours: the one that was made last is the first to translate")
	}
	switch {
	case fate == nil:
	case fate.Kind == around.Translated && !fate.Doubtful:
		n.stop(n.out.Verdict, CodeForeignDNATFirst, fateText(fate),
			"connections are translated once: let that chain have a priority above -100, or leave the address out there")
	case fate.Kind == around.Dropped || fate.Kind == around.Rejected:
		n.stop(verdictOf(fate), droppedAt(hook), fateText(fate), "let the packet pass there")
	}
	return nil
}

// foreign is the packet as rules of others see it.
func (n *network) foreign(to netip.AddrPort, translated bool) *around.Packet {
	return &around.Packet{Proto: n.packet.Proto, Src: n.packet.Src, Dst: to, In: n.in, Translated: translated, Local: n.onNode(to.Addr())}
}

// walk sends a packet through the chains of others at a hook, in the order of their
// priorities, and returns what the first one that does not accept makes of it, or nil.
// Of the chains that may do so, a stage says it.
func (n *network) walk(hook string, p *around.Packet, which func(*around.Chain) bool) *around.Fate {
	type base struct {
		*around.Chain
		all map[string]*around.Chain
	}
	var bases []base
	for _, all := range n.view.Foreign {
		for _, c := range all {
			if c.Hook == hook && which(c) {
				bases = append(bases, base{c, all})
			}
		}
	}
	slices.SortFunc(bases, func(x, y base) int {
		return cmp.Or(cmp.Compare(x.Priority, y.Priority), cmp.Compare(x.Table, y.Table), cmp.Compare(x.Name, y.Name))
	})
	for _, b := range bases {
		fate := around.Walk(b.Chain, b.all, p)
		switch {
		case fate.Kind != around.Accepted:
			n.note(hook, "%s%s", fateText(&fate), doubtText(&fate))
			return &fate
		case fate.Doubtful:
			n.note(hook, "chain %s of table %s %s has rules that are not understood; it may act on the packet", b.Name, b.Family, b.Table)
		}
	}
	return nil
}

// note adds a stage, unless it was added for another candidate.
func (n *network) note(name, format string, args ...any) {
	s := ExplainedStage{name, fmt.Sprintf(format, args...)}
	if !slices.Contains(n.out.Stages, s) {
		n.out.Stages = append(n.out.Stages, s)
	}
}

func fateText(f *around.Fate) string {
	out := fmt.Sprintf("table %s %s, chain %s", f.Chain.Family, f.Chain.Table, f.Chain.Name)
	if f.Rule == nil {
		return out + ", policy drop"
	}
	out += fmt.Sprintf(", rule %d: %s", f.Rule.Handle, f.Rule.Text)
	if f.Rule.Comment != "" {
		out += fmt.Sprintf(" (%s)", f.Rule.Comment)
	}
	return out
}

func doubtText(f *around.Fate) string {
	if f.Doubtful {
		return ", unless a rule before it that is not understood decides otherwise"
	}
	return ""
}

func verdictOf(f *around.Fate) TraceVerdict {
	if f.Kind == around.Rejected {
		return VerdictRejected
	}
	return VerdictDropped
}

// toFrontend finds out whether a process of this node can send to the frontend at all.
func (n *network) toFrontend() error {
	if !n.packet.Sent {
		return nil
	}
	to := n.packet.Dst.Addr()
	_, refused, err := n.view.Around.Route(n.ctx, around.Query{Dst: to})
	if err == nil && refused != around.Routed {
		n.stage("route", "this node has no route to %v, so its processes cannot send there", to)
		n.stop(VerdictLost, CodeNotRouted, "", fmt.Sprintf("add a route to %v; any device will do, since the destination is rewritten before the packet leaves", to))
	}
	return err
}

// fail notes what keeps packets from a candidate. The first reason counts.
func (c *Candidate) fail(v TraceVerdict, code Code, by, advice string) {
	if c.Code == CodeDelivered {
		c.Code, c.verdict, c.by, c.advice = code, v, by, advice
	}
}

// route asks the kernel for the way to a candidate.
func (n *network) route(i int) error {
	c := &n.out.Backends[i]
	if c.Code != CodeDelivered {
		return nil
	}
	if c.Addr.Addr().IsUnspecified() {
		n.note("route", "port %d of this node, on an address of the device on which the packet arrives", c.Addr.Port())
		n.routes[i].Local = true
		return nil
	}
	q := around.Query{Dst: c.Addr.Addr(), In: n.in.Name}
	if src := n.packet.Src.Addr(); !n.packet.Sent && q.In != "" || n.packet.Sent && !src.IsLoopback() {
		q.Src = src
	}
	r, refused, err := n.view.Around.Route(n.ctx, q)
	if err != nil {
		return err
	}
	if off := n.forwardingOff(c.Addr.Addr(), n.in.Name); off != "" {
		n.note("route", "to %v: %s is 0: packets that arrive there are not forwarded", c.Addr.Addr(), off)
		c.fail(VerdictLost, CodeForwardingOff, "", fmt.Sprintf("set %s=1", off))
		return nil
	}
	if refused == around.Martian {
		if refused, err = n.martian(q); err != nil {
			return err
		}
	}
	switch refused {
	case around.ReversePath:
		n.note("route", "rp_filter on %s refuses packets from %v", q.In, q.Src)
		c.fail(VerdictLost, CodeRPFilter, "", fmt.Sprintf("route %v by %s, or set net.ipv4.conf.all.rp_filter and net.ipv4.conf.%s.rp_filter to 2 or 0", q.Src, q.In, q.In))
	case around.Martian:
		n.note("route", "the kernel takes no packet from %v on %s", q.Src, q.In)
		c.fail(VerdictLost, CodeNotRouted, "", "")
	case around.NoRoute:
		n.note("route", "no route to %v", c.Addr.Addr())
		c.fail(VerdictLost, CodeNoRouteToBackend, "", fmt.Sprintf("add a route to %v, correct the rule or the route that refuses it (%s), or make the backend down", c.Addr.Addr(), routeCommand(&q)))
	case around.Routed:
		n.routed(c, &r)
		n.routes[i] = r
		n.wayBack(c)
	}
	return nil
}

// wayBack finds out whether the backend's reply is forwarded, which arrives by the
// device that leads there. The reply to a process of this node is not.
func (n *network) wayBack(c *Candidate) {
	if n.packet.Sent || c.Out == "" {
		return
	}
	if off := n.forwardingOff(c.Addr.Addr(), c.Out); off != "" {
		n.note("reply", "of %v: %s is 0: packets that arrive there are not forwarded", c.Addr.Addr(), off)
		c.fail(VerdictLost, CodeForwardingOff, "", fmt.Sprintf("set %s=1", off))
	}
}

// martian says why the kernel refuses a source. In newer kernels its answer to
// RTM_GETROUTE does not distinguish rp_filter from other reasons.
func (n *network) martian(q around.Query) (around.Refusal, error) {
	_, sent, err := n.view.Around.Route(n.ctx, around.Query{Dst: q.Dst})
	if err != nil || sent != around.Routed { // a route of type blackhole has the same answer
		return around.NoRoute, err
	}
	if !q.Src.Is4() || max(n.number("net.ipv4.conf.all.rp_filter"), n.number("net.ipv4.conf."+strings.ReplaceAll(q.In, ".", "/")+".rp_filter")) == 0 {
		return around.Martian, nil
	}
	back, refused, err := n.view.Around.Route(n.ctx, around.Query{Dst: q.Src})
	if err == nil && refused == around.Routed && (back.Local || back.Out.Name == q.In) {
		return around.Martian, nil
	}
	return around.ReversePath, err
}

// routeCommand is the command that shows the kernel's answer.
func routeCommand(q *around.Query) string {
	out := fmt.Sprintf("ip route get %v", q.Dst)
	if q.Src.IsValid() {
		out += fmt.Sprintf(" from %v", q.Src)
	}
	if q.In != "" {
		out += " iif " + q.In
	}
	return out
}

func (n *network) routed(c *Candidate, r *around.Route) {
	switch {
	case r.Local:
		n.note("route", "%v is an address of this node", c.Addr.Addr())
	default:
		c.Out = r.Out.Name
		text := fmt.Sprintf("to %v by %s", c.Addr.Addr(), c.Out)
		if r.Via.IsValid() {
			text += fmt.Sprintf(" via %v", r.Via)
		}
		if c.Out == n.in.Name {
			text += ", the interface by which it has come"
		}
		n.note("route", "%s", text)
	}
}

// forwardingOff returns the parameter by which the kernel does not forward packets
// between a backend and clients outside that arrive on a device, or "". For IPv4 that
// is one of the device (ip_route_input_slow), for IPv6 one of the namespace
// (ip6_forward).
func (n *network) forwardingOff(backend netip.Addr, in string) string {
	if n.packet.Sent || n.isLocal(backend) {
		return ""
	}
	device := strings.ReplaceAll(in, ".", "/")
	name := "net.ipv6.conf.all.forwarding"
	switch {
	case backend.Is4() && device != "":
		name = "net.ipv4.conf." + device + ".forwarding"
	case backend.Is4():
		name = "net.ipv4.ip_forward"
	case device != "" && n.number("net.ipv6.conf."+device+".force_forwarding") != 0: // Linux 6.17 and later
		return ""
	}
	if n.sysctl(name) != "0" {
		return ""
	}
	if backend.Is4() && n.sysctl("net.ipv4.ip_forward") == "0" {
		return "net.ipv4.ip_forward"
	}
	return name
}

// filters evaluates the chains of others behind our rules.
func (n *network) filters(i int) {
	c := &n.out.Backends[i]
	if c.Code != CodeDelivered {
		return
	}
	all := func(ch *around.Chain) bool { return ch.Type != "nat" }
	behind := func(ch *around.Chain) bool { return ch.Type != "nat" && ch.Priority > compile.PriorityDNAT }
	hooks := []string{"prerouting", "forward", "postrouting", "egress"}
	switch local := n.routes[i].Local; {
	case n.packet.Sent && local:
		hooks = []string{"output", "postrouting", "input"}
	case n.packet.Sent:
		hooks = []string{"output", "postrouting", "egress"}
	case local:
		hooks = []string{"prerouting", "input"}
	}
	for _, hook := range hooks {
		which, p := all, n.foreign(c.Addr, true)
		if hook == "prerouting" || hook == "output" {
			which = behind
		}
		if hook == "egress" {
			which = func(ch *around.Chain) bool { return ch.Sees(n.routes[i].Out) }
		}
		if hook != "prerouting" && hook != "input" {
			p.Out = n.routes[i].Out
		}
		if fate := n.walk(hook, p, which); fate != nil {
			c.fail(verdictOf(fate), droppedAt(hook), fateText(fate), "let connections to services pass there: ct status dnat accept")
			return
		}
	}
}

// maxNeighbours bounds how many neighbours are asked for one explanation, so that the
// kernel's table of them has room for others.
const maxNeighbours = 32

// neighbours finds out whether the next hops answer.
func (n *network) neighbours() error {
	var hops []around.Hop
	of := map[around.Hop][]int{}
	for i := range n.out.Backends {
		c, r := &n.out.Backends[i], &n.routes[i]
		if c.Code != CodeDelivered || r.Local || r.Out.Index == 0 {
			continue
		}
		h := around.Hop{Out: r.Out, Addr: c.Addr.Addr()}
		if r.Via.IsValid() {
			h.Addr = r.Via
		}
		if of[h] == nil && len(hops) < maxNeighbours {
			hops = append(hops, h)
		}
		of[h] = append(of[h], i)
	}
	if len(hops) == 0 {
		return nil
	}
	found, err := n.view.Around.Neighbours(n.ctx, hops)
	if err != nil {
		return err
	}
	for i, h := range hops {
		if found[i] != around.Failed {
			continue
		}
		n.note("neighbour", "%v does not answer on %s", h.Addr, h.Out.Name)
		for _, j := range of[h] {
			n.out.Backends[j].fail(VerdictLost, CodeNeighbourFailed, "",
				fmt.Sprintf("start the machine with the address %v, correct the route, or make the backend down", h.Addr))
		}
	}
	return nil
}

// limits compares connections with the backends' limits.
func (n *network) limits() error {
	if n.service == nil || len(n.service.Limits) == 0 {
		return nil
	}
	flows, err := n.dataplane.Flows(n.ctx, n.service.Name)
	if err != nil {
		return err
	}
	have := map[netip.AddrPort]uint32{}
	for i := range flows {
		if !flows[i].Ended {
			have[flows[i].Backend]++
		}
	}
	for i := range n.out.Backends {
		c := &n.out.Backends[i]
		if most := n.service.Limits[c.Addr]; most > 0 && have[c.Addr] >= most {
			n.note("limit", "%v has %d of %d connections", c.Addr, have[c.Addr], most)
			c.fail(VerdictRejected, CodeLimitReached, "", "raise Backend.MaxConns, or add a backend")
		}
	}
	return nil
}

// conclude takes over the verdict of the first candidate that gets no packets.
func (x *Explanation) conclude() {
	for i := range x.Backends {
		if c := &x.Backends[i]; c.Code != CodeDelivered {
			x.Verdict, x.Code, x.By, x.Advice, x.Reply = c.verdict, c.Code, c.by, c.advice, ""
			return
		}
	}
}
