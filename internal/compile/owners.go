package compile

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/nftdp/go-nftdp/internal/ruleset"
)

// sharedMark follows the schema in the comment of tables that several owners
// share. After it comes the configuration that all of them have in common.
const sharedMark = " shared "

// OwnerSeparator follows the owner in the name of a service in shared tables.
const OwnerSeparator = "/"

// OwnerOf returns the owner of a service in shared tables, or "" for a name that
// no owner's service can have.
func OwnerOf(name string) string {
	owner, rest, _ := strings.Cut(name, OwnerSeparator)
	if rest == "" {
		return ""
	}
	return owner
}

// HasOwners reports whether several owners may have services in a table.
func HasOwners(t *ruleset.Table) bool { return strings.Contains(t.Comment, sharedMark) }

// Comment returns the comment of tables with this configuration.
func (c Config) Comment() string {
	if c.Owner == "" {
		return Schema
	}
	return Schema + sharedMark + strings.Join(c.settings(), " ")
}

// settings are those parts of the configuration that shape the tables for all
// owners, as words: the name, as in JSON, and the value or a hash of it.
func (c Config) settings() []string {
	out := []string{"affinitySize=" + strconv.FormatUint(uint64(c.Affinities), 10)}
	list := func(name string, prefixes []netip.Prefix) {
		if len(prefixes) > 0 {
			out = append(out, name+"="+hashOf(Prefixes(prefixes))[:8])
		}
	}
	list("internal", c.Internal)
	if len(c.Inputs) > 0 {
		out = append(out, "internalInterfaces="+hashOf(strings.Join(slices.Compact(slices.Sorted(slices.Values(c.Inputs))), " "))[:8])
	}
	if c.Localhost {
		out = append(out, "localhost=true")
	}
	list("nodeAddrs", c.NodeAddrs)
	list("serviceCIDRs", c.ServiceCIDRs)
	if c.DropUnallocated {
		out = append(out, "unallocated=drop")
	}
	return out
}

// Differing names the settings in which shared tables differ from the
// configuration.
func (c Config) Differing(t *ruleset.Table) []string {
	_, theirs, _ := strings.Cut(t.Comment, sharedMark)
	held, ours := strings.Fields(theirs), c.settings()
	var out []string
	for _, word := range slices.Concat(held, ours) {
		name, _, _ := strings.Cut(word, "=")
		if slices.Contains(held, word) != slices.Contains(ours, word) && !slices.Contains(out, name) {
			out = append(out, name)
		}
	}
	slices.Sort(out)
	return out
}
