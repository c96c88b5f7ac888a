//go:build linux

package main

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/netip"
	"os"
	"slices"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/nftdp/go-nftdp/internal/nstest"
)

// What becomes of a connection that no backend answers.
const (
	refused = "refused"
	silence = "silence"
)

const (
	timeout  = 5 * time.Second        // of an exchange, which takes no millisecond
	patience = 500 * time.Millisecond // of a client that expects silence
)

// visit is a number of connections, one after the other, and what shall become
// of them.
type visit struct {
	from     *nstest.Namespace
	src      netip.Addr // may be unset
	protocol string     // empty is TCP
	dst      netip.AddrPort
	times    int    // 0 is once
	servers  string // that answer; or refused or silence
	seen     string // the clients' addresses that the servers see
}

// showVisits makes connections and prints what becomes of them, up to the first
// one that does not go as told.
func showVisits(title string, visits []visit) error {
	fmt.Printf("\n# %s\n", title)
	return table(func(w io.Writer) error {
		fmt.Fprintln(w, "FROM\tTO\tOUTCOME\tSOURCE SEEN")
		for _, v := range visits {
			servers, seen, err := v.make()
			if err != nil {
				return fmt.Errorf("%s: %w", v, err)
			}
			fmt.Fprintf(w, "%s\t%v\t%s\t%s\n", v.client(), v.dst, servers, cmp.Or(seen, "-"))
			if servers != v.servers || seen != v.seen {
				return fmt.Errorf("%s: %q, source seen %q; want %q, source seen %q", v, servers, seen, v.servers, v.seen)
			}
		}
		return nil
	})
}

// table prints aligned columns, up to an error.
func table(rows func(w io.Writer) error) error {
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	err := rows(w)
	return errors.Join(err, w.Flush())
}

func (v visit) network() string { return cmp.Or(v.protocol, "tcp") }

func (v visit) client() string {
	if v.src.IsValid() {
		return v.src.String()
	}
	return v.from.Name
}

func (v visit) String() string { return fmt.Sprintf("%s to %v", v.client(), v.dst) }

// make gives the servers and whom they have seen, both sorted.
func (v visit) make() (servers, seen string, err error) {
	limit := timeout
	if v.servers == silence {
		limit = patience
	}
	names, sources := map[string]bool{}, map[string]bool{}
	for range max(v.times, 1) {
		answer, err := nstest.Dial(v.from, v.network(), v.src, v.dst, limit)
		switch {
		case errors.Is(err, syscall.ECONNREFUSED):
			names[refused] = true
		case err != nil && nstest.IsTimeout(err):
			names[silence] = true
		case err != nil:
			return "", "", err
		default:
			names[answer.Server] = true
			sources[answer.Client.Addr().String()] = true
		}
	}
	return words(names), words(sources), nil
}

func words(set map[string]bool) string {
	return strings.Join(slices.Sorted(maps.Keys(set)), ", ")
}
