//go:build linux

package integration

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"syscall"
	"testing"

	"github.com/nftdp/go-nftdp/internal/nstest"
	"github.com/nftdp/go-nftdp/nftdp"
)

// TestProtect: while a process owns the tables of the node, others can neither
// change nor flush them, by netlink or by nft. When it is killed, services go on
// for established connections and new ones. The next process adopts the tables
// without changing their contents, and they are protected again.
func TestProtect(t *testing.T) {
	t.Parallel()
	if !protects(t) {
		return
	}
	w := newWorld(t, nftdp.Config{Protect: true}, 3)
	web := netip.AddrPortFrom(nstest.IPv4().Node, 30644)
	owner := startChild(t, w.Node, "own the tables")
	if line := owner.line(t); line != "ready" {
		t.Fatalf("the owner says %q", line)
	}
	conns := connect(t, attempts, w.Client, web)
	unchanged := func(when string) {
		t.Helper()
		wantAlive(t, conns)
		wantOnly(t, count(t, attempts, w.Client, "tcp", web), "backend-1", "backend-2", "backend-3")
		askFor(t, "backend-2", w.Backends[2], "udp", netip.AddrPortFrom(nstest.IPv6().ClusterIP, 80))
		if t.Failed() {
			t.Fatal(when)
		}
	}
	unchanged("a process owns the tables")
	wantNoForeignEdits(t, w.Node)
	if _, err := w.dataplane.Apply(t.Context(), nil); !errors.Is(err, nftdp.ErrProtected) {
		t.Errorf("Apply of another process: %v, want %v", err, nftdp.ErrProtected)
	}
	unchanged("others tried to change them")

	owner.kill(t)
	unchanged("the owner is killed")
	if plan := w.apply(t, restartServices()...); plan.Len() != len(nstest.Families()) {
		t.Errorf("the plan of the next process:\n%v", plan)
	}
	unchanged("the next process owns the tables")
	wantNoForeignEdits(t, w.Node)
	unchanged("others tried to change them again")
	if got := w.frontend(t, "web", netip.AddrPortFrom(nstest.IPv4().Any().Addr(), 30644)).Counter.Connections; got != 6*attempts {
		t.Errorf("the frontend counted %d connections in all, want %d", got, 6*attempts)
	}
}

// protects reports whether the kernel can protect tables, which it must from Linux
// 6.9 on.
func protects(t *testing.T) bool {
	t.Helper()
	d := openDataplane(t, newNamespace(t), nftdp.Config{Protect: true})
	_, err := d.Apply(t.Context(), nil)
	if err != nil && (!errors.Is(err, nftdp.ErrNotSupported) || !nstest.LinuxBefore(6, 9)) {
		t.Fatal(err)
	}
	return err == nil
}

// wantNoForeignEdits tries to change the tables as another program would.
func wantNoForeignEdits(t *testing.T, ns *nstest.Namespace) {
	t.Helper()
	for _, tb := range bothTables(nftdp.DefaultTable) {
		for what, e := range map[string]edit{
			"delete the table": tb.delete(),
			"add a chain":      tb.addChain("theirs"),
			"flush a chain":    tb.flushChain("services"),
			"flush a set":      tb.flushSet("frontends"),
		} {
			if err := dialOther(t, ns).commit(e); !errors.Is(err, syscall.EPERM) {
				t.Errorf("%s of family %d: %v, want %v", what, tb.family, err, syscall.EPERM)
			}
		}
	}
	meddle(t, ns, flushRuleset())
	nft(t, ns, true, "flush", "ruleset")
	nft(t, ns, false, "flush", "table", "ip", nftdp.DefaultTable)
	nft(t, ns, false, "delete", "table", "ip6", nftdp.DefaultTable)
}

// nft runs stock nft, if it is installed, and fails unless it works or does not
// work, as stated.
func nft(t *testing.T, ns *nstest.Namespace, works bool, args ...string) {
	t.Helper()
	if _, err := exec.LookPath("nft"); err != nil && os.Getenv("CI") == "" {
		return
	}
	if out, err := runTool(t, ns, "", "nft", args...); (err == nil) != works {
		t.Errorf("nft %v: %v, should work: %t\n%s", args, err, works, out)
	}
}

// ownTables is a process that owns the tables until it is killed.
func ownTables() error {
	ctx := context.Background()
	d, err := nftdp.Config{Protect: true}.Open(ctx)
	if err != nil {
		return err
	}
	defer d.Close()
	if _, err := d.Apply(ctx, restartServices()); err != nil {
		return err
	}
	fmt.Println("ready")
	select {}
}
