//go:build linux

package integration

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"slices"
	"testing"

	"github.com/nftdp/go-nftdp/internal/compile"
	"github.com/nftdp/go-nftdp/internal/ruleset"
	"github.com/nftdp/go-nftdp/nftdp"
)

// learned is what the kernel remembers of a client, if the service that takes the
// probe remembers any.
func (r *round) learned(t *testing.T, p *probe) (out []ruleset.Learned) {
	t.Helper()
	if s, _ := r.spec.frontend(p); s == nil || s.Affinity == 0 {
		return nil
	}
	conn := dialKernel(t, r.Node)
	defer conn.Close()
	packet := p.packet()
	for _, m := range (compile.Config{}).AffinityMaps() {
		entries, err := conn.Entries(t.Context(), nftdp.DefaultTable, packet.Family(), m)
		if err != nil {
			t.Error(err)
			return nil
		}
		for _, e := range entries {
			if bytes.Equal(e.Key[0], p.src.Addr().AsSlice()) {
				out = append(out, ruleset.Learned{Map: m.Name, Key: ruleset.Registers(e.Key), Data: ruleset.Registers(e.Data)})
			}
		}
	}
	return out
}

// known is the backend that the client's affinity leads to at the frontend that takes
// the probe, if any.
func (r *round) known(p *probe, learned []ruleset.Learned) netip.AddrPort {
	_, f := r.spec.frontend(p)
	if f == nil {
		return netip.AddrPort{}
	}
	src := p.src.Addr().AsSlice()
	key := [][]byte{src, p.dst.Addr().AsSlice(), {p.packet().Proto}, binary.BigEndian.AppendUint16(nil, p.dst.Port())}
	if !f.Addr.IsValid() || f.Addr.IsUnspecified() {
		key = slices.Delete(key, 1, 2)
	}
	for _, l := range learned {
		if bytes.Equal(l.Key, ruleset.Registers(key)) {
			a, _ := netip.AddrFromSlice(l.Data[:len(src)])
			return netip.AddrPortFrom(a, binary.BigEndian.Uint16(l.Data[len(src):]))
		}
	}
	return netip.AddrPort{}
}

// taken is the path by which the kernel has come to what it remembers now, or nil if
// by none of them, and what it remembers. If none makes a difference, it is the first.
func (r *round) taken(t *testing.T, p *probe, before []ruleset.Learned, paths []ruleset.Path) (*ruleset.Path, []ruleset.Learned) {
	t.Helper()
	var now []ruleset.Learned
	for range readings {
		now = r.learned(t, p)
		for i := range paths {
			if sameLearned(now, slices.Concat(before, paths[i].Learned)) {
				return &paths[i], now
			}
		}
	}
	return nil, now
}

// readings are how often the kernel's list is read, which may miss an entry while
// packets of others make the kernel enlarge the set.
const readings = 10

// sameLearned compares two lists in any order. None has a key twice.
func sameLearned(x, y []ruleset.Learned) bool {
	return len(x) == len(y) && !slices.ContainsFunc(x, func(l ruleset.Learned) bool {
		return !slices.ContainsFunc(y, func(o ruleset.Learned) bool {
			return l.Map == o.Map && bytes.Equal(l.Key, o.Key) && bytes.Equal(l.Data, o.Data)
		})
	})
}
