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
func (c Clients) rules() (out []ruleset.Rule) {
	drop := ruleset.Verdict{Kind: ruleset.Drop}
	if c.Deny != "" {
		for _, condition := range (prefixes{c.Deny}).inside() {
			out = append(out, ruleset.Rule{condition, drop})
		}
	}
	if c.Allow != "" {
		out = append(out, append(prefixes{c.Allow}.outside(), drop))
	}
	return out
}

// read adds the prefixes that a rule matches.
func (c *Clients) read(r ruleset.Rule) {
	for _, s := range r {
		if m, ok := s.(ruleset.MatchAddr); ok && m.Field == ruleset.Saddr && m.Not {
			c.Allow = withPrefix(c.Allow, m.Prefix)
		} else if ok && m.Field == ruleset.Saddr {
			c.Deny = withPrefix(c.Deny, m.Prefix)
		}
	}
}

// withPrefix returns a list, which may be empty, with one prefix more.
func withPrefix(list string, p netip.Prefix) string { return Prefixes(append(parsePrefixes(list), p)) }

func (c Clients) units(yield func(unit) bool) bool {
	return (c.Deny == "" || prefixes{c.Deny}.units(yield)) && (c.Allow == "" || prefixes{c.Allow}.units(yield))
}

func (c Clients) hash() string { return hashOf(c.Allow + "/" + c.Deny) }

// hashOf returns a name for contents, the same on every node. Who writes lists can
// look for two with the same name: among 2^64 lists, for 128 bits.
func hashOf(s string) string {
	sum := sha256.Sum256([]byte(s))
	return hex.EncodeToString(sum[:16])
}

// prefixes is a list of prefixes. If it is long, or has none or all clients, it is a set,
// shared by the frontends that have the same list.
type prefixes struct{ list string }

// mostInRules is how many prefixes are matched by rules instead of a set. The kernel
// finds a set by comparing names (nft_set_lookup in nf_tables_api.c), so that sets cost
// the square of their number, and it takes no more than 128 expressions in a rule
// (NFT_RULE_MAXEXPRS), of which a prefix needs up to three.
const mostInRules = 16

func (p prefixes) isSet() bool {
	return p.list == Nobody || strings.HasSuffix(p.list, "/0") || strings.Count(p.list, " ") >= mostInRules
}

// units iterates over the set, if the list is one.
func (p prefixes) units(yield func(unit) bool) bool { return !p.isSet() || yield(p) }

// inside returns conditions. The packets of clients in the list meet one of them.
func (p prefixes) inside() (out []ruleset.Statement) {
	if p.isSet() {
		return []ruleset.Statement{ruleset.Lookup{Key: ops(ruleset.Saddr), Set: p.name()}}
	}
	for _, prefix := range parsePrefixes(p.list) {
		out = append(out, ruleset.MatchAddr{Field: ruleset.Saddr, Prefix: prefix})
	}
	return out
}

// outside returns conditions. The packets of clients that are not in the list meet all
// of them.
func (p prefixes) outside() (out ruleset.Rule) {
	if p.isSet() {
		return ruleset.Rule{ruleset.Lookup{Key: ops(ruleset.Saddr), Not: true, Set: p.name()}}
	}
	for _, prefix := range parsePrefixes(p.list) {
		out = append(out, ruleset.MatchAddr{Field: ruleset.Saddr, Not: true, Prefix: prefix})
	}
	return out
}

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
