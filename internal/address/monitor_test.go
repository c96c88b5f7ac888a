//go:build linux

package address

import (
	"errors"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/nftdp/go-nftdp/internal/nstest"
	"github.com/nftdp/go-nftdp/internal/ruleset"
)

func newMonitor(t *testing.T, ns *nstest.Namespace) *Monitor {
	t.Helper()
	m, err := NewMonitor(int(ns.Handle()))
	if err == nil {
		err = m.Join()
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	})
	return m
}

// wantChanged waits until the monitor notices a change of just one family.
func wantChanged(t *testing.T, m *Monitor, f ruleset.Family, event string) {
	t.Helper()
	for {
		if err := m.socket.Wait(t.Context(), 10*time.Second); err != nil {
			t.Fatalf("%s: %v", event, err)
		}
		got, err := m.Changed()
		if err != nil || len(got) > 0 && !slices.Equal(got, []ruleset.Family{f}) {
			t.Fatalf("%s: changed %v, want %v, error %v", event, got, f, err)
		}
		if len(got) > 0 {
			return
		}
	}
}

// wantUnchanged checks that nothing of interest has been received.
func wantUnchanged(t *testing.T, m *Monitor, event string) {
	t.Helper()
	if got, err := m.Changed(); err != nil || len(got) > 0 {
		t.Errorf("%s: changed %v, error %v", event, got, err)
	}
}

// TestMonitor: addresses and local prefixes that arrive or leave are noticed, for
// their family only, and read as they are then. Other routes do not count.
func TestMonitor(t *testing.T) {
	ns, c := newNamespace(t)
	m := newMonitor(t, ns)
	for f, of := range map[ruleset.Family]struct{ addr, local, other string }{
		ruleset.IPv4: {"1.2.3.4/32", "10.7.0.0/24", "10.8.0.0/24"},
		ruleset.IPv6: {"fd00::4/128", "fd07::/64", "fd08::/64"},
	} {
		addr, prefix, other := netip.MustParsePrefix(of.addr), netip.MustParsePrefix(of.local), netip.MustParsePrefix(of.other)
		do := func(event string, err error, prefix string, there bool) {
			t.Helper()
			if err != nil {
				t.Fatalf("%s: %v", event, err)
			}
			wantChanged(t, m, f, event)
			for slices.Contains(local(t, c, f), prefix) != there { // IPv6: in the background
				wantChanged(t, m, f, event)
			}
		}
		do("address arrives", ns.AddAddr("lo", addr), of.addr, true)
		do("address leaves", ns.DelAddr("lo", addr), of.addr, false)
		do("local prefix arrives", ns.AddLocal(prefix), of.local, true)
		do("local prefix leaves", ns.DelLocal(prefix), of.local, false)
		if _, err := m.Changed(); err != nil { // the last events of the same change
			t.Fatal(err)
		}
		if err := ns.AddRoute("lo", other, netip.Addr{}, netip.Addr{}); err != nil {
			t.Fatal(err)
		}
		wantUnchanged(t, m, "another route")
	}
	if err := errors.Join(m.Leave(), ns.AddAddr("lo", netip.MustParsePrefix("1.2.3.5/32"))); err != nil {
		t.Fatal(err)
	}
	wantUnchanged(t, m, "after Leave")
}

// TestMonitorOverrun: if events were lost, both families may have changed.
func TestMonitorOverrun(t *testing.T) {
	ns, _ := newNamespace(t)
	m := newMonitor(t, ns)
	if err := m.socket.Conn().SetReadBuffer(1); err != nil { // the kernel has a minimum
		t.Fatal(err)
	}
	for i := range 100 {
		if err := ns.AddAddr("lo", netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 1, 1, byte(i)}), 32)); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := m.Changed(); err != nil || !slices.Equal(got, ruleset.Families[:]) {
		t.Errorf("changed %v, error %v", got, err)
	}
	wantUnchanged(t, m, "after that")
}
