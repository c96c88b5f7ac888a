//go:build linux

package kubernetes_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/nftdp/go-nftdp/integration/kubernetes/cluster"
	"github.com/nftdp/go-nftdp/internal/nstest"
)

// proxyUnderTest is the proxy on all nodes, in tests that need only one. With
// kube-proxy the tests show that they expect what Kubernetes does.
var proxyUnderTest = flag.String("proxy", string(cluster.Agent), "the proxy on the nodes: nftdp or kube-proxy")

// control is the one control plane of all tests, which run one after another: its start
// takes longer than most of them.
var control *cluster.Control

func TestMain(m *testing.M) {
	flag.Parse()
	nstest.Main(withControl{m})
}

// withControl runs tests with a control plane.
type withControl struct{ m *testing.M }

func (w withControl) Run() int {
	code, err := w.run()
	if err != nil {
		fmt.Fprintln(os.Stderr, "FAIL:", err)
		return 1
	}
	return code
}

func (w withControl) run() (code int, err error) {
	dir, err := os.MkdirTemp("", "nftdp-kubernetes-")
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	bin, err := cluster.Build(dir)
	if err != nil {
		return 0, err
	}
	if control, err = cluster.NewControl(context.Background(), bin, dir); err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, control.Close()) }()
	return w.m.Run(), nil
}

// world is a network with its nodes' objects, until the end of a test.
type world struct {
	*cluster.Network
	t       testing.TB
	proxies map[*cluster.Node]*cluster.Process
	syncs   int
}

// newWorld makes a network with some pods on each node, where no proxy runs yet.
func newWorld(tb testing.TB, podsOnNodes ...int) *world {
	tb.Helper()
	network, err := control.NewNetwork(podsOnNodes...)
	if err != nil {
		tb.Fatal(err)
	}
	w := &world{Network: network, t: tb, proxies: map[*cluster.Node]*cluster.Process{}}
	tb.Cleanup(w.close)
	if err := control.PutNodes(tb.Context(), network); err != nil {
		tb.Fatal(err)
	}
	return w
}

// newServedWorld is newWorld with a running proxy on each node.
func newServedWorld(tb testing.TB, podsOnNodes ...int) *world {
	tb.Helper()
	w := newWorld(tb, podsOnNodes...)
	for _, node := range w.Nodes {
		w.start(node, cluster.Proxy(*proxyUnderTest))
	}
	w.sync()
	return w
}

func (w *world) close() {
	for _, p := range w.proxies {
		if err := p.Stop(); err != nil {
			w.t.Error(err)
		}
		if w.t.Failed() {
			w.t.Logf("%s printed:\n%s", p.Name, p.Tail())
		}
	}
	if err := errors.Join(control.Clear(context.Background()), w.Close()); err != nil {
		w.t.Error(err)
	}
}

// start starts a proxy on a node, which becomes the one that runs there. More arguments
// are flags that both understand.
func (w *world) start(node *cluster.Node, proxy cluster.Proxy, more ...string) *cluster.Process {
	w.t.Helper()
	var args []string
	if proxy == cluster.KubeProxy {
		args = []string{"--iptables-min-sync-period", "0s"}
	}
	p, err := node.StartProxy(proxy, append(args, more...)...)
	if err != nil {
		w.t.Fatal(err)
	}
	w.proxies[node] = p
	return p
}

// stop stops the proxy on a node. Its rules stay.
func (w *world) stop(node *cluster.Node) {
	w.t.Helper()
	p := w.proxies[node]
	delete(w.proxies, node)
	if err := p.Stop(); err != nil {
		w.t.Fatal(err)
	}
}

// timeout bounds every wait for something that has to happen, on a crowded machine.
const timeout = 60 * time.Second

func (w *world) eventually(what string, fn func() error) {
	w.t.Helper()
	if err := cluster.Eventually(w.t.Context(), timeout, what, fn); err != nil {
		for _, p := range w.proxies {
			if !p.Running() {
				w.t.Errorf("%s has ended", p.Name)
			}
		}
		w.t.Fatal(err)
	}
}

// sync waits until the proxies have programmed all that was written before. Services
// and slices come by watches of their own, and the families are programmed one after
// the other: the last service written and the last slice have to serve in both.
func (w *world) sync() {
	w.t.Helper()
	w.syncs++
	sentinel, err := control.PutSentinel(w.t.Context(), w.syncs)
	if err != nil {
		w.t.Fatal(err)
	}
	for node := range w.proxies {
		for _, addr := range sentinel {
			w.eventually(fmt.Sprintf("%s has programmed change %d", node.Name, w.syncs), func() error {
				_, err := nstest.Dial(node.Pods[0].Namespace, "tcp", netip.Addr{}, addr, 500*time.Millisecond)
				return err
			})
		}
	}
}
