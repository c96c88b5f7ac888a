//go:build linux

package netlink

import (
	"context"
	"errors"
	"os"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/nftdp/go-nftdp/internal/nstest"
)

func newPool(t *testing.T, ns *nstest.Namespace, dial func(int) (*Socket, error)) *Pool {
	t.Helper()
	p, err := NewPool(int(ns.Handle()), dial)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	})
	return p
}

func netfilter(ns int) (*Socket, error) { return Dial(unix.NETLINK_NETFILTER, ns) }

// TestPool: whoever needs a socket has one at once, in the same namespace, and later
// calls use it again. An abandoned dump is not waited for.
func TestPool(t *testing.T) {
	ns := nstest.NewTestNamespace(t)
	addNumbers(t, dial(t, ns, unix.NETLINK_NETFILTER))
	p := newPool(t, ns, netfilter)
	var first *Socket
	enough := errors.New("enough")
	err := p.Do(t.Context(), func(s *Socket) error {
		first = s
		for range 3 {
			if err := p.Do(t.Context(), func(other *Socket) error {
				if other == s {
					t.Error("a socket is used by two at once")
				}
				wantNumbers(t, other)
				return nil
			}); err != nil {
				t.Error(err)
			}
		}
		if n := len(p.open); n != 2 {
			t.Errorf("%d sockets for two at once", n)
		}
		return list(t.Context(), s, func([]uint32) error { return enough })
	})
	if !errors.Is(err, enough) {
		t.Error(err)
	}
	for range 3 {
		if err := p.Do(t.Context(), func(s *Socket) error {
			if s == first || s.pending != 0 {
				t.Error("the rest of an abandoned dump is still to be read")
			}
			wantNumbers(t, s)
			return nil
		}); err != nil {
			t.Error(err)
		}
	}
}

// TestPoolUnprivileged: if no further socket can be opened, goroutines take turns,
// and a context ends the wait. An abandoned dump is finished by the next turn.
func TestPoolUnprivileged(t *testing.T) {
	ns := nstest.NewTestNamespace(t)
	addNumbers(t, dial(t, ns, unix.NETLINK_NETFILTER))
	dials := 0
	p := newPool(t, ns, func(ns int) (*Socket, error) {
		if dials++; dials > 1 {
			return nil, os.ErrPermission
		}
		return netfilter(ns)
	})
	enough := errors.New("enough")
	next := make(chan error)
	err := p.Do(t.Context(), func(s *Socket) error {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := p.Do(ctx, func(*Socket) error { return nil }); !errors.Is(err, context.Canceled) {
			t.Errorf("with a context that has ended: %v", err)
		}
		go func() {
			next <- p.Do(t.Context(), func(s *Socket) error { wantNumbers(t, s); return nil })
		}()
		return list(t.Context(), s, func([]uint32) error { return enough })
	})
	if !errors.Is(err, enough) {
		t.Error(err)
	}
	if err := <-next; err != nil {
		t.Error(err)
	}
}

// TestPoolClose: Close ends what is going on, and leaves no socket open.
func TestPoolClose(t *testing.T) {
	p := newPool(t, nstest.NewTestNamespace(t), netfilter)
	err := p.Do(t.Context(), func(s *Socket) error {
		for range 2 {
			if err := p.Close(); err != nil {
				t.Error(err)
			}
		}
		if _, err := s.Port(); err == nil {
			t.Error("a socket is still open")
		}
		_, err := generation(t.Context(), s)
		return err
	})
	if !errors.Is(err, os.ErrClosed) {
		t.Error(err)
	}
	if err := p.Do(t.Context(), func(*Socket) error { return nil }); !errors.Is(err, os.ErrClosed) {
		t.Error(err)
	}
}

// TestDialOwnNamespace: a thread that is in the namespace already enters nothing,
// which would take CAP_SYS_ADMIN.
func TestDialOwnNamespace(t *testing.T) {
	ns, other := nstest.NewTestNamespace(t), nstest.NewTestNamespace(t)
	here := func(of *nstest.Namespace) bool {
		own, err := namespace(int(of.Handle()))
		if err != nil {
			t.Fatal(err)
		}
		defer own.Close()
		return ofThread(own)
	}
	err := ns.Do(func() error {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		if !here(ns) || here(other) {
			t.Error("the namespace of the thread is not recognised")
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}
