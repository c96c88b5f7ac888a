package compile

import (
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"github.com/nftdp/go-nftdp/internal/ruleset"
)

// dice derive choices from bytes, so that a fuzzer or a seed decides them. When
// the bytes are used up, they show zero.
type dice struct{ bytes []byte }

// roll returns a number below n, which is at most 256.
func (d *dice) roll(n int) int {
	if len(d.bytes) == 0 || n < 2 {
		return 0
	}
	b := d.bytes[0]
	d.bytes = d.bytes[1:]
	return int(b) % n
}

func one[T any](d *dice, choices []T) T { return choices[d.roll(len(choices))] }

// addRandom adds random seeds to a fuzz target, which also run as a normal test.
func addRandom(f *testing.F, seeds uint64) {
	f.Helper()
	for seed := range seeds {
		b := make([]byte, 1200)
		rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8)}).Read(b) //nolint:errcheck // it never fails
		f.Add(b)
	}
}

func addr(s string) netip.Addr { return netip.MustParseAddr(s) }

func prefix(s string) netip.Prefix { return netip.MustParsePrefix(s) }

func (d *dice) config() Config {
	all := []netip.Prefix{prefix("10.0.0.0/9"), prefix("10.128.0.0/9"), prefix("10.0.0.0/8"), prefix("fd00::/64")}
	return Config{
		Inputs: []string{"cni0", "veth*", "cni0"}[:d.roll(4)],
		Table:  "t", NodeAddrs: all[:d.roll(3)], Internal: all[d.roll(5):], ServiceCIDRs: all[:d.roll(2)],
		Localhost: d.roll(2) > 0, Affinities: 1024, DropUnallocated: d.roll(2) > 0,
	}
}

// services returns services with distinct names and no frontend in common. There
// are few choices, so that they share backends and pool sizes.
func (d *dice) services() []*Service {
	var all []*Service
	for _, name := range []string{"a", "b", "c", "d", "e"} {
		if d.roll(4) > 0 {
			all = append(all, d.service(name, all))
		}
	}
	return all
}

func (d *dice) service(name string, others []*Service) *Service {
	s := &Service{
		Name: name, Proto: one(d, []uint8{TCP, TCP, UDP, SCTP}),
		Scheduler: Scheduler(d.roll(len(schedulers))),
		Affinity:  one(d, []uint32{0, 0, 0, 10, 10800}),
	}
	ranges := s.Affinity == 0 && d.roll(3) == 0
	for range d.roll(5) {
		f := &Frontend{
			Addr: one(d, []netip.Addr{
				netip.IPv4Unspecified(), netip.IPv6Unspecified(), addr("10.9.0.1"), addr("10.9.0.2"), addr("fd00:9::1"),
				addr("127.0.0.1"), addr("::1"),
			}),
			Port:  one(d, []uint16{80, 30644}),
			Empty: one(d, []Action{Reject, Drop, Pass}),
		}
		if ranges && d.roll(2) > 0 {
			f.End = f.Port + 10
		}
		s.Frontends = append(s.Frontends, f)
		if collide(append(slices.Clip(others), s)) {
			s.Frontends = s.Frontends[:len(s.Frontends)-1]
		}
	}
	InOrder(s.Frontends)
	all, some := d.pools(s, ranges), d.pools(s, ranges)
	for i := range s.Frontends {
		d.frontend(s.Frontends[i], all, some)
	}
	s.ToNode = slices.ContainsFunc(s.Backends(), OfNode)
	if s.Affinity == 0 && !ranges && d.roll(4) == 0 {
		d.limit(s)
	}
	return s
}

// pools returns a pool of each family.
func (d *dice) pools(s *Service, ranges bool) (out [2][]netip.AddrPort) {
	for i, first := range []string{"10.8.0.1", "fd00:8::1"} {
		backends := d.backends(first)
		if ranges {
			for i := range backends {
				backends[i].Addr = netip.AddrPortFrom(backends[i].Addr.Addr(), 0)
			}
		}
		if !ranges && s.Affinity == 0 && len(backends) > 0 && d.roll(4) == 0 {
			backends[0].Addr = netip.AddrPortFrom(ruleset.Families[i].Unspecified(), backends[0].Addr.Port())
		}
		out[i] = Slots(s.Scheduler, backends, 13)
	}
	return out
}

func (d *dice) frontend(f *Frontend, all, some [2][]netip.AddrPort) {
	i := ruleset.FamilyOf(f.Addr).Index()
	f.Pool = all[i]
	if d.roll(4) == 0 && len(all[i]) > 0 {
		f.Pool, f.Internal = some[i], all[i]
	}
	inFamily := [][]netip.Prefix{
		{prefix("10.1.0.0/16")},
		{prefix("10.1.0.0/17"), prefix("10.1.128.0/17"), prefix("10.1.2.0/24")},
		{prefix("fd00::/64"), prefix("fd00:1::1/128")},
		{prefix("::/0")},
	}[2*i:][:2]
	many := []netip.Prefix{inFamily[0][0]}
	for range 20 {
		many = append(many, netip.PrefixFrom(many[len(many)-1].Addr().Next(), f.Addr.BitLen()))
	}
	inFamily = append(inFamily, many)
	list := func() string {
		if d.roll(4) > 0 {
			return ""
		}
		return Prefixes(append(inFamily, nil)[d.roll(4)])
	}
	f.Clients = Clients{Allow: list(), Deny: list()}
	f.Source.Mode = one(d, []Mode{External, External, All, Local, Keep, Listed})
	if f.Source.Mode == Listed {
		f.Source.Clients = Prefixes(one(d, inFamily))
	}
	if d.roll(4) == 0 {
		f.Source.Addr = []netip.Addr{addr("10.7.0.1"), addr("fd00:7::1")}[i]
	}
}

// limit limits some of the backends that are in use.
func (d *dice) limit(s *Service) {
	for _, b := range s.Backends() {
		if most := one(d, []uint32{0, 5, 20}); most > 0 {
			if s.Limits == nil {
				s.Limits = map[netip.AddrPort]uint32{}
			}
			s.Limits[b] = most
		}
	}
}

func (d *dice) backends(first string) []Weighted {
	var all []Weighted
	for a, left := addr(first), d.roll(4); left > 0; a, left = a.Next(), left-1 {
		for _, port := range []uint16{8080, 8081} {
			if d.roll(2) > 0 {
				all = append(all, Weighted{netip.AddrPortFrom(a, port), one(d, []int{1, 1, 2, 3})})
			}
		}
	}
	return all
}

// collide reports whether two services have the same frontend.
func collide(services []*Service) bool {
	type key struct {
		proto uint8
		addr  netip.Addr
		port  uint16
		ended bool
	}
	seen := map[key]bool{}
	for _, s := range services {
		for _, f := range s.Frontends {
			k := key{s.Proto, f.Addr, f.Port, f.End > 0}
			if seen[k] {
				return true
			}
			seen[k] = true
		}
	}
	return false
}

// change returns a valid edit of the state's services.
func (d *dice) change(s *State) (set []*Service, remove []string) {
	next := d.services()
	some := d.roll(3) > 0
	for _, svc := range next {
		if !some || d.roll(3) == 0 {
			set = append(set, svc)
		}
	}
	for _, old := range s.Services() {
		gone := !slices.ContainsFunc(next, func(n *Service) bool { return n.Name == old.Name })
		if gone && (!some || d.roll(3) == 0) {
			remove = append(remove, old.Name)
		}
	}
	if some && collide(s.Replaced(set, remove)) {
		set, remove = nil, []string{"unknown", one(d, []string{"a", "b", "c"})}
	}
	for _, old := range s.Services() {
		if !slices.Contains(remove, old.Name) && !slices.ContainsFunc(set, func(n *Service) bool { return n.Name == old.Name }) && d.roll(2) > 0 {
			set = append(set, d.tweaked(old))
		}
	}
	for i, svc := range set {
		if d.roll(2) > 0 {
			set[i] = svc.Arranged(s.Service(svc.Name))
		}
	}
	return set, remove
}

// tweaked returns a service with some slots of its pools and some frontends
// changed. It shares others with the former one.
func (d *dice) tweaked(s *Service) *Service {
	out := *s
	out.Frontends = slices.Clone(s.Frontends)
	for i, f := range out.Frontends {
		if d.roll(4) == 0 {
			continue
		}
		f = new(*f)
		out.Frontends[i] = f
		f.Ordered, f.OrderedInternal = nil, nil
		if i > 0 && s.Frontends[i].SamePools(s.Frontends[i-1]) && d.roll(8) > 0 {
			f.Pool, f.Internal = out.Frontends[i-1].Pool, out.Frontends[i-1].Internal
		} else {
			f.Pool = d.tweakedPool(f.Pool)
			if f.Internal != nil {
				f.Internal = d.tweakedPool(f.Internal)
			}
		}
		if d.roll(8) == 0 {
			f.Empty = one(d, []Action{Reject, Drop, Pass})
		}
	}
	if n := len(out.Frontends); n > 0 && d.roll(8) == 0 {
		i := d.roll(n)
		out.Frontends = slices.Delete(out.Frontends, i, i+1)
	}
	if s.Affinity > 0 && d.roll(4) == 0 {
		out.Affinity = one(d, []uint32{10, 10800})
	}
	out.ToNode = slices.ContainsFunc(out.Backends(), OfNode)
	return &out
}

func (d *dice) tweakedPool(pool []netip.AddrPort) []netip.AddrPort {
	if len(pool) == 0 || d.roll(4) == 0 {
		return pool
	}
	pool = slices.Clone(pool)
	for range 1 + d.roll(3) {
		i, j := d.roll(len(pool)), d.roll(len(pool))
		switch d.roll(4) {
		case 0:
			pool[i], pool[j] = pool[j], pool[i]
		case 1:
			pool[i] = netip.AddrPortFrom(pool[j].Addr().Next(), pool[j].Port())
		case 2:
			pool = append(pool, pool[i])
		case 3:
			if len(pool) > 1 {
				pool = slices.Delete(pool, i, i+1)
			}
		}
	}
	return pool
}

// text returns the text of a ruleset without the sizes of sets, which may differ
// between equal rulesets.
func text(r *ruleset.Ruleset) string {
	r = ruleset.Apply(r, nil)
	for _, t := range r.Tables {
		for _, s := range t.Sets {
			s.Size = 0
		}
	}
	return r.String()
}
