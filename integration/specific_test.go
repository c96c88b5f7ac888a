//go:build linux

package integration

import (
	"net/netip"
	"testing"

	"github.com/nftdp/go-nftdp/internal/nstest"
	"github.com/nftdp/go-nftdp/nftdp"
)

// TestSourceOfSpecific: a frontend that has its own way with source addresses
// keeps to it, although a less specific one with the same port and backend has
// another.
func TestSourceOfSpecific(t *testing.T) {
	t.Parallel()
	to := backends(0)
	for i := range to {
		to[i].Local = true
	}
	for _, c := range []struct {
		name string
		vip  nftdp.Frontend
		node nftdp.Masquerade
		kept bool
	}{
		{"never", nftdp.Frontend{Masquerade: nftdp.MasqueradeNever}, nftdp.MasqueradeAuto, true},
		{"never, always", nftdp.Frontend{Masquerade: nftdp.MasqueradeNever}, nftdp.MasqueradeAlways, true},
		{"local", nftdp.Frontend{Policy: nftdp.ExternalLocalOnly}, nftdp.MasqueradeAuto, true},
		{"always, never", nftdp.Frontend{Masquerade: nftdp.MasqueradeAlways}, nftdp.MasqueradeNever, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, nftdp.Config{}, 1)
			vip := on(external, 80)
			for i := range vip {
				vip[i].Masquerade, vip[i].Policy = c.vip.Masquerade, c.vip.Policy
			}
			w.apply(t,
				nftdp.Service{Name: "vip", Frontends: vip, Backends: to},
				nftdp.Service{Name: "node", Frontends: []nftdp.Frontend{{Port: 80, Masquerade: c.node}}, Backends: to})
			for _, a := range nstest.Families() {
				answer := ask(t, w.Client, "tcp", netip.AddrPortFrom(a.External, 80))
				checkSource(t, a, answer.Client.Addr(), a.Client, c.kept)
				answer = ask(t, w.Client, "tcp", netip.AddrPortFrom(a.Node, 80))
				checkSource(t, a, answer.Client.Addr(), a.Client, c.node == nftdp.MasqueradeNever)
			}
		})
	}
}
