package compile

import (
	"crypto/sha256"
	"encoding/hex"
	"net/netip"
	"strings"

	"github.com/nftdp/go-nftdp/internal/ruleset"
)

// Clients restricts the clients of a frontend, in one family. Both are lists of
// prefixes in the form of Prefixes; an empty string restricts nothing.
type Clients struct {
	Allow, Deny string
}

// Nobody is the list without any prefix. Unlike the empty string, it restricts:
// no client is in it.
const Nobody = "nobody"

// Prefixes returns the canonical form of a list of prefixes of one family:
// sorted, without those inside others.
func Prefixes(prefixes []netip.Prefix) string {
	words := []string{}
	for _, p := range outermost(prefixes) {
		words = append(words, p.String())
	}
	if len(words) == 0 {
		return Nobody
	}
	return strings.Join(words, " ")
}

func parsePrefixes(list string) []netip.Prefix {
	if list == Nobody {
		return nil
	}
	var out []netip.Prefix
	for word := range strings.FieldsSeq(list) {
		out = append(out, netip.MustParsePrefix(word))
	}
	return out
}

// rules returns rules that drop packets of clients that are denied or not
// allowed.
func (c Clients) rules() []ruleset.Rule {
	var out []ruleset.Rule
	drop := ruleset.Verdict{Kind: ruleset.Drop}
	if c.Deny != "" {
		out = append(out, ruleset.Rule{ruleset.Lookup{Key: ops(ruleset.Saddr), Set: prefixes{c.Deny}.name()}, drop})
	}
	if c.Allow != "" {
		out = append(out, ruleset.Rule{ruleset.Lookup{Key: ops(ruleset.Saddr), Not: true, Set: prefixes{c.Allow}.name()}, drop})
	}
	return out
}

func (c Clients) units(yield func(unit) bool) bool {
	return (c.Deny == "" || yield(prefixes{c.Deny})) && (c.Allow == "" || yield(prefixes{c.Allow}))
}

func (c Clients) hash() string { return hashOf(c.Allow + "/" + c.Deny) }

// hashOf returns a name for contents, the same on every node. Who writes lists can
// look for two with the same name: among 2^64 lists, for 128 bits.
func hashOf(s string) string {
	sum := sha256.Sum256([]byte(s))
	return hex.EncodeToString(sum[:16])
}

// prefixes is a set of prefixes, shared by the frontends that have the same list.
type prefixes struct{ list string }

func (p prefixes) name() string { return prefixesPrefix + hashOf(p.list) }

const prefixesPrefix = "clients-"

func (prefixes) chain() *ruleset.Chain { return nil }

func (p prefixes) set() *ruleset.Set {
	return intervalSet(p.name(), parsePrefixes(p.list))
}

// listOf reads a list of prefixes from its set.
func listOf(s *ruleset.Set, f ruleset.Family) (list string, ok bool) {
	var found []netip.Prefix
	for i := range s.Elements {
		p, ok := s.Elements[i].Prefix(f, s)
		if !ok {
			return "", false
		}
		found = append(found, p)
	}
	list = Prefixes(found)
	return list, prefixes{list}.name() == s.Name
}
