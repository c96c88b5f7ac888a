//go:build linux

package integration

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nftdp/go-nftdp/internal/nstest"
	"github.com/nftdp/go-nftdp/nftdp"
)

// traced is a trace that runs until the test ends, or until it is stopped.
type traced struct {
	found chan *nftdp.Trace
	errs  chan error
	stop  func()
}

// startTrace begins a trace, and returns when it has begun.
func startTrace(t *testing.T, w *world, f nftdp.TraceFilter) *traced {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	out := &traced{found: make(chan *nftdp.Trace, 10000), errs: make(chan error, 1000)}
	ended := make(chan struct{})
	before := len(traceTables(t, w.Node))
	go func() {
		defer close(ended)
		for found, err := range w.dataplane.Trace(ctx, f) {
			if err != nil {
				out.errs <- err
			} else {
				out.found <- found
			}
		}
	}()
	out.stop = func() { cancel(); <-ended }
	t.Cleanup(out.stop)
	for len(traceTables(t, w.Node)) == before {
		select {
		case err := <-out.errs:
			t.Fatal(err)
		default:
		}
	}
	return out
}

// traceTables are the tables of traces in a namespace.
func traceTables(t *testing.T, ns *nstest.Namespace) (names []string) {
	t.Helper()
	for _, name := range tableNames(t, ns) {
		if strings.HasPrefix(name, "inet nftdp-trace-") {
			names = append(names, name)
		}
	}
	return names
}

// want waits for a trace that accept accepts.
func (tr *traced) want(t *testing.T, what string, accept func(*nftdp.Trace) bool) *nftdp.Trace {
	t.Helper()
	var seen []string
	deadline := time.After(askTimeout)
	for {
		select {
		case found := <-tr.found:
			if accept(found) {
				return found
			}
			seen = append(seen, found.String())
		case err := <-tr.errs:
			t.Fatal(err)
		case <-deadline:
			t.Fatalf("no trace of %s; there are\n%s", what, strings.Join(seen, "\n"))
		}
	}
}

// toDst accepts packets to a destination.
func toDst(dst netip.AddrPort) func(*nftdp.Trace) bool {
	return func(tr *nftdp.Trace) bool { return tr.Packet.Destination == dst && !tr.Reply }
}

// traceCase is a connection and what a trace has to say about it.
type traceCase struct {
	name     string
	from     *nstest.Namespace
	protocol string
	to       func(nstest.Addrs) netip.Addr
	port     uint16
	verdict  nftdp.TraceVerdict
	code     nftdp.Code
	service  string
	backend  bool   // the first one
	by       string // what it contains
}

// tracedServices are services whose names say what happens to connections.
func tracedServices() []nftdp.Service {
	limited := backends(0)
	for i := range limited {
		limited[i].MaxConns = 1
	}
	anyPort := backends(0)
	for i := range anyPort {
		anyPort[i].Addr = netip.AddrPortFrom(anyPort[i].Addr.Addr(), 0)
	}
	var onNode []nftdp.Backend
	for _, a := range nstest.Families() {
		onNode = append(onNode, nftdp.Backend{Addr: netip.AddrPortFrom(a.Node, 9999)})
	}
	split := withPolicy(nftdp.PolicyExternalLocalOnly, on(clusterIP, 85))
	return []nftdp.Service{
		{Name: "web", Frontends: slices.Concat(on(clusterIP, 80), nodeWide(30080), on(clusterIP, 90)), Backends: backends(0)},
		{Name: "dns", Protocol: nftdp.ProtocolUDP, Frontends: on(clusterIP, 53), Backends: backends(0)},
		{Name: "none", Frontends: on(clusterIP, 81)},
		{Name: "silent", Frontends: withNoBackend(nftdp.ActionDrop, on(clusterIP, 82))},
		{Name: "denied", Frontends: withDeny(clientNets(), on(clusterIP, 83)), Backends: backends(0)},
		{Name: "allowed", Frontends: withAllow(podNets(), nodeWide(30083)), Backends: backends(0)},
		{Name: "allowed, none", Frontends: withAllow(clientNets(), on(clusterIP, 87))},
		{Name: "limited", Frontends: on(clusterIP, 84), Backends: limited},
		{Name: "split", Frontends: withNoBackend(nftdp.ActionReject, split), Backends: backends(0)},
		{Name: "range", Frontends: upToPort(7009, on(clusterIP, 7000)), Backends: anyPort},
		{Name: "here", Frontends: on(clusterIP, 86), Backends: onNode},
		{Name: "foreign", Frontends: on(clusterIP, 88), Backends: backends(0)},
		{Name: "forward", Frontends: on(clusterIP, 89), Backends: backends(1)},
		{Name: "loopback", Frontends: nodeWide(30085), Backends: backends(0)},
		{Name: "loopback here", Frontends: nodeWide(30086), Backends: onNode},
	}
}

// TestTrace: what happens to a packet, whose service it belongs to, and why, for
// each code that this namespace can cause, in both families.
func TestTrace(t *testing.T) {
	t.Parallel()
	needTool(t, "nft")
	w := newWorld(t, nftdp.Config{Internal: podNets(), ServiceCIDRs: serviceNets(), Localhost: true}, 2)
	w.meetRequirements(t)
	serve(t, w.Node, 9999, "tcp", "udp")
	w.apply(t, tracedServices()...)
	nftLoad(t, w.Node, foreignFirewall())
	cases := []traceCase{
		{"delivered", w.Client, "tcp", clusterIP, 80, "sent", nftdp.CodeDelivered, "web", true, ""},
		{"node-wide", w.Client, "tcp", nodeAddr, 30080, "sent", nftdp.CodeDelivered, "web", true, ""},
		{"datagram", w.Client, "udp", clusterIP, 53, "sent", nftdp.CodeDelivered, "dns", true, ""},
		{"local process", w.Node, "tcp", clusterIP, 80, "sent", nftdp.CodeDelivered, "web", true, ""},
		{"local datagram", w.Node, "udp", clusterIP, 53, "sent", nftdp.CodeDelivered, "dns", true, ""},
		{"pod to itself", w.Backends[0], "tcp", clusterIP, 80, "sent", nftdp.CodeDelivered, "web", true, ""},
		{"range", w.Client, "tcp", clusterIP, 7005, "sent", nftdp.CodeDelivered, "range", false, ""},
		{"backend on the node", w.Client, "tcp", clusterIP, 86, "delivered", nftdp.CodeDelivered, "here", false, ""},
		{"node to itself", w.Node, "tcp", clusterIP, 86, "delivered", nftdp.CodeDelivered, "here", false, ""},
		{"loopback", w.Node, "tcp", loopback, 30085, "sent", nftdp.CodeDelivered, "loopback", true, ""},
		{"loopback on the node", w.Node, "tcp", loopback, 30086, "delivered", nftdp.CodeDelivered, "loopback here", false, ""},
		{"no backend", w.Client, "tcp", clusterIP, 81, "rejected", nftdp.CodeNoBackend, "none", false, "chain no-backend"},
		{"no backend, local process", w.Node, "tcp", clusterIP, 81, "rejected", nftdp.CodeNoBackend, "none", false, "reject with tcp reset"},
		{"no backend, silent", w.Client, "tcp", clusterIP, 82, "dropped", nftdp.CodeNoBackend, "silent", false, "vmap @frontends"},
		{"no backend for allowed", w.Client, "tcp", clusterIP, 87, "rejected", nftdp.CodeNoBackend, "allowed, none", false, "no-backend"},
		{"denied", w.Client, "tcp", clusterIP, 83, "dropped", nftdp.CodeClientDenied, "denied", false, "saddr CLIENTS drop"},
		{"not allowed", w.Client, "tcp", nodeAddr, 30083, "dropped", nftdp.CodeClientDenied, "allowed", false, "saddr != PODS drop"},
		{"limit", w.Client, "tcp", clusterIP, 84, "rejected", nftdp.CodeLimitReached, "limited", false, "no-backend"},
		{"local only", w.Client, "tcp", clusterIP, 85, "rejected", nftdp.CodeLocalOnlyNone, "split", false, "no-backend"},
		{"service CIDR", w.Client, "tcp", unassigned, 80, "rejected", nftdp.CodeNoService, "", false, "no-backend"},
		{"past our frontends", w.Client, "tcp", firstBackend, backendPort, "sent", nftdp.CodeNoService, "", false, ""},
		{"closed port", w.Client, "tcp", nodeAddr, 4444, "delivered", nftdp.CodeNoService, "", false, ""},
		{"foreign DNAT", w.Client, "tcp", clusterIP, 88, "sent", nftdp.CodeForeignDNATFirst, "foreign", true, "table inet theirs, chain nat_PREROUTING, rule"},
		{"foreign forward", w.Client, "tcp", clusterIP, 89, "rejected", nftdp.CodeForwardDroppedBy, "forward", false, "table inet theirs, chain filter_FORWARD, rule"},
		{"foreign input", w.Client, "tcp", nodeAddr, 4445, "dropped", nftdp.CodeInputDroppedBy, "", false, `tcp dport 4445 counter log prefix "in: " drop (not today)`},
		{"foreign output", w.Node, "tcp", clusterIP, 90, "dropped", nftdp.CodeOutputDroppedBy, "web", false, "table inet theirs, chain output, policy drop"},
		{"foreign prerouting", w.Client, "udp", clusterIP, 9, "dropped", nftdp.CodePreroutingDroppedBy, "", false, "chain bogus, rule"},
	}
	held := map[string][]*nstest.Conn{}
	for _, a := range nstest.Families() {
		held[a.Family] = connect(t, 1, w.Client, netip.AddrPortFrom(a.ClusterIP, 84))
	}
	tr := startTrace(t, w, nftdp.TraceFilter{Rate: 100000})
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			inFamilies(t, func(t *testing.T, a nstest.Addrs) {
				dst := netip.AddrPortFrom(c.to(a), c.port)
				attempt(c.from, c.protocol, dst, silence/3)
				got := tr.want(t, dst.String(), func(found *nftdp.Trace) bool {
					return toDst(dst)(found) && (c.from == w.Node) == (found.In == "")
				})
				t.Log(got.Full())
				c.check(t, got, a)
			})
		})
	}
}

func (c *traceCase) check(t *testing.T, got *nftdp.Trace, a nstest.Addrs) {
	t.Helper()
	if got.Verdict != c.verdict || got.Code != c.code || got.Service != c.service {
		t.Errorf("%s %s of %q, want %s %s of %q", got.Verdict, got.Code, got.Service, c.verdict, c.code, c.service)
	}
	if want := netip.AddrPortFrom(a.Backend(0), backendPort); c.backend && got.Backend != want {
		t.Errorf("backend %v, want %v", got.Backend, want)
	}
	by := ""
	if got.By != nil {
		by = got.By.String()
	}
	want := strings.NewReplacer("CLIENTS", a.ClientNet.String(), "PODS", a.PodNet.String()).Replace(c.by)
	if (want == "") != (by == "") || !strings.Contains(by, want) {
		t.Errorf("by %q, want %q", by, want)
	}
}

func firstBackend(a nstest.Addrs) netip.Addr { return a.Backend(0) }

// foreignFirewall is a table of others that drops at each hook, and translates.
func foreignFirewall() string {
	var dnat, forward, output strings.Builder
	for _, a := range nstest.Families() {
		family := nftFamily(a)
		fmt.Fprintf(&dnat, "%s daddr %v tcp dport 88 dnat %s to %v\n", family, a.ClusterIP, family, nftAddrPort(a.Backend(0), backendPort))
		fmt.Fprintf(&forward, "%s daddr %v reject\n", family, a.Backend(1))
		fmt.Fprintf(&output, "%s daddr %v tcp dport 90 return\n", family, a.ClusterIP)
	}
	return fmt.Sprintf(`
		table inet theirs {
			chain bogus { drop; }
			chain raw {
				type filter hook prerouting priority -300;
				udp dport vmap { 9 : jump bogus }
			}
			chain nat_PREROUTING {
				type nat hook prerouting priority -110;
				%s
			}
			chain filter_FORWARD {
				type filter hook forward priority 10;
				%s
			}
			chain input {
				type filter hook input priority 0;
				tcp dport 4445 counter log prefix "in: " drop comment "not today"
			}
			chain output {
				type filter hook output priority -150; policy drop;
				%s
				accept
			}
		}`, &dnat, &forward, &output)
}

// TestTraceNotRouted: without forwarding a packet disappears between the hooks.
func TestTraceNotRouted(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nftdp.Config{}, 1)
	w.apply(t, forwardedServices()...)
	for _, name := range []string{"net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"} {
		if err := w.Node.Sysctl(name, "0"); err != nil {
			t.Fatal(err)
		}
	}
	tr := startTrace(t, w, nftdp.TraceFilter{Service: "tcp"})
	inFamilies(t, func(t *testing.T, a nstest.Addrs) {
		dst := netip.AddrPortFrom(a.Node, 80)
		attempt(w.Client, "tcp", dst, silence)
		got := tr.want(t, dst.String(), toDst(dst))
		if got.Verdict != nftdp.VerdictLost || got.Code != nftdp.CodeNotRouted || got.Backend.Addr() != a.Backend(0) {
			t.Errorf("%v", got)
		}
	})
}

// TestTraceReplies: with Replies both directions of a connection are seen. On Linux
// 6.18 they have the connection's identifier.
func TestTraceReplies(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nftdp.Config{}, 1)
	w.apply(t, forwardedServices()...)
	tr := startTrace(t, w, nftdp.TraceFilter{Service: "tcp", Replies: true, DestinationPort: 80, Rate: 10000})
	inFamilies(t, func(t *testing.T, a nstest.Addrs) {
		dst := netip.AddrPortFrom(a.ClusterIP, 80)
		ask(t, w.Client, "tcp", dst)
		first := tr.want(t, dst.String(), toDst(dst))
		reply := tr.want(t, "the reply", func(tr *nftdp.Trace) bool {
			return tr.Reply && tr.Last.Destination == first.Packet.Source
		})
		if reply.Service != "tcp" || reply.Backend != netip.AddrPortFrom(a.Backend(0), backendPort) ||
			reply.Code != nftdp.CodeDelivered || reply.Last.Source != dst || reply.Packet.Info != "syn,ack" {
			t.Error(reply.Full())
		}
		if first.Connection != reply.Connection || first.Connection == 0 && !nstest.LinuxBefore(6, 18) {
			t.Errorf("connections %#x and %#x", first.Connection, reply.Connection)
		}
		if !nstest.LinuxBefore(6, 18) && (first.State != "new" || reply.State != "established") {
			t.Errorf("states %s and %s", first.State, reply.State)
		}
	})
}

// TestTraceFilter: each condition excludes what does not meet it.
func TestTraceFilter(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nftdp.Config{}, 1)
	w.apply(t, forwardedServices()...)
	a := nstest.IPv4()
	dst := netip.AddrPortFrom(a.ClusterIP, 80)
	any4, any6 := a.Any(), nstest.IPv6().Any()
	for name, c := range map[string]struct {
		pass, refuse nftdp.TraceFilter
	}{
		"service":     {nftdp.TraceFilter{Service: "udp"}, nftdp.TraceFilter{Service: "sctp"}},
		"protocol":    {nftdp.TraceFilter{Protocol: "udp"}, nftdp.TraceFilter{Protocol: "TCP"}},
		"source":      {nftdp.TraceFilter{Source: a.ClientNet}, nftdp.TraceFilter{Source: a.PodNet}},
		"family":      {nftdp.TraceFilter{Source: any4}, nftdp.TraceFilter{Source: any6}},
		"destination": {nftdp.TraceFilter{Destination: single(a.ClusterIP)}, nftdp.TraceFilter{Destination: single(a.Node)}},
		"port": {
			nftdp.TraceFilter{Protocol: "udp", DestinationPort: 80},
			nftdp.TraceFilter{Protocol: "udp", DestinationPort: 81},
		},
		"interface":        {nftdp.TraceFilter{Interface: "uplink"}, nftdp.TraceFilter{Interface: "pod1"}},
		"port and service": {nftdp.TraceFilter{Service: "udp", DestinationPort: 80}, nftdp.TraceFilter{Service: "udp", DestinationPort: 81}},
	} {
		t.Run(name, func(t *testing.T) {
			refuse := startTrace(t, w, c.refuse)
			pass := startTrace(t, w, c.pass)
			askFor(t, "backend-1", w.Client, "udp", dst)
			pass.want(t, dst.String(), toDst(dst))
			refuse.stop()
			for len(refuse.found) > 0 {
				if found := <-refuse.found; toDst(dst)(found) {
					t.Errorf("%+v: %v", c.refuse, found)
				}
			}
		})
	}
}

// TestTraceIptables: a rule of iptables-nft is named by its extensions and comment.
// One of iptables-legacy reports nothing, but where the packet disappears is known.
func TestTraceIptables(t *testing.T) {
	t.Parallel()
	for _, variant := range iptablesVariants(t) {
		t.Run(variant, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, nftdp.Config{}, 1)
			w.apply(t, forwardedServices()...)
			for _, a := range nstest.Families() {
				iptables{w.Node, variant}.run(t, a, "-A FORWARD -p tcp --dport 8080 -m comment --comment by-hand -j REJECT")
			}
			tr := startTrace(t, w, nftdp.TraceFilter{Service: "tcp"})
			inFamilies(t, func(t *testing.T, a nstest.Addrs) {
				dst := netip.AddrPortFrom(a.ClusterIP, 80)
				attempt(w.Client, "tcp", dst, silence)
				got := tr.want(t, dst.String(), toDst(dst))
				t.Log(got.Full())
				by := ""
				if got.By != nil {
					by = got.By.String()
				}
				named := strings.Contains(by, "filter, chain FORWARD, rule") && strings.Contains(by, "REJECT (by-hand)")
				if got.Code != nftdp.CodeForwardDroppedBy || named != (variant == "nft") || (by == "") != (variant == "legacy") {
					t.Errorf("%v", got)
				}
			})
		})
	}
}
