//go:build linux

package main

import (
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/nftables"

	"github.com/nftdp/go-nftdp/internal/nstest"
	"github.com/nftdp/go-nftdp/nftdp"
)

// TestTaken: a port that another container has is an error that names it, whichever
// family or protocol they share, and then nothing of the new one is published. The
// port of one address is another one than that of all addresses.
func TestTaken(t *testing.T) {
	w := newWorld(t)
	first := w.published("first", `{"hostPort": 80, "containerPort": 8080}`)
	id := w.containerID(first)
	for _, mapping := range []string{
		`{"hostPort": 80, "containerPort": 8080}`,
		`{"hostPort": 80, "containerPort": 9, "protocol": "TCP", "hostIP": "0.0.0.0"}`,
		`{"HostPort": 80, "ContainerPort": 9, "Protocol": "tcp", "HostIP": "::"}`,
	} {
		late := w.newContainer("late", `{"hostPort": 90, "containerPort": 8080}`, mapping)
		err := w.cni("add", late)
		want := "is already published for container " + id + " (network net, interface eth0)"
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: error %v, want %q", mapping, err, want)
		}
		w.wantServer(w.Client, "tcp", netip.AddrPortFrom(nstest.IPv4().Node, 90), "")
		w.mustCNI("del", late)
	}
	w.published("own", `{"hostPort": 80, "containerPort": 8080, "hostIP": "192.168.0.2"}`, `{"hostPort": 80, "containerPort": 8080, "protocol": "udp"}`)
	w.wantServer(w.Client, "tcp", netip.AddrPortFrom(nstest.IPv4().Node, 80), "own")
	w.wantServer(w.Client, "tcp", netip.AddrPortFrom(nstest.IPv4().Uplink, 80), "first")
	w.wantServer(w.Client, "tcp", netip.AddrPortFrom(nstest.IPv6().Node, 80), "first")
	w.wantServer(w.Client, "udp", netip.AddrPortFrom(nstest.IPv4().Node, 80), "own")
}

// containerID returns the name that cnitool has chosen for a container.
func (w *world) containerID(c *container) string {
	w.Helper()
	held, err := w.dataplane().Inspect(w.Context())
	if err != nil {
		w.Fatal(err)
	}
	for _, s := range held {
		for _, f := range s.Frontends {
			for _, b := range f.Backends {
				if b.Addr.Addr() == c.addrs[b.Addr.Addr().Is4()] {
					return strings.Split(s.Name, "/")[2]
				}
			}
		}
	}
	w.Fatalf("no service leads to %s", c.Name)
	return ""
}

// TestHostIP publishes on single addresses of the node. Those of loopback are for
// processes of the node alone.
func TestHostIP(t *testing.T) {
	w := newWorld(t)
	w.published("web",
		`{"hostPort": 80, "containerPort": 8080, "hostIP": "127.0.0.1"}`, `{"hostPort": 80, "containerPort": 8080, "hostIP": "::1"}`,
		`{"hostPort": 81, "containerPort": 8080, "hostIP": "192.168.0.2"}`, `{"hostPort": 82, "containerPort": 8080, "hostIP": "::"}`)
	v4, v6 := nstest.IPv4(), nstest.IPv6()
	if err := w.Client.AddRoute(nstest.ClientLink, netip.MustParsePrefix("192.0.2.0/24"), v4.Uplink, netip.Addr{}); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		from *nstest.Namespace
		to   netip.AddrPort
		want string
	}{
		{w.Node, netip.AddrPortFrom(loopback(true), 80), "web"},
		{w.Node, netip.AddrPortFrom(loopback(false), 80), "web"},
		{w.Node, netip.AddrPortFrom(v4.Node, 80), ""},
		{w.Client, netip.AddrPortFrom(v4.Node, 80), ""},
		{w.Client, netip.AddrPortFrom(v6.Node, 80), ""},
		{w.Client, netip.AddrPortFrom(v4.Node, 81), "web"},
		{w.Client, netip.AddrPortFrom(v4.Uplink, 81), ""},
		{w.Client, netip.AddrPortFrom(v6.Node, 82), "web"},
		{w.Client, netip.AddrPortFrom(v4.Node, 82), ""},
	} {
		w.wantServer(c.from, "tcp", c.to, c.want)
	}
}

// TestAtOnce adds sixty containers at once and deletes them at once, while others
// stay, with and without an agent.
func TestAtOnce(t *testing.T) {
	for _, agent := range []bool{false, true} {
		t.Run(fmt.Sprint("agent=", agent), func(t *testing.T) {
			w := newWorld(t)
			if agent {
				w.startAgent()
			}
			stays := w.published("stays", `{"hostPort": 79, "containerPort": 8080}`)
			var all []*container
			for i := range 60 {
				all = append(all, w.newContainer(fmt.Sprint("c", i), fmt.Sprintf(`{"hostPort": %d, "containerPort": 8080}`, 100+i)))
			}
			w.atOnce("add", all)
			for i, c := range all {
				server, err := nstest.Serve(c.Namespace, c.Name, 8080, "tcp")
				if err != nil {
					t.Fatal(err)
				}
				w.wantServer(w.Client, "tcp", netip.AddrPortFrom(nstest.IPv4().Node, uint16(100+i)), c.Name)
				if err := server.Close(); err != nil {
					t.Error(err)
				}
			}
			w.atOnce("check", all)
			w.atOnce("del", all)
			held, err := w.dataplane().Inspect(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if len(held) != 1 {
				t.Errorf("%d services are left, want 1", len(held))
			}
			w.mustCNI("check", stays)
		})
	}
}

func (w *world) atOnce(verb string, all []*container) {
	w.Helper()
	var waits []func() ([]byte, error)
	for _, c := range all {
		waits = append(waits, w.start(verb, c))
	}
	for i, wait := range waits {
		out, err := wait()
		if err == nil && verb == "add" {
			err = all[i].readResult(out)
		}
		if err != nil {
			w.Errorf("%s %s: %v", verb, all[i].Name, err)
		}
	}
}

// TestFlushedEmpty: an agent that has found no ports restores those that came later.
func TestFlushedEmpty(t *testing.T) {
	w := newWorld(t)
	w.startAgent()
	for range 2 {
		web := w.published("web", `{"hostPort": 80, "containerPort": 8080}`)
		w.flush()
		w.eventually(netip.AddrPortFrom(nstest.IPv4().Node, 80), "web")
		w.mustCNI("del", web)
	}
}

// TestFlushed: with an agent, ports survive `nft flush ruleset`, also those that were
// added while it was running, and those that were deleted do not come back.
func TestFlushed(t *testing.T) {
	w := newWorld(t)
	early := w.published("early", `{"hostPort": 80, "containerPort": 8080}`)
	w.startAgent()
	w.published("late", `{"hostPort": 81, "containerPort": 8080}`)
	gone := w.published("gone", `{"hostPort": 82, "containerPort": 8080}`)
	w.mustCNI("del", gone)
	w.flush()
	w.eventually(netip.AddrPortFrom(nstest.IPv4().Node, 80), "early")
	w.eventually(netip.AddrPortFrom(nstest.IPv4().Node, 81), "late")
	w.wantServer(w.Client, "tcp", netip.AddrPortFrom(nstest.IPv4().Node, 82), "")
	w.mustCNI("check", early)
}

// TestRestored: an agent that is started after the flush restores the ports as well.
func TestRestored(t *testing.T) {
	w := newWorld(t)
	web := w.published("web", `{"hostPort": 80, "containerPort": 8080}`)
	w.flush()
	if err := w.cni("check", web); err == nil || !strings.Contains(err.Error(), "does not lead to port 8080") {
		t.Errorf("check after a flush: %v", err)
	}
	w.startAgent()
	w.eventually(netip.AddrPortFrom(nstest.IPv4().Node, 80), "web")
}

// TestUpgrade: the first request after an upgrade replaces the tables of the older
// version, with the ports that are published.
func TestUpgrade(t *testing.T) {
	batch, err := os.ReadFile("../../nftdp/testdata/schemas/2.batch")
	if err != nil {
		t.Fatal(err)
	}
	for _, verb := range []string{"add", "del", "status"} {
		t.Run(verb, func(t *testing.T) {
			w := newWorld(t, `"dataplane": {"table": "nftdp"}`)
			w.conf.Dataplane.Table = "nftdp"
			if err := nstest.Replay(w.Node, batch); err != nil {
				t.Fatal(err)
			}
			r, err := newRequest(argsOf(mappings(`{"hostPort": 80, "containerPort": 8080}`), "10.88.0.200/24"))
			if err == nil {
				err = os.Mkdir(w.conf.StateDir, 0o700)
			}
			if err == nil {
				r.StateDir = w.conf.StateDir
				err = r.remember(r.attachment, r.services)
			}
			if err != nil {
				t.Fatal(err)
			}
			w.mustCNI(verb, w.newContainer("web", `{"hostPort": 81, "containerPort": 8080}`))
			held, err := w.dataplane().Inspect(t.Context())
			if err != nil || !slices.ContainsFunc(held, func(s nftdp.ServiceStatus) bool { return s.Name == r.services[0].Name }) {
				t.Errorf("the kernel holds %v (%v), want also %s", held, err, r.services[0].Name)
			}
		})
	}
}

// flush is `nft flush ruleset`.
func (w *world) flush() {
	w.Helper()
	c, err := nftables.New(nftables.WithNetNSFd(int(w.Node.Handle())))
	if err != nil {
		w.Fatal(err)
	}
	c.FlushRuleset()
	if err := c.Flush(); err != nil {
		w.Fatal(err)
	}
}

// eventually waits until a container answers.
func (w *world) eventually(to netip.AddrPort, want string) {
	w.Helper()
	for deadline := time.Now().Add(timeout); time.Now().Before(deadline); {
		if got, _, _ := ask(w.Client, "tcp", to, silence); got == want {
			return
		}
	}
	w.Errorf("%v: no answer of %s in %v", to, want, timeout)
}

// startAgent returns when the agent is ready.
func (w *world) startAgent() {
	w.Helper()
	r, p, err := os.Pipe()
	if err != nil {
		w.Fatal(err)
	}
	cmd := exec.Command(w.tools+"/portmap", "agent", "-state", w.conf.StateDir)
	cmd.Stderr, cmd.SysProcAttr = p, &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := w.Node.Do(cmd.Start); err != nil {
		w.Fatal(err)
	}
	_ = p.Close()
	w.Cleanup(func() {
		_ = cmd.Process.Signal(os.Interrupt)
		if err := cmd.Wait(); err != nil {
			w.Errorf("agent: %v", err)
		}
		_ = r.Close()
	})
	said := make([]byte, 1024)
	n, err := r.Read(said)
	for err == nil && !strings.Contains(string(said[:n]), "ports are kept") {
		n, err = r.Read(said)
	}
	if err != nil {
		w.Fatalf("agent: %v", err)
	}
	go func() { // It has to have somebody who reads.
		for err == nil {
			_, err = r.Read(said)
		}
	}()
}
