//go:build linux

package integration

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"github.com/nftdp/go-nftdp/internal/nstest"
	"github.com/nftdp/go-nftdp/nftdp"
)

// TestMasqueradeClientsChange: new connections follow a change of the list, whether
// a process makes it that made the list or one that found it; established ones
// stay as they are. A list that is found is no change.
func TestMasqueradeClientsChange(t *testing.T) {
	t.Parallel()
	for _, restart := range []bool{false, true} {
		t.Run(fmt.Sprintf("restart=%t", restart), func(t *testing.T) {
			t.Parallel()
			testMasqueradeClientsChange(t, restart)
		})
	}
}

func testMasqueradeClientsChange(t *testing.T, restart bool) {
	t.Helper()
	w := newMasqueradeWorld(t)
	previous := podNets()
	w.apply(t, masqueradesClients(previous))
	var conns []*nstest.Conn
	for _, next := range [][]netip.Prefix{clientNets(), podNets(), slices.Concat(podNets(), clientNets()), podNets()[:1], nil} {
		if restart {
			closeOrFail(t, w.dataplane)
			w.open(t, nftdp.Config{Internal: podNets()})
			if plan := w.update(t, nftdp.Change{Set: []nftdp.Service{masqueradesClients(previous)}}); !plan.Empty() {
				t.Errorf("a new process changes something:\n%v", plan)
			}
		}
		w.update(t, nftdp.Change{Set: []nftdp.Service{masqueradesClients(next)}})
		for _, a := range nstest.Families() {
			for _, from := range []place{"C", "L2"} {
				for _, dst := range []netip.Addr{a.Node, a.External} {
					conns = append(conns, w.connectAs(t, a, from, dst, next))
				}
			}
		}
		wantAlive(t, conns)
		previous = next
	}
	if plan := w.apply(t, masqueradesClients(nil)); !plan.Empty() {
		t.Errorf("after the updates something is left to do:\n%v", plan)
	}
}

// masqueradesClients has frontends of both kinds with this list.
func masqueradesClients(clients []netip.Prefix) nftdp.Service {
	set := func(f *nftdp.Frontend) { f.MasqueradeClients = familyOf(f.Addr, clients) }
	return nftdp.Service{Name: "web", Frontends: with(append(nodeWide(80), on(external, 80)...), set), Backends: to("L1")}
}

// connectAs opens a connection that stays, and fails unless the backend sees the
// source that the list of clients says.
func (w *caseWorld) connectAs(t *testing.T, a nstest.Addrs, from place, dst netip.Addr, clients []netip.Prefix) *nstest.Conn {
	t.Helper()
	c, err := nstest.DialTCP(w.namespace(from), from.addr(a), netip.AddrPortFrom(dst, 80), askTimeout)
	if err != nil {
		t.Fatalf("from %s to %v: %v", from, dst, err)
	}
	t.Cleanup(func() { _ = c.Close() })
	want := wantedSource(a, from, dst, masqueraded{clients: clients}, nftdp.PolicyAnyBackend, false)
	if got := c.Answer.Client.Addr(); got != want {
		t.Errorf("clients %v: from %s to %v the backend saw %v, want %v", clients, from, dst, got, want)
	}
	return c
}
