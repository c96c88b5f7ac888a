package compile

import (
	"net/netip"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/nftdp/go-nftdp/internal/ruleset"
)

// TestHoldsForeign: elements that other processes put into our maps are not
// services, and reading them does not go beyond their ends.
func TestHoldsForeign(t *testing.T) {
	web := &Service{
		Name: "web", Proto: TCP,
		Frontends: []*Frontend{{Addr: addr("10.9.0.1"), Port: 80, Pool: []netip.AddrPort{netip.MustParseAddrPort("10.8.0.1:8080")}}},
	}
	r := New(Config{}, []*Service{web}).Ruleset()
	table := r.Table(ruleset.IPv4)
	key := ruleset.Tuple{}.Addr(addr("10.9.0.9")).Proto(UDP).Port(53)
	add := func(set string, e ruleset.Element) {
		table.Set(set).Elements = append(table.Set(set).Elements, e)
	}
	add("frontends", ruleset.Element{Key: key})                                             // no name
	add("frontends", ruleset.Element{Key: key, Comment: "opaque", Opaque: true})            // not decoded
	add("frontends", ruleset.Element{Key: ruleset.Tuple{}.Port(1), Comment: "short"})       // short key
	add("backends", ruleset.Element{Key: ruleset.Tuple{}.Port(1)})                          // short key
	add("backends", ruleset.Element{Key: table.Set("frontends").Elements[0].Key.Slot(7)})   // no data
	add("backends", ruleset.Element{Key: key.Slot(0), Data: ruleset.Tuple{}.Port(8080)})    // short data
	add("backends", ruleset.Element{Key: key.Slot(1), Opaque: true, Data: ruleset.Tuple{}}) // not decoded
	r.Tables[1].Sets = nil

	held := *web
	held.Adopted = true
	front := HeldFrontend{Frontend: *web.Frontends[0], Slots: []HeldBackend{{Addr: web.Frontends[0].Pool[0]}}}
	want := []Held{{Service: held, Slots: []HeldFrontend{front}}}
	if diff := gocmp.Diff(want, Holds(r), cmpopts.EquateComparable(netip.Addr{}, netip.AddrPort{})); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestFrontendOf(t *testing.T) {
	v4 := ruleset.Tuple{}.Addr(addr("10.9.0.1")).Proto(TCP).Port(80)
	v6 := ruleset.Tuple{}.Addr(addr("fd00:9::1")).Proto(UDP).Port(53)
	node := ruleset.Tuple{}.Proto(SCTP).Port(30644)
	for _, c := range []struct {
		name   string
		id     SetID
		family ruleset.Family
		key    ruleset.Tuple
		addr   string // empty: none
		proto  uint8
		port   uint16
	}{
		{"frontend", Frontends, ruleset.IPv4, v4, "10.9.0.1", TCP, 80},
		{"frontend ip6", Frontends, ruleset.IPv6, v6, "fd00:9::1", UDP, 53},
		{"backend", Backends, ruleset.IPv4, v4.Slot(3), "10.9.0.1", TCP, 80},
		{"masquerading", Masq, ruleset.IPv4, v4, "10.9.0.1", TCP, 80},
		{"node-wide", NodeFrontends, ruleset.IPv4, node, "0.0.0.0", SCTP, 30644},
		{"node-wide ip6", NodeFrontends, ruleset.IPv6, node, "::", SCTP, 30644},
		{"node-wide backend", NodeBackends, ruleset.IPv6, node.Slot(1), "::", SCTP, 30644},
		{"node-wide masquerading", NodeMasq, ruleset.IPv4, node.Addr(addr("10.8.0.1")), "0.0.0.0", SCTP, 30644},
		{"hairpin", Hairpin, ruleset.IPv4, v4, "", 0, 0},
		{"another set", NumSets, ruleset.IPv4, v4, "", 0, 0},
		{"too short", Frontends, ruleset.IPv6, v4, "", 0, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, ok := FrontendOf(c.id, c.family, c.key)
			if ok != (c.addr != "") {
				t.Fatalf("ok is %t", ok)
			}
			if want := (Key{Port: c.port, Proto: c.proto}); ok {
				if want.Addr = addr(c.addr); got != want {
					t.Errorf("%v, want %v", got, want)
				}
			}
		})
	}
}

func TestSetNamed(t *testing.T) {
	for id, s := range declared {
		if got := SetNamed(s.Name); got != SetID(id) {
			t.Errorf("%s is %d, want %d", s.Name, got, id)
		}
	}
	for _, name := range []string{"", internalSet, "Frontends"} {
		if got := SetNamed(name); got != NumSets {
			t.Errorf("%q is %d, want none", name, got)
		}
	}
}

func TestOwned(t *testing.T) {
	for comment, want := range map[string]bool{
		Schema: true, "nftdp schema 999": true, "nftdp": false, "": false, "my nftdp schema 1": false,
	} {
		if got := Owned(&ruleset.Table{Comment: comment}); got != want {
			t.Errorf("%q: %t, want %t", comment, got, want)
		}
	}
}

// TestPrefixSet: the intervals do not overlap, since a kernel would refuse them.
func TestPrefixSet(t *testing.T) {
	got := prefixSet("s", ruleset.IPv4, []netip.Prefix{
		prefix("10.1.2.3/16"), prefix("10.0.0.0/8"), prefix("9.0.0.0/8"), prefix("10.255.255.255/32"),
		prefix("10.0.0.0/8"), prefix("11.0.0.0/8"), prefix("fd00::/8"), prefix("192.168.7.9/32"),
	})
	var text []string
	for _, e := range got.Elements {
		text = append(text, e.Key.AddrAt(0, ruleset.IPv4).String()+"-"+e.End.AddrAt(0, ruleset.IPv4).String())
	}
	want := []string{
		"9.0.0.0-9.255.255.255", "10.0.0.0-10.255.255.255", "11.0.0.0-11.255.255.255", "192.168.7.9-192.168.7.9",
	}
	if diff := gocmp.Diff(want, text); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}
