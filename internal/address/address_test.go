//go:build linux

package address

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/nftdp/go-nftdp/internal/netlink"
	"github.com/nftdp/go-nftdp/internal/nstest"
	"github.com/nftdp/go-nftdp/internal/ruleset"
)

func TestMain(m *testing.M) { nstest.Main(m) }

func newNamespace(t *testing.T) (*nstest.Namespace, *Conn) {
	t.Helper()
	ns, err := nstest.New("node")
	if err != nil {
		t.Fatal(err)
	}
	c, err := Dial(int(ns.Handle()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(c.Close(), ns.Close()); err != nil {
			t.Error(err)
		}
	})
	return ns, c
}

// TestLocalAddrs: local addresses are those of links and, in IPv4, all addresses
// in a prefix of the loopback interface.
func TestLocalAddrs(t *testing.T) {
	ns, c := newNamespace(t)
	for _, s := range []string{"10.1.2.3/16", "10.2.0.1/32", "fd00:1::1/64"} {
		if err := ns.AddAddr("lo", netip.MustParsePrefix(s)); err != nil {
			t.Fatal(err)
		}
	}
	for f, want := range map[ruleset.Family][]string{
		ruleset.IPv4: {"10.1.0.0/16", "10.1.2.3/32", "10.2.0.1/32", "127.0.0.0/8", "127.0.0.1/32"},
		ruleset.IPv6: {"::1/128", "fd00:1::1/128"},
	} {
		got := local(t, c, f)
		for deadline := time.Now().Add(10 * time.Second); len(got) < len(want) && time.Now().Before(deadline); {
			got = local(t, c, f) // the kernel adds an IPv6 address in the background
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", f, diff)
		}
	}
}

// local lists the addresses as text, sorted.
func local(t *testing.T, c *Conn, f ruleset.Family) (out []string) {
	t.Helper()
	addrs, err := c.LocalAddrs(t.Context(), f)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range addrs {
		out = append(out, p.String())
	}
	slices.Sort(out)
	return out
}

// TestCancelled: a context that has ended is respected.
func TestCancelled(t *testing.T) {
	_, c := newNamespace(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if got, err := c.LocalAddrs(ctx, ruleset.IPv4); !errors.Is(err, context.Canceled) {
		t.Errorf("%v, error %v", got, err)
	}
}

// TestForgedAddrs: messages of another process to our socket do not count as the
// kernel's.
func TestForgedAddrs(t *testing.T) {
	ns, c := newNamespace(t)
	want, err := c.LocalAddrs(t.Context(), ruleset.IPv4)
	if err != nil || len(want) == 0 {
		t.Fatal(want, err)
	}
	// The only socket is idle, so the next list uses it.
	err = c.sockets.Do(t.Context(), func(s *netlink.Socket) error {
		port, err := s.Port()
		if err != nil {
			return err
		}
		return nstest.Forge(ns, unix.NETLINK_ROUTE, port, unix.NLMSG_DONE, s.NextSeq(0), 4)
	})
	if err != nil {
		t.Fatal(err)
	}
	if got, err := c.LocalAddrs(t.Context(), ruleset.IPv4); err != nil || !slices.Equal(got, want) {
		t.Errorf("%v, error %v, want %v", got, err, want)
	}
}
