package nftdp

import (
	"encoding/json"
	"fmt"
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

// one returns one of several choices.
func one[T any](d *dice, choices []T) T { return choices[d.roll(len(choices))] }

// randomBytes returns enough bytes for a whole test, always the same for a
// seed.
func randomBytes(seed uint64, n int) []byte {
	b := make([]byte, n)
	rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8), byte(seed >> 16)}).Read(b) //nolint:errcheck // it never fails
	return b
}

// addRandom adds random seeds to a fuzz target, which also run as a normal
// test.
func addRandom(f *testing.F, seeds uint64) {
	f.Helper()
	for seed := range seeds {
		f.Add(randomBytes(seed, 800))
	}
}

// config returns a valid configuration. There are few choices, so that services
// collide, overlap and share backends.
func (d *dice) config() Config {
	all := prefixes("192.168.0.0/24", "192.168.0.0/16", "10.0.0.0/9", "10.128.0.0/9", "0.0.0.0/0",
		"fd00::/64", "fd00::/16", "::/0", "10.0.0.1/32", "255.255.255.0/24")
	nodes := append(slices.Clip(all), prefixes("169.254.0.0/16", "169.254.20.10/32")...)
	some := func(all []netip.Prefix) (out []netip.Prefix) {
		for range d.roll(4) {
			out = append(out, one(d, all))
		}
		return out
	}
	return Config{
		NodeAddrs: some(nodes), Internal: some(all), ServiceCIDRs: some(all),
		InternalInterfaces: []string{"veth*", "cni0", "veth*"}[:d.roll(4)],
		Unallocated:        one(d, []Action{ActionDefault, ActionReject, ActionDrop}),
		Localhost:          d.roll(3) == 0, AffinitySize: one(d, []uint32{0, 0, 1000}),
	}
}

// services returns services that are valid together.
func (d *dice) services() []Service {
	var all []Service
	for _, name := range []string{"a", "b", "c d", "é;}", `\`, "ns/f:http"} {
		if d.roll(4) > 0 {
			all = append(all, d.service(name, all))
		}
	}
	for i := range all { // in any order
		j := d.roll(len(all))
		all[i], all[j] = all[j], all[i]
	}
	return all
}

// service returns a service that is valid together with others: invalid choices
// are left out.
func (d *dice) service(name string, others []Service) Service {
	s := Service{
		Name: name, Protocol: one(d, []Protocol{ProtocolTCP, ProtocolTCP, ProtocolUDP, ProtocolSCTP}),
		Scheduler: Scheduler(d.roll(len(Scheduler(0).word().list()))),
		Affinity:  one(d, []Duration{0, 0, 0, 10 * aSecond, 10800 * aSecond}),
	}
	s.CutStale = d.roll(4) == 0
	if s.Scheduler == SchedulerMaglev {
		s.MaglevSize = one(d, []uint16{13, 17})
	}
	valid := func() bool { return (Config{}).Validate(append(slices.Clip(others), s)) == nil }
	ranges, policies, clients := d.roll(3) == 0, d.roll(3) == 0, d.roll(4) == 0
	for range d.roll(5) {
		s.Frontends = append(s.Frontends, d.frontend(ranges, policies, clients))
		if !valid() {
			s.Frontends = s.Frontends[:len(s.Frontends)-1]
		}
	}
	limits := d.roll(4) == 0
	for range d.roll(7) {
		s.Backends = append(s.Backends, d.backend(s.ranged(), limits))
		if !valid() {
			s.Backends = s.Backends[:len(s.Backends)-1]
		}
	}
	for range d.roll(4) - 1 {
		s.SNAT = append(s.SNAT, one(d, []netip.Addr{addr("10.7.0.1"), addr("::ffff:10.7.0.2"), addr("fd00:7::1")}))
		if !valid() {
			s.SNAT = s.SNAT[:len(s.SNAT)-1]
		}
	}
	return s
}

func (d *dice) frontend(ranges, policies, clients bool) Frontend {
	f := Frontend{
		Addr: one(d, []netip.Addr{
			{},
			netip.IPv4Unspecified(), netip.IPv6Unspecified(),
			addr("10.96.0.1"), addr("10.96.0.2"), addr("::ffff:10.96.0.1"), addr("fd00:96::1"), addr("192.168.0.2"),
			addr("127.0.0.1"), addr("127.0.0.53"), addr("::1"),
		}),
		Port:       one(d, []uint16{80, 30644, 65535}),
		Masquerade: one(d, []Masquerade{MasqueradeAuto, MasqueradeAuto, MasqueradeAlways, MasqueradeNever, MasqueradeExternal}),
		NoBackend:  one(d, []Action{ActionDefault, ActionReject, ActionDrop, ActionPass}),
	}
	if ranges {
		f.EndPort = one(d, []uint16{0, 0, 80, 90, 30644, 30700, 65535})
	}
	if policies {
		f.Policy = one(d, []Policy{PolicyAnyBackend, PolicyLocalOnly, PolicyExternalLocalOnly})
	}
	if clients {
		f.Allow, f.Deny = d.clients(&f), d.clients(&f)
		if f.Masquerade == MasqueradeAuto {
			f.MasqueradeClients = d.clients(&f)
		}
	}
	return f
}

// clients returns prefixes of the frontend's families. Some lists are
// equivalent.
func (d *dice) clients(f *Frontend) (out []netip.Prefix) {
	for range d.roll(4) {
		p := one(d, prefixes("10.1.0.0/16", "10.1.2.3/16", "10.1.0.0/17", "10.1.128.0/17", "0.0.0.0/0", "fd00:1::/64", "::/0"))
		if f.families().has(ruleset.FamilyOf(p.Addr())) {
			out = append(out, p)
		}
	}
	if len(out) > 0 && d.roll(4) == 0 {
		out = append(out, manyClients()...)
		out = slices.DeleteFunc(out, func(p netip.Prefix) bool { return !f.families().has(ruleset.FamilyOf(p.Addr())) })
	}
	return out
}

// manyClients returns prefixes of both families that are a set of either, not rules.
func manyClients() (out []netip.Prefix) {
	for i := range 20 {
		out = append(out, netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 9, 0, byte(2 * i)}), 32),
			netip.PrefixFrom(netip.AddrFrom16([16]byte{0xfd, 9, 15: byte(2 * i)}), 128))
	}
	return out
}

func (d *dice) backend(ranged, limits bool) Backend {
	a := one(d, []netip.Addr{
		addr("10.180.0.1"), addr("10.180.0.2"), addr("10.180.0.3"), addr("::ffff:10.180.0.1"),
		addr("fd00:180::1"), addr("fd00:180::2"),
	})
	b := Backend{
		Addr:   netip.AddrPortFrom(a, one(d, []uint16{8080, 8081})),
		State:  one(d, []State{StateActive, StateActive, StateActive, StateDraining, StateDown}),
		Weight: one(d, []uint16{0, 0, 1, 2, 3, 6}), Backup: d.roll(5) == 4, Local: d.roll(2) == 0,
	}
	b.LocalOnly = b.Local && d.roll(4) == 0
	if ranged {
		b.Addr = netip.AddrPortFrom(a, 0)
	}
	if !ranged && d.roll(5) == 0 {
		b.Addr, b.NodePort = netip.AddrPort{}, b.Addr.Port()
	}
	if limits {
		b.MaxConns = one(d, []uint32{0, 5, 20})
	}
	return b
}

// reordered returns the same services with everything in another order.
func (d *dice) reordered(services []Service) []Service {
	out := slices.Clone(services)
	shuffle(d, out)
	for i := range out {
		out[i].Frontends = slices.Clone(out[i].Frontends)
		out[i].Backends = slices.Clone(out[i].Backends)
		out[i].SNAT = slices.Clone(out[i].SNAT)
		for j := range out[i].Frontends {
			f := &out[i].Frontends[j]
			for _, list := range []*[]netip.Prefix{&f.Allow, &f.Deny, &f.MasqueradeClients} {
				*list = slices.Clone(*list)
				shuffle(d, *list)
			}
		}
		shuffle(d, out[i].SNAT)
		shuffle(d, out[i].Frontends)
		shuffle(d, out[i].Backends)
	}
	return out
}

func shuffle[T any](d *dice, s []T) {
	for i := range s {
		j := i + d.roll(len(s)-i)
		s[i], s[j] = s[j], s[i]
	}
}

func addr(s string) netip.Addr { return netip.MustParseAddr(s) }

// asJSON formats services for the message of a failed test.
func asJSON(v any) string {
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return fmt.Sprintf("%+v", v)
	}
	return string(b)
}
