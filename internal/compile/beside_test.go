package compile

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/nftdp/go-nftdp/internal/ruleset"
)

// TestListedTwice: an element of another service that the kernel lists twice, since
// its set changed meanwhile, is not added: the service may be gone by now.
func TestListedTwice(t *testing.T) {
	c := Config{Table: "t", Owner: "a"}
	theirs := &Service{Name: "b/1", Proto: UDP, Affinity: 10, Frontends: []*Frontend{{
		Addr: netip.MustParseAddr("10.96.0.1"), Port: 53,
		Pool: []netip.AddrPort{netip.MustParseAddrPort("10.180.0.1:53"), netip.MustParseAddrPort("10.180.0.2:53")},
	}}}
	current := New(c, []*Service{theirs}).Ruleset()
	for _, s := range current.Tables[0].Sets {
		s.Elements = slices.Concat(s.Elements, s.Elements)
	}
	wanted := New(c, nil).Beside(current, func(string) bool { return false })
	for _, change := range ruleset.Diff(current, wanted).Changes() {
		if change.Verb == ruleset.Add && change.Set != nil && SetNamed(change.Set.Name) < NumSets {
			t.Error(&change)
		}
	}
}
