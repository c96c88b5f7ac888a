package compile

import (
	"cmp"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"github.com/nftdp/go-nftdp/internal/ruleset"
)

// dice make choices out of bytes, so that a fuzzer or a seed decides them. Out
// of bytes, they show zero.
type dice struct{ bytes []byte }

// roll gives a number below n, which is at most 256.
func (d *dice) roll(n int) int {
	if len(d.bytes) == 0 || n < 2 {
		return 0
	}
	b := d.bytes[0]
	d.bytes = d.bytes[1:]
	return int(b) % n
}

func one[T any](d *dice, choices []T) T { return choices[d.roll(len(choices))] }

// addRandom gives a fuzz target seeds that the normal test run goes through.
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
	return Config{Table: "t", NodeAddrs: all[:d.roll(3)], Internal: all[d.roll(5):]}
}

// services have names of their own and no frontend in common. The choices are
// few, so that they share backends and pool sizes.
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
		Balance: one(d, []Balance{Random, Random, RoundRobin, SourceHash, Maglev}),
	}
	for range d.roll(5) {
		f := Frontend{
			Addr: one(d, []netip.Addr{
				netip.IPv4Unspecified(), netip.IPv6Unspecified(), addr("10.9.0.1"), addr("10.9.0.2"), addr("fd00:9::1"),
			}),
			Port: one(d, []uint16{80, 30644}),
			Drop: d.roll(2) > 0,
		}
		s.Frontends = append(s.Frontends, f)
		if collide(append(slices.Clip(others), s)) {
			s.Frontends = s.Frontends[:len(s.Frontends)-1]
		}
	}
	slices.SortFunc(s.Frontends, func(x, y Frontend) int {
		return cmp.Or(x.Addr.Compare(y.Addr), cmp.Compare(x.Port, y.Port))
	})
	for i, first := range []string{"10.8.0.1", "fd00:8::1"} {
		// Backends without a frontend of their family are not valid, unless
		// there is no frontend at all.
		inFamily := func(f Frontend) bool { return familyIndex(f.Addr) == i }
		if len(s.Frontends) == 0 || slices.ContainsFunc(s.Frontends, inFamily) {
			s.Pools[i] = Slots(s.Balance, d.backends(first), 13)
		}
	}
	return s
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

// collide reports whether a frontend stands in the services twice.
func collide(services []*Service) bool {
	type key struct {
		proto uint8
		addr  netip.Addr
		port  uint16
	}
	seen := map[key]bool{}
	for _, s := range services {
		for _, f := range s.Frontends {
			k := key{s.Proto, f.Addr, f.Port}
			if seen[k] {
				return true
			}
			seen[k] = true
		}
	}
	return false
}

// change gives an edit of the state's services that is valid.
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
	if some && collide(s.With(set, remove).Services()) {
		return nil, []string{"unknown", one(d, []string{"a", "b", "c"})}
	}
	return set, remove
}

// text is the ruleset with all that may differ between equal ones left out:
// how much the sets have room for.
func text(r *ruleset.Ruleset) string {
	r = ruleset.Apply(r, nil)
	for _, t := range r.Tables {
		for _, s := range t.Sets {
			s.Size = 0
		}
	}
	return r.String()
}
