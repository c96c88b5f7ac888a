//go:build linux

package nstest_test

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netns"

	"github.com/nftdp/go-nftdp/internal/nstest"
)

const timeout = 20 * time.Second

// TestTopologyRoutes: without any NAT the client reaches every backend through
// the node, and every backend sees the client's own address.
func TestTopologyRoutes(t *testing.T) {
	top := nstest.NewTestTopology(t, 2)
	for i, pod := range top.Backends {
		serve(t, pod, "tcp", "udp", "sctp")
		for _, addrs := range nstest.Families() {
			for _, protocol := range []string{"tcp", "udp", "sctp"} {
				dst := netip.AddrPortFrom(addrs.Backend(i), 8080)
				t.Run(fmt.Sprintf("%s/%v", protocol, dst), func(t *testing.T) {
					start := time.Now()
					got, err := nstest.Dial(top.Client, protocol, netip.Addr{}, dst, timeout)
					if err != nil {
						t.Fatal(err)
					}
					if got.Server != pod.Name || got.Client.Addr() != addrs.Client {
						t.Errorf("got %v, want %s %v", got, pod.Name, addrs.Client)
					}
					t.Logf("%v after %v", got, time.Since(start))
				})
			}
		}
	}
}

// TestRemotes: remote pods reach all others, and are reached by them, through
// the node and the router.
func TestRemotes(t *testing.T) {
	top := nstest.NewTestTopology(t, 1)
	if err := errors.Join(top.AddRemotes(1), top.AddRemotes(1)); err != nil {
		t.Fatal(err)
	}
	serve(t, top.Client, "tcp")
	for i, pod := range top.Remotes {
		serve(t, pod, "tcp", "udp", "sctp")
		for _, a := range nstest.Families() {
			for from, addr := range map[*nstest.Namespace]netip.Addr{
				top.Client: a.Client, top.Backends[0]: a.Backend(0), top.Node: a.PodGW, top.Remotes[1-i]: a.Remote(1 - i),
			} {
				for _, protocol := range []string{"tcp", "udp", "sctp"} {
					got, err := nstest.Dial(from, protocol, netip.Addr{}, netip.AddrPortFrom(a.Remote(i), 8080), timeout)
					if err != nil || got.Server != pod.Name || got.Client.Addr() != addr {
						t.Errorf("%s from %s to %s: %v, %v", protocol, from.Name, pod.Name, got, err)
					}
				}
			}
			got, err := nstest.Dial(pod, "tcp", netip.Addr{}, netip.AddrPortFrom(a.Client, 8080), timeout)
			if err != nil || got.Client.Addr() != a.Remote(i) {
				t.Errorf("from %s to the client: %v, %v", pod.Name, got, err)
			}
		}
	}
}

// TestDialFromSource: a connection can be made from a chosen source address.
func TestDialFromSource(t *testing.T) {
	top := nstest.NewTestTopology(t, 1)
	serve(t, top.Backends[0], "tcp", "udp", "sctp")
	for _, addrs := range nstest.Families() {
		for _, protocol := range []string{"tcp", "udp", "sctp"} {
			dst := netip.AddrPortFrom(addrs.Backend(0), 8080)
			got, err := nstest.Dial(top.Node, protocol, addrs.Node, dst, timeout)
			if err != nil || got.Client.Addr() != addrs.Node {
				t.Errorf("%s from %v: %v, %v", protocol, addrs.Node, got, err)
			}
		}
	}
}

// TestDialErrors: the kernel refuses connections to a closed port. Packets to
// an address that no machine has are not answered.
func TestDialErrors(t *testing.T) {
	top := nstest.NewTestTopology(t, 1)
	for _, addrs := range nstest.Families() {
		for _, protocol := range []string{"tcp", "udp"} {
			_, err := nstest.Dial(top.Client, protocol, netip.Addr{}, netip.AddrPortFrom(addrs.Backend(0), 8080), timeout)
			if !errors.Is(err, syscall.ECONNREFUSED) || nstest.IsTimeout(err) {
				t.Errorf("%s to a closed port: %v, want %v", protocol, err, syscall.ECONNREFUSED)
			}
		}
		for _, protocol := range []string{"tcp", "udp", "sctp"} {
			_, err := nstest.Dial(top.Backends[0], protocol, netip.Addr{}, netip.AddrPortFrom(addrs.External, 80), 100*time.Millisecond)
			if !nstest.IsTimeout(err) {
				t.Errorf("%s to nobody: %v, want a timeout", protocol, err)
			}
		}
	}
}

func TestConnEchoes(t *testing.T) {
	top := nstest.NewTestTopology(t, 1)
	server := serve(t, top.Backends[0], "tcp")
	dst := netip.AddrPortFrom(nstest.IPv4().Backend(0), 8080)
	c, err := nstest.DialTCP(top.Client, netip.Addr{}, dst, timeout)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for i := range 3 {
		if err := c.Echo(fmt.Sprintf("line %d", i), timeout); err != nil {
			t.Fatal(err)
		}
	}
	if err := server.Close(); err != nil {
		t.Fatal(err)
	}
	if err := c.Echo("after the end", timeout); err == nil {
		t.Error("the connection survived its server")
	}
}

// TestListening: Listening returns the sockets of its own namespace only.
func TestListening(t *testing.T) {
	top := nstest.NewTestTopology(t, 1)
	serve(t, top.Backends[0], "tcp", "udp")
	want := map[string][]string{
		"tcp": {"0.0.0.0:8080", "[::]:8080"},
		"udp": {"10.180.0.1:8080", "127.0.0.1:8080", "[::1]:8080", "[fd00:10:180::1]:8080"},
	}
	for protocol, want := range want {
		var got []string
		sockets, err := top.Backends[0].Listening(protocol)
		for _, s := range sockets {
			got = append(got, s.String())
		}
		slices.Sort(got)
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("%s in the backend: %v, %v, want %v", protocol, got, err, want)
		}
		sockets, err = top.Node.Listening(protocol)
		if err != nil || len(sockets) != 0 {
			t.Errorf("%s in the node: %v, %v, want none", protocol, sockets, err)
		}
	}
}

// TestServerAnswersFromItsAddress: a server with several addresses answers from
// the one to which the request was sent.
func TestServerAnswersFromItsAddress(t *testing.T) {
	top := nstest.NewTestTopology(t, 0)
	serve(t, top.Node, "tcp", "udp", "sctp")
	for _, a := range nstest.Families() {
		for _, addr := range []netip.Addr{a.Node, a.Uplink} {
			for _, protocol := range []string{"tcp", "udp", "sctp"} {
				got, err := nstest.Dial(top.Client, protocol, netip.Addr{}, netip.AddrPortFrom(addr, 8080), timeout)
				if err != nil || got.Server != "node" || got.Client.Addr() != a.Client {
					t.Errorf("%s to %v: %v, %v", protocol, addr, got, err)
				}
			}
		}
	}
}

// TestDo: the function runs inside the namespace, and its caller stays outside,
// whatever the function does.
func TestDo(t *testing.T) {
	ns, err := nstest.New("do")
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	outside, want := currentNamespace(t), ns.Handle().UniqueId()
	failure := errors.New("failure")
	err = ns.Do(func() error {
		if got := currentNamespace(t); got != want {
			t.Errorf("inside of Do: %s, want %s", got, want)
		}
		return failure
	})
	if !errors.Is(err, failure) {
		t.Errorf("Do returns %v, want %v", err, failure)
	}
	if got := currentNamespace(t); got != outside {
		t.Errorf("after Do: %s, want %s", got, outside)
	}
}

// TestCloseLeavesNothing: after Close no file descriptor refers to the
// namespace.
func TestCloseLeavesNothing(t *testing.T) {
	before := openFiles(t)
	top, err := nstest.NewTopology(2)
	if err != nil {
		t.Fatal(err)
	}
	if err := top.Close(); err != nil {
		t.Fatal(err)
	}
	if after := openFiles(t); after != before {
		t.Errorf("%d open files before, %d after", before, after)
	}
}

func serve(t *testing.T, pod *nstest.Namespace, protocols ...string) *nstest.Server {
	t.Helper()
	server, err := nstest.Serve(pod, pod.Name, 8080, protocols...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = server.Close() }) // Some tests have closed it already.
	return server
}

func currentNamespace(t *testing.T) string {
	t.Helper()
	ns, err := netns.Get()
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	return ns.UniqueId()
}

func openFiles(t *testing.T) int {
	t.Helper()
	files, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(files)
}
