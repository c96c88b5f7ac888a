//go:build linux

package integration

import (
	"fmt"
	"net/netip"
	"sync"
	"testing"

	"github.com/nftdp/go-nftdp/internal/nstest"
	"github.com/nftdp/go-nftdp/nftdp"
)

// TestManyAtOnce: sixty programs that each add a service to the same tables at
// the same moment, beside one that keeps them, lose nothing and are not refused,
// whether there are tables before or not.
func TestManyAtOnce(t *testing.T) {
	t.Parallel()
	for name, tables := range map[string]bool{"tables": true, "no tables": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ns, err := nstest.New("many")
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { closeOrFail(t, ns) })
			open := func() *nftdp.Dataplane {
				d, err := nftdp.Config{}.OpenIn(t.Context(), ns.Handle())
				if err != nil {
					t.Error(err)
				}
				return d
			}
			if tables {
				first := open()
				defer closeOrFail(t, first)
				if _, err := first.Apply(t.Context(), nil); err != nil {
					t.Fatal(err)
				}
			}
			const programs = 60
			var all sync.WaitGroup
			start := make(chan struct{})
			for i := range programs {
				all.Go(func() {
					d := open()
					defer closeOrFail(t, d)
					<-start
					if _, err := d.Update(t.Context(), nftdp.Change{Set: []nftdp.Service{numbered(i)}}); err != nil {
						t.Errorf("program %d: %v", i, err)
					}
				})
			}
			close(start)
			all.Wait()
			last := open()
			defer closeOrFail(t, last)
			held, err := last.Inspect(t.Context())
			if err != nil || len(held) != programs {
				t.Errorf("there are %d services, error %v", len(held), err)
			}
		})
	}
}

// numbered is a service with one to four backends.
func numbered(i int) nftdp.Service {
	s := nftdp.Service{
		Name:      fmt.Sprint("service ", i),
		Frontends: []nftdp.Frontend{{Addr: netip.AddrFrom4([4]byte{10, 96, 1, byte(i)}), Port: 80}},
	}
	for b := range 1 + i%4 {
		s.Backends = append(s.Backends, nftdp.Backend{Addr: netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 180, byte(i), byte(b)}), 8080)})
	}
	return s
}
