//go:build linux

package integration

import (
	"net/netip"
	"testing"

	"github.com/nftdp/go-nftdp/internal/nstest"
	"github.com/nftdp/go-nftdp/nftdp"
)

// TestSourceOfPortInRange: a single port inside of another service's range has the
// Masquerade of its own frontend, not that of the range.
func TestSourceOfPortInRange(t *testing.T) {
	t.Parallel()
	for name, masquerade := range map[string]nftdp.Masquerade{"auto": nftdp.MasqueradeAuto, "never": nftdp.MasqueradeNever} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, nftdp.Config{Internal: podNets()}, 2)
			frontends := func(m nftdp.Masquerade, port uint16) []nftdp.Frontend {
				return withMasquerade(m, append(on(clusterIP, port), nodeWide(port)...))
			}
			w.apply(t,
				nftdp.Service{Name: "range", Frontends: upToPort(90, frontends(nftdp.MasqueradeAlways, 80)), Backends: onPort(0, backends(0))},
				nftdp.Service{Name: "port", Frontends: frontends(masquerade, 85), Backends: backends(0)})
			for _, a := range nstest.Families() {
				for _, dst := range []netip.Addr{a.ClusterIP, a.Node} {
					answer := askFor(t, "backend-1", w.Backends[1], "tcp", netip.AddrPortFrom(dst, 85))
					checkSource(t, a, answer.Client.Addr(), a.Backend(1), true)
				}
			}
		})
	}
}
