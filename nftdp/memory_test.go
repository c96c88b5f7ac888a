//go:build linux

package nftdp

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// memoryCgroup is a memory cgroup of version 1: it can hold a single thread,
// and with its out-of-memory killer disabled, allocations of the kernel for
// this thread fail beyond the limit.
type memoryCgroup struct {
	*testing.T
	dir string
}

// newMemoryCgroup makes a new cgroup. It fails where another version is mounted,
// and without privileges on the machine.
func newMemoryCgroup(t *testing.T) (c memoryCgroup, ok bool) {
	t.Helper()
	const root = "/sys/fs/cgroup/memory"
	c = memoryCgroup{t, filepath.Join(root, fmt.Sprint("nftdp-test-", os.Getpid()))}
	if err := os.Mkdir(c.dir, 0o755); err != nil {
		t.Log("nothing is tested without memory cgroups of version 1:", err)
		return c, false
	}
	t.Cleanup(func() {
		if err := os.Remove(c.dir); err != nil {
			t.Error(err)
		}
	})
	c.write("memory.oom_control", 1)
	return c, true
}

func (c memoryCgroup) write(file string, value int) {
	c.Helper()
	if err := os.WriteFile(filepath.Join(c.dir, file), strconv.AppendInt(nil, int64(value), 10), 0); err != nil {
		c.Fatal(err)
	}
}

// usage returns how many bytes are charged.
func (c memoryCgroup) usage() int {
	c.Helper()
	text, err := os.ReadFile(filepath.Join(c.dir, "memory.usage_in_bytes"))
	if err != nil {
		c.Fatal(err)
	}
	n, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		c.Fatal(err)
	}
	return n
}

// onSpareThread is onLostThread, but never uses the first thread: the memory of
// the process itself is charged to the cgroup of that thread.
func onSpareThread(f func()) {
	onLostThread(func() {
		if unix.Gettid() == os.Getpid() {
			onLostThread(f)
		} else {
			f()
		}
	})
}

// TestOutOfMemory: at whatever point of a transaction the kernel runs out of
// memory, the error is its errno, nothing is changed, and the same Dataplane
// continues when there is memory again.
func TestOutOfMemory(t *testing.T) {
	cgroup, ok := newMemoryCgroup(t)
	if !ok {
		return
	}
	n := newNode(t)
	d := n.open(t, Config{})
	held := append(someServices(), web("d", 4, 1000))
	next := append(held, web("e", 5, 1000)) // a pool of a size in use: the change is one batch
	update := Change{Set: next[4:]}
	apply(t, d, held)
	before, last := n.read(t, DefaultTable).String(), 0 // the last check before the transaction
	counted := &checked{Context: t.Context(), check: func(check int) error {
		if n.read(t, DefaultTable).String() == before {
			last = check
		}
		return nil
	}}
	if _, err := d.Update(counted, update); err != nil {
		t.Fatal(err)
	}

	failed, more := 0, 0
	for ; ; more += 16<<10 + more/2 {
		apply(t, d, held)
		before := n.read(t, DefaultTable).String()
		cgroup.write("memory.limit_in_bytes", -1)
		var err error
		onSpareThread(func() {
			// That check comes just before the transaction is sent.
			ctx := checkedAt(t.Context(), last, func() {
				cgroup.write("tasks", unix.Gettid())
				cgroup.write("memory.limit_in_bytes", cgroup.usage()+more)
			})
			_, err = d.Update(ctx, update)
		})
		if err == nil {
			break
		}
		failed++
		if refused, ok := errors.AsType[*ApplyError](err); !ok || !errors.Is(refused, unix.ENOMEM) {
			t.Errorf("with %d bytes more: %v, want %v", more, err, unix.ENOMEM)
		}
		if got := n.read(t, DefaultTable).String(); got != before {
			t.Errorf("with %d bytes more the rules have changed:\n%s", more, got)
		}
		if plan := apply(t, d, held); !plan.Empty() {
			t.Errorf("with %d bytes more, changes are left:\n%v", more, plan)
		}
	}
	n.wantServices(t, Config{}, next)
	t.Logf("it failed %d times, and succeeded with %d bytes more", failed, more)
	if failed < 5 {
		t.Error("too few failures to show anything")
	}
}
