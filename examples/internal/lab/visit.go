//go:build linux

package lab

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/nftdp/go-nftdp/internal/nstest"
)

// Timeout is for an exchange that has to succeed; it takes no millisecond.
const Timeout = 5 * time.Second

// How connections fail.
const (
	Refused  = "refused"
	TimedOut = "timed out"
)

// Visit is a connection that a client makes.
type Visit struct {
	From     *nstest.Namespace
	Source   netip.Addr // unset: the kernel chooses
	Protocol string     // empty: TCP
	To       netip.AddrPort
}

// Client is who connects, in a word.
func (v Visit) Client() string {
	if v.Source.IsValid() {
		return v.Source.String()
	}
	return v.From.Name
}

func (v Visit) dial(timeout time.Duration) (nstest.Answer, error) {
	return nstest.Dial(v.From, cmp.Or(v.Protocol, "tcp"), v.Source, v.To, timeout)
}

// Repeat connects n times, one after the other, unless the context ends or
// there are some failures before.
func (v Visit) Repeat(ctx context.Context, n, failures int, timeout time.Duration) Landing {
	got := Landing{Tally{}, Tally{}, Tally{}}
	for i := 0; i < n && got.Failed.Sum() < failures && ctx.Err() == nil; i++ {
		a, err := v.dial(timeout)
		if err != nil {
			got.Failed[reason(err)]++
			continue
		}
		got.Servers[a.Server]++
		got.Sources[a.Client.Addr().String()]++
	}
	return got
}

// Landing is what became of connections.
type Landing struct {
	Servers Tally
	Sources Tally // client addresses as the servers saw them
	Failed  Tally // reasons
}

// String is servers and failures with their numbers.
func (l Landing) String() string {
	var parts []string
	for _, t := range []Tally{l.Servers, l.Failed} {
		for _, k := range slices.Sorted(maps.Keys(t)) {
			parts = append(parts, fmt.Sprintf("%s %d", k, t[k]))
		}
	}
	return strings.Join(parts, ", ")
}

// Tally counts by name.
type Tally map[string]int

// Sum is the number of all.
func (t Tally) Sum() (n int) {
	for _, v := range t {
		n += v
	}
	return n
}

// String is all names, or a dash.
func (t Tally) String() string {
	return cmp.Or(strings.Join(slices.Sorted(maps.Keys(t)), ", "), "-")
}

// reason puts a failure into a word or two.
func reason(err error) string {
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		return Refused
	case errors.Is(err, syscall.EPERM):
		return "not permitted"
	case nstest.IsTimeout(err):
		return TimedOut
	}
	return err.Error()
}

// AddClients adds some addresses to the client and returns all that it has in
// the family.
func (l *Lab) AddClients(a nstest.Addrs, n int) ([]netip.Addr, error) {
	return addClients(l.Client, nstest.ClientLink, a, n)
}

func addClients(client *nstest.Namespace, link string, a nstest.Addrs, n int) ([]netip.Addr, error) {
	clients := []netip.Addr{a.Client}
	for addr := a.Client2; len(clients) <= n; addr = addr.Next() {
		if err := client.AddAddr(link, netip.PrefixFrom(addr, a.ClientNet.Bits())); err != nil {
			return nil, err
		}
		clients = append(clients, addr)
	}
	return clients, nil
}
