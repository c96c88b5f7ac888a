package compile

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/nftdp/go-nftdp/internal/ruleset"
)

// FuzzAim compares an Aim with all outcomes of the same packets, with a few
// sources one after the other: it leads a packet to a destination if and only if
// some outcome does, and with the same source address.
func FuzzAim(f *testing.F) {
	addRandom(f, 200)
	f.Fuzz(func(t *testing.T, b []byte) {
		d := &dice{b}
		cfg, services := d.config(), d.services()
		for _, s := range services {
			if schedulers[s.Scheduler].number.Field == ruleset.Hash {
				s.Scheduler = Random // a hash does not leave all ways to every source
			}
		}
		node := []netip.Addr{addr("10.9.0.1"), addr("10.0.0.1"), addr("fd00:9::1"), addr("fd00::1")}
		local := func(a netip.Addr) bool { return a.IsLoopback() || slices.Contains(node, a) }
		eval := ruleset.NewEvaluator(New(cfg, services).Ruleset(), local)
		for _, p := range packetsTo(services) {
			for _, to := range append(backendsOf(services), p.Dst) {
				if ruleset.FamilyOf(to.Addr()) != p.Family() {
					continue
				}
				if to.Port() == 0 {
					to = netip.AddrPortFrom(to.Addr(), p.Dst.Port())
				}
				aim := eval.Aim(p, to)
				for _, src := range sourcesOf(p.Family(), p.Sent, to.Addr()) {
					p.Src = netip.AddrPortFrom(src, 40000)
					compareAim(t, eval, aim, p, to)
				}
			}
		}
	})
}

func compareAim(t *testing.T, eval *ruleset.Evaluator, aim *ruleset.Aim, p ruleset.Packet, to netip.AddrPort) {
	t.Helper()
	paths, err := eval.Eval(p, nil)
	got, err2 := aim.Outcome(p.Src)
	if err != nil || err2 != nil {
		t.Fatal(err, err2)
	}
	possible, leads := false, false
	for _, path := range paths {
		possible = possible || path.Outcome == got.Outcome
		leads = leads || path.Fate == ruleset.Passed && path.Dst == to
	}
	if aimed := got.Fate == ruleset.Passed && got.Dst == to; !possible || aimed != leads {
		t.Errorf("%+v toward %v: %v; all outcomes: %v", p, to, got.Outcome, paths)
	}
}

// packetsTo returns packets to the frontends of services and beside them.
func packetsTo(services []*Service) (out []ruleset.Packet) {
	for _, s := range services {
		for _, f := range s.Frontends {
			addrs := []netip.Addr{f.Addr}
			if f.Addr.IsUnspecified() {
				addrs = []netip.Addr{addr("10.0.0.1"), addr("10.9.0.1"), addr("10.77.0.1"), addr("127.0.0.1")}
				if f.Addr.Is6() {
					addrs = []netip.Addr{addr("fd00::1"), addr("fd00:77::1"), addr("::1")}
				}
			}
			for _, a := range addrs {
				for _, sent := range []bool{false, true} {
					dst := netip.AddrPortFrom(a, max(f.Port, f.End))
					out = append(out, ruleset.Packet{Proto: s.Proto, Src: dst, Dst: dst, Sent: sent})
				}
			}
		}
	}
	return out
}

func backendsOf(services []*Service) (out []netip.AddrPort) {
	for _, s := range services {
		out = append(out, s.Backends()...)
	}
	slices.SortFunc(out, netip.AddrPort.Compare)
	return slices.Compact(out)
}

func sourcesOf(f ruleset.Family, sent bool, backend netip.Addr) []netip.Addr {
	switch {
	case sent && f == ruleset.IPv4:
		return []netip.Addr{addr("10.0.0.1"), addr("10.9.0.1"), addr("127.0.0.1")}
	case sent:
		return []netip.Addr{addr("fd00::1"), addr("fd00:9::1"), addr("::1")}
	case f == ruleset.IPv4:
		return []netip.Addr{addr("203.0.113.1"), backend, addr("10.1.0.1"), addr("10.1.0.7"), addr("10.200.0.1"), addr("203.0.113.2")}
	}
	return []netip.Addr{addr("2001:db8::1"), backend, addr("fd00:1::1"), addr("fd00::7"), addr("2001:db8::2")}
}
