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
	known := clients{state: state}
	var out []Affinity
	for _, f := range ruleset.Families {
		entries, err := t.affinities.Entries(ctx, f)
		if err != nil {
			return nil, err
		}
		for i := range entries {
			a := affinityOf(&entries[i])
			if s := known.service(&a); s != nil && known.seconds(&a) > 0 {
				a.Service = s.Name
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
	known := clients{state: state}
	var wanted [len(ruleset.Families)][]ruleset.Entry
	for _, a := range list {
		family := ruleset.FamilyOf(a.Frontend.Addr())
		if seconds := known.seconds(&a); seconds > 0 && a.Expires > 0 && ruleset.FamilyOf(a.Client) == family {
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
	// A commit meanwhile may have taken a backend away, and deleted its clients
	// before these were added.
	return total, t.purgeClients(ctx, t.current.Load() != nil && total > 0)
}

// purgeClients deletes the affinities of clients whose backend no longer gets
// connections from their frontend, if there can be any. It runs after a change that
// may have left some: from then on, packets do not add them again.
func (t *Table) purgeClients(ctx context.Context, can bool) error {
	t.mu.Lock()
	t.purge = t.purge || can
	can = t.purge
	t.mu.Unlock()
	if !can {
		return nil
	}
	known := clients{state: t.current.Load()}
	for _, f := range ruleset.Families {
		if err := t.purgeFamily(ctx, f, &known); err != nil {
			return fmt.Errorf("services are programmed, but clients of former backends are still remembered: %w", err)
		}
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.purge = false
	return nil
}

// purgeFamily reads the map again after it has deleted something: the deletion
// may have made the kernel rearrange the map (see Conn.Entries in
// internal/kernel).
func (t *Table) purgeFamily(ctx context.Context, f ruleset.Family, known *clients) error {
	const most = 4
	for range most {
		entries, err := t.affinities.Entries(ctx, f)
		switch {
		case errors.Is(err, syscall.ENOENT): // another process has just deleted the map, with all clients
			return nil
		case err != nil:
			return err
		}
		entries = slices.DeleteFunc(entries, func(e ruleset.Entry) bool {
			a := affinityOf(&e)
			return known.seconds(&a) > 0
		})
		if len(entries) == 0 {
			return nil
		}
		if _, err := t.affinities.Commit(ctx, ruleset.Delete, f, entries); err != nil {
			return err
		}
	}
	return nil
}

// clients checks whether clients may go to their backends.
type clients struct {
	state     *compile.State
	frontends map[compile.Key]*compile.Frontend
}

// service returns the service that the client's frontend belongs to, or nil.
func (c *clients) service(a *Affinity) *compile.Service {
	s, _ := c.state.Find(compile.Key{Addr: a.Frontend.Addr().Unmap(), Port: a.Frontend.Port(), Proto: a.Proto})
	return s
}

// seconds returns how long the client's service remembers the client: 0 if it
// does not, or if the backend does not get connections from the frontend.
func (c *clients) seconds(a *Affinity) uint32 {
	s := c.service(a)
	if s == nil || s.Affinity == 0 || a.Service != "" && a.Service != s.Name {
		return 0
	}
	f := c.frontend(s, compile.Key{Addr: a.Frontend.Addr().Unmap(), Port: a.Frontend.Port(), Proto: a.Proto})
	b := unmapped(a.Backend)
	if f == nil || !slices.Contains(f.Pool, b) && !slices.Contains(f.Internal, b) {
		return 0
	}
	return s.Affinity
}

// frontend returns the frontend of a service with that address, or else the
// node-wide one.
func (c *clients) frontend(s *compile.Service, k compile.Key) *compile.Frontend {
	if f, ok := c.frontends[k]; ok {
		return f
	}
	if c.frontends == nil {
		c.frontends = map[compile.Key]*compile.Frontend{}
	}
	for _, at := range [...]compile.Key{k.NodeWide(), k} {
		if i := slices.IndexFunc(s.Frontends, func(f compile.Frontend) bool { return s.Key(&f) == at }); i >= 0 {
			c.frontends[k] = &s.Frontends[i]
		}
	}
	return c.frontends[k]
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
