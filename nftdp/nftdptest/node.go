package nftdptest

import (
	"context"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/nftdp/go-nftdp/internal/ruleset"
	"github.com/nftdp/go-nftdp/nftdp"
)

// Node is one network namespace in memory: the rules in it, the connections
// that it tracks, and the clients that it remembers.
type Node struct {
	// Choose picks one of several outcomes by its index, where the kernel would
	// draw a number. They are in the order of Outcomes. Nil takes turns, over all
	// services: n connections in a row reach n backends. Set it before the first
	// Send; it must not call the Node.
	Choose func(possible []Outcome) int

	mu         sync.Mutex
	changed    *sync.Cond // there may be something to hear
	addrs      []netip.Addr
	generation uint32
	tables     []*tables // the newest first, as the kernel calls their hooks
	entries    map[place]entries
	flows      map[tuple]*flow
	sysctls    map[string]string
	monitors   map[*monitor]bool
	ports      uint32 // how many Dataplanes were opened
	turn       int
	now        time.Duration
}

// NewNode makes a node without rules that has these addresses, besides
// 127.0.0.0/8 and ::1. In each family the first one is the source of what is
// masqueraded; without any, that source is not valid. All kernel parameters are
// off.
func NewNode(addrs ...netip.Addr) *Node {
	n := &Node{
		generation: 1, entries: map[place]entries{}, flows: map[tuple]*flow{}, monitors: map[*monitor]bool{},
		sysctls: map[string]string{
			"net.ipv4.ip_forward": "0", "net.ipv6.conf.all.forwarding": "0", "net.netfilter.nf_conntrack_tcp_be_liberal": "0",
		},
	}
	for _, a := range addrs {
		n.addrs = append(n.addrs, a.Unmap())
	}
	n.changed = sync.NewCond(&n.mu)
	return n
}

// Open opens a Dataplane on the node, as nftdp.Config.Open does on the running
// kernel, with the same errors. Several can be open. To one of them, another one
// with the same tables is somebody else who changes them.
func (n *Node) Open(ctx context.Context, c nftdp.Config) (*nftdp.Dataplane, error) {
	n.mu.Lock()
	n.ports++
	k := &kernel{node: n, port: n.ports, monitor: &monitor{node: n, port: n.ports}}
	n.mu.Unlock()
	return c.OpenKernel(ctx, k)
}

// FlushRuleset deletes all tables, except protected ones, as
// `nft flush ruleset` does.
func (n *Node) FlushRuleset() {
	n.mu.Lock()
	defer n.mu.Unlock()
	var all []ruleset.Change
	for _, t := range n.tables {
		for _, of := range t.rules.Tables {
			if of.Port == 0 {
				all = append(all, ruleset.Change{Verb: ruleset.Delete, Family: of.Family, Table: t.name})
			}
		}
	}
	if err := n.commit(0, all); err != nil {
		panic(err) // they are there, and nobody's
	}
}

// Advance lets time pass. It ends what has not been used for long enough: UDP
// flows, and connections that have ended, after two minutes, other connections
// after five days, and clients of services with affinity after
// Service.Affinity.
func (n *Node) Advance(d time.Duration) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.now += d
	for _, list := range n.entries {
		maps.DeleteFunc(list, func(_ string, e *entry) bool { return e.expires <= n.now })
	}
	maps.DeleteFunc(n.flows, func(_ tuple, f *flow) bool { return n.now-f.used >= f.timeout() })
}

// local reports whether the node has an address.
func (n *Node) local(a netip.Addr) bool { return a.IsLoopback() || slices.Contains(n.addrs, a) }

// first is the first address of a family, or the zero one.
func (n *Node) first(f ruleset.Family) netip.Addr {
	for _, a := range n.addrs {
		if ruleset.FamilyOf(a) == f {
			return a
		}
	}
	return netip.Addr{}
}
