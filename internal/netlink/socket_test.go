//go:build linux

package netlink

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"os"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nftdp/go-nftdp/internal/nstest"
)

// message returns a message in the form of the kernel's.
func message(typ, flags uint16, data ...byte) []byte {
	var b Buffer
	at := b.Message(typ, flags, 0)
	b = append(b, data...)
	b.EndMessage(at)
	b.extend(Align(len(b)) - len(b))
	return b
}

func TestWalkMessages(t *testing.T) {
	two := append(message(1, 0, 1, 2, 3), message(2, 0)...)
	var seen []uint16
	done, err := walkMessages(two, func(m *Message) (bool, error) { seen = append(seen, m.Type); return m.Type == 2, nil })
	if err != nil || !done || len(seen) != 2 {
		t.Errorf("%v, done %t, error %v", seen, done, err)
	}
	for name, change := range map[string]func([]byte){
		"shorter than a header": func(b []byte) { binary.NativeEndian.PutUint32(b, 15) },
		"longer than the rest":  func(b []byte) { binary.NativeEndian.PutUint32(b, 1000) },
	} {
		b := message(1, 0, 1, 2, 3, 4)
		change(b)
		if _, err := walkMessages(b, func(*Message) (bool, error) { return false, nil }); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// many elements fill several datagrams of a dump.
const many = 20_000

// TestAskAbandoned: whatever abandons a dump, its rest is not waited for, and the
// next request receives its own replies.
func TestAskAbandoned(t *testing.T) {
	ns := nstest.NewTestNamespace(t)
	s := dial(t, ns, unix.NETLINK_NETFILTER)
	addNumbers(t, s)
	enough := errors.New("enough")
	for n := 1; n <= 4; n++ { // the datagram at which it is abandoned
		for name, abandon := range map[string]func() (err, want error){
			"each fails": func() (err, want error) {
				calls := 0
				err = list(t.Context(), s, func([]uint32) error {
					if calls++; calls == n {
						return enough
					}
					return nil
				})
				if calls != n {
					t.Errorf("each was called %d times, and failed at %d", calls, n)
				}
				return err, enough
			},
			"the context ends": func() (err, want error) {
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				err = list(&disturbing{ctx, 1 + n, cancel}, s, func([]uint32) error { return nil })
				return err, context.Canceled
			},
		} {
			t.Run(fmt.Sprint(name, " at ", n), func(t *testing.T) {
				if err, want := abandon(); !errors.Is(err, want) {
					t.Fatalf("%v, want %v", err, want)
				}
				if err := s.Wait(t.Context(), time.Second); err != nil {
					t.Errorf("nothing is left to read, so the rest was waited for: %v", err)
				}
				if n%2 == 0 { // otherwise the dump of wantNumbers is the next request
					if g, err := generation(t.Context(), s); err != nil || g == 0 {
						t.Errorf("generation %d, error %v", g, err)
					}
				}
				wantNumbers(t, s)
			})
		}
	}
}

// wantNumbers checks that a dump lists each number once.
func wantNumbers(t *testing.T, s *Socket) {
	t.Helper()
	var got []uint32
	err := list(t.Context(), s, func(numbers []uint32) error { got = append(got, numbers...); return nil })
	slices.Sort(got)
	if err != nil || len(slices.Compact(slices.Clone(got))) != many || len(got) != many {
		t.Errorf("%d numbers are listed, error %v", len(got), err)
	}
}

// TestAskAbandonedAtOnce: a dump may end in the datagram at which each fails, as
// the dump of routing rules does on newer kernels, or in a datagram of its own, as
// the dump of links does.
func TestAskAbandonedAtOnce(t *testing.T) {
	s := dial(t, nstest.NewTestNamespace(t), unix.NETLINK_ROUTE)
	enough := errors.New("enough")
	for _, typ := range []int{unix.RTM_GETRULE, unix.RTM_GETLINK} {
		dump := func(each func([]byte) error) error {
			return s.Ask(t.Context(), typ, unix.NLM_F_DUMP, make([]byte, unix.SizeofIfInfomsg), each)
		}
		want := 0
		if err := dump(func([]byte) error { want++; return nil }); err != nil || want == 0 {
			t.Fatalf("%d replies, error %v", want, err)
		}
		for range 3 {
			calls := 0
			if err := dump(func([]byte) error { calls++; return enough }); !errors.Is(err, enough) || calls != 1 {
				t.Errorf("each was called %d times: %v", calls, err)
			}
		}
		got := 0
		if err := dump(func([]byte) error { got++; return nil }); err != nil || got != want {
			t.Errorf("%d replies of %d, error %v", got, want, err)
		}
	}
}

// TestAskEndsBesideOthers: a request other than a dump is not abandoned when the
// context ends, since no message marks the end of its replies: its only reply may
// still come after those to other requests.
func TestAskEndsBesideOthers(t *testing.T) {
	s := dial(t, nstest.NewTestNamespace(t), unix.NETLINK_NETFILTER)
	for range 2 { // two replies that nobody reads
		if err := s.Send(t.Context(), message(0xee00, unix.NLM_F_REQUEST, 0, 0, 0, 0)); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	if _, err := generation(&disturbing{ctx, 2, cancel}, s); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	if g, err := generation(t.Context(), s); err != nil || g == 0 {
		t.Errorf("the next request: generation %d, error %v", g, err)
	}
}

// TestAskInterrupted: a dump during which rules change is completed, and reported
// as interrupted, even if only its end was left.
func TestAskInterrupted(t *testing.T) {
	all := make([]string, 600) // slightly more than a dump's datagram holds
	for i := range all {
		all[i] = fmt.Sprintf("table-%03d", i)
	}
	for _, c := range []struct {
		name    string
		typ     uint16
		tables  []string
		fewer   bool // the remaining tables are in a part that was dumped already
		changed bool
	}{
		{"unchanged", unix.NFT_MSG_NEWTABLE, nil, false, false},
		{"grown", unix.NFT_MSG_NEWTABLE, []string{"another"}, false, true},
		{"shrunk", unix.NFT_MSG_DELTABLE, all[:500], true, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			ns := nstest.NewTestNamespace(t)
			s, other := dial(t, ns, unix.NETLINK_NETFILTER), dial(t, ns, unix.NETLINK_NETFILTER)
			tables(t, other, unix.NFT_MSG_NEWTABLE, all...)
			ctx := &disturbing{t.Context(), 2, func() {
				if c.changed {
					tables(t, other, c.typ, c.tables...)
				}
			}}
			var body Buffer
			body.Netfilter(unix.AF_INET, 0)
			got := 0
			err := s.Ask(ctx, unix.NFNL_SUBSYS_NFTABLES<<8|unix.NFT_MSG_GETTABLE, unix.NLM_F_DUMP, body,
				func([]byte) error { got++; return nil })
			if errors.Is(err, ErrInterrupted) != c.changed || err != nil && !c.changed {
				t.Errorf("error %v", err)
			}
			if want := len(all) + len(c.tables); !c.fewer && got != want || c.fewer && got >= len(all) {
				t.Errorf("%d tables, all would be %d", got, want)
			}
		})
	}
}

// TestAskForged: messages of another process to our socket do not count as the
// kernel's.
func TestAskForged(t *testing.T) {
	ns := nstest.NewTestNamespace(t)
	s := dial(t, ns, unix.NETLINK_NETFILTER)
	addNumbers(t, s)
	for _, typ := range []uint16{unix.NLMSG_ERROR, unix.NLMSG_DONE} {
		forge(t, ns, s, typ)
		wantNumbers(t, s)
		forge(t, ns, s, typ)
		if g, err := generation(t.Context(), s); err != nil || g == 0 {
			t.Errorf("generation %d, error %v", g, err)
		}
		forge(t, ns, s, typ)
		if err := s.Drain(func(m *Message) error { t.Errorf("drained %+v", m); return nil }); err != nil {
			t.Error(err)
		}
	}
}

func forge(t *testing.T, ns *nstest.Namespace, to *Socket, typ uint16) {
	t.Helper()
	port, err := to.Port()
	if err != nil {
		t.Fatal(err)
	}
	if err := nstest.Forge(ns, unix.NETLINK_NETFILTER, port, typ, to.NextSeq(0), 4); err != nil {
		t.Fatal(err)
	}
}

// TestAskLost: if there is no room for replies, the request fails, and the next one
// works.
func TestAskLost(t *testing.T) {
	s := dial(t, nstest.NewTestNamespace(t), unix.NETLINK_NETFILTER)
	var junk nfTables
	for range 3000 { // each is answered by a datagram
		junk.add(unix.NFNL_SUBSYS_NFTABLES<<8|unix.NFT_MSG_GETGEN, 0, 0, nil)
	}
	if err := s.Conn().SetReadBuffer(1); err != nil { // the kernel has a minimum
		t.Fatal(err)
	}
	if err := s.Send(t.Context(), junk.Buffer); err != nil {
		t.Fatal(err)
	}
	if g, err := generation(t.Context(), s); !errors.Is(err, ErrLost) {
		t.Errorf("generation %d, error %v", g, err)
	}
	if g, err := generation(t.Context(), s); err != nil || g == 0 {
		t.Errorf("the next request: generation %d, error %v", g, err)
	}
}

// TestWait: the wait ends with its context, and after its time. It consumes no
// message.
func TestWait(t *testing.T) {
	s := dial(t, nstest.NewTestNamespace(t), unix.NETLINK_NETFILTER)
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	soon, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	for _, ctx := range []context.Context{ended, soon} {
		if err := s.Wait(ctx, time.Hour); !errors.Is(err, ctx.Err()) || err == nil {
			t.Errorf("%v, want %v", err, ctx.Err())
		}
	}
	if err := s.Wait(t.Context(), time.Millisecond); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("with nothing to read: %v", err)
	}
	if err := s.Send(t.Context(), message(0xee00, unix.NLM_F_REQUEST, 0, 0, 0, 0)); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := s.Wait(t.Context(), time.Hour); err != nil {
			t.Error(err)
		}
	}
	replies := 0
	if err := s.Drain(func(*Message) error { replies++; return nil }); err != nil || replies != 1 {
		t.Errorf("%d replies, error %v", replies, err)
	}
}

// TestWaitThenAsk: if a context ends while there is something to read, that does
// not end the next read.
func TestWaitThenAsk(t *testing.T) {
	s := dial(t, nstest.NewTestNamespace(t), unix.NETLINK_NETFILTER)
	for range 2000 {
		if err := s.Send(t.Context(), message(0xee00, unix.NLM_F_REQUEST, 0, 0, 0, 0)); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := s.Wait(ctx, time.Hour); !errors.Is(err, context.Canceled) {
			t.Fatal(err)
		}
		if _, err := generation(t.Context(), s); err != nil {
			t.Fatal(err)
		}
	}
}

// TestDialNamespace: a socket stays in its namespace after the handle is closed.
// Without a handle it is in the namespace of the thread, which it can open.
func TestDialNamespace(t *testing.T) {
	ns, err := nstest.New("closed")
	if err != nil {
		t.Fatal(err)
	}
	var here *Socket
	if err := ns.Do(func() (err error) { here, err = Dial(unix.NETLINK_NETFILTER, Here); return err }); err != nil {
		t.Fatal(err)
	}
	defer here.Close()
	there := dial(t, ns, unix.NETLINK_NETFILTER)
	if err := ns.Close(); err != nil {
		t.Fatal(err)
	}
	tables(t, there, unix.NFT_MSG_NEWTABLE, "t")
	want, err := generation(t.Context(), there)
	if err != nil {
		t.Fatal(err)
	}
	file, err := here.Namespace()
	if err != nil {
		t.Fatal(err)
	}
	again, err := Dial(unix.NETLINK_NETFILTER, int(file.Fd()))
	if err := errors.Join(err, file.Close()); err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	for _, s := range []*Socket{here, again} {
		if g, err := generation(t.Context(), s); err != nil || g != want {
			t.Errorf("generation %d, error %v, want %d", g, err, want)
		}
	}
}

func TestDialErrors(t *testing.T) {
	file, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	for _, fd := range []int{math.MaxInt32, -2, int(file.Fd())} {
		if s, err := Dial(unix.NETLINK_NETFILTER, fd); err == nil {
			t.Errorf("file descriptor %d is accepted as a namespace: %v", fd, s.Close())
		}
	}
	s, err := Dial(unix.NETLINK_NETFILTER, int(nstest.NewTestNamespace(t).Handle()))
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := generation(t.Context(), s); err == nil {
		t.Error("a closed socket answers")
	}
}

// FuzzReply: reading any datagram ends.
func FuzzReply(f *testing.F) {
	f.Add(message(unix.NLMSG_ERROR, 0x200, 1, 2, 3, 4, 5))
	f.Add(append(message(1, 0, 1, 2, 3), message(unix.NLMSG_DONE, 0)...))
	f.Fuzz(func(_ *testing.T, b []byte) {
		_, _ = walkMessages(b, func(m *Message) (bool, error) { return false, m.failure() })
	})
}

// TestDrainSome: what is left after some datagrams is read later. Each commit is an
// event of its own.
func TestDrainSome(t *testing.T) {
	ns := nstest.NewTestNamespace(t)
	s, other := dial(t, ns, unix.NETLINK_NETFILTER), dial(t, ns, unix.NETLINK_NETFILTER)
	if err := s.Conn().JoinGroup(unix.NFNLGRP_NFTABLES); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"a", "b", "c"} {
		tables(t, other, unix.NFT_MSG_NEWTABLE, name)
	}
	commits := 0
	count := func(m *Message) error {
		if m.Type == unix.NFNL_SUBSYS_NFTABLES<<8|unix.NFT_MSG_NEWGEN {
			commits++
		}
		return nil
	}
	if err := s.Wait(t.Context(), time.Minute); err != nil {
		t.Fatal(err)
	}
	if err := s.DrainSome(1, count); err != nil || commits > 1 {
		t.Errorf("%d commits in one datagram, error %v", commits, err)
	}
	for commits < 3 {
		if err := errors.Join(s.Wait(t.Context(), time.Minute), s.DrainSome(1, count)); err != nil {
			t.Fatal(err)
		}
	}
}
