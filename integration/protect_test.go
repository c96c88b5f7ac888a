//go:build linux

package integration

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"testing"

	"github.com/google/nftables"
	"github.com/vishvananda/netns"

	"github.com/nftdp/go-nftdp/internal/nstest"
	"github.com/nftdp/go-nftdp/nftdp"
)

// ownerEnv makes TestMain run runOwner instead of the tests.
const ownerEnv = "NFTDP_TEST_OWNER"

// TestProtect: a process owns the tables of the node. Others can not change
// them, by netlink or by nft, nor flush them. It is killed, and services go on,
// with established connections and new ones. The next process adopts the tables
// without touching what is in them, and they are protected again.
func TestProtect(t *testing.T) {
	t.Parallel()
	if !protects(t) {
		return
	}
	w := newWorld(t, nftdp.Config{Protect: true}, 3)
	web := netip.AddrPortFrom(nstest.IPv4().Node, 30644)
	owner := startOwner(t, w.Node)
	conns := connect(t, attempts, w.Client, web)
	untouched := func(when string) {
		t.Helper()
		wantAlive(t, conns)
		wantOnly(t, count(t, attempts, w.Client, "tcp", web), "backend-1", "backend-2", "backend-3")
		askFor(t, "backend-2", w.Backends[2], "udp", netip.AddrPortFrom(nstest.IPv6().ClusterIP, 80))
		if t.Failed() {
			t.Fatal(when)
		}
	}
	untouched("a process owns the tables")
	wantNoForeignEdits(t, w.Node)
	if _, err := w.dataplane.Apply(t.Context(), nil); !errors.Is(err, nftdp.ErrProtected) {
		t.Errorf("Apply of another process: %v, want %v", err, nftdp.ErrProtected)
	}
	untouched("others tried to change them")

	owner.kill(t)
	untouched("the owner is killed")
	if plan := w.apply(t, restartServices()...); plan.Len() != len(nstest.Families()) {
		t.Errorf("the next process has to do\n%v", plan)
	}
	untouched("the next process owns the tables")
	wantNoForeignEdits(t, w.Node)
	untouched("others tried to change them again")
	if got := w.frontend(t, "web", netip.AddrPortFrom(nstest.IPv4().Any().Addr(), 30644)).Counter.Connections; got != 6*attempts {
		t.Errorf("the frontend counted %d connections over all that, want %d", got, 6*attempts)
	}
}

// protects reports whether the kernel can protect tables, as it can from Linux
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
	for _, family := range []nftables.TableFamily{nftables.TableFamilyIPv4, nftables.TableFamilyIPv6} {
		table := &nftables.Table{Family: family, Name: nftdp.DefaultTable}
		for what, edit := range map[string]func(*nftables.Conn){
			"delete the table": func(c *nftables.Conn) { c.DelTable(table) },
			"add a chain":      func(c *nftables.Conn) { c.AddChain(&nftables.Chain{Table: table, Name: "theirs"}) },
			"flush a chain":    func(c *nftables.Conn) { c.FlushChain(&nftables.Chain{Table: table, Name: "services"}) },
			"flush a set":      func(c *nftables.Conn) { c.FlushSet(&nftables.Set{Table: table, Name: "frontends"}) },
		} {
			conn := connectNftables(t, ns)
			edit(conn)
			if err := conn.Flush(); !errors.Is(err, syscall.EPERM) {
				t.Errorf("%s of family %d: %v, want %v", what, family, err, syscall.EPERM)
			}
		}
	}
	conn := connectNftables(t, ns)
	conn.FlushRuleset()
	if err := conn.Flush(); err != nil {
		t.Error(err)
	}
	nft(t, ns, true, "flush", "ruleset")
	nft(t, ns, false, "flush", "table", "ip", nftdp.DefaultTable)
	nft(t, ns, false, "delete", "table", "ip6", nftdp.DefaultTable)
}

// nft runs stock nft, if there is any.
func nft(t *testing.T, ns *nstest.Namespace, works bool, args ...string) {
	t.Helper()
	path, err := exec.LookPath("nft")
	if err != nil {
		if os.Getenv("CI") != "" {
			t.Error("no stock nft, and CI is set:", err)
		}
		return
	}
	var out []byte
	err = ns.Do(func() (err error) {
		out, err = exec.CommandContext(t.Context(), path, args...).CombinedOutput()
		return err
	})
	if (err == nil) != works {
		t.Errorf("nft %v: %v, should work: %t\n%s", args, err, works, out)
	}
}

// process is one that owns tables.
type process struct{ cmd *exec.Cmd }

// startOwner runs this program in a namespace, as the owner of its tables.
func startOwner(t *testing.T, ns *nstest.Namespace) *process {
	t.Helper()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), ownerEnv+"=1")
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	// It ends with this process, should a test fail, since its input does.
	if _, err := cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	if err := startIn(ns, cmd); err != nil {
		t.Fatal(err)
	}
	p := &process{cmd}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil || line != "ready\n" {
		t.Fatalf("the owner says %q: %v", line, err)
	}
	return p
}

// startIn starts a command on a thread that is in the namespace, and is never
// used for anything else.
func startIn(ns *nstest.Namespace, cmd *exec.Cmd) error {
	started := make(chan error)
	go func() {
		runtime.LockOSThread()
		err := netns.Set(ns.Handle())
		if err == nil {
			err = cmd.Start()
		}
		started <- err
	}()
	return <-started
}

// kill ends the process as kill -9 does, and waits until the kernel has closed
// its sockets.
func (p *process) kill(t *testing.T) {
	t.Helper()
	if err := p.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	err := p.cmd.Wait()
	if status, ok := p.cmd.ProcessState.Sys().(syscall.WaitStatus); !ok || status.Signal() != syscall.SIGKILL {
		t.Fatalf("the owner ended otherwise: %v", err)
	}
}

// runOwner is what the process does until its input ends. It gives the exit
// code.
func runOwner() int {
	if err := own(context.Background()); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

func own(ctx context.Context) error {
	d, err := nftdp.Config{Protect: true}.Open(ctx)
	if err != nil {
		return err
	}
	defer d.Close()
	if _, err := d.Apply(ctx, restartServices()); err != nil {
		return err
	}
	fmt.Println("ready")
	_, err = io.Copy(io.Discard, os.Stdin)
	return err
}
