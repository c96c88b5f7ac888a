//go:build linux

package nftdp

import (
	"math"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestExtremes: the kernel accepts the largest valid numbers and the widest
// valid ranges, and returns them.
func TestExtremes(t *testing.T) {
	both := func(port uint16) []Backend {
		return []Backend{
			{Addr: netip.AddrPortFrom(addr("10.180.0.1"), port)}, {Addr: netip.AddrPortFrom(addr("fd00:180::1"), port)},
		}
	}
	limited := both(65535)
	for i := range limited {
		limited[i].MaxConns = math.MaxUint32
	}
	everywhere := prefixes("0.0.0.0/0", "::/0")
	services := []Service{
		{Name: "affinity", Affinity: math.MaxUint32 * aSecond, Frontends: fronts(":65535"), Backends: both(1)},
		{Name: "limit", Protocol: ProtocolUDP, Frontends: fronts(":65535"), Backends: limited},
		{Name: "range", Protocol: ProtocolSCTP, Frontends: []Frontend{ranged(":1", 65535)}, Backends: both(0)},
		{Name: "clients", Frontends: []Frontend{{Port: 1, Allow: everywhere, Deny: everywhere, MasqueradeClients: everywhere}}, Backends: both(1)},
	}
	for _, affinities := range []uint32{1, math.MaxUint32} {
		config := Config{
			AffinitySize: affinities, Localhost: true, NodeAddrs: everywhere, Internal: everywhere, ServiceCIDRs: everywhere,
		}
		n := newNode(t)
		d := n.open(t, config)
		apply(t, d, services)
		n.wantServices(t, config, services)
		n.wantNothingToDo(t, config, services)
	}
}

// TestInspectFeatures: Inspect returns ranges, the pools of policies, and what
// happens to connections without a backend.
func TestInspectFeatures(t *testing.T) {
	n := newNode(t)
	d := n.open(t, Config{})
	web := front("10.96.0.1:80")
	web.Policy = PolicyExternalLocalOnly
	apply(t, d, []Service{
		{Name: "policy", Frontends: []Frontend{web}, Backends: []Backend{
			{Addr: netip.MustParseAddrPort("10.180.0.1:80"), Weight: 3}, {Addr: netip.MustParseAddrPort("10.180.0.2:80"), Weight: 6},
		}},
		{Name: "range", Protocol: ProtocolUDP, Frontends: []Frontend{ranged("10.96.0.1:80", 90)}, Backends: backs("10.180.0.1:0")},
	})
	got, err := d.Inspect(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	drop := ActionDrop
	at := netip.MustParseAddr("10.96.0.1")
	want := []ServiceStatus{
		{Name: "policy", Frontends: []FrontendStatus{{Addr: at, Port: 80, NoBackend: &drop, Backends: []BackendStatus{
			{Addr: netip.MustParseAddrPort("10.180.0.1:80"), Slots: 1}, {Addr: netip.MustParseAddrPort("10.180.0.2:80"), Slots: 2},
		}}}},
		{Name: "range", Protocol: ProtocolUDP, Frontends: []FrontendStatus{{Addr: at, Port: 80, EndPort: 90, Backends: []BackendStatus{
			{Addr: netip.MustParseAddrPort("10.180.0.1:0"), Slots: 1},
		}}}},
	}
	if diff := cmp.Diff(want, got, plainAddrs()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}
