//go:build linux

package integration

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/nftdp/go-nftdp/internal/nstest"
	"github.com/nftdp/go-nftdp/nftdp"
)

// TestDoctorDrift: others have flushed the map of frontends. The Dataplane that set the
// services knows what is missing; another one sees what is left of them. A process that
// knows no configuration takes the tables for whole, whatever theirs is.
func TestDoctorDrift(t *testing.T) {
	t.Parallel()
	needTool(t, "nft")
	config := nftdp.Config{
		NodeAddrs: []netip.Prefix{nstest.IPv4().ClientNet, nstest.IPv6().ClientNet}, Internal: podNets(),
		ServiceCIDRs: serviceNets(), Unallocated: nftdp.ActionDrop, Localhost: true,
	}
	web := nftdp.Service{Name: "web", Frontends: on(clusterIP, 80), Backends: backends(0, 1)}
	none := web
	none.Name, none.Frontends, none.Backends = "none", on(external, 80), nil
	w := newWorld(t, config, 2)
	if _, err := w.dataplane.MeetRequirements(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.apply(t, web, none)
	drift := func(d *nftdp.Dataplane) (out []string) {
		t.Helper()
		found, err := d.Doctor(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range found {
			if f.Code == nftdp.CodeDrift {
				out = append(out, f.String())
			}
		}
		return out
	}
	other := func() *nftdp.Dataplane { return openDataplane(t, w.Node, nftdp.Config{}) }
	if found := append(drift(w.dataplane), drift(other())...); len(found) > 0 {
		t.Fatalf("nobody has changed anything: %q", found)
	}
	w.shell(t, "nft flush map ip nftdp frontends")
	// The elements that are left translate to some backend.
	for _, c := range []struct {
		to        netip.Addr
		dataplane *nftdp.Dataplane
		code      nftdp.Code
	}{
		{nstest.IPv4().ClusterIP, w.dataplane, nftdp.CodeDelivered},
		{nstest.IPv4().ClusterIP, other(), nftdp.CodeDrift},
		{nstest.IPv4().External, w.dataplane, nftdp.CodeNotTranslated},
		{nstest.IPv4().External, other(), nftdp.CodeNoService},
	} {
		tr := startTrace(t, &world{Topology: w.Topology, dataplane: c.dataplane}, nftdp.TraceFilter{Destination: single(c.to)})
		attempt(w.Client, "tcp", netip.AddrPortFrom(c.to, 80), silence)
		if got := tr.want(t, "a packet", func(*nftdp.Trace) bool { return true }); got.Code != c.code {
			t.Errorf("%v, want %s", got, c.code)
		}
		tr.stop()
	}
	for of, d := range map[string]*nftdp.Dataplane{
		"error DRIFT: table ip nftdp: 2 elements of services are missing, and 0 are there": w.dataplane, "warning DRIFT: table ip nftdp: ": other(),
	} {
		if found := drift(d); len(found) != 1 || !strings.HasPrefix(found[0], of) {
			t.Errorf("want %s…, found %q", of, found)
		}
	}
	if x := explain(t, other(), fromClient(nstest.IPv4(), nstest.IPv4().ClusterIP)); x.Code != nftdp.CodeDrift {
		t.Errorf("explained as\n%v", x)
	}
	w.apply(t, web, none)
	if found := append(drift(w.dataplane), drift(other())...); len(found) > 0 {
		t.Errorf("after a repair: %q", found)
	}
}

// TestDoctorBeside: a process that only looks, beside those that have set the services,
// which share tables or have protected them, finds nothing wrong.
func TestDoctorBeside(t *testing.T) {
	t.Parallel()
	for _, set := range [][]nftdp.Config{{{Owner: "a"}, {Owner: "b"}}, {{Protect: true}}} {
		w := &world{Topology: newTopology(t, 2)}
		for i, config := range set {
			w.open(t, config)
			if _, err := w.dataplane.MeetRequirements(t.Context()); err != nil {
				t.Fatal(err)
			}
			s := nftdp.Service{Name: "web", Frontends: on(clusterIP, 80+uint16(i)), Backends: backends(i)}
			if config.Owner != "" {
				s.Name = config.Owner + "/web"
			}
			w.apply(t, s)
		}
		for _, look := range append(set, nftdp.Config{}) {
			found, err := openDataplane(t, w.Node, look).Doctor(t.Context())
			if len(found) > 0 || err != nil {
				t.Errorf("%+v, beside %+v: %v, %v", look, set, found, err)
			}
		}
	}
}
