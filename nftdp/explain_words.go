package nftdp

import (
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/nftdp/go-nftdp/internal/compile"
	"github.com/nftdp/go-nftdp/internal/ruleset"
)

func (x *explainer) stage(name, format string, args ...any) {
	x.out.Stages = append(x.out.Stages, ExplainedStage{name, fmt.Sprintf(format, args...)})
}

// stages puts the way through our rules in words.
func (x *explainer) stages() {
	a := x.account()
	dst := fmt.Sprintf("%v %v", x.packet.Dst, x.probe.Protocol)
	switch {
	case a.Element != nil:
		x.stage("frontend", "%s is taken by %s of service %s", dst, x.out.Frontend, x.out.Service)
	case x.fate() != ruleset.Passed && a.Routed:
		x.stage("frontend", "%s: the kernel does not route packets from outside with a loopback address", dst)
	case a.CIDR:
		x.stage("frontend", "%s is in Config.ServiceCIDRs, and no frontend takes it", dst)
	default:
		x.stage("frontend", "no frontend takes %s", dst)
	}
	x.clientStages(a)
	if a.Element == nil {
		return
	}
	switch a.Affinity {
	case compile.Remembered:
		x.stage("affinity", "the node remembers the client's backend")
	case compile.NewClient:
		x.stage("affinity", "the client has no backend yet, and keeps the one that it gets until it has been away for %d seconds", x.service.Affinity)
	case compile.NoAffinity:
	}
	switch {
	case x.frontend != nil && x.frontend.NoBackend && x.untouched():
		x.stage("backend", "no usable backend: the connection is left to the host")
	case x.fate() == ruleset.Passed:
		x.stage("backend", "%s", x.choice())
		x.sourceStage()
	case a.Refusal == compile.NoBackend:
		x.stage("backend", "no usable backend of this family for this client")
	}
}

func (x *explainer) clientStages(a *compile.Account) {
	client := x.packet.Src.Addr()
	switch a.Clients {
	case compile.Denied:
		x.stage("client", "%v is in Frontend.Deny", client)
	case compile.NotAllowed:
		x.stage("client", "%v is not in Frontend.Allow", client)
	case compile.Permitted:
		x.stage("client", "%v may connect", client)
	case compile.NoLists:
	}
	switch a.Split {
	case compile.ExternalClient:
		x.stage("policy", "%v is an external client: only backends on this node", client)
	case compile.InternalClient:
		x.stage("policy", "%v is an internal client: all backends", client)
	case compile.ProcessHere:
		x.stage("policy", "%v is an address of this node: all backends", client)
	case compile.OnePool:
	}
}

// choice says how the backend is chosen, and among which.
func (x *explainer) choice() string {
	scheduler := ""
	if x.service != nil {
		scheduler = Scheduler(x.service.Scheduler).String()
	}
	if n := len(x.out.Backends); n > 1 {
		return fmt.Sprintf("one of %d by %s", n, cmp.Or(scheduler, "chance"))
	}
	return fmt.Sprintf("%v, the only candidate", x.out.Backends[0].Addr)
}

// sourceStage says which source the backends see, once if it is alike for all.
func (x *explainer) sourceStage() {
	for i := range x.out.Backends {
		c := &x.out.Backends[i]
		text := c.source()
		alike := !slices.ContainsFunc(x.out.Backends, func(o Candidate) bool { return o.source() != text })
		if alike {
			x.stage("source", "%s", text)
			return
		}
		x.stage("source", "to %v: %s", c.Addr, text)
	}
}

func (c *Candidate) source() string {
	out := "the backend sees the client's address"
	switch {
	case c.Masqueraded:
		out = "masqueraded: the backend sees an address of this node"
	case c.SNAT.IsValid():
		out = fmt.Sprintf("the backend sees %v", c.SNAT)
	}
	if c.Why != "" {
		out += ", since " + c.Why
	}
	return out
}

func sourceReason(a compile.SourceAnswer) string {
	return map[compile.SourceAnswer]string{
		compile.NotAsked:          "the connection ends on this node or is not translated",
		compile.SelfConnection:    "the client is the backend itself",
		compile.LoopbackClient:    "a loopback address must not leave the node",
		compile.NeverRewritten:    "the frontend keeps the sources of clients",
		compile.InternalKept:      "the client is internal (Config.Internal or InternalInterfaces)",
		compile.ExternalRewritten: "the client is not in Config.Internal",
		compile.AlwaysRewritten:   "the frontend rewrites all sources",
		compile.ProcessRewritten:  "the client is on this node",
		compile.ClientKept:        "of this frontend only the sources on this node are rewritten",
		compile.ListedRewritten:   "the client is in Frontend.MasqueradeClients",
		compile.UnlistedKept:      "the client is not in Frontend.MasqueradeClients",
	}[a]
}

// reply describes the way back.
func (x *explainer) reply() string {
	here, rewritten := 0, 0
	for i := range x.out.Backends {
		switch c := &x.out.Backends[i]; {
		case x.onNode(c.Addr.Addr()):
			here++
		case c.Masqueraded || c.SNAT.IsValid():
			rewritten++
		}
	}
	client, frontend := x.packet.Src.Addr(), x.packet.Dst
	switch n := len(x.out.Backends); {
	case here == n:
		return fmt.Sprintf("from this node; the client sees it coming from %v", frontend)
	case here+rewritten == n:
		return fmt.Sprintf("to this node, whose address the backend sees; conntrack sends it on to %v as coming from %v", client, frontend)
	}
	return fmt.Sprintf("to %v; it has to pass through this node, which makes it come from %v", client, frontend)
}

// miss is a frontend from which the packet's destination differs in one respect.
type miss struct {
	rank int // the nearest one first
	text string
}

// nearest sets the hint of a packet that no frontend takes, and the advice.
func (x *explainer) nearest() {
	var found []miss
	for i := range x.held {
		h := &x.held[i]
		for j := range h.Frontends {
			if m := x.miss(h, h.Frontends[j]); m.text != "" {
				found = append(found, m)
			}
		}
	}
	x.out.Advice = "compare address, port and protocol with the frontends that Inspect lists"
	if len(found) == 0 {
		return
	}
	slices.SortFunc(found, func(x, y miss) int { return cmp.Or(cmp.Compare(x.rank, y.rank), strings.Compare(x.text, y.text)) })
	if found[0].rank == limited {
		x.out.Advice = fmt.Sprintf("add %v to Config.NodeAddrs, or use another address of the node", x.packet.Dst.Addr())
	}
	var words []string
	for _, m := range found[:min(len(found), maxMisses)] {
		words = append(words, m.text)
	}
	x.out.Hint = strings.Join(words, "; ")
	if n := len(found) - maxMisses; n > 0 {
		x.out.Hint += fmt.Sprintf("; and %d more", n)
	}
}

// maxMisses bounds how many frontends a hint names.
const maxMisses = 3

// The respects in which a destination can differ, the least one first.
const (
	limited = iota
	otherProtocol
	otherPort
	notOfNode
	otherAddress
)

// miss says what keeps a frontend from taking the packet, if it is one thing.
func (x *explainer) miss(h *compile.Held, f *compile.Frontend) miss {
	dst := x.packet.Dst
	port := f.Port <= dst.Port() && dst.Port() <= max(f.Port, f.End)
	wide, proto := f.Addr.IsUnspecified(), h.Proto == x.packet.Proto
	name := fmt.Sprintf("%s/%v of service %s", frontendText(f), protocolOf(h.Proto), h.Name)
	switch {
	case f.Addr.Is4() != dst.Addr().Is4():
		return miss{}
	case wide && port && proto && x.isLocal(dst.Addr()):
		limits := compile.NodeAddrs(x.table())
		if dst.Addr().IsLoopback() || len(limits) == 0 {
			return miss{notOfNode, fmt.Sprintf("there is %s, but node-wide frontends do not take %v", name, dst.Addr())}
		}
		return miss{limited, fmt.Sprintf("there is %s, but node-wide frontends are limited to %s here", name, strings.Join(limits, ", "))}
	case wide && port && proto:
		return miss{notOfNode, fmt.Sprintf("there is %s, but %v is no address of this node", name, dst.Addr())}
	case f.Addr == dst.Addr() && port:
		return miss{otherProtocol, fmt.Sprintf("there is %s, of another protocol", name)}
	case f.Addr == dst.Addr() && proto:
		return miss{otherPort, fmt.Sprintf("%v has %s, another port", dst.Addr(), name)}
	case !wide && port && proto && x.isLocal(dst.Addr()):
		return miss{otherAddress, fmt.Sprintf("port %d exists as %s, another address", dst.Port(), name)}
	}
	return miss{}
}

// class describes the sources that are treated alike. It does not name loopback
// addresses, which do not occur as those of clients outside.
func class(w *ruleset.Ways) string {
	within := prefixesText(w.Within)
	out := "clients in " + listed(within)
	if len(within) == 1 && strings.HasSuffix(within[0], "/0") {
		out = "every client"
	}
	except := slices.DeleteFunc(prefixesText(w.Except), func(p string) bool { return p == "127.0.0.0/8" || p == "::1" })
	if len(except) > 0 {
		out += " outside " + listed(except)
	}
	return out
}

func prefixesText(ranges []ruleset.AddrRange) (out []string) {
	for _, r := range ranges {
		for _, p := range r.Prefixes() {
			if p.IsSingleIP() {
				out = append(out, p.Addr().String())
			} else {
				out = append(out, p.String())
			}
		}
	}
	return out
}

// maxListed bounds how many prefixes a sentence names.
const maxListed = 6

func listed(words []string) string {
	if n := len(words); n > maxListed {
		return fmt.Sprintf("%s and %d more", strings.Join(words[:maxListed], ", "), n-maxListed)
	}
	return strings.Join(words, ", ")
}

// String is the explanation in numbered lines, each a stage, with the candidates, and
// the verdict at the end.
func (e *Explanation) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%v", e.Probe)
	if e.Probe.Interface != "" {
		fmt.Fprintf(&b, " on %s", e.Probe.Interface)
	}
	b.WriteByte('\n')
	for i, s := range e.Stages {
		fmt.Fprintf(&b, "%2d. %-9s %s\n", i+1, s.Name+":", s.Text)
		if s.Name == "backend" {
			for i := range e.Backends {
				b.WriteString("              " + e.Backends[i].String() + "\n")
			}
		}
	}
	for _, line := range []struct{ name, text string }{
		{"hint", e.Hint},
		{"reply", e.Reply},
		{"same for", e.Class},
		{"by", e.By},
		{"advice", e.Advice},
	} {
		if line.text != "" {
			fmt.Fprintf(&b, "    %-9s %s\n", line.name+":", line.text)
		}
	}
	fmt.Fprintf(&b, "%s (%s)\n", e.Verdict, e.Code)
	return b.String()
}

// String is the candidate in one line.
func (c *Candidate) String() string {
	out := fmt.Sprintf("%v, %.3g%%", c.Addr, 100*c.Share)
	if c.Chosen {
		out += ", this one"
	}
	if c.Out != "" {
		out += ", by " + c.Out
	}
	if c.Code != CodeDelivered {
		out += ", " + string(c.Code)
	}
	return out
}

// MarshalJSON encodes the explanation with its text.
func (e *Explanation) MarshalJSON() ([]byte, error) {
	type plain Explanation
	return json.Marshal(struct {
		*plain
		Text string `json:"text"`
	}{(*plain)(e), e.String()})
}
