//go:build linux

package nftdp

import (
	"cmp"
	"context"
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/nftdp/go-nftdp/internal/compile"
	"github.com/nftdp/go-nftdp/internal/nfnl"
	"github.com/nftdp/go-nftdp/internal/ruleset"
)

// Affinity is a client that comes back to its backend, as the kernel remembers
// it for a service with AffinitySeconds.
type Affinity struct {
	Service  string   `json:"service"`
	Protocol Protocol `json:"protocol,omitzero"`
	// Client is the client's address as it arrived here.
	Client netip.Addr `json:"client"`
	// Frontend is where the client connected to, also for node-wide
	// frontends.
	Frontend netip.AddrPort `json:"frontend"`
	Backend  netip.AddrPort `json:"backend"`
	// Expires is what is left of the time, unless the client comes back
	// before. In JSON it is in nanoseconds.
	Expires time.Duration `json:"expires"`
}

// Affinities lists the clients that come back to their backends, sorted by
// service, frontend and client. With AddAffinities another node can be told
// about them before it takes over. Packets go on changing the list meanwhile.
func (d *Dataplane) Affinities(ctx context.Context) ([]Affinity, error) {
	if err := d.lock(ctx); err != nil {
		return nil, err
	}
	defer d.unlock()
	users, err := d.users(ctx)
	if err != nil {
		return nil, err
	}
	known := affinities{users: users}
	var out []Affinity
	for _, f := range ruleset.Families {
		entries, err := d.entries(ctx, f)
		if err != nil {
			return nil, err
		}
		for i := range entries {
			if a := affinityOf(&entries[i]); known.owner(&a) && known.seconds(&a) > 0 {
				out = append(out, a)
			}
		}
	}
	slices.SortFunc(out, compareAffinities)
	return out, nil
}

func compareAffinities(x, y Affinity) int {
	return cmp.Or(
		cmp.Compare(x.Service, y.Service), x.Frontend.Compare(y.Frontend),
		x.Client.Compare(y.Client), cmp.Compare(x.Protocol, y.Protocol))
}

// AddAffinities remembers clients, as Affinities of this or another node has
// listed them, and returns how many it remembers now as listed. Left out are
// those that time has run out for, those of services that have no affinity here
// or not this frontend, those whose backend does not get connections from it,
// and clients for which the kernel remembers another backend already. With more
// than the map has room for (see Config.AffinitySize), the error matches
// syscall.ENFILE; they are taken in groups of 500, each as a whole.
func (d *Dataplane) AddAffinities(ctx context.Context, list []Affinity) (int, error) {
	if err := d.lock(ctx); err != nil {
		return 0, err
	}
	defer d.unlock()
	users, err := d.users(ctx)
	if err != nil {
		return 0, err
	}
	known := affinities{users: users}
	var wanted [2][]nfnl.Entry
	for _, a := range list {
		if seconds := known.seconds(&a); seconds > 0 && a.Expires > 0 && a.Client.Unmap().Is4() == a.Frontend.Addr().Unmap().Is4() {
			i := slices.Index(ruleset.Families[:], familyFor(a.Frontend.Addr().Unmap()))
			wanted[i] = append(wanted[i], entryOf(&a, time.Duration(seconds)*time.Second))
		}
	}
	total := 0
	for i, f := range ruleset.Families {
		n, err := d.commitEntries(ctx, ruleset.Add, f, wanted[i])
		total += n
		if err != nil {
			return total, err
		}
	}
	return total, nil
}

// forget makes the kernel forget clients whose backend no longer gets
// connections from their frontend. It follows a change which may have left
// some: from then on packets do not bring them back.
func (d *Dataplane) forget(ctx context.Context) error {
	if !d.mindful || d.state == nil {
		return nil
	}
	known := affinities{users: &users{state: d.state, taken: d.taken}}
	for _, f := range ruleset.Families {
		if err := d.forgetFamily(ctx, f, &known); err != nil {
			return fmt.Errorf("services are programmed, but not the clients of former backends forgotten: %w", err)
		}
	}
	d.mindful = false
	return nil
}

// forgetFamily reads once more behind what it deletes: that may have made the
// kernel rearrange the map (see Conn.Entries in internal/kernel).
func (d *Dataplane) forgetFamily(ctx context.Context, f ruleset.Family, known *affinities) error {
	const most = 4
	for range most {
		entries, err := d.entries(ctx, f)
		if err != nil {
			return err
		}
		entries = slices.DeleteFunc(entries, func(e nfnl.Entry) bool {
			a := affinityOf(&e)
			return known.seconds(&a) > 0
		})
		if len(entries) == 0 {
			return nil
		}
		if _, err := d.commitEntries(ctx, ruleset.Delete, f, entries); err != nil {
			return err
		}
	}
	return nil
}

func (d *Dataplane) entries(ctx context.Context, f ruleset.Family) (entries []nfnl.Entry, err error) {
	err = again(ctx, func() error {
		entries, err = d.conn.Entries(ctx, d.cfg.Table, f, d.cfg.AffinityMap())
		return err
	})
	return entries, err
}

// commitEntries adds or deletes entries, whatever becomes of the rules.
func (d *Dataplane) commitEntries(ctx context.Context, v ruleset.Verb, f ruleset.Family, entries []nfnl.Entry) (n int, err error) {
	if len(entries) == 0 {
		return 0, nil
	}
	err = again(ctx, func() error {
		generation, err := d.conn.Generation(ctx)
		if err != nil {
			return err
		}
		ours := d.synced && generation == d.generation
		next := generation
		err = d.unheard(func() (err error) {
			n, next, err = d.conn.CommitEntries(ctx, generation, &nfnl.EntryChange{
				Verb: v, Family: f, Table: d.cfg.Table, Set: d.cfg.AffinityMap(), Entries: entries,
			})
			if ours {
				d.generation = next
			}
			return err
		})
		return err
	})
	return n, err
}

// affinities tells which clients may go where.
type affinities struct {
	*users
	fronts map[claim]*compile.Frontend
}

// owner fills in whose client it is.
func (k *affinities) owner(a *Affinity) bool {
	at, ok := k.at(a)
	if ok {
		a.Service = k.taken.owner[at]
	}
	return ok
}

func (k *affinities) at(a *Affinity) (claim, bool) {
	addr := a.Frontend.Addr().Unmap()
	node := netip.IPv6Unspecified()
	if addr.Is4() {
		node = netip.IPv4Unspecified()
	}
	c := claim{addr: addr, port: a.Frontend.Port(), proto: a.Protocol}
	wide := c
	wide.addr = node
	return k.users.owner(c, wide)
}

// seconds is how long the client's service remembers it; 0 is not at all, as
// when the backend does not get connections from the frontend.
func (k *affinities) seconds(a *Affinity) uint32 {
	at, ok := k.at(a)
	if !ok {
		return 0
	}
	s := k.state.Service(k.taken.owner[at])
	if s == nil || s.Affinity == 0 || a.Service != "" && a.Service != s.Name {
		return 0
	}
	f := k.frontend(s, at)
	b := unmapped(a.Backend)
	if f == nil || !slices.Contains(f.Pool, b) && !slices.Contains(f.Internal, b) {
		return 0
	}
	return s.Affinity
}

func (k *affinities) frontend(s *compile.Service, at claim) *compile.Frontend {
	if f, ok := k.fronts[at]; ok {
		return f
	}
	if k.fronts == nil {
		k.fronts = map[claim]*compile.Frontend{}
	}
	k.fronts[at] = nil
	for i := range s.Frontends {
		if f := &s.Frontends[i]; f.Addr == at.addr && f.Port == at.port && f.End == 0 {
			k.fronts[at] = f
		}
	}
	return k.fronts[at]
}

// affinityOf reads an entry: client . frontend address . protocol . port with
// address . port of the backend.
func affinityOf(e *nfnl.Entry) (a Affinity) {
	if len(e.Key) != 4 || len(e.Data) != 2 || len(e.Key[2]) != 1 || len(e.Key[3]) != 2 || len(e.Data[1]) != 2 {
		return a
	}
	addr := func(b []byte) netip.Addr { out, _ := netip.AddrFromSlice(b); return out }
	a.Client = addr(e.Key[0])
	a.Frontend = netip.AddrPortFrom(addr(e.Key[1]), binary.BigEndian.Uint16(e.Key[3]))
	a.Protocol = protocolOf(e.Key[2][0])
	a.Backend = netip.AddrPortFrom(addr(e.Data[0]), binary.BigEndian.Uint16(e.Data[1]))
	a.Expires = e.Expires
	return a
}

func entryOf(a *Affinity, timeout time.Duration) nfnl.Entry {
	port := func(p uint16) []byte { return binary.BigEndian.AppendUint16(nil, p) }
	front, back := a.Frontend.Addr().Unmap(), unmapped(a.Backend)
	return nfnl.Entry{
		Key:     [][]byte{a.Client.Unmap().AsSlice(), front.AsSlice(), {a.Protocol.protoNumber()}, port(a.Frontend.Port())},
		Data:    [][]byte{back.Addr().AsSlice(), port(back.Port())},
		Timeout: timeout, Expires: min(a.Expires, timeout),
	}
}

// parts reports whether what is staged takes backends away from clients that
// may be remembered.
func (st *staged) parts() bool {
	for _, s := range st.set {
		if parts(st.former.Service(s.Name), s) {
			return true
		}
	}
	return slices.ContainsFunc(st.gone, func(name string) bool { return parts(st.former.Service(name), nil) })
}

// parts reports whether a change takes a backend away from clients that may be
// remembered.
func parts(old, next *compile.Service) bool {
	if old == nil || old.Affinity == 0 {
		return false
	}
	if next == nil || next.Affinity == 0 {
		return true
	}
	for i := range old.Frontends {
		f := &old.Frontends[i]
		j := slices.IndexFunc(next.Frontends, func(n compile.Frontend) bool { return n.Addr == f.Addr && n.Port == f.Port })
		if j < 0 || !within(f, &next.Frontends[j]) {
			return true
		}
	}
	return false
}

// within reports whether all backends of a frontend are those of another one.
func within(f, of *compile.Frontend) bool {
	for _, pool := range [][]netip.AddrPort{f.Pool, f.Internal} {
		for _, b := range pool {
			if !slices.Contains(of.Pool, b) && !slices.Contains(of.Internal, b) {
				return false
			}
		}
	}
	return true
}
