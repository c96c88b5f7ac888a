package flows

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"syscall"
	"time"

	"github.com/nftdp/go-nftdp/internal/compile"
	"github.com/nftdp/go-nftdp/internal/ruleset"
)

// Affinities is the kernel's map of clients and their backends.
type Affinities interface {
	Entries(ctx context.Context, f ruleset.Family) ([]ruleset.Entry, error)
	// Commit adds or deletes entries, and returns how many the kernel now has
	// as given, or has deleted.
	Commit(ctx context.Context, v ruleset.Verb, f ruleset.Family, entries []ruleset.Entry) (int, error)
	// Settle waits for packets that have met rules before the last commit.
	Settle(ctx context.Context) error
}

// Affinity is a client that the kernel sends back to its backend.
type Affinity struct {
	Service  string
	Proto    uint8
	Client   netip.Addr
	Frontend netip.AddrPort // what the client connected to
	Backend  netip.AddrPort
	Expires  time.Duration
}

// Affinities lists the clients with affinity, sorted by service, frontend and
// client.
func (t *Table) Affinities(ctx context.Context, state *compile.State) ([]Affinity, error) {
	known := t.clients(state)
	var out []Affinity
	for _, f := range ruleset.Families {
		entries, err := t.affinities.Entries(ctx, f)
		if err != nil {
			return nil, err
		}
		for i := range entries {
			e := &entries[i]
			if e.CatchAll || e.Opaque {
				continue
			}
			a := affinityOf(e)
			switch seconds, err := known.seconds(ctx, &a); {
			case err != nil:
				return nil, err
			case seconds > 0:
				a.Service = known.service(&a).Name
				out = append(out, a)
			}
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
	known := t.clients(state)
	var wanted [len(ruleset.Families)][]ruleset.Entry
	for _, a := range list {
		family := ruleset.FamilyOf(a.Frontend.Addr())
		if a.Expires <= 0 || !a.Client.IsValid() || ruleset.FamilyOf(a.Client) != family || ruleset.FamilyOf(a.Backend.Addr()) != family {
			continue
		}
		seconds, err := known.seconds(ctx, &a)
		if err != nil {
			return 0, err
		}
		if seconds > 0 {
			wanted[family.Index()] = append(wanted[family.Index()], entryOf(&a, time.Duration(seconds)*time.Second))
		}
	}
	for i, f := range ruleset.Families {
		n, err := t.affinities.Commit(ctx, ruleset.Add, f, wanted[i])
		total += n
		if err != nil {
			return total, err
		}
	}
	return total, nil
}

// purgeClients purges the map after a change that may have left clients in it whose
// backends no longer get connections of theirs.
func (t *Table) purgeClients(ctx context.Context, state *compile.State) error {
	if !t.purge {
		return nil
	}
	if _, err := t.Purge(ctx, state, t.affinities); err != nil {
		return fmt.Errorf("services are programmed, but clients of former backends are still remembered: %w", err)
	}
	return nil
}

// Purge makes the map hold nothing but entries that rules make in this state, and
// returns what it changed. An entry is checked whoever made it. If this fails, the
// next FollowUp makes up for it.
//
// A packet under way may have been sent to a former backend before the last commit,
// and record it afterwards. So the map is read when these have arrived. It is read
// again after a deletion, which may have made the kernel rearrange the map (see
// Conn.Entries in internal/kernel).
func (t *Table) Purge(ctx context.Context, state *compile.State, from Affinities) (done []ruleset.EntryChange, err error) {
	t.purge = true
	if err := from.Settle(ctx); err != nil {
		return nil, err
	}
	const most = 4
	for range most {
		wrong, err := t.Stale(ctx, state, from)
		if err != nil || len(wrong) == 0 {
			t.purge = err != nil
			return done, err
		}
		for _, c := range wrong {
			if _, err := from.Commit(ctx, c.Verb, c.Family, c.Entries); err != nil {
				return done, err
			}
		}
		done = append(done, wrong...)
	}
	t.purge = false
	return done, nil
}

// Stale returns how the map differs from what rules make in this state: entries of
// clients that may not be led to the backend, or that are remembered for another
// time. The latter are put back with the time of the service, since the kernel keeps
// the time of an entry that packets renew (nft_dynset_eval before Linux 6.12).
func (t *Table) Stale(ctx context.Context, state *compile.State, from Affinities) (out []ruleset.EntryChange, err error) {
	known := t.clients(state)
	for _, f := range ruleset.Families {
		entries, err := from.Entries(ctx, f)
		if errors.Is(err, syscall.ENOENT) { // there is no map, or another process has just deleted it
			continue
		}
		if err != nil {
			return nil, err
		}
		wrong, again, err := known.check(ctx, entries)
		if err != nil {
			return nil, err
		}
		at := ruleset.EntryChange{Family: f, Table: t.cfg.Table, Set: t.cfg.AffinityMap()}
		if at.Verb, at.Entries = ruleset.Delete, wrong; len(wrong) > 0 {
			out = append(out, at)
		}
		if at.Verb, at.Entries = ruleset.Add, again; len(again) > 0 {
			out = append(out, at)
		}
	}
	return out, nil
}

// clients checks whether clients may go to their backends.
type clients struct {
	*Table
	state *compile.State
	local func(netip.Addr) bool
	ways  map[*compile.Service]*ways
	all   *ways // of all services, if there are entries of many
}

func (t *Table) clients(state *compile.State) *clients {
	return &clients{Table: t, state: state, ways: map[*compile.Service]*ways{}}
}

// check returns the entries that are wrong, and those of them that have to be put
// back with another time.
func (c *clients) check(ctx context.Context, entries []ruleset.Entry) (wrong, again []ruleset.Entry, err error) {
	for i := range entries {
		e := &entries[i]
		if e.CatchAll || e.Opaque {
			wrong = append(wrong, *e)
			continue
		}
		a := affinityOf(e)
		seconds, err := c.seconds(ctx, &a)
		if err != nil {
			return nil, nil, err
		}
		timeout := time.Duration(seconds) * time.Second
		if e.Timeout != timeout || seconds == 0 {
			wrong = append(wrong, *e)
		}
		if e.Timeout != timeout && seconds > 0 {
			again = append(again, entryOf(&a, timeout))
		}
	}
	return wrong, again, nil
}

// service returns the service that the client's frontend belongs to, or nil.
func (c *clients) service(a *Affinity) *compile.Service {
	k := compile.Key{Addr: a.Frontend.Addr().Unmap(), Port: a.Frontend.Port(), Proto: a.Proto}
	k, ok := matching(c.state, k, nodeWide(k))
	if !ok {
		return nil
	}
	name, _ := c.state.Index().Owner(k)
	return c.state.Service(name)
}

// seconds returns how long the client's service remembers the client: 0 if it
// does not, or if the client may not be led to the backend.
func (c *clients) seconds(ctx context.Context, a *Affinity) (uint32, error) {
	s := c.service(a)
	if s == nil || s.Affinity == 0 || a.Service != "" && a.Service != s.Name {
		return 0, nil
	}
	w, err := c.waysTo(ctx, s)
	if err != nil {
		return 0, err
	}
	client := netip.AddrPortFrom(a.Client.Unmap(), 0)
	ok, err := w.lead(a.Proto, client, unmapped(a.Frontend), unmapped(a.Backend))
	if err != nil || !ok {
		return 0, err
	}
	return s.Affinity, nil
}

// waysTo returns the ways to the frontends of a service, or of all services if those
// of many were asked for.
func (c *clients) waysTo(ctx context.Context, s *compile.Service) (*ways, error) {
	const many = 64
	switch w := c.ways[s]; {
	case w != nil:
		return w, nil
	case c.all != nil:
		return c.all, nil
	}
	if err := c.readLocal(ctx); err != nil {
		return nil, err
	}
	if len(c.ways) >= many {
		c.all = newWays(c.state.Ruleset(), c.local)
		return c.all, nil
	}
	c.ways[s] = waysTo(c.cfg, s, c.local)
	return c.ways[s], nil
}

// readLocal reads the node's own addresses.
func (c *clients) readLocal(ctx context.Context) error {
	if c.local != nil {
		return nil
	}
	addrs, nets := map[netip.Addr]bool{}, []netip.Prefix(nil)
	for _, f := range ruleset.Families {
		found, err := c.kernel.LocalAddrs(ctx, f)
		if err != nil {
			return err
		}
		for _, p := range found {
			if p.IsSingleIP() {
				addrs[p.Addr()] = true
			} else {
				nets = append(nets, p)
			}
		}
	}
	c.local = func(a netip.Addr) bool { return a.IsLoopback() || addrs[a] || inAny(nets, a) }
	return nil
}

// affinityOf reads an entry: client . frontend address . protocol . port, with
// the value address . port of the backend.
func affinityOf(e *ruleset.Entry) (a Affinity) {
	if len(e.Key) != 4 || len(e.Data) != 2 || len(e.Key[2]) != 1 || len(e.Key[3]) != 2 || len(e.Data[1]) != 2 {
		return a
	}
	addr := func(b []byte) netip.Addr { out, _ := netip.AddrFromSlice(b); return out }
	return Affinity{
		Client:   addr(e.Key[0]),
		Frontend: netip.AddrPortFrom(addr(e.Key[1]), binary.BigEndian.Uint16(e.Key[3])),
		Proto:    e.Key[2][0],
		Backend:  netip.AddrPortFrom(addr(e.Data[0]), binary.BigEndian.Uint16(e.Data[1])),
		Expires:  e.Expires,
	}
}

func entryOf(a *Affinity, timeout time.Duration) ruleset.Entry {
	port := func(p uint16) []byte { return binary.BigEndian.AppendUint16(nil, p) }
	front, back := a.Frontend.Addr().Unmap(), unmapped(a.Backend)
	return ruleset.Entry{
		Key:     [][]byte{a.Client.Unmap().AsSlice(), front.AsSlice(), {a.Proto}, port(a.Frontend.Port())},
		Data:    [][]byte{back.Addr().AsSlice(), port(back.Port())},
		Timeout: timeout, Expires: min(a.Expires, timeout),
	}
}

func unmapped(a netip.AddrPort) netip.AddrPort { return netip.AddrPortFrom(a.Addr().Unmap(), a.Port()) }

// endsAffinities reports whether a change may leave clients in the map that are
// remembered for something else than rules would remember now.
func endsAffinities(state *compile.State, set []*compile.Service, gone []string) bool {
	return slices.ContainsFunc(set, func(s *compile.Service) bool {
		return endsAffinity(state.Service(s.Name), s) || takesOver(state, s)
	}) ||
		slices.ContainsFunc(gone, func(name string) bool { return endsAffinity(state.Service(name), nil) })
}

func endsAffinity(old, next *compile.Service) bool {
	if old == nil || old.Affinity == 0 {
		return false
	}
	if next == nil || next.Affinity != old.Affinity {
		return true
	}
	return slices.ContainsFunc(old.Frontends, func(f compile.Frontend) bool {
		i := slices.IndexFunc(next.Frontends, func(n compile.Frontend) bool { return n.Addr == f.Addr && n.Port == f.Port })
		return i < 0 || f.Clients != next.Frontends[i].Clients || !within(&f, &next.Frontends[i])
	})
}

// takesOver reports whether a service takes clients of a node-wide frontend, by one
// with an address, and would send them to the other frontend's backends.
func takesOver(state *compile.State, s *compile.Service) bool {
	return s.Affinity > 0 && slices.ContainsFunc(s.Frontends, func(f compile.Frontend) bool {
		k := s.Key(&f)
		_, wide := state.Index().Owner(nodeWide(k))
		_, known := state.Index().Owner(k)
		return wide && !known
	})
}

// within reports whether all backends of a frontend are also those of another, for
// internal clients and for others.
func within(f, of *compile.Frontend) bool {
	inside := func(pool, of []netip.AddrPort) bool {
		return !slices.ContainsFunc(pool, func(b netip.AddrPort) bool { return !slices.Contains(of, b) })
	}
	return inside(f.Pool, of.Pool) && inside(internalPool(f), internalPool(of))
}

// internalPool returns the pool of internal clients.
func internalPool(f *compile.Frontend) []netip.AddrPort {
	if f.Internal != nil {
		return f.Internal
	}
	return f.Pool
}
