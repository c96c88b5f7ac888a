//go:build linux

package integration

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/vishvananda/netns"

	"github.com/nftdp/go-nftdp/internal/nstest"
	"github.com/nftdp/go-nftdp/nftdp"
)

// tenants are namespaces that a single process programs: all with the same frontend,
// each with a backend of its own.
const tenants = 500

func ofTenant(i int) nftdp.Service {
	return nftdp.Service{
		Name: "web", Frontends: []nftdp.Frontend{{Port: 80}},
		Backends: []nftdp.Backend{{Addr: netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 180, byte(i >> 8), byte(i)}), 80)}},
	}
}

// manageTenants opens many namespaces, keeps their services and says what that takes.
// The services of one are not those of another.
func manageTenants() error {
	var spaces []*nstest.Namespace
	for i := range tenants {
		ns, err := nstest.New(fmt.Sprint("tenant ", i))
		if err != nil {
			return err
		}
		defer ns.Close()
		spaces = append(spaces, ns)
	}
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	before := holdings()
	var all []*nftdp.Dataplane
	for i, ns := range spaces {
		d, err := nftdp.Config{}.OpenIn(ctx, ns.Handle())
		if err == nil {
			_, err = d.Apply(ctx, []nftdp.Service{ofTenant(i)})
		}
		if err != nil {
			return fmt.Errorf("tenant %d: %w", i, err)
		}
		all = append(all, d)
	}
	if err := reportTenants("open", before); err != nil {
		return err
	}
	var kept sync.WaitGroup
	errs := make([]error, tenants)
	for i, d := range all {
		kept.Go(func() {
			if err := d.Keep(ctx, nil); !errors.Is(err, context.Canceled) {
				errs[i] = err
			}
		})
	}
	for i, d := range all {
		if err := apart(ctx, d, i); err != nil {
			return err
		}
	}
	errs = append(errs, reportTenants("kept", before))
	stop()
	kept.Wait()
	for _, d := range all {
		errs = append(errs, d.Close())
	}
	return errors.Join(errs...)
}

// apart returns an error unless the tenant's namespace has its service alone.
func apart(ctx context.Context, d *nftdp.Dataplane, i int) error {
	held, err := d.Inspect(ctx)
	if err != nil {
		return err
	}
	want := ofTenant(i).Backends[0].Addr
	if len(held) != 1 || len(held[0].Frontends) == 0 || held[0].Frontends[0].Backends[0].Addr != want {
		return fmt.Errorf("tenant %d has %+v, want a service with %v", i, held, want)
	}
	return nil
}

// reportTenants prints what every tenant takes, and returns an error if that is more
// than the documents say.
func reportTenants(state string, before *held) error {
	after := holdings()
	threads, err := filepath.Glob("/proc/self/task/*")
	if err != nil {
		return err
	}
	files, heap := float64(after.files-before.files)/tenants, (int64(after.heap)-int64(before.heap))/tenants
	words := fmt.Sprintf("%s, each: %.1f files, %d bytes of heap, %.1f goroutines; %d threads in all",
		state, files, heap, float64(after.goroutines-before.goroutines)/tenants, len(threads))
	if files > 9 || heap > 650_000 || len(threads) > 50 {
		return errors.New(words)
	}
	fmt.Fprintln(os.Stderr, words)
	return nil
}

// TestTenants: one process programs 500 namespaces.
func TestTenants(t *testing.T) {
	c := startChild(t, newNamespace(t), "manage tenants")
	c.end(t)
	t.Logf("%s", c.stderr)
}

// TestNamespaceMadeAgain: a namespace that was deleted, and made again under its name, is
// another one. An open Dataplane stays with the former, and their handles differ.
func TestNamespaceMadeAgain(t *testing.T) {
	t.Parallel()
	name := filepath.Join(t.TempDir(), "tenant")
	former := named(t, name)
	d, err := nftdp.Config{}.OpenIn(t.Context(), former)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closeOrFail(t, d) })
	if _, err := d.Apply(t.Context(), []nftdp.Service{ofTenant(1)}); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(name); err != nil {
		t.Fatal(err)
	}
	again := named(t, name)
	if former.Equal(again) {
		t.Error("both namespaces are the same")
	}
	if err := apart(t.Context(), d, 1); err != nil {
		t.Error(err)
	}
	next, err := nftdp.Config{}.OpenIn(t.Context(), again)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closeOrFail(t, next) })
	if held, err := next.Inspect(t.Context()); err != nil || len(held) > 0 {
		t.Errorf("the new namespace has %+v (%v)", held, err)
	}
}

// named makes a namespace with a name in the file system, as `ip netns add` does, but
// with a link in place of a mount, which nobody has to clean up.
func named(t *testing.T, name string) netns.NsHandle {
	t.Helper()
	ns := newNamespace(t)
	if err := os.Symlink(fmt.Sprintf("/proc/self/fd/%d", int(ns.Handle())), name); err != nil {
		t.Fatal(err)
	}
	h, err := netns.GetFromPath(name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = h.Close() })
	return h
}
