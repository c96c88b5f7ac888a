//go:build linux

package kernel

import (
	"context"
	"fmt"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/nftdp/go-nftdp/internal/compile"
	"github.com/nftdp/go-nftdp/internal/nstest"
	"github.com/nftdp/go-nftdp/internal/ruleset"
)

func TestMain(m *testing.M) { nstest.Main(m) }

func dial(t *testing.T, ns *nstest.Namespace) *Conn {
	t.Helper()
	c, err := Dial(int(ns.Handle()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return c
}

// services returns n services in both families; the i-th has i % 4 backends.
func services(n int) []*compile.Service {
	out := make([]*compile.Service, n)
	for i := range out {
		v4, v6 := netip.AddrFrom4([4]byte{10, 96, byte(i >> 8), byte(i)}), netip.AddrFrom16([16]byte{0xfd, 14: byte(i >> 8), 15: byte(i)})
		out[i] = &compile.Service{Name: fmt.Sprint("service ", i), Proto: compile.TCP, Frontends: []*compile.Frontend{
			{Addr: v4, Port: 80}, {Addr: v6, Port: 80}, {Addr: netip.IPv4Unspecified(), Port: uint16(30000 + i), Empty: compile.Drop},
		}}
		var v4Pool, v6Pool []netip.AddrPort
		for b := range i % 4 {
			v4Pool = append(v4Pool, netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 8, 0, byte(b)}), 8080))
			v6Pool = append(v6Pool, netip.AddrPortFrom(netip.AddrFrom16([16]byte{0xfd, 1: 8, 15: byte(b)}), 8080))
		}
		fronts := out[i].Frontends
		fronts[0].Pool, fronts[1].Pool, fronts[2].Pool = v4Pool, v6Pool, v4Pool
	}
	return out
}

func config() compile.Config {
	return compile.Config{
		Table:     "t",
		NodeAddrs: []netip.Prefix{netip.MustParsePrefix("192.168.0.0/24")},
		Internal:  []netip.Prefix{netip.MustParsePrefix("10.0.0.0/9"), netip.MustParsePrefix("10.128.0.0/9"), netip.MustParsePrefix("::/0")},
	}
}

func compiled(n int) *ruleset.Ruleset { return compile.New(config(), services(n)).Ruleset() }

// load adds a ruleset, of which the namespace holds nothing yet.
func load(t *testing.T, c *Conn, r *ruleset.Ruleset) (generation uint32) {
	t.Helper()
	return replace(t, c, &ruleset.Ruleset{}, r)
}

func read(t *testing.T, c *Conn) (*ruleset.Ruleset, uint32) {
	t.Helper()
	r, generation, err := readWhole(t.Context(), c, "t")
	if err != nil {
		t.Fatal(err)
	}
	return r, generation
}

// readWhole reads everything at one generation, as callers of Read do.
func readWhole(ctx context.Context, c *Conn, table string) (*ruleset.Ruleset, uint32, error) {
	before, err := c.Generation(ctx)
	if err != nil {
		return nil, 0, err
	}
	r, err := readAll(ctx, c, table)
	if err != nil {
		return nil, 0, err
	}
	after, err := c.Generation(ctx)
	if err == nil && after != before {
		err = ruleset.ErrStale
	}
	return r, after, err
}

func readAll(ctx context.Context, c *Conn, table string) (*ruleset.Ruleset, error) {
	return c.Read(ctx, table, ruleset.Families[:], func(ruleset.Family, string) bool { return true })
}

// wantRuleset compares rulesets, including counters and sizes.
func wantRuleset(t *testing.T, want, got *ruleset.Ruleset) {
	t.Helper()
	if diff := cmp.Diff(want.String(), got.String()); diff != "" {
		t.Errorf("ruleset (-want +got):\n%s", diff)
	}
	if left := ruleset.Diff(got, want).Changes(); len(left) > 0 {
		t.Errorf("%d changes are left, the first is %s", len(left), &left[0])
	}
}
