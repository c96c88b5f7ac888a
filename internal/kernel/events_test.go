//go:build linux

package kernel

import (
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nftdp/go-nftdp/internal/nstest"
	"github.com/nftdp/go-nftdp/internal/ruleset"
)

func listen(t *testing.T, ns *nstest.Namespace) *Listener {
	t.Helper()
	l, err := Listen(int(ns.Handle()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	return l
}

// heard counts messages by table and type.
type heard map[string]map[int]int

func (h heard) note(e *Event) {
	if h[e.Table] == nil {
		h[e.Table] = map[int]int{}
	}
	h[e.Table][e.Type]++
}

// TestListen hears everything of every transaction, each once, and who it was.
func TestListen(t *testing.T) {
	ns := newNamespace(t)
	c, l := dial(t, ns), listen(t, ns)
	from, err := c.Generation(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	other := setOfPorts(100, 0)
	other.Tables[0].Name = "ports"
	load(t, c, other)
	generation := load(t, c, compiled(3))
	name, err := os.ReadFile("/proc/self/comm")
	if err != nil {
		t.Fatal(err)
	}
	got := heard{}
	to, err := l.CatchUp(from, generation, func(e *Event) {
		got.note(e)
		if e.Type == unix.NFT_MSG_NEWGEN && (e.Process.PID <= 0 || e.Process.Name != strings.TrimSpace(string(name))) {
			t.Errorf("it was %+v", e.Process)
		}
	})
	if err != nil || to != generation || to != from+2 {
		t.Fatalf("from %d to %d, want %d; error %v", from, to, generation, err)
	}
	if n := got[""][unix.NFT_MSG_NEWGEN]; n != 2 {
		t.Errorf("%d transactions", n)
	}
	if n := got["ports"]; n[unix.NFT_MSG_NEWTABLE] != 1 || n[unix.NFT_MSG_NEWSETELEM] != 100 {
		t.Errorf("messages: %v", n)
	}
	if n := got["t"]; n[unix.NFT_MSG_NEWTABLE] != 2 || n[unix.NFT_MSG_NEWSETELEM] == 0 || n[unix.NFT_MSG_NEWRULE] == 0 {
		t.Errorf("messages: %v", n)
	}
	to, err = l.CatchUp(generation, generation, func(e *Event) { t.Errorf("again: %+v", e) })
	if err != nil || to != generation {
		t.Errorf("generation %d, error %v", to, err)
	}
}

// TestListenKnown: what is known already is not told.
func TestListenKnown(t *testing.T) {
	ns := newNamespace(t)
	c, l := dial(t, ns), listen(t, ns)
	known := load(t, c, compiled(3))
	now := load(t, c, &ruleset.Ruleset{Tables: []*ruleset.Table{{Family: ruleset.IPv6, Name: "later"}}})
	got := heard{}
	if to, err := l.CatchUp(known, now, got.note); err != nil || to != now {
		t.Errorf("generation %d, error %v", to, err)
	}
	if len(got) != 2 || got["later"][unix.NFT_MSG_NEWTABLE] != 1 || got[""][unix.NFT_MSG_NEWGEN] != 1 {
		t.Errorf("heard %v", got)
	}
}

// TestListenMissed: a gap is noticed, be it for lack of room, or since nobody
// listened, before what is heard or behind it.
func TestListenMissed(t *testing.T) {
	table := func(name string) *ruleset.Ruleset {
		return &ruleset.Ruleset{Tables: []*ruleset.Table{{Family: ruleset.IPv6, Name: name}}}
	}
	must := func(t *testing.T, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	for name, miss := range map[string]func(*testing.T, *Conn, *Listener){
		"overrun": func(t *testing.T, c *Conn, l *Listener) {
			must(t, l.SetBuffer(1))
			load(t, c, setOfPorts(5000, 0))
		},
		"before": func(t *testing.T, c *Conn, l *Listener) {
			must(t, l.Leave())
			load(t, c, table("a"))
			must(t, l.Join())
			load(t, c, table("b"))
		},
		"behind": func(t *testing.T, c *Conn, l *Listener) {
			load(t, c, table("a"))
			must(t, l.Leave())
			load(t, c, table("b"))
			must(t, l.Join())
		},
	} {
		t.Run(name, func(t *testing.T) {
			ns := newNamespace(t)
			c, l := dial(t, ns), listen(t, ns)
			from, err := c.Generation(t.Context())
			must(t, err)
			miss(t, c, l)
			to, err := c.Generation(t.Context())
			must(t, err)
			if _, err := l.CatchUp(from, to, heard{}.note); !errors.Is(err, ErrMissed) {
				t.Fatalf("error %v", err)
			}
			must(t, l.Discard())
			next := load(t, c, table("c"))
			got := heard{}
			if _, err := l.CatchUp(to, next, got.note); err != nil || got["c"] == nil {
				t.Errorf("after it: heard %v, error %v", got, err)
			}
		})
	}
}

// TestBell: it rings for an event, when it is rung, also before one waits, and
// hearing is possible while somebody waits.
func TestBell(t *testing.T) {
	ns := newNamespace(t)
	c, l := dial(t, ns), listen(t, ns)
	b, err := l.Bell()
	if err != nil {
		t.Fatal(err)
	}
	waiting := func() <-chan error {
		done := make(chan error, 1)
		go func() { done <- b.Wait() }()
		return done
	}
	rings := func(done <-chan error) {
		t.Helper()
		select {
		case err := <-done:
			if err != nil {
				t.Fatal(err)
			}
		case <-time.After(20 * time.Second):
			t.Fatal("no ring in 20 seconds")
		}
	}
	done := waiting()
	load(t, c, compiled(1))
	rings(done)
	rings(waiting()) // until it is heard
	if err := l.Discard(); err != nil {
		t.Fatal(err)
	}
	done = waiting()
	b.Ring()
	rings(done)
	rings(waiting())
	if err := b.Reset(); err != nil {
		t.Fatal(err)
	}
	done = waiting()
	if err := l.Discard(); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-done:
		t.Errorf("it rang by itself: %v", err)
	case <-time.After(50 * time.Millisecond):
	}
	b.Ring()
	rings(done)
	if err := b.Close(); err != nil {
		t.Error(err)
	}
	b.Ring() // too late, and no harm
}
