package flows

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/nftdp/go-nftdp/internal/compile"
	"github.com/nftdp/go-nftdp/internal/conntrack"
)

// The addresses of these tests: an outside client, an internal one, the node, two
// backends on it and one elsewhere.
var (
	outside, inside  = at("203.0.113.7:40000"), at("10.1.0.7:40000")
	nodeAddr         = at("192.168.0.2:80").Addr()
	local1, local2   = at("10.180.0.1:8080"), at("10.180.0.2:8080")
	remote, draining = at("10.180.2.1:8080"), at("10.180.2.9:8080")
	vip, wide        = at("10.96.0.10:80"), at("192.168.0.2:80")
)

func at(s string) netip.AddrPort { return netip.MustParseAddrPort(s) }

func isLocal(a netip.Addr) bool { return a.IsLoopback() || a == nodeAddr }

func testConfig() compile.Config {
	return compile.Config{Table: "t", Internal: []netip.Prefix{netip.MustParsePrefix("10.1.0.0/16")}, Affinities: 16}
}

// udp is a service with a frontend at an address and one on the node.
func udp(edit func(f *compile.Frontend), pool ...netip.AddrPort) *compile.Service {
	s := &compile.Service{Name: "s", Proto: compile.UDP, Frontends: []*compile.Frontend{
		{Addr: netip.IPv4Unspecified(), Port: 80, Pool: pool}, {Addr: vip.Addr(), Port: 80, Pool: pool},
	}}
	for i := range s.Frontends {
		edit(s.Frontends[i])
	}
	return s
}

func plain(*compile.Frontend) {}

// TestLead: whether a client may be led to a backend follows from lists of
// clients, from the pools of internal and other clients, and from what the node
// holds, not from a hash.
func TestLead(t *testing.T) {
	localOnly := func(f *compile.Frontend) {
		f.Internal = slices.Concat(f.Pool, []netip.AddrPort{remote})
	}
	denied := func(f *compile.Frontend) { f.Clients.Deny = "203.0.113.0/24" }
	hashed := udp(plain, local1, local2, remote)
	hashed.Scheduler = compile.SourceHash
	kept := withKept(udp(denied, local1), draining)
	type question struct{ client, frontend, backend netip.AddrPort }
	for name, c := range map[string]struct {
		s    *compile.Service
		asks map[question]bool
	}{
		"any": {hashed, map[question]bool{
			{outside, vip, local1}: true, {outside, vip, remote}: true, {outside, wide, local2}: true,
			{outside, vip, draining}: false, {outside, at("192.168.0.2:81"), local1}: false,
			{outside, at("192.168.0.3:80"), local1}: false, {outside, at("127.0.0.1:80"), local1}: false,
		}},
		"external local only": {udp(localOnly, local1), map[question]bool{
			{outside, vip, local1}: true, {outside, vip, remote}: false, {inside, vip, remote}: true,
			{at("192.168.0.2:5"), vip, remote}: true, {outside, wide, remote}: false,
		}},
		"no local backend": {udp(localOnly), map[question]bool{{outside, vip, remote}: false, {inside, vip, remote}: true}},
		"denied":           {udp(denied, local1), map[question]bool{{outside, vip, local1}: false, {inside, vip, local1}: true}},
		"draining": {kept, map[question]bool{
			{inside, vip, draining}: true, {outside, vip, draining}: false, {inside, wide, local1}: true,
		}},
	} {
		w := waysTo(testConfig(), c.s, isLocal)
		for q, want := range c.asks {
			if got, err := w.lead(compile.UDP, q.client, q.frontend, q.backend); err != nil || got != want {
				t.Errorf("%s: %v at %v to %v: %v, %v; want %v", name, q.client, q.frontend, q.backend, got, err, want)
			}
		}
	}
}

// TestTreat: the source of replies says where a flow leads, their destination how
// its source is treated.
func TestTreat(t *testing.T) {
	node, snat := netip.AddrPortFrom(nodeAddr, 1025), at("192.0.2.9:40000")
	flow := func(src, to, seen netip.AddrPort) conntrack.Flow {
		return conntrack.Flow{Proto: compile.UDP, Src: src, Dst: vip, ReplySrc: to, ReplyDst: seen}
	}
	source := func(s compile.Source) *compile.Service {
		return udp(func(f *compile.Frontend) { f.Source = s }, local1)
	}
	for name, c := range map[string]struct {
		s                   *compile.Service
		f                   conntrack.Flow
		destination, source bool
	}{
		"masqueraded":             {udp(plain, local1), flow(outside, local1, node), true, true},
		"kept, now masqueraded":   {udp(plain, local1), flow(outside, local1, outside), true, false},
		"internal":                {udp(plain, local1), flow(inside, local1, inside), true, true},
		"internal, masqueraded":   {udp(plain, local1), flow(inside, local1, node), true, false},
		"hairpin":                 {udp(plain, local1), flow(local1, local1, node), true, true},
		"SNAT":                    {source(compile.Source{Addr: snat.Addr()}), flow(outside, local1, snat), true, true},
		"masqueraded, now SNAT":   {source(compile.Source{Addr: snat.Addr()}), flow(outside, local1, node), true, false},
		"kept":                    {source(compile.Source{Mode: compile.Keep}), flow(outside, local1, outside), true, true},
		"kept, at another port":   {source(compile.Source{Mode: compile.Keep}), flow(outside, local1, at("203.0.113.7:9")), true, true},
		"elsewhere":               {udp(plain, local1), flow(outside, local2, node), false, true},
		"not translated":          {udp(plain, local1), flow(outside, vip, outside), false, false},
		"rejected":                {udp(plain), flow(outside, local1, node), false, false},
		"none of ours":            {nil, flow(outside, vip, outside), true, true},
		"none of ours, elsewhere": {nil, flow(outside, local1, outside), false, true},
	} {
		_, destination, source, err := waysTo(testConfig(), c.s, isLocal).treat(&c.f)
		if err != nil || destination != c.destination || source != c.source {
			t.Errorf("%s: destination %v, source %v, %v", name, destination, source, err)
		}
	}
}

// BenchmarkWays decides about flows of many clients to a pool of 10,000.
func BenchmarkWays(b *testing.B) {
	var pool []netip.AddrPort
	for i := range 10_000 {
		pool = append(pool, netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 9, byte(i >> 8), byte(i)}), 80))
	}
	w := waysTo(testConfig(), udp(plain, pool...), isLocal)
	client := netip.MustParseAddr("198.18.0.0")
	n := 0
	for b.Loop() {
		client = client.Next()
		n++
		src := netip.AddrPortFrom(client, uint16(n)|1)
		f := conntrack.Flow{Proto: compile.UDP, Src: src, Dst: vip, ReplySrc: pool[n%8], ReplyDst: src}
		if _, _, _, err := w.treat(&f); err != nil {
			b.Fatal(err)
		}
	}
}
