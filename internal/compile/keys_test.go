package compile

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/nftdp/go-nftdp/internal/ruleset"
)

// FuzzKeys: in a table that nobody else has changed, the keys of the maps of pools
// and of the set of backends' addresses are exactly those that follow from what
// was read before.
func FuzzKeys(f *testing.F) {
	addRandom(f, 200)
	f.Fuzz(func(t *testing.T, b []byte) {
		d := &dice{b}
		for _, table := range New(d.config(), d.services()).Ruleset().Tables {
			known := *table
			known.Sets = nil
			for i, set := range table.Sets {
				id := SetNamed(set.Name)
				if id == NumSets {
					break
				}
				hollow := *set
				hollow.Elements = nil
				known.Sets = append(known.Sets, &hollow)
				got := (&Keys{Table: &known}).Of(id)
				known.Sets[i] = set
				if !id.Backends() && id != Hairpin {
					continue
				}
				want := map[ruleset.Tuple]int{}
				for _, e := range set.Elements {
					want[e.Key]++
				}
				count := map[ruleset.Tuple]int{}
				for _, k := range got {
					count[k]++
				}
				if !maps.Equal(want, count) {
					t.Errorf("keys of %s %s (-want +got):\n%s", table.Family, set.Name,
						cmp.Diff(keysText(want), keysText(count)))
				}
			}
		}
	})
}

// TestKeysBounded: a chain that another process has changed does not make us ask for
// more keys than there can be.
func TestKeysBounded(t *testing.T) {
	var services []*Service
	pool := []netip.AddrPort{netip.MustParseAddrPort("10.8.0.1:80"), netip.MustParseAddrPort("10.8.0.2:80")}
	for i := range 100 {
		services = append(services, &Service{Name: fmt.Sprint(i), Proto: TCP, Frontends: []*Frontend{
			{Addr: addr("10.9.0.1"), Port: uint16(80 + i), Pool: pool},
		}})
	}
	table := New(Config{}, services).Ruleset().Table(ruleset.IPv4)
	if n := len((&Keys{Table: table}).Of(Backends)); n != 200 {
		t.Errorf("%d keys, want 200", n)
	}
	rule := table.Chain("random-2").Rules[0]
	for i, s := range rule {
		if d, ok := s.(ruleset.DNAT); ok {
			d.Key[len(d.Key)-1].Mod = 1 << 31
			rule[i] = d
		}
	}
	if n := len((&Keys{Table: table}).Of(Backends)); n > 0 {
		t.Errorf("%d keys with a chain of 2^31 slots", n)
	}
}

func keysText(keys map[ruleset.Tuple]int) []string {
	var out []string
	for k, n := range keys {
		for range n {
			out = append(out, string(k.Bytes()[:k.Len()]))
		}
	}
	slices.Sort(out)
	return out
}
