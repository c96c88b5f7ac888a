//go:build linux

package nftdp

import (
	"context"
	"errors"
	"net/netip"
	"sync/atomic"
	"testing"

	"github.com/nftdp/go-nftdp/internal/engine"
	"github.com/nftdp/go-nftdp/internal/flows"
	"github.com/nftdp/go-nftdp/internal/host"
	"github.com/nftdp/go-nftdp/internal/ruleset"
)

// TestKeepReadsAddressesAgain: if Keep cannot read the node's addresses, it reports
// that and tries again, although they do not change any more.
func TestKeepReadsAddressesAgain(t *testing.T) {
	n := newNode(t)
	h, err := host.Open(int(n.Handle()), DefaultTable, engine.DecodableSet)
	if err != nil {
		t.Fatal(err)
	}
	k := &addressed{Host: h}
	d, err := Config{}.OpenKernel(t.Context(), k)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.Close() })
	apply(t, d, someServices())
	ctx, stop := context.WithCancel(t.Context())
	errs, ended := make(chan error), make(chan error, 1)
	before := k.read.Load()
	go func() {
		ended <- d.Keep(ctx, func(_ *Drift, err error) { errs <- err })
	}()
	eventually(t, func() bool { return k.read.Load() > before }) // at its beginning
	k.fails.Store(true)
	if err := n.AddAddr("lo", netip.MustParsePrefix("1.2.3.4/32")); err != nil {
		t.Fatal(err)
	}
	for range 5 { // more often than there are events of one address
		if err := receive(t, errs); !errors.Is(err, errNoAddresses) {
			t.Fatal(err)
		}
	}
	before = k.read.Load()
	k.fails.Store(false)
	go func() { // reports of before
		for range errs {
		}
	}()
	eventually(t, func() bool { return k.read.Load() > before })
	stop()
	if err := receive(t, ended); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	close(errs)
}

var errNoAddresses = errors.New("addresses cannot be read")

// addressed is a Host whose addresses cannot be read while fails is set.
type addressed struct {
	*host.Host
	fails atomic.Bool
	read  atomic.Int32 // how often they were read
}

func (k *addressed) Flows() flows.Kernel { return addressReader{k.Host.Flows(), k} }

type addressReader struct {
	flows.Kernel
	of *addressed
}

func (r addressReader) LocalAddrs(ctx context.Context, f ruleset.Family) ([]netip.Prefix, error) {
	if r.of.fails.Load() {
		return nil, errNoAddresses
	}
	defer r.of.read.Add(1)
	return r.Kernel.LocalAddrs(ctx, f)
}
