package flows

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"net/netip"
	"slices"
	"syscall"
	"time"

	"github.com/nftdp/go-nftdp/internal/compile"
	"github.com/nftdp/go-nftdp/internal/ruleset"
)

// Affinities are the kernel's maps of clients and their backends.
type Affinities interface {
	Entries(ctx context.Context, f ruleset.Family, of *ruleset.Set) ([]ruleset.Entry, error)
	// Commit adds or deletes entries, and returns how many the kernel now has
	// as given, or has deleted.
	Commit(ctx context.Context, c *ruleset.EntryChange) (int, error)
}

// Affinity is a client that the kernel sends back to its backend.
type Affinity struct {
	Service  string
	Proto    uint8
	Client   netip.Addr
	Frontend netip.AddrPort // with an unspecified address if it is node-wide
	Backend  netip.AddrPort
	Expires  time.Duration
}

// Affinities lists the clients with affinity, sorted by service, frontend and
// client.
func (t *Table) Affinities(ctx context.Context, state *compile.State) ([]Affinity, error) {
	var all []Affinity
	for at := range eachMap(state.Config()) {
		entries, err := t.affinities.Entries(ctx, at.Family, at.Set)
		if err != nil {
			return nil, err
		}
		entries = slices.DeleteFunc(entries, func(e ruleset.Entry) bool { return e.CatchAll || e.Opaque })
		all = append(all, affinitiesOf(at.Family, entries)...)
	}
	known, err := t.clients(ctx, state, all)
	if err != nil {
		return nil, err
	}
	var out []Affinity
	for i := range known.list {
		switch seconds, err := known.seconds(i); {
		case err != nil:
			return nil, err
		case seconds > 0:
			a := known.list[i]
			a.Service = known.services[i].Name
			out = append(out, a)
		}
	}
	slices.SortFunc(out, func(x, y Affinity) int {
		return cmp.Or(
			cmp.Compare(x.Service, y.Service), x.Frontend.Compare(y.Frontend),
			x.Client.Compare(y.Client), cmp.Compare(x.Proto, y.Proto))
	})
	return out, nil
}

// AddAffinities adds clients, and returns for how many of them the kernel now has
// the given backend.
func (t *Table) AddAffinities(ctx context.Context, state *compile.State, list []Affinity) (total int, err error) {
	known, err := t.clients(ctx, state, slices.DeleteFunc(slices.Clone(list), func(a Affinity) bool {
		family := ruleset.FamilyOf(a.Frontend.Addr())
		return a.Expires <= 0 || !a.Client.IsValid() || ruleset.FamilyOf(a.Client) != family || ruleset.FamilyOf(a.Backend.Addr()) != family
	}))
	if err != nil {
		return 0, err
	}
	type place struct {
		ruleset.Family
		node bool
	}
	wanted := map[place][]ruleset.Entry{}
	for i := range known.list {
		a := &known.list[i]
		seconds, err := known.seconds(i)
		if err != nil {
			return 0, err
		}
		if seconds > 0 {
			at := place{ruleset.FamilyOf(a.Frontend.Addr()), a.Frontend.Addr().Unmap().IsUnspecified()}
			wanted[at] = append(wanted[at], entryOf(a, time.Duration(seconds)*time.Second))
		}
	}
	for at := range eachMap(state.Config()) {
		at.Verb, at.Entries = ruleset.Add, wanted[place{at.Family, len(at.Set.Key) == nodeKey}]
		n, err := t.affinities.Commit(ctx, &at)
		total += n
		if err != nil {
			return total, err
		}
	}
	if current := t.current.Load(); current != nil && total > 0 {
		// A commit meanwhile may have taken a backend away, and deleted its
		// clients before these were added.
		_, err = t.Purge(ctx, current, t.affinities)
	}
	return total, err
}

// nodeKey is the number of fields in the keys of node-wide frontends' clients: client .
// protocol . port. Others have the frontend's address as their second one.
const nodeKey = 3

// eachMap iterates over the maps of both families, as changes without entries.
func eachMap(cfg compile.Config) iter.Seq[ruleset.EntryChange] {
	return func(yield func(ruleset.EntryChange) bool) {
		for _, f := range ruleset.Families {
			for _, s := range cfg.AffinityMaps() {
				if !yield(ruleset.EntryChange{Family: f, Table: cfg.Table, Set: s}) {
					return
				}
			}
		}
	}
}

// purgeClients deletes the affinities of clients whose backend no longer gets
// connections from their frontend, if there can be any.
//
// A packet under way may have been sent to a former backend before the last commit,
// and record it afterwards. So the map is read when these have arrived.
func (t *Table) purgeClients(ctx context.Context, can bool) error {
	t.mu.Lock()
	t.purge = t.purge || can
	can = t.purge
	t.mu.Unlock()
	if !can {
		return nil
	}
	empty, err := t.noClients(ctx, t.current.Load().Config())
	if err == nil && !empty {
		err = t.kernel.Settle(ctx)
	}
	if err == nil && !empty {
		_, err = t.Purge(ctx, t.current.Load(), t.affinities)
	}
	if err != nil {
		return fmt.Errorf("services are programmed, but clients of former backends are still remembered: %w", err)
	}
	t.purged(true)
	return nil
}

// noClients reports whether no client is remembered, by any service.
func (t *Table) noClients(ctx context.Context, cfg compile.Config) (bool, error) {
	for at := range eachMap(cfg) {
		entries, err := t.affinities.Entries(ctx, at.Family, at.Set)
		switch {
		case errors.Is(err, syscall.ENOENT):
		case err != nil || len(entries) > 0:
			return false, err
		}
	}
	return true, nil
}

func (t *Table) purged(all bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.purge = !all
}

// Purge makes the maps hold nothing but entries that rules make in this state, and
// returns what it changed. An entry is checked whoever made it. If this fails, the
// next Job makes up for it.
//
// The maps are read again after a deletion, which may have made the kernel rearrange
// them (see Conn.Entries in internal/kernel).
func (t *Table) Purge(ctx context.Context, state *compile.State, from Affinities) (done []ruleset.EntryChange, err error) {
	t.purged(false)
	const most = 4
	for range most {
		wrong, err := t.Stale(ctx, state, from)
		if err != nil {
			return done, err
		}
		if len(wrong) == 0 {
			break
		}
		for i := range wrong {
			if _, err := from.Commit(ctx, &wrong[i]); err != nil {
				return done, err
			}
		}
		done = append(done, wrong...)
	}
	t.purged(true)
	return done, nil
}

// Stale returns how the maps differ from what rules make in this state: entries of
// clients that may not be led to the backend, or that are remembered for another
// time. The latter are put back with the time of the service, since the kernel keeps
// the time of an entry that packets renew (nft_dynset_eval before Linux 6.12).
func (t *Table) Stale(ctx context.Context, state *compile.State, from Affinities) (out []ruleset.EntryChange, err error) {
	for at := range eachMap(state.Config()) {
		entries, err := from.Entries(ctx, at.Family, at.Set)
		if errors.Is(err, syscall.ENOENT) { // there is no map, or another process has just deleted it
			continue
		}
		if err != nil {
			return nil, err
		}
		wrong, again, err := t.check(ctx, state, at.Family, entries)
		if err != nil {
			return nil, err
		}
		if at.Verb, at.Entries = ruleset.Delete, wrong; len(wrong) > 0 {
			out = append(out, at)
		}
		if at.Verb, at.Entries = ruleset.Add, again; len(again) > 0 {
			out = append(out, at)
		}
	}
	return out, nil
}

// check returns the entries that are wrong, and those of them that have to be put
// back with another time.
func (t *Table) check(ctx context.Context, state *compile.State, f ruleset.Family, entries []ruleset.Entry) (wrong, again []ruleset.Entry, err error) {
	known, err := t.clients(ctx, state, affinitiesOf(f, entries))
	if err != nil {
		return nil, nil, err
	}
	for i := range entries {
		e := &entries[i]
		switch {
		case e.CatchAll || e.Opaque:
			wrong = append(wrong, *e)
			continue
		case known.foreign[i]:
			continue
		}
		seconds, err := known.seconds(i)
		if err != nil {
			return nil, nil, err
		}
		timeout := time.Duration(seconds) * time.Second
		if e.Timeout != timeout || seconds == 0 {
			wrong = append(wrong, *e)
		}
		if e.Timeout != timeout && seconds > 0 {
			again = append(again, entryOf(&known.list[i], timeout))
		}
	}
	return wrong, again, nil
}

// clients checks whether clients may go to their backends.
type clients struct {
	list     []Affinity
	services []*compile.Service // that their frontends belong to, or nil
	foreign  []bool             // another owner in shared tables has the frontend
	ways     *ways              // of these services
	nodeWays *ways              // the same on a node with the addresses onNode
	onNode   [len(ruleset.Families)]netip.Addr
}

// clients reads the node's addresses, and compiles the services that the clients
// are remembered for.
func (t *Table) clients(ctx context.Context, state *compile.State, list []Affinity) (*clients, error) {
	c := &clients{list: list, services: make([]*compile.Service, len(list)), foreign: make([]bool, len(list))}
	var services []*compile.Service
	seen := map[*compile.Service]bool{}
	for i := range list {
		a := &list[i]
		k := compile.Key{Addr: a.Frontend.Addr().Unmap(), Port: a.Frontend.Port(), Proto: a.Proto}
		if c.foreign[i] = state.Foreign(k, false); c.foreign[i] {
			continue
		}
		s, wide := state.Find(k)
		if s == nil || s.Affinity == 0 || wide != k.Addr.IsUnspecified() || a.Service != "" && a.Service != s.Name {
			continue
		}
		c.services[i] = s
		if !seen[s] {
			seen[s] = true
			services = append(services, s)
		}
	}
	if len(services) == 0 {
		return c, nil
	}
	local, err := t.readLocal(ctx)
	if err != nil {
		return nil, err
	}
	c.ways = newWays(compile.New(state.Config(), services).Ruleset(), local.has)
	c.compileNodeWide(state.Config(), services, local)
	return c, nil
}

// compileNodeWide compiles the services for a node with addresses that node-wide
// frontends take. A client is remembered at them whatever addresses the node has at the
// moment: it may have come by another frontend of the service.
func (c *clients) compileNodeWide(cfg compile.Config, services []*compile.Service, local *addrSet) {
	taken := map[netip.Addr]bool{}
	for _, s := range services {
		for _, f := range s.Frontends {
			taken[f.Addr] = true
		}
	}
	cfg.NodeAddrs, cfg.ServiceCIDRs = nil, nil
	for i, f := range ruleset.Families {
		free := f.Unspecified().Next()
		for free.IsLoopback() || taken[free] {
			free = free.Next()
		}
		c.onNode[i] = free
	}
	c.nodeWays = newWays(compile.New(cfg, services).Ruleset(), func(a netip.Addr) bool {
		return local.has(a) || slices.Contains(c.onNode[:], a)
	})
}

// seconds returns how long a client is remembered by its service: 0 if it is not, or
// if the client may not be led to the backend.
func (c *clients) seconds(i int) (uint32, error) {
	s, a := c.services[i], &c.list[i]
	if s == nil {
		return 0, nil
	}
	client, ways, frontend := netip.AddrPortFrom(a.Client.Unmap(), 0), c.ways, unmapped(a.Frontend)
	if frontend.Addr().IsUnspecified() {
		ways = c.nodeWays
		frontend = netip.AddrPortFrom(c.onNode[ruleset.FamilyOf(frontend.Addr()).Index()], frontend.Port())
	}
	ok, err := ways.lead(a.Proto, client, frontend, unmapped(a.Backend))
	if err != nil || !ok {
		return 0, err
	}
	return s.Affinity, nil
}

func affinitiesOf(f ruleset.Family, entries []ruleset.Entry) []Affinity {
	out := make([]Affinity, len(entries))
	for i := range entries {
		out[i] = affinityOf(f, &entries[i])
	}
	return out
}

// affinityOf reads an entry: client . frontend address . protocol . port, without the
// address if the frontend is node-wide, with the value address . port of the backend.
func affinityOf(f ruleset.Family, e *ruleset.Entry) (a Affinity) {
	key := e.Key
	if len(key) == nodeKey {
		key = slices.Insert(slices.Clone(key), 1, f.Unspecified().AsSlice())
	}
	if len(key) != nodeKey+1 || len(e.Data) != 2 || len(key[2]) != 1 || len(key[3]) != 2 || len(e.Data[1]) != 2 {
		return a
	}
	addr := func(b []byte) netip.Addr { out, _ := netip.AddrFromSlice(b); return out }
	return Affinity{
		Client:   addr(key[0]),
		Frontend: netip.AddrPortFrom(addr(key[1]), binary.BigEndian.Uint16(key[3])),
		Proto:    key[2][0],
		Backend:  netip.AddrPortFrom(addr(e.Data[0]), binary.BigEndian.Uint16(e.Data[1])),
		Expires:  e.Expires,
	}
}

func entryOf(a *Affinity, timeout time.Duration) ruleset.Entry {
	port := func(p uint16) []byte { return binary.BigEndian.AppendUint16(nil, p) }
	front, back := a.Frontend.Addr().Unmap(), unmapped(a.Backend)
	key := [][]byte{a.Client.Unmap().AsSlice(), front.AsSlice(), {a.Proto}, port(a.Frontend.Port())}
	if front.IsUnspecified() {
		key = slices.Delete(key, 1, 2)
	}
	return ruleset.Entry{
		Key: key, Data: [][]byte{back.Addr().AsSlice(), port(back.Port())},
		Timeout: timeout, Expires: min(a.Expires, timeout),
	}
}

func unmapped(a netip.AddrPort) netip.AddrPort { return netip.AddrPortFrom(a.Addr().Unmap(), a.Port()) }
