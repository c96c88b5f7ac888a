package compile

import (
	"math"
	"net/netip"
	"strings"
	"testing"

	"github.com/nftdp/go-nftdp/internal/ruleset"
)

// TestNamesOfEmptyPools: frontends without backends share chains, whatever their
// other properties.
func TestNamesOfEmptyPools(t *testing.T) {
	clients := Clients{Deny: Prefixes([]netip.Prefix{prefix("10.1.0.0/16")})}
	limited := map[netip.AddrPort]uint32{netip.MustParseAddrPort("10.8.0.1:80"): 5}
	var services []*Service
	for i, s := range []*Service{
		{Frontends: []*Frontend{{Port: 1}}},
		{Frontends: []*Frontend{{Port: 2, End: 9}}},
		{Frontends: []*Frontend{{Port: 10}}, Affinity: 10},
		{Frontends: []*Frontend{{Port: 11}}, Scheduler: RoundRobin},
		{Frontends: []*Frontend{{Port: 12, End: 19}}, Scheduler: RoundRobin},
		{Frontends: []*Frontend{{Port: 20}}, Scheduler: Maglev, Limits: limited},
		{Frontends: []*Frontend{{Port: 21, Empty: Drop}}},
		{Frontends: []*Frontend{{Port: 22, End: 29, Empty: Drop}}},
	} {
		s.Name, s.Proto = string(rune('a'+i)), TCP
		s.Frontends[0].Addr, s.Frontends[0].Clients = addr("10.9.0.1"), clients
		services = append(services, s)
	}
	r := New(Config{}, services).Ruleset()
	wantNamesOnce(t, r)
	if got := strings.Count(r.String(), "chain clients-"); got != 2 {
		t.Errorf("%d chains, want one that rejects and one that drops:\n%v", got, r)
	}
}

// maxName is the longest name of a chain: NFT_CHAIN_MAXNAMELEN in
// linux/netfilter/nf_tables.h, with the zero at its end.
const maxName = 256 - 1

// TestNamesFit: the longest possible names of chains fit.
func TestNamesFit(t *testing.T) {
	long := addr("fd00:1111:2222:3333:4444:5555:6666:7777")
	backend := netip.AddrPortFrom(long, 65535)
	pool, other := make([]netip.AddrPort, 65535), make([]netip.AddrPort, 65534)
	for i := range pool {
		pool[i] = backend
	}
	copy(other, pool)
	longest := 0
	for _, s := range []*Service{
		{Affinity: math.MaxUint32},
		{Limits: map[netip.AddrPort]uint32{backend: math.MaxUint32}},
	} {
		s.Name, s.Proto, s.Scheduler = "s", SCTP, RoundRobin
		list := Prefixes([]netip.Prefix{prefix("fd00::/64")})
		s.Frontends = []*Frontend{{
			Addr: long, Port: 65535, Empty: Drop, Pool: pool, Internal: other,
			Clients: Clients{Allow: list, Deny: list}, Source: Source{Mode: Listed, Clients: list, Addr: long},
		}}
		state := New(Config{}, []*Service{s})
		for u := range state.shared.units[1] {
			longest = max(longest, len(u.name()))
			if c := u.chain(); c != nil && len(c.Name) > maxName {
				t.Errorf("%s has %d bytes", c.Name, len(c.Name))
			}
		}
	}
	t.Logf("the longest name has %d bytes", longest)
	if longest < 199 {
		t.Error("this is not the worst case")
	}
}

// TestHoldsLeftovers: elements by which postrouting still records clients after a
// change, since they are deleted last, do not make a service one with affinity.
func TestHoldsLeftovers(t *testing.T) {
	s := func(affinity uint32) *Service {
		return &Service{
			Name: "s", Proto: TCP, Affinity: affinity,
			Frontends: []*Frontend{{Addr: addr("10.9.0.1"), Port: 80, Pool: []netip.AddrPort{netip.MustParseAddrPort("10.8.0.1:80")}}},
		}
	}
	without, with := New(Config{}, []*Service{s(0)}).Ruleset(), New(Config{}, []*Service{s(10)}).Ruleset()
	left := ruleset.Apply(without, nil)
	table := left.Table(ruleset.IPv4)
	name := Affinities.name()
	table.Set(name).Elements = with.Table(ruleset.IPv4).Set(name).Elements
	if len(table.Set(name).Elements) == 0 {
		t.Fatal("no element of the affinities map")
	}
	for want, r := range map[uint32]*ruleset.Ruleset{0: left, 10: with} {
		if got := Holds(r)[0].Affinity; got != want {
			t.Errorf("affinity of %d seconds, want %d", got, want)
		}
	}
}

func TestOfSkeleton(t *testing.T) {
	everything := Config{
		NodeAddrs: []netip.Prefix{prefix("10.0.0.0/8")}, ServiceCIDRs: []netip.Prefix{prefix("10.0.0.0/8")}, Localhost: true,
	}
	for _, table := range New(everything, nil).Ruleset().Tables {
		for _, c := range table.Chains {
			if c.Hook == nil && !OfSkeleton(c) {
				t.Errorf("chain %s does not count as part of the skeleton", c.Name)
			}
		}
	}
	if OfSkeleton(&ruleset.Chain{Name: "random-1"}) {
		t.Error("chain random-1 counts as part of the skeleton")
	}
}

// TestMissedFrontend: a packet for which a lookup misses the frontend, as may happen
// during a commit, is led to the first slot of the pool.
func TestMissedFrontend(t *testing.T) {
	first := netip.MustParseAddrPort("10.8.0.1:8080")
	pool := []netip.AddrPort{first, netip.MustParseAddrPort("10.8.0.2:8080")}
	local := func(a netip.Addr) bool { return a == addr("10.0.0.1") }
	for scheduler := range Scheduler(len(schedulers)) {
		for _, f := range []Frontend{
			{Addr: addr("10.9.0.1"), Port: 80, Pool: pool},
			{Addr: addr("0.0.0.0"), Port: 80, Pool: pool},
			{Addr: addr("10.9.0.1"), Port: 80, Pool: pool, Internal: pool[1:]},
		} {
			r := New(Config{}, []*Service{{Name: "s", Proto: TCP, Scheduler: scheduler, Frontends: []*Frontend{&f}}}).Ruleset()
			for _, id := range []SetID{Frontends, NodeFrontends} {
				r.Table(ruleset.IPv4).Set(id.name()).Elements = nil
			}
			dst := f.Addr
			if dst.IsUnspecified() {
				dst = addr("10.0.0.1")
			}
			p := ruleset.Packet{Proto: TCP, Src: netip.MustParseAddrPort("203.0.113.7:40000"), Dst: netip.AddrPortFrom(dst, 80)}
			paths, err := ruleset.NewEvaluator(r, local).Eval(p, nil)
			if err != nil || len(paths) != 1 || paths[0].Fate != ruleset.Passed || paths[0].Dst != first {
				t.Errorf("%s to %v: %v, %v; want %v", schedulers[scheduler].name, f.Addr, paths, err, first)
			}
		}
	}
}
