//go:build linux

package nftdp

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/nftdp/go-nftdp/internal/ruleset"
)

// deletesLate reports whether changes are the batch behind a change: it deletes
// what postrouting was asked.
func deletesLate(changes []ruleset.Change) bool {
	return len(changes) > 0 && changes[0].Verb == ruleset.Delete && len(changes[0].Elements) > 0 && changes[0].Set.AfterDNAT
}

// TestBehindFails: if the change itself is committed and what goes behind it is
// not, the services are the new ones. The plan says what was committed, nobody
// reverts it, and what is left over is deleted as soon as that is possible.
func TestBehindFails(t *testing.T) {
	was, is := []Service{web("a", 1, 3)}, []Service{web("a", 1, 1)}
	for name, err := range map[string]error{
		"refused":       &ruleset.RefusedError{Element: -1, Errno: syscall.EINVAL},
		"not sent":      syscall.EBADF,
		"no memory":     &ruleset.RefusedError{Element: -1, Errno: syscall.ENOMEM},
		"unknown":       ruleset.ErrUnknown,
		"the last word": context.Canceled,
	} {
		for _, keeps := range []bool{false, true} {
			t.Run(name+map[bool]string{true: ", kept"}[keeps], func(t *testing.T) {
				n := newNode(t)
				d, spy := n.spied(t, Config{})
				apply(t, d, was)
				before := n.read(t, DefaultTable)
				if keeps {
					go func() { _ = d.Keep(t.Context(), nil) }()
					spy.watched(t, d, 1)
				}
				spy.failBehind(err)
				plan, got := d.Update(t.Context(), Change{Set: is})
				if got == nil || !strings.Contains(got.Error(), "services are programmed, but") {
					t.Errorf("error is %v", got)
				}
				after := n.read(t, DefaultTable)
				if left := after.PlanTo(mustCompile(t, Config{}, is)); left.Empty() || !addsNothing(left.changes) {
					t.Errorf("this is left to do:\n%v", left)
				}
				committed := &Ruleset{rules: ruleset.Apply(before.rules, plan.changes)}
				if left := committed.PlanTo(after); !left.Empty() {
					t.Errorf("the plan lacks\n%v", left)
				}
				spy.failBehind(nil)
				if keeps {
					n.eventuallyHolds(t, is)
					return
				}
				apply(t, d, is)
				n.wantServices(t, Config{}, is)
			})
		}
	}
}

// TestBehindIsMended: somebody else has deleted what goes behind a change. The
// change succeeds all the same.
func TestBehindIsMended(t *testing.T) {
	was, is := []Service{web("a", 1, 3)}, []Service{web("a", 1, 1)}
	n := newNode(t)
	d, spy := n.spied(t, Config{})
	apply(t, d, was)
	spy.before = func(changes []ruleset.Change) {
		if deletesLate(changes) {
			spy.before = nil
			n.change(t, changes[0])
		}
	}
	updateWith(t, d, Change{Set: is})
	n.wantServices(t, Config{}, is)
}

// TestEndBetween: once the change itself is committed, its end is, too, though
// the context has ended.
func TestEndBetween(t *testing.T) {
	was, is := []Service{web("a", 1, 3)}, []Service{web("a", 1, 1)}
	n := newNode(t)
	d, spy := n.spied(t, Config{})
	apply(t, d, was)
	ctx, cancel := context.WithCancel(t.Context())
	spy.before = func(changes []ruleset.Change) {
		if deletesLate(changes) {
			cancel()
		}
	}
	plan, err := d.Update(ctx, Change{Set: is})
	if err != nil && !errors.Is(err, context.Canceled) || plan.Empty() {
		t.Errorf("plan %v, error %v", plan, err)
	}
	if ctx.Err() == nil {
		t.Fatal("there was nothing behind the change")
	}
	n.wantServices(t, Config{}, is)
}

// TestRetriedParts: a split Apply that others overtake has a plan of all that it
// committed, in its order.
func TestRetriedParts(t *testing.T) {
	n := newNode(t)
	was, is := manyWebs(0, 30), manyWebs(10, 50)
	apply(t, n.open(t, Config{}), was)
	d, spy := n.spied(t, Config{})
	spy.limit = 12_000
	before := n.read(t, DefaultTable)
	spy.before = func([]ruleset.Change) {
		if spy.batches == 2 {
			spy.before = nil
			n.disturb(t)
		}
	}
	plan := apply(t, d, is)
	n.wantServices(t, Config{}, is)
	if diff := (&Ruleset{rules: ruleset.Apply(before.rules, plan.changes)}).PlanTo(n.read(t, DefaultTable)); !diff.Empty() {
		t.Errorf("the plan lacks\n%v", diff)
	}
	if spy.before != nil || spy.batches < 4 {
		t.Errorf("there were %d batches", spy.batches)
	}
}

// TestListensOnlyWhileWatched: a Dataplane that nobody watches is in no group of
// nf_tables events, which would slow down everybody's transactions, and only Keep is in
// those of addresses.
func TestListensOnlyWhileWatched(t *testing.T) {
	n := newNode(t)
	d, spy := n.spied(t, Config{})
	want := func(listening, toAddresses int) {
		t.Helper()
		if got := n.listeners(t, unix.NETLINK_NETFILTER, nftablesEvents); got != listening {
			t.Errorf("%d sockets listen, want %d", got, listening)
		}
		if got := n.listeners(t, unix.NETLINK_ROUTE, addressEvents); got != toAddresses {
			t.Errorf("%d sockets listen to addresses, want %d", got, toAddresses)
		}
	}
	want(0, 0)
	apply(t, d, someServices())
	n.disturb(t)
	apply(t, d, someServices()[1:])
	want(0, 0)
	watching, stopWatch := context.WithCancel(t.Context())
	ended := make(chan error, 3)
	go func() {
		for _, err := range d.Watch(watching) {
			ended <- err
		}
	}()
	spy.watched(t, d, 1)
	want(1, 0)
	ctx, stop := context.WithCancel(t.Context())
	for range cap(ended) - 1 {
		go func() { ended <- d.Keep(ctx, nil) }()
	}
	spy.watched(t, d, cap(ended))
	want(1, 1)
	apply(t, d, manyWebs(0, 60)) // too much to listen to
	want(1, 1)
	stop()
	for range cap(ended) - 1 {
		if err := receive(t, ended); !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	}
	want(1, 0)
	stopWatch()
	if err := receive(t, ended); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	spy.watched(t, d, 0)
	want(0, 0)
}

// The groups of events, as bits in the order of their numbers.
const (
	nftablesEvents = 1 << (unix.NFNLGRP_NFTABLES - 1)
	addressEvents  = 1<<(unix.RTNLGRP_IPV4_IFADDR-1) | 1<<(unix.RTNLGRP_IPV4_ROUTE-1) |
		1<<(unix.RTNLGRP_IPV6_IFADDR-1) | 1<<(unix.RTNLGRP_IPV6_ROUTE-1)
)

// listeners counts the sockets of the namespace that are in some groups of a
// protocol.
func (n *node) listeners(t *testing.T, protocol, groups int) (count int) {
	t.Helper()
	err := n.Do(func() error {
		text, err := os.ReadFile("/proc/thread-self/net/netlink")
		for line := range strings.Lines(string(text)) {
			f := strings.Fields(line)
			if len(f) > 3 && f[1] == strconv.Itoa(protocol) && f[3] == fmt.Sprintf("%08x", groups) {
				count++
			}
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return count
}
