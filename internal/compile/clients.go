package compile

import (
	"crypto/sha256"
	"encoding/hex"
	"net/netip"
	"strings"

	"github.com/nftdp/go-nftdp/internal/ruleset"
)

// Clients says whose packets a frontend takes, in one family. Both are
// prefixes as Prefixes writes them; an empty one says nothing.
type Clients struct {
	Allow, Deny string
}

// Nobody is a list of prefixes without any, but not an empty one.
const Nobody = "nobody"

// Prefixes writes a list of prefixes of one family in canonical form: sorted,
// without those inside others.
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

// rules drop what is denied or not allowed.
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

// hashOf names contents, so that equal ones have one name on every node. With
// 64 bits two lists among a million of them differ in it practically always.
func hashOf(s string) string {
	sum := sha256.Sum256([]byte(s))
	return hex.EncodeToString(sum[:8])
}

// prefixes is a set of them, which frontends share that have the same list.
type prefixes struct{ list string }

func (p prefixes) name() string { return prefixesPrefix + hashOf(p.list) }

const prefixesPrefix = "clients-"

func (prefixes) chain() *ruleset.Chain { return nil }

func (p prefixes) set() *ruleset.Set {
	return intervalSet(p.name(), parsePrefixes(p.list))
}

// listOf reads the list back from its set.
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
