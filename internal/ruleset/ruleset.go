// Package ruleset is the intermediate form between services and the kernel:
// tables, chains, rules, sets, maps and their elements as plain values, in
// nft's own words. It renders canonical nft text, computes the difference
// between two rulesets and applies it. It does no I/O.
package ruleset

import "net/netip"

// Family is a netfilter protocol family, numbered as NFPROTO_* in
// linux/netfilter.h.
type Family uint8

// The families that have tables of ours.
const (
	IPv4 Family = 2
	IPv6 Family = 10
)

// Families lists every family in the order in which tables are kept.
var Families = [...]Family{IPv4, IPv6}

// String is nft's name of the family.
func (f Family) String() string {
	if f == IPv6 {
		return "ip6"
	}
	return "ip"
}

// AddrLen is the size of an address in bytes.
func (f Family) AddrLen() int {
	if f == IPv6 {
		return 16
	}
	return 4
}

// FamilyOf is the family of an address; an IPv4-mapped IPv6 address is IPv4.
func FamilyOf(a netip.Addr) Family {
	if a.Unmap().Is4() {
		return IPv4
	}
	return IPv6
}

// Index is the family's place in Families.
func (f Family) Index() int {
	if f == IPv6 {
		return 1
	}
	return 0
}

// Unspecified is the unspecified address, 0.0.0.0 or ::.
func (f Family) Unspecified() netip.Addr {
	if f == IPv6 {
		return netip.IPv6Unspecified()
	}
	return netip.IPv4Unspecified()
}

// Loopback is the address that the name localhost stands for, 127.0.0.1 or ::1.
func (f Family) Loopback() netip.Addr {
	if f == IPv6 {
		return netip.IPv6Loopback()
	}
	return netip.AddrFrom4([4]byte{127, 0, 0, 1})
}

// Ruleset is what the tables of one name hold, at most one table per family.
type Ruleset struct {
	Tables []*Table // in the order of Families
}

// Table is one table of a family.
type Table struct {
	Family  Family
	Name    string
	Comment string // shown by nft (Linux 5.10 and later); marks the table as ours
	Flags   TableFlags
	Port    uint32 // the netlink port of the owner's socket, 0 without owner; not compared
	Sets    []*Set
	Chains  []*Chain
	Objects []Object // of others
	Opaque  []string // objects that this package cannot express; equal to nothing
}

// Set is a set or a map.
type Set struct {
	Name     string
	Key      []Type
	Data     []Type // of a map of values
	Verdict  bool   // a verdict map; Data is empty
	Interval bool   // elements are ranges of keys
	Dynamic  bool   // rules add elements, which time out; they are no part of the ruleset
	Counter  bool   // every element counts its lookups
	Size     uint32 // most elements it can hold; 0 is unlimited
	// AfterDNAT says that packets look it up only after their destination was
	// chosen (see Transaction). The kernel does not know it; it is not compared.
	AfterDNAT bool
	// Repeatable says that it makes no difference to add an element that is
	// there already. Otherwise the kernel is asked to refuse that. It is not
	// compared either.
	Repeatable bool
	Opaque     string // what this package cannot express; equal to nothing
	Note       string // what nft would show besides, such as a comment; equal to nothing
	Elements   []Element
}

// Element is a member of a set or map.
type Element struct {
	Key     Tuple
	End     Tuple   // last key of an interval, inclusive in each field; empty elsewhere
	Data    Tuple   // of a map of values
	Verdict Verdict // of a verdict map
	Comment string
	Opaque  bool   // this package cannot express it; equal to nothing
	Packets uint64 // the counter's state, which is not compared
	Bytes   uint64
}

// Chain is a base chain (with a Hook) or a regular one.
type Chain struct {
	Name   string
	Hook   *Hook
	Opaque string // what this package cannot express; equal to nothing
	Rules  []Rule
}

// Hook is where a base chain with policy accept is attached.
type Hook struct {
	Num      HookNum
	Priority int32
	Filter   bool // of type filter, which sees every packet; else nat, which sees the first of a connection
}

// HookNum is a netfilter hook, numbered as NF_INET_* in linux/netfilter.h.
type HookNum uint32

// The hooks.
const (
	Prerouting  HookNum = 0
	Input       HookNum = 1
	Forward     HookNum = 2
	Output      HookNum = 3
	Postrouting HookNum = 4
	// Ingress is ahead of prerouting, and Egress behind postrouting, each of certain
	// devices. The kernel numbers them as 0 and 1 in family netdev, and Ingress as 5 in
	// family inet (linux/netfilter.h).
	Ingress HookNum = 5
	Egress  HookNum = 6
)

// Table returns the table of the family, or nil.
func (r *Ruleset) Table(f Family) *Table {
	for _, t := range r.Tables {
		if t.Family == f {
			return t
		}
	}
	return nil
}

// Set returns the set of that name, or nil.
func (t *Table) Set(name string) *Set {
	for _, s := range t.Sets {
		if s.Name == name {
			return s
		}
	}
	return nil
}

// Names finds the chains and sets of a table, of which there can be many.
type Names struct {
	Of     *Table
	chains map[string]*Chain
	sets   map[string]*Set
}

// Names indexes the chains and sets that the table has now. Without a table it is nil.
func (t *Table) Names() *Names {
	if t == nil {
		return nil
	}
	out := &Names{t, make(map[string]*Chain, len(t.Chains)), make(map[string]*Set, len(t.Sets))}
	for _, c := range t.Chains {
		out.chains[c.Name] = c
	}
	for _, s := range t.Sets {
		out.sets[s.Name] = s
	}
	return out
}

// Chain returns the chain of that name, or nil.
func (n *Names) Chain(name string) *Chain { return n.chains[name] }

// Set returns the set of that name, or nil.
func (n *Names) Set(name string) *Set { return n.sets[name] }

// Chain returns the chain of that name, or nil.
func (t *Table) Chain(name string) *Chain {
	for _, c := range t.Chains {
		if c.Name == name {
			return c
		}
	}
	return nil
}
