//go:build linux

package host

import (
	"context"
	"errors"
	"io/fs"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/nftdp/go-nftdp/internal/around"
	"github.com/nftdp/go-nftdp/internal/compile"
	"github.com/nftdp/go-nftdp/internal/kernel"
	"github.com/nftdp/go-nftdp/internal/ruleset"
	"github.com/nftdp/go-nftdp/internal/sockets"
	"github.com/nftdp/go-nftdp/internal/sysctl"
	"github.com/nftdp/go-nftdp/internal/trace"
)

// Examine reads what decides about packets on the node besides our rules. It may be
// used concurrently with all other methods.
func (h *Host) Examine(ctx context.Context, q *around.Question) (*around.Node, error) {
	n := &around.Node{Parameters: map[string]string{}}
	var conn *kernel.Conn
	loaded := h.loadConntrack(ctx)
	err := h.inNamespace(func() (err error) {
		readFiles(n)
		if n.Listeners, err = sockets.List(ctx, Here); err != nil {
			return err
		}
		conn, err = kernel.Dial(Here)
		return err
	})
	if err = errors.Join(loaded, err); conn != nil {
		defer conn.Close()
	}
	if err != nil {
		return nil, err
	}
	if err := examineRules(ctx, conn, q, n); err != nil {
		return nil, err
	}
	if n.Missing, err = missing(ctx, conn.Commit, q.Flags); err != nil {
		return nil, err
	}
	n.Missing = append(n.Missing, missingConntrack(ctx, h.flows.List)...)
	return n, h.examineRoutes(ctx, q, n)
}

// loadConntrack makes the kernel load conntrack, without which its parameters do not
// exist.
func (h *Host) loadConntrack(ctx context.Context) error {
	_, err := h.Sysctl(ctx, "net.netfilter.nf_conntrack_count")
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// parameters are those that decide about packets to services.
func parameters() []string {
	return []string{
		"net.ipv4.ip_forward",
		"net.ipv4.conf.all.rp_filter",
		"net.ipv4.conf.all.route_localnet",
		"net.ipv4.ip_local_port_range",
		"net.ipv4.ip_local_reserved_ports",
		"net.ipv6.conf.all.forwarding",
		"net.ipv6.conf.all.force_forwarding",
		"net.netfilter.nf_conntrack_tcp_be_liberal",
		"net.netfilter.nf_conntrack_count",
		"net.netfilter.nf_conntrack_max",
		"net.bridge.bridge-nf-call-iptables",
		"net.bridge.bridge-nf-call-ip6tables",
	}
}

// readFiles reads what the kernel shows in files only, on a thread in the namespace.
// What does not exist is left out.
func readFiles(n *around.Node) {
	for _, name := range parameters() {
		if value, err := sysctl.Get(name); err == nil {
			n.Parameters[name] = value
		}
	}
	for _, of := range []struct{ family, file string }{{"ip", "ip_tables_names"}, {"ip6", "ip6_tables_names"}} {
		b, _ := os.ReadFile("/proc/thread-self/net/" + of.file)
		for table := range strings.FieldsSeq(string(b)) {
			n.Legacy = append(n.Legacy, of.family+" "+table)
		}
	}
	n.Filtered = counterOf("IPReversePathFilter")
}

// counterOf reads a counter of /proc/net/netstat: a line of names, and one of values.
func counterOf(name string) uint64 {
	b, _ := os.ReadFile("/proc/thread-self/net/netstat")
	lines := strings.Split(string(b), "\n")
	for i := 0; i+1 < len(lines); i += 2 {
		values := strings.Fields(lines[i+1])
		for j, known := range strings.Fields(lines[i]) {
			if known == name && j < len(values) {
				v, _ := strconv.ParseUint(values[j], 10, 64)
				return v
			}
		}
	}
	return 0
}

func examineRules(ctx context.Context, conn *kernel.Conn, q *around.Question, n *around.Node) error {
	names, err := conn.Names(ctx, func(t *ruleset.Table) bool { return t.Name != q.Table && compile.Current(t) })
	if err != nil {
		return err
	}
	frontends := func(_ ruleset.Family, set string) bool { return compile.SetNamed(set).Frontends() }
	for _, name := range names {
		r, err := conn.Read(ctx, name, ruleset.Families[:], frontends)
		if err != nil {
			return err
		}
		n.Others = append(n.Others, r.Tables...)
	}
	nothing := func(ruleset.Family, string) bool { return false }
	own, err := conn.Read(ctx, q.Table, ruleset.Families[:], nothing)
	if err != nil {
		return err
	}
	n.Tables = own.Tables
	n.Foreign = map[ruleset.Family][]map[string]*around.Chain{}
	for _, f := range ruleset.Families {
		n.Foreign[f], err = conn.Foreign(ctx, f, func(in ruleset.Family, table string) bool {
			return in == f && (table == q.Table || slices.Contains(names, table)) || trace.OfTrace(table)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// maxNeighbours bounds the neighbours that are looked at, as the kernel asks few at a
// time.
const maxNeighbours = 512

func (h *Host) examineRoutes(ctx context.Context, q *around.Question, n *around.Node) (err error) {
	if n.Links, err = h.address.Links(ctx); err != nil {
		return err
	}
	for _, f := range ruleset.Families {
		local, err := h.address.LocalAddrs(ctx, f)
		if err != nil {
			return err
		}
		n.Local = append(n.Local, local...)
	}
	if n.Hops, err = h.address.Hops(ctx, q.Addrs); err != nil {
		return err
	}
	return h.examineNeighbours(ctx, n)
}

// examineNeighbours looks for the neighbours that packets to backends go to.
func (h *Host) examineNeighbours(ctx context.Context, n *around.Node) error {
	resolved := map[uint32]bool{} // links out of which packets need a link-layer address
	for i := range n.Links {
		l := &n.Links[i]
		resolved[l.Index] = l.Up && !l.Loopback && !l.NoARP
	}
	n.Neighbours = map[around.Hop]around.Neighbour{}
	for _, r := range n.Hops {
		if r.Refusal == around.Routed && !r.Local && !r.Several && resolved[r.Out.Index] {
			n.Neighbours[around.Hop{Out: r.Out, Addr: r.Via}] = around.Unknown
		}
	}
	hops := slices.SortedFunc(maps.Keys(n.Neighbours), func(x, y around.Hop) int { return x.Addr.Compare(y.Addr) })
	hops = hops[:min(len(hops), maxNeighbours)]
	states, err := h.address.Neighbours(ctx, hops)
	for i := range states {
		n.Neighbours[hops[i]] = states[i]
	}
	return err
}
