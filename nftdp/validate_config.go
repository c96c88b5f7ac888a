package nftdp

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/nftdp/go-nftdp/internal/ruleset"
)

// problems are those of the configuration by itself.
func (c Config) problems() []*FieldError {
	var found []*FieldError
	if reason := tableFlaw(c.Table); reason != "" {
		found = append(found, &FieldError{Field: "table", Reason: reason})
	}
	if reason := ownerFlaw(c.Owner); reason != "" {
		found = append(found, &FieldError{Field: "owner", Reason: reason})
	}
	if c.Owner != "" && c.Protect {
		found = append(found, &FieldError{Field: "protect", Reason: "is not possible with owner, since it keeps other owners out: leave one of them out"})
	}
	if reason := c.Unallocated.word().flaw(); reason != "" {
		found = append(found, &FieldError{Field: "unallocated", Reason: reason})
	} else if c.Unallocated == ActionPass {
		found = append(found, &FieldError{Field: "unallocated", Reason: "pass is not possible: use default, reject or drop"})
	}
	found = appendPrefixProblems(found, "nodeAddrs", c.NodeAddrs)
	for i, p := range c.NodeAddrs {
		if p.IsValid() && p.Masked().Addr().IsLinkLocalUnicast() && p.Addr().Is6() && p.Bits() >= 10 {
			found = append(found, &FieldError{Field: fmt.Sprintf("nodeAddrs[%d]", i), Reason: fmt.Sprintf(
				"%v has link-local IPv6 addresses, to which clients send packets that the kernel does not forward: remove it", p)})
		}
	}
	found = appendPrefixProblems(found, "internal", c.Internal)
	for i, name := range c.InternalInterfaces {
		if reason := interfaceFlaw(name); reason != "" {
			found = append(found, &FieldError{Field: fmt.Sprintf("internalInterfaces[%d]", i), Reason: reason})
		}
	}
	return appendPrefixProblems(found, "serviceCIDRs", c.ServiceCIDRs)
}

// interfaceFlaw says what is wrong with the name of an interface, or "".
func interfaceFlaw(pattern string) string {
	name := strings.TrimSuffix(pattern, "*")
	switch {
	case name == "" && pattern != "":
		return "is every interface: list 0.0.0.0/0 and ::/0 in internal instead"
	case name == "":
		return `is empty: give a name, as "cni0", or the beginning of names, as "veth*"`
	case len(name) >= ruleset.InterfaceLen:
		return fmt.Sprintf("%q has %d bytes: at most %d are possible", name, len(name), ruleset.InterfaceLen-1)
	}
	for i, r := range name {
		if !isLetter(r) && !strings.ContainsRune("0123456789_.:@-", r) {
			return fmt.Sprintf(`%q has %q at byte %d: only letters, digits and any of "_.:@-" are possible, and an asterisk at the end`, pattern, r, i)
		}
	}
	return ""
}

func appendPrefixProblems(found []*FieldError, field string, prefixes []netip.Prefix) []*FieldError {
	for i, p := range prefixes {
		if reason := prefixFlaw(p); reason != "" {
			found = append(found, &FieldError{Field: fmt.Sprintf("%s[%d]", field, i), Reason: reason})
		}
	}
	return found
}

// prefixFlaw says what is wrong with a prefix, or "". IPv4-mapped prefixes
// are refused, not normalised as addresses are: shorter than /96 they have no
// meaning in IPv4, and nobody writes one on purpose.
func prefixFlaw(p netip.Prefix) string {
	switch {
	case !p.IsValid():
		return `is missing: give an address and a length, as in "10.0.0.0/8"`
	case p.Addr().Is4In6() && p.Bits() >= 96:
		return fmt.Sprintf("%v is an IPv4-mapped prefix: write %v", p,
			netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-96))
	case p.Addr().Is4In6():
		return fmt.Sprintf("%v is an IPv4-mapped prefix: write it as an IPv4 prefix", p)
	}
	return ""
}

// maxTableLen is the most bytes of a table's name. The kernel accepts 255, but a
// name longer than a comment is of no use.
const maxTableLen = 128

// tableFlaw says what is wrong with a table's name, or "".
func tableFlaw(name string) string {
	if name == "" || name == DefaultTable {
		return ""
	}
	if len(name) > maxTableLen {
		return fmt.Sprintf("has %d bytes: at most %d are possible", len(name), maxTableLen)
	}
	for i, r := range name {
		if !isLetter(r) && (i == 0 || !strings.ContainsRune("0123456789/_.-", r)) {
			return fmt.Sprintf(`%q has %q at byte %d: a letter is needed first, `+
				`then letters, digits and any of "/_.-"`, name, r, i)
		}
	}
	if slices.Contains(strings.Fields(nftWords), name) {
		return fmt.Sprintf("%q is a word of nft's language, so nft could not load its own listing: "+
			"choose another name", name)
	}
	return ""
}

func isLetter(r rune) bool { return 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' }

// nftWords are the names that nft cannot read where it expects a table's name,
// since its lexer takes them for keywords and the grammar has no quotes there. The
// kernel would accept them, and then a listing could not be loaded back. These are
// the words that src/scanner.l knows in every start condition (or, for the last
// two lines, after "list") from nft 1.0.6 to 1.1.6; with 1.0.6 all were tried in
// table, add, delete, flush and list commands. "last" is not among them, since
// every version that knows it accepts it as a name, too.
const nftWords = `
accept add ah all and arp auto-merge bridge cgroup chain comment comp constant
continue counter cpu create ct day dccp define delete describe destroy device
devices dnat drop dst dup dynamic ecn element elements eq esp ether exists
expires export exthdr fib flags flow flowtable flush frag fwd gc-interval ge
geneve get goto gre gretap gt handle hbh hook hour ibriport ibrname icmp icmpv6
igmp iif iifgroup iifname iiftype import include index inet insert interval ip
ip6 ipsec jhash jump le limit list log lshift lt map mark masquerade meta meter
mh missing monitor ne netdev nftrace not notrack numgen obriport obrname offload
oif oifgroup oifname oiftype or osf pkttype policy position priority queue quota
random redefine redirect reject rename replace reset return rshift rt rt0 rt2
rtclassid rule ruleset sctp secmark set size skgid skuid snat socket srh symhash
synproxy table tcp th time timeout tproxy tunnel type typeof udp udplite
undefine update vlan vmap vni vxlan xor xt
chains counters flowtables hooks limits maps meters quotas rules secmarks sets
synproxys tables tunnels
`
