//go:build linux

package integration

import (
	"net/netip"
	"testing"

	"github.com/nftdp/go-nftdp/internal/nstest"
	"github.com/nftdp/go-nftdp/nftdp"
)

// TestSetConfig: clients meet the new configuration at once, also those that keep
// their sockets; established connections go on, and so does Keep.
func TestSetConfig(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"kept", "alone", "beside others"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			inFamilies(t, func(t *testing.T, a nstest.Addrs) {
				t.Parallel()
				w := newWorld(t, nftdp.Config{}, 2)
				if name == "kept" {
					_, stop := keep(t, w.dataplane)
					defer stop()
				}
				w.testSetConfig(t, a, func(config nftdp.Config) {
					if name == "beside others" {
						w.disturb(t)
					}
					w.setConfig(t, config)
				})
			})
		})
	}
}

// disturb makes another process take all services away.
func (w *world) disturb(t *testing.T) {
	t.Helper()
	other := openDataplane(t, w.Node, nftdp.Config{})
	defer closeOrFail(t, other)
	if _, err := other.Apply(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
}

func (w *world) testSetConfig(t *testing.T, a nstest.Addrs, set func(nftdp.Config)) {
	t.Helper()
	w.apply(t, udpService(0), nftdp.Service{Name: "web", Frontends: append(nodeWide(80), on(clusterIP, 80)...), Backends: backends(0)})
	pod := w.Backends[1]
	outside, inside := dialUDP(t, w.Client, netip.AddrPortFrom(a.Node, 30053)), dialUDP(t, pod, netip.AddrPortFrom(a.ClusterIP, 53))
	unused := dialUDP(t, pod, netip.AddrPortFrom(unassigned(a), 53))
	conns := append(connect(t, 3, w.Client, netip.AddrPortFrom(a.Node, 80)), connect(t, 3, pod, netip.AddrPortFrom(a.ClusterIP, 80))...)
	wantNewSource := func(want netip.Addr) {
		t.Helper()
		if got := askFor(t, w.Backends[0].Name, pod, "tcp", netip.AddrPortFrom(a.ClusterIP, 80)).Client.Addr(); got != want {
			t.Errorf("the backend saw %v, want %v", got, want)
		}
	}
	wantSource := func(want netip.Addr) {
		t.Helper()
		inside.want(t, "backend-1")
		wantNewSource(want)
		for dst, f := range w.flows(t, "dns") {
			if dst == inside.dst && f.Source.Addr() != want {
				t.Errorf("the flow of the open socket has the source %v, want %v", f.Source, want)
			}
		}
	}
	outside.want(t, "backend-1")
	wantSource(a.PodGW)

	set(nftdp.Config{Internal: podNets()})
	outside.want(t, "backend-1")
	wantSource(a.Backend(1))

	set(nftdp.Config{})
	wantSource(a.PodGW)

	// A flow does not show by which interface it began, so open sockets keep theirs.
	set(nftdp.Config{InternalInterfaces: []string{"pod*"}})
	outside.want(t, "backend-1")
	wantNewSource(a.Backend(1))

	set(nftdp.Config{Internal: podNets(), NodeAddrs: []netip.Prefix{single(a.PodGW)}})
	outside.want(t, "refused")
	wantRefused(t, w.Client, "tcp", netip.AddrPortFrom(a.Node, 80))
	inside.want(t, "backend-1")
	wantAlive(t, conns)

	set(nftdp.Config{ServiceCIDRs: serviceNets(), Localhost: true})
	outside.want(t, "backend-1")
	unused.want(t, "refused")
	wantSource(a.PodGW)
	askFor(t, w.Backends[0].Name, w.Node, "tcp", netip.AddrPortFrom(loopback(a), 80))

	set(nftdp.Config{ServiceCIDRs: serviceNets(), Unallocated: nftdp.ActionDrop})
	if got := unused.try(t, silence); got != "silence" {
		t.Errorf("to an address that no service has: %s, want silence", got)
	}
	wantRefused(t, pod, "tcp", netip.AddrPortFrom(a.ClusterIP, 81))

	set(nftdp.Config{})
	outside.want(t, "backend-1")
	wantRefused(t, w.Node, "tcp", netip.AddrPortFrom(loopback(a), 80))
	wantAlive(t, conns)
}
