//go:build linux

package nftdp

import (
	"context"
	"net/netip"
	"testing"
	"time"

	"github.com/nftdp/go-nftdp/internal/ruleset"
)

// TestFlushedBehindUs: a change succeeds, at whatever moment another process deletes
// all rules: before the commit they are programmed again, and after it the clients of
// former backends are gone with them, so no error says that services are programmed
// when nothing is.
func TestFlushedBehindUs(t *testing.T) {
	held, next := append(someServices()[1:], web("a", 1, 2)), append(someServices()[1:], web("d", 4, 2))
	for _, services := range [][]Service{held, next} {
		for i := range services {
			services[i].Affinity = Duration(time.Minute)
		}
	}
	for name, method := range map[string]func(context.Context, *Dataplane) error{
		"apply": func(ctx context.Context, d *Dataplane) error { _, err := d.Apply(ctx, next); return err },
		"update": func(ctx context.Context, d *Dataplane) error {
			_, err := d.Update(ctx, Change{Set: next[2:], Delete: []string{"a"}})
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			knownOrNot(t, held, func(t *testing.T, n *node, open func() *Dataplane) {
				everyCheck(t, func(t *testing.T, ctx *checked, happen *func()) {
					d := open()
					if n, err := d.AddAffinities(t.Context(), clientsOf(&held[2])); err != nil || n == 0 {
						t.Fatalf("%d clients, error %v", n, err)
					}
					*happen = func() { n.flush(t) }
					if err := method(ctx, d); err != nil {
						t.Error(err)
					}
					apply(t, d, next)
					n.wantServices(t, Config{}, next)
				})
			})
		})
	}
}

// clientsOf returns a client of each backend of a service.
func clientsOf(s *Service) (out []Affinity) {
	f := s.Frontends[0]
	for i, b := range s.Backends {
		out = append(out, Affinity{
			Service: s.Name, Protocol: s.Protocol, Client: netip.AddrFrom4([4]byte{192, 0, 2, byte(i + 1)}),
			Frontend: netip.AddrPortFrom(f.Addr, f.Port), Backend: b.Addr, Expires: Duration(time.Minute),
		})
	}
	return out
}

// flush deletes our tables, as another process would with "nft flush ruleset".
func (n *node) flush(t *testing.T) {
	t.Helper()
	if held := n.read(t, DefaultTable).rules; len(held.Tables) > 0 {
		n.change(t, ruleset.Diff(held, &ruleset.Ruleset{}).Now...)
	}
}
