//go:build linux

package kubernetes_test

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nftdp/go-nftdp/integration/kubernetes/cluster"
	"github.com/nftdp/go-nftdp/internal/nstest"
)

// Outcomes of a probe beside "SERVER from SOURCE", in which the source is "client", a
// pod, or "node-a" for any address of that node.
const (
	refused = "refused"
	silence = "silence" // no answer, or a router's that there is no way
	// A datagram from the node itself that its own rules drop or reject: the kernel
	// does not say which (EPERM).
	forbidden = "forbidden"
)

// silent is how long a probe waits that is expected to be dropped, patient how long any
// other one does.
const (
	silent  = 400 * time.Millisecond
	patient = 10 * time.Second
)

// probe makes one connection and says what became of it.
func (w *world) probe(from *nstest.Namespace, protocol string, to netip.AddrPort, wait time.Duration) string {
	return w.probeFrom(from, protocol, netip.Addr{}, to, wait)
}

// probeFrom is probe from one of several addresses.
func (w *world) probeFrom(from *nstest.Namespace, protocol string, src netip.Addr, to netip.AddrPort, wait time.Duration) string {
	answer, err := nstest.Dial(from, protocol, src, to, wait)
	switch {
	case err == nil:
		return answer.Server + " from " + sourceName(w.Network, answer.Client.Addr())
	case errors.Is(err, syscall.ECONNREFUSED):
		return refused
	case errors.Is(err, syscall.EPERM):
		return forbidden
	case nstest.IsTimeout(err), errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.ENETUNREACH):
		return silence
	default:
		return err.Error()
	}
}

// sourceName names whose address this is.
func sourceName(n *cluster.Network, addr netip.Addr) string {
	for _, a := range cluster.Families() {
		if addr == a.Client {
			return "client"
		}
		for _, node := range n.Nodes {
			if slices.Contains([]netip.Addr{a.Node(node.Index), a.PodGateway(node.Index)}, addr) {
				return node.Name
			}
			for i, pod := range node.Pods {
				if addr == a.Pod(node.Index, i) {
					return pod.Name
				}
			}
		}
	}
	return addr.String()
}

// from finds a namespace by its name.
func (w *world) from(name string) *nstest.Namespace {
	for _, node := range w.Nodes {
		if node.Name == name {
			return node.Namespace
		}
		for _, pod := range node.Pods {
			if pod.Name == name {
				return pod.Namespace
			}
		}
	}
	return w.Client
}

// expect wants connections to have the listed outcomes, each of them at some time, and
// no other. A backend is chosen at random, so it takes some to see all.
func (w *world) expect(tb testing.TB, from, protocol string, to netip.AddrPort, want ...string) {
	tb.Helper()
	wait := patient
	if slices.Contains(want, silence) {
		wait = silent
	}
	missing := slices.Clone(want)
	// With four backends, one is missed by chance once in 10^12 runs.
	for range 100 {
		got := w.probe(w.from(from), protocol, to, wait)
		if got == forbidden && (want[0] == refused || want[0] == silence) {
			got = want[0]
		}
		if !slices.Contains(want, got) {
			tb.Errorf("%s %s → %v: %s, want %s", protocol, from, to, got, strings.Join(want, " or "))
			return
		}
		missing = slices.DeleteFunc(missing, func(m string) bool { return m == got })
		if len(missing) == 0 {
			return
		}
	}
	tb.Errorf("%s %s → %v: never %s", protocol, from, to, strings.Join(missing, " or "))
}

// becomes waits until a connection has an outcome.
func (w *world) becomes(from, protocol string, to netip.AddrPort, want string) {
	w.t.Helper()
	w.eventually(fmt.Sprintf("%s %s → %v: %s", protocol, from, to, want), func() error {
		if got := w.probe(w.from(from), protocol, to, silent); got != want {
			return errors.New(got)
		}
		return nil
	})
}
