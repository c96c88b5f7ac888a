package nftdptest_test

import (
	"context"
	"errors"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/google/go-cmp/cmp"

	"github.com/nftdp/go-nftdp/nftdp"
	"github.com/nftdp/go-nftdp/nftdp/nftdptest"
)

func setConfig(t *testing.T, d *nftdp.Dataplane, c nftdp.Config) *nftdp.Plan {
	t.Helper()
	plan, err := d.SetConfig(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	return plan
}

// TestSetConfig: Keep goes on by the new configuration, whether or not others have
// changed the tables. A configuration from the beginning makes the same rules.
func TestSetConfig(t *testing.T) {
	one, other := netip.MustParsePrefix("10.180.0.0/24"), netip.MustParsePrefix("10.96.0.0/16")
	configs := []nftdp.Config{
		{Internal: []netip.Prefix{one}},
		{Internal: []netip.Prefix{one, other}, Localhost: true},
		{NodeAddrs: []netip.Prefix{other}, ServiceCIDRs: []netip.Prefix{other}, AffinitySize: 9},
		{ServiceCIDRs: []netip.Prefix{other}, Unallocated: nftdp.ActionDrop},
		{},
	}
	synctest.Test(t, func(t *testing.T) {
		n := newNode()
		d := open(t, n, configs[0])
		if plan := setConfig(t, d, nftdp.Config{}); plan.Len() > 0 {
			t.Error("changed before the first Apply:", plan)
		}
		services := []nftdp.Service{dns("10.180.0.1:1"), sticky("10.180.0.1:2")}
		apply(t, d, services...)
		ctx, stop := context.WithCancel(t.Context())
		defer stop()
		repairs, kept := make(chan *nftdp.Drift, 10), make(chan error, 1)
		go func() {
			kept <- d.Keep(ctx, func(drift *nftdp.Drift, _ error) { repairs <- drift })
		}()
		synctest.Wait()
		for i, c := range configs {
			plan := setConfig(t, d, c)
			synctest.Wait()
			if strings.Contains(plan.String(), "element ip nftdp node_frontends") {
				t.Errorf("config %d: services were written again:\n%v", i, plan)
			}
			if again := setConfig(t, d, c); again.Len() > 0 {
				t.Error("changed twice:", again)
			}
			if len(repairs) > 0 {
				t.Error("repaired", <-repairs)
			}
			if diff := cmp.Diff(expected(t, c, services...), rulesOf(t, d)); diff != "" {
				t.Errorf("config %d (-want +got):\n%s", i, diff)
			}
			n.FlushRuleset()
			<-repairs
			if diff := cmp.Diff(expected(t, c, services...), rulesOf(t, d)); diff != "" {
				t.Errorf("config %d, repaired (-want +got):\n%s", i, diff)
			}
		}
		stop()
		if err := <-kept; !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
		for _, c := range configs { // without events, and others have changed the tables
			n.FlushRuleset()
			setConfig(t, d, c)
			if diff := cmp.Diff(expected(t, c, services...), rulesOf(t, d)); diff != "" {
				t.Errorf("config %+v (-want +got):\n%s", c, diff)
			}
		}
	})
}

// TestSetConfigRefused: what cannot change is an error that names the field, and
// changes nothing.
func TestSetConfigRefused(t *testing.T) {
	n := newNode()
	d, owned := open(t, n, nftdp.Config{}), open(t, n, nftdp.Config{Table: "shared", Owner: "cni"})
	apply(t, d, web("10.180.0.1:1"))
	before := rulesOf(t, d)
	for want, err := range map[string]error{
		`config: table: "x" cannot take the place of "nftdp": open another Dataplane instead`:              second(d.SetConfig(t.Context(), nftdp.Config{Table: "x"})),
		`config: owner: "x" cannot take the place of "": open another Dataplane instead`:                   second(d.SetConfig(t.Context(), nftdp.Config{Owner: "x"})),
		"config: protect: cannot begin or end while the Dataplane is open: open another Dataplane instead": second(d.SetConfig(t.Context(), nftdp.Config{Protect: true})),
		"config: internal[0]: is missing: give an address and a length, as in \"10.0.0.0/8\"":              second(d.SetConfig(t.Context(), nftdp.Config{Internal: make([]netip.Prefix, 1)})),
		"config: owner: shares the tables with others, who need the same configuration: open another Dataplane with it, and TakeOver": second(
			owned.SetConfig(t.Context(), nftdp.Config{Table: "shared", Owner: "cni", Localhost: true})),
	} {
		if err == nil || err.Error() != want {
			t.Errorf("%v, want %s", err, want)
		}
	}
	if _, err := d.SetConfig(t.Context(), nftdp.Config{Table: nftdp.DefaultTable}); err != nil {
		t.Error("the default table by its name:", err)
	}
	if after := rulesOf(t, d); after != before {
		t.Error("the rules changed:\n", after)
	}
}

func second[T any](_ T, err error) error { return err }

// TestSetConfigFlows: clients that keep their sockets follow the configuration, and
// those that it makes no difference to keep their flows.
func TestSetConfigFlows(t *testing.T) {
	n := newNode()
	d := open(t, n, nftdp.Config{})
	apply(t, d, dns("10.180.0.1:53"))
	outside, pod := udp("203.0.113.7:40000", "192.0.2.1:53"), udp("10.180.0.9:40000", "192.0.2.1:53")
	wantSource := func(p nftdptest.Packet, want string) {
		t.Helper()
		if got := n.Send(p); got.Verdict != nftdptest.VerdictDelivered || got.Source.Addr() != addr(want) {
			t.Errorf("%v: %+v, want a delivery from %s", p.Source, got, want)
		}
	}
	wantSource(outside, "192.0.2.1")
	wantSource(pod, "192.0.2.1")
	setConfig(t, d, nftdp.Config{Internal: []netip.Prefix{netip.MustParsePrefix("10.180.0.0/16")}})
	if got := len(flowsOf(t, d, dns().Name)); got != 1 {
		t.Errorf("%d flows are left, want that of the client outside", got)
	}
	wantSource(outside, "192.0.2.1")
	wantSource(pod, "10.180.0.9")
	setConfig(t, d, nftdp.Config{})
	wantSource(pod, "192.0.2.1")
	pod.Interface = "veth1"
	setConfig(t, d, nftdp.Config{InternalInterfaces: []string{"veth*"}})
	if got := len(flowsOf(t, d, dns().Name)); got != 2 {
		t.Errorf("%d flows are left, want both: an entry does not show the interface", got)
	}
	n.End(pod)
	wantSource(pod, "10.180.0.9")
	wantSource(outside, "192.0.2.1")
	setConfig(t, d, nftdp.Config{NodeAddrs: []netip.Prefix{netip.MustParsePrefix("192.0.2.77/32")}})
	if got := n.Send(pod); got.Destination != pod.Destination {
		t.Errorf("to an address without frontends: %+v", got)
	}
	setConfig(t, d, nftdp.Config{})
	wantSource(pod, "192.0.2.1")
}
