//go:build linux

package main

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containernetworking/cni/pkg/types"

	"github.com/nftdp/go-nftdp/internal/nstest"
	"github.com/nftdp/go-nftdp/nftdp"
)

// world is a node with a client outside, where cnitool connects containers to a bridge
// and publishes their ports.
type world struct {
	*nstest.Topology
	*testing.T
	dir   string // of everything that is written to
	tools string
	conf  *config // as far as the tests look at the dataplane themselves
}

const (
	network  = "net"
	timeout  = 5 * time.Second        // of an exchange that is expected
	silence  = 200 * time.Millisecond // of one that is not
	protocol = "tcp udp sctp"
)

func newWorld(t *testing.T, options ...string) *world {
	t.Helper()
	w := &world{T: t, tools: tools(t), dir: t.TempDir(), conf: defaults(), Topology: nstest.NewTestTopology(t, 0)}
	w.conf.StateDir = filepath.Join(w.dir, "state")
	if err := os.Mkdir(filepath.Join(w.dir, "lib"), 0o700); err != nil {
		t.Fatal(err)
	}
	w.configure(options...)
	return w
}

// configure writes the network's configuration, with further keys of the plugin.
func (w *world) configure(options ...string) {
	w.Helper()
	plugin := fmt.Sprintf(`"type": "portmap", "capabilities": {"portMappings": true}, "stateDir": %q`, w.conf.StateDir)
	text := fmt.Sprintf(`{"cniVersion": "1.1.0", "name": %q, "plugins": [
		{"type": "bridge", "bridge": "cni0", "isGateway": true, "hairpinMode": true, "ipam": {"type": "host-local", "dataDir": %q,
			"ranges": [[{"subnet": "10.88.0.0/24"}], [{"subnet": "fd00:88::/64"}]],
			"routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]}},
		{%s}]}`, network, filepath.Join(w.dir, "ipam"), strings.Join(append([]string{plugin}, options...), ", "))
	if err := os.WriteFile(filepath.Join(w.dir, "net.conflist"), []byte(text), 0o600); err != nil {
		w.Fatal(err)
	}
}

// container is a network namespace that cnitool connects.
type container struct {
	*nstest.Namespace
	path  string
	ports string // the published ones, as JSON
	addrs map[bool]netip.Addr
}

func (w *world) newContainer(name string, mappings ...string) *container {
	w.Helper()
	ns, err := nstest.New(name)
	if err != nil {
		w.Fatal(err)
	}
	w.Cleanup(func() { _ = ns.Close() })
	return &container{
		Namespace: ns, path: fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), int(ns.Handle())),
		ports: fmt.Sprintf(`{"portMappings": [%s]}`, strings.Join(mappings, ", ")), addrs: map[bool]netip.Addr{},
	}
}

// published connects a new container, which answers on port 8080.
func (w *world) published(name string, mappings ...string) *container {
	w.Helper()
	c := w.newContainer(name, mappings...)
	w.mustCNI("add", c)
	server, err := nstest.Serve(c.Namespace, name, 8080, strings.Fields(protocol)...)
	if err != nil {
		w.Fatal(err)
	}
	w.Cleanup(func() { _ = server.Close() })
	return c
}

func (w *world) mustCNI(verb string, c *container) {
	w.Helper()
	if err := w.cni(verb, c); err != nil {
		w.Fatalf("%s %s: %v", verb, c.Name, err)
	}
}

// cni runs cnitool in the node. There is no other program in its PATH.
func (w *world) cni(verb string, c *container) error {
	out, err := w.start(verb, c)()
	if err != nil {
		return err
	}
	if verb == "add" {
		return c.readResult(out)
	}
	return nil
}

// start starts cnitool and returns a function that waits for its end.
func (w *world) start(verb string, c *container) (wait func() ([]byte, error)) {
	w.Helper()
	var out, errs strings.Builder
	cmd := exec.CommandContext(w.Context(), "/proc/self/exe", filepath.Join(w.tools, "cnitool"), verb, network, c.path)
	cmd.Env = []string{
		"PATH=" + w.tools, "CNI_PATH=" + w.tools, "NETCONFPATH=" + w.dir, "CAP_ARGS=" + c.ports, libraryEnv + "=" + filepath.Join(w.dir, "lib"),
	}
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := w.Node.Do(cmd.Start); err != nil {
		w.Fatal(err)
	}
	return func() ([]byte, error) {
		if err := cmd.Wait(); err != nil {
			return nil, fmt.Errorf("%w: %s%s", err, &out, &errs)
		}
		return []byte(out.String()), nil
	}
}

func (c *container) readResult(out []byte) error {
	var result struct {
		IPs []struct{ Address types.IPNet } `json:"ips"`
	}
	if err := json.Unmarshal(out, &result); err != nil {
		return fmt.Errorf("result %s: %w", out, err)
	}
	for _, ip := range result.IPs {
		addr, _ := netip.AddrFromSlice(ip.Address.IP)
		c.addrs[addr.Unmap().Is4()] = addr.Unmap()
	}
	return c.WaitUp()
}

// dataplane opens the node's tables, as the plugin does.
func (w *world) dataplane() *nftdp.Dataplane {
	w.Helper()
	d, err := w.conf.Dataplane.OpenIn(w.Context(), w.Node.Handle())
	if err != nil {
		w.Fatal(err)
	}
	w.Cleanup(func() { _ = d.Close() })
	return d
}

// ask says who answers in a namespace at a port, and which address it sees.
func ask(ns *nstest.Namespace, proto string, to netip.AddrPort, wait time.Duration) (server string, seen netip.Addr, err error) {
	a, err := nstest.Dial(ns, proto, netip.Addr{}, to, wait)
	return a.Server, a.Client.Addr(), err
}

// wantServer fails unless a container answers, or with an empty name nobody.
func (w *world) wantServer(ns *nstest.Namespace, proto string, to netip.AddrPort, want string) (seen netip.Addr) {
	w.Helper()
	wait := timeout
	if want == "" {
		wait = silence
	}
	got, seen, err := ask(ns, proto, to, wait)
	if got != want {
		w.Errorf("%s: %s to %v: answer of %q (%v), want %q", ns.Name, proto, to, got, err, want)
	}
	return seen
}
