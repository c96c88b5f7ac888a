package nftdp

import (
	"encoding/json"
	"errors"
	"math"
	"net/netip"
	"slices"
	"strings"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"

	"github.com/nftdp/go-nftdp/internal/ruleset"
)

// explainedNode are the addresses of the node in these tests.
func explainedNode() []netip.Addr {
	return []netip.Addr{addr("192.168.0.1"), addr("10.0.0.1"), addr("fd00::1")}
}

// FuzzExplain: an explanation lists as candidates what the evaluator says, and sources
// from within its class have the same answer.
func FuzzExplain(f *testing.F) {
	addRandom(f, 150)
	f.Fuzz(func(t *testing.T, data []byte) {
		d := &dice{data}
		services := d.services()
		r := mustCompile(t, d.config(), services)
		local := func(a netip.Addr) bool { return a.IsLoopback() || slices.Contains(explainedNode(), a) }
		eval := ruleset.NewEvaluator(r.rules, local)
		for _, p := range d.explained(services) {
			x, err := r.Explain(p, explainedNode()...)
			if err != nil {
				t.Fatal(p, err)
			}
			wantEvaluated(t, eval, x, p.lower(local))
			for range 6 {
				src := d.within(x.Clients)
				if p.Interface == "" && local(src) != local(p.Source.Addr()) || src.Is4In6() {
					continue // a packet of this node instead of one that arrives
				}
				other := p
				other.Source = netip.AddrPortFrom(src, uint16(d.roll(256)))
				y, err := r.Explain(other, explainedNode()...)
				if err != nil {
					t.Fatal(other, err)
				}
				wantEvaluated(t, eval, y, other.lower(local))
				if diff := gocmp.Diff(answer(x), answer(y)); diff != "" {
					t.Errorf("%v is in the class %q of %v (-class +packet):\n%s\n%s", other, x.Class, p, diff, asJSON(services))
				}
			}
			if _, err := json.Marshal(x); err != nil {
				t.Error(err)
			}
		}
	})
}

// answer is what is the same for a class.
func answer(x *Explanation) string {
	out := string(x.Verdict) + string(x.Code) + x.Service + x.Frontend + x.Class
	for _, c := range x.Backends {
		c.Chosen = false
		out += "\n" + asJSON(c)
	}
	return out
}

// wantEvaluated compares an explanation with the outcomes of the evaluator.
func wantEvaluated(t *testing.T, eval *ruleset.Evaluator, x *Explanation, p ruleset.Packet) {
	t.Helper()
	paths, err := eval.Eval(p, nil)
	if err != nil {
		t.Fatal(err)
	}
	share, hashed := 0.0, slices.ContainsFunc(x.Backends, func(c Candidate) bool { return c.Chosen })
	for _, c := range x.Backends {
		share += c.Share
		if c.Code != CodeDelivered || hashed && !c.Chosen {
			continue
		}
		o := ruleset.Outcome{Dst: c.Addr, Masquerade: c.Masqueraded, SNAT: c.SNAT}
		if !slices.ContainsFunc(paths, func(path ruleset.Path) bool { return path.Outcome == o }) {
			t.Errorf("%v: %v is no outcome: %v", x.Probe, o, paths)
		}
	}
	switch refused := x.Verdict == VerdictDropped || x.Verdict == VerdictRejected; {
	case len(x.Backends) == 0 && refused != (paths[0].Fate != ruleset.Passed) && x.Verdict != VerdictLost:
		t.Errorf("%v: %s, but %v", x.Probe, x, paths)
	case len(x.Backends) > 0 && math.Abs(share-1) > 1e-9:
		t.Errorf("%v: the shares are %v together", x.Probe, share)
	case len(x.Backends) > 0 && !hashed && len(paths) != len(x.Backends):
		t.Errorf("%v: %d candidates, but %v", x.Probe, len(x.Backends), paths)
	}
}

// explained are probes to frontends and beside them.
func (d *dice) explained(services []Service) (out []Probe) {
	for _, s := range services {
		for _, f := range s.Frontends {
			to := f.Addr
			if !to.IsValid() || to.IsUnspecified() {
				to = explainedNode()[d.roll(3)]
			}
			to = to.Unmap()
			sources := []netip.Addr{addr("203.0.113.7"), addr("10.0.0.1"), addr("10.1.2.3"), addr("192.168.0.9"), addr("127.0.0.1")}
			if to.Is6() {
				sources = []netip.Addr{addr("2001:db8::7"), addr("fd00::1"), addr("fd00::7"), addr("::1")}
			}
			for _, b := range s.Backends {
				if a := b.Addr.Addr().Unmap(); a.IsValid() && a.Is4() == to.Is4() {
					sources = append(sources, a)
				}
			}
			out = append(out, Probe{
				Interface: one(d, []string{"", "eth0"}), Protocol: s.Protocol, Source: netip.AddrPortFrom(one(d, sources), uint16(d.roll(256))),
				Destination: netip.AddrPortFrom(to, max(1, f.Port+uint16(d.roll(8)/7))),
			})
		}
	}
	return out
}

// within returns an address of one of the prefixes: mostly its first or last one, or
// one of the node's or a backend's, if it is in the class.
func (d *dice) within(all []netip.Prefix) netip.Addr {
	special := append(explainedNode(), addr("10.180.0.1"), addr("10.180.0.2"), addr("10.180.0.3"), addr("fd00:180::1"), addr("fd00:180::2"), addr("10.1.2.3"))
	if a := one(d, special); slices.ContainsFunc(all, func(p netip.Prefix) bool { return p.Contains(a) }) {
		return a
	}
	r := ruleset.RangeOf(one(d, all))
	if d.roll(2) == 0 {
		return r.First
	}
	if d.roll(2) == 0 {
		return r.Last
	}
	b := r.First.AsSlice()
	for i := range b {
		if at := r.Last.AsSlice(); at[i] != b[i] {
			b[len(b)-1] = byte(d.roll(256))
		}
	}
	if a, _ := netip.AddrFromSlice(b); r.Contains(a) {
		return a
	}
	return r.First
}

// TestExplainCodes: each reason of our rules has its code, its class and its hint.
func TestExplainCodes(t *testing.T) {
	backend := func(s string, local bool) Backend { return Backend{Addr: netip.MustParseAddrPort(s), Local: local} }
	services := []Service{
		{Name: "web", Frontends: []Frontend{{Addr: addr("10.96.0.10"), Port: 80}}, Backends: []Backend{backend("10.180.0.1:8080", true), backend("10.180.0.2:8080", false)}},
		{Name: "node", Frontends: []Frontend{{Port: 30080}}, Backends: []Backend{backend("10.180.0.1:8080", true)}},
		{Name: "closed", Frontends: []Frontend{{Addr: addr("10.96.0.11"), Port: 80, Allow: prefixes("10.0.0.0/8")}}, Backends: []Backend{backend("10.180.0.1:8080", true)}},
		{Name: "local", Frontends: []Frontend{{Addr: addr("10.96.0.12"), Port: 80, Policy: PolicyExternalLocalOnly}}, Backends: []Backend{backend("10.180.0.2:8080", false)}},
		{Name: "empty", Frontends: []Frontend{{Addr: addr("10.96.0.13"), Port: 80}}},
	}
	config := Config{Internal: prefixes("10.0.0.0/8"), NodeAddrs: prefixes("192.168.0.0/24"), ServiceCIDRs: prefixes("10.96.0.0/16")}
	r := mustCompile(t, config, services)
	for _, c := range []struct {
		probe, code, class, says string
	}{
		{"203.0.113.7 10.96.0.10:80", "DELIVERED", "every client outside 10.0.0.0/8", "masqueraded: the backend sees an address of this node, since the client is not in Config.Internal"},
		{"10.1.2.3 10.96.0.10:80", "DELIVERED", "clients in 10.0.0.0/8 outside 10.180.0.1, 10.180.0.2", "50%"},
		{"203.0.113.7 10.96.0.10:81", "NO_SERVICE", "every client", "10.96.0.10 has 10.96.0.10:80/tcp of service web, another port"},
		{"203.0.113.7 10.96.0.10:80/udp", "NO_SERVICE", "every client", "of another protocol"},
		{"203.0.113.7 10.0.0.1:30080", "NO_SERVICE", "every client", "node-wide frontends are limited to 192.168.0.0/24 here"},
		{"203.0.113.7 10.9.9.9:30080", "NO_SERVICE", "every client", "10.9.9.9 is no address of this node"},
		{"203.0.113.7 192.168.0.1:30080", "DELIVERED", "every client outside 10.0.0.0/8", "the only candidate"},
		{"203.0.113.7 10.96.0.11:80", "CLIENT_DENIED", "every client outside 10.0.0.0/8", "not in Frontend.Allow"},
		{"203.0.113.7 10.96.0.12:80", "LOCAL_ONLY_NONE", "", "only backends on this node"},
		{"10.1.2.3 10.96.0.12:80", "DELIVERED", "", "10.1.2.3 is an internal client: all backends"},
		{"203.0.113.7 10.96.0.13:80", "NO_BACKEND", "every client", "no usable backend"},
		{"127.0.0.1 192.168.0.1:30080", "NOT_ROUTED", "", "loopback"},
	} {
		p, err := ParseProbe(c.probe)
		if err != nil {
			t.Fatal(err)
		}
		x, err := r.Explain(p, explainedNode()...)
		if err != nil {
			t.Fatal(err)
		}
		if string(x.Code) != c.code || c.class != "" && x.Class != c.class || !strings.Contains(x.String(), c.says) {
			t.Errorf("%s: want %s, %q, %q:\n%v", c.probe, c.code, c.class, c.says, x)
		}
	}
}

// TestParseProbe: what a person writes, and what is wrong with it.
func TestParseProbe(t *testing.T) {
	for text, want := range map[string]string{
		"203.0.113.7 10.96.0.10":                          "203.0.113.7 10.96.0.10:80/tcp",
		"203.0.113.7:40000 10.96.0.10:53/UDP":             "203.0.113.7:40000 10.96.0.10:53/udp",
		" 2001:db8::7   [fd00::a]:443 ":                   "2001:db8::7 [fd00::a]:443/tcp",
		"[2001:db8::7]:1 fd00::a/sctp":                    "[2001:db8::7]:1 [fd00::a]:80/sctp",
		"::ffff:203.0.113.7 [::ffff:10.96.0.10]:8080/tcp": "203.0.113.7 10.96.0.10:8080/tcp",
	} {
		p, err := ParseProbe(text)
		if err != nil || p.String() != want {
			t.Errorf("%q: %v %v, want %q", text, p, err, want)
		}
		if again, err := ParseProbe(p.String()); err != nil || again != p {
			t.Errorf("%q: %v %v", p, again, err)
		}
	}
	for _, text := range []string{"", "10.0.0.1", "10.0.0.1 10.0.0.2:80 80", "10.0.0.1 10.0.0.2:0", "10.0.0.1 10.0.0.2/icmp", "10.0.0.1 fd00::1", "a b", "fe80::1%eth0 fd00::1"} {
		if p, err := ParseProbe(text); err == nil {
			t.Errorf("%q: %v", text, p)
		}
	}
	var field *FieldError
	if _, err := mustCompile(t, Config{}, nil).Explain(Probe{}); !errors.As(err, &field) || field.Field != "source" {
		t.Error(err)
	}
}
