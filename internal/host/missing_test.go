//go:build linux

package host

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/nftdp/go-nftdp/internal/conntrack"
	"github.com/nftdp/go-nftdp/internal/kernel"
	"github.com/nftdp/go-nftdp/internal/nstest"
	"github.com/nftdp/go-nftdp/internal/ruleset"
)

func TestMain(m *testing.M) { nstest.Main(m) }

// TestMissing tries everything on this kernel, and on kernels that refuse what has
// certain words, as one without a module does.
func TestMissing(t *testing.T) {
	conn, err := kernel.Dial(int(nstest.NewTestNamespace(t).Handle()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := conn.Close(); err != nil {
			t.Error(err)
		}
	})
	before, err := conn.Generation(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		without string // words of the changes that are refused
		errno   unix.Errno
		flags   ruleset.TableFlags
		want    []string
	}{
		{"", 0, 0, nil},
		{"numgen", unix.ENOENT, 0, []string{"services"}},
		{"jhash", unix.ENOENT, 0, []string{"the schedulers that hash"}},
		{"ct count", unix.ENOENT, 0, []string{"Backend.MaxConns"}},
		{"redirect", unix.ENOENT, 0, []string{"Backend.NodePort"}},
		{"fully-random", unix.ENOENT, 0, []string{"services"}},
		{"fib ", unix.ENOENT, 0, []string{"services"}},
		{"type nat", unix.ENOENT, ruleset.Protected, []string{"services"}},
		{"persist", unix.EOPNOTSUPP, ruleset.Protected, []string{"Config.Protect, which needs tables that outlive their owner"}},
		{"persist", unix.EOPNOTSUPP, 0, nil},
	} {
		commit := func(ctx context.Context, generation uint32, changes []ruleset.Change) (uint32, error) {
			for i := range changes {
				if line := changes[i].String(); c.without != "" && strings.Contains(line, c.without) {
					return 0, &ruleset.RefusedError{Change: &changes[i], Element: -1, Errno: c.errno}
				}
			}
			return conn.Commit(ctx, generation, changes)
		}
		found, err := missing(t.Context(), commit, c.flags)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, m := range found {
			got = append(got, m.What)
			if !strings.Contains(m.Refused, c.without) || m.Options == "" || m.Cost == "" {
				t.Errorf("without %q: %+v", c.without, m)
			}
		}
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("without %q (-want +got):\n%s", c.without, diff)
		}
	}
	if after, err := conn.Generation(t.Context()); err != nil || after != before {
		t.Errorf("the generation was %d and is %d, or %v", before, after, err)
	}
	names, err := conn.Names(t.Context(), func(*ruleset.Table) bool { return true })
	if err != nil || len(names) > 0 {
		t.Errorf("there are tables, or an error: %v, %v", names, err)
	}
}

// TestMissingConntrack: a kernel without conntrack over netlink.
func TestMissingConntrack(t *testing.T) {
	for errno, want := range map[error]int{nil: 0, unix.EINVAL: 1, unix.EPERM: 0} {
		list := func(context.Context, conntrack.Filter, func(*conntrack.Flow) bool) ([]conntrack.Flow, error) {
			if errno == nil {
				return nil, nil
			}
			return nil, fmt.Errorf("list: %w", errno)
		}
		if got := missingConntrack(t.Context(), list); len(got) != want {
			t.Errorf("%v: %+v", errno, got)
		}
	}
}
