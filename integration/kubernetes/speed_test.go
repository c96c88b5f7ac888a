//go:build linux

package kubernetes_test

import (
	"errors"
	"flag"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	discovery "k8s.io/api/discovery/v1"

	"github.com/nftdp/go-nftdp/integration/kubernetes/cluster"
	"github.com/nftdp/go-nftdp/internal/nstest"
)

var (
	sizes   = flag.String("sizes", "100,1000", "how many services BenchmarkProxies measures with, separated by commas")
	changes = flag.Int("changes", 100, "how many times it replaces the endpoints of a service")
	churn   = flag.Duration("churn", 10*time.Second, "how long it changes one service of a hundred per second")
)

// endpointsOfMany is how many endpoints each service has.
const endpointsOfMany = 10

// BenchmarkProxies measures kube-proxy and the agent in turn, with the same objects and
// real connections: from the start of the process to a connection through the service
// that was written last; from the write of an EndpointSlice to a connection at the new
// endpoints; processor time and memory under churn; from a restart to a connection at
// endpoints that changed meanwhile. kube-proxy runs without the second that it waits
// between two changes by default.
func BenchmarkProxies(b *testing.B) {
	if testing.Short() {
		*sizes, *changes, *churn = "10", 2, 100*time.Millisecond
	}
	for size := range strings.SplitSeq(*sizes, ",") {
		n, err := strconv.Atoi(size)
		if err != nil {
			b.Fatal(err)
		}
		b.Run("services="+size, func(b *testing.B) { benchmarkSize(b, n) })
	}
}

func benchmarkSize(b *testing.B, n int) {
	b.Helper()
	m := &measurement{world: newWorld(b, 2), n: n}
	m.addPodAddrs()
	if err := m.write(); err != nil {
		b.Fatal(err)
	}
	for _, proxy := range []cluster.Proxy{cluster.KubeProxy, cluster.Proxy(*other)} {
		b.Run(string(proxy), func(b *testing.B) {
			for b.Loop() {
				m.measure(b, proxy)
			}
		})
	}
}

// measurement has services whose endpoints are addresses of the first pod or of the
// second one.
type measurement struct {
	*world
	n     int
	addrs []netip.AddrPort // of the services
	at    []int            // the pod of each
}

// podAddrs are addresses of a pod beside its first.
func podAddrs(pod int) []netip.Addr {
	var out []netip.Addr
	for i := range endpointsOfMany {
		out = append(out, cluster.V4.Pod(0, 100+pod*endpointsOfMany+i))
	}
	return out
}

func (m *measurement) addPodAddrs() {
	m.t.Helper()
	node := m.Nodes[0]
	for i, pod := range node.Pods {
		for _, addr := range podAddrs(i) {
			err := errors.Join(
				pod.AddAddr("eth0", netip.PrefixFrom(addr, 32)),
				node.AddRoute(fmt.Sprintf("pod%d", i), netip.PrefixFrom(addr, 32), netip.Addr{}, cluster.V4.PodGateway(0)))
			if err != nil {
				m.t.Fatal(err)
			}
		}
	}
}

func endpointsAt(pod int) []discovery.Endpoint {
	var out []discovery.Endpoint
	for _, addr := range podAddrs(pod) {
		out = append(out, cluster.Endpoint(addr, "node-a"))
	}
	return out
}

func (m *measurement) write() (err error) {
	m.at = make([]int, m.n)
	m.addrs, err = control.PutMany(m.t.Context(), m.n, func(cluster.Addrs, int) []discovery.Endpoint { return endpointsAt(0) })
	return err
}

// move gives a service the other pod's endpoints.
func (m *measurement) move(i int) {
	m.at[i] = 1 - m.at[i]
	if err := control.MoveMany(m.t.Context(), i, endpointsAt(m.at[i])); err != nil {
		m.t.Fatal(err)
	}
}

// arrived waits until the service is served by its endpoints.
func (m *measurement) arrived(i int) {
	want := m.Nodes[0].Pods[m.at[i]].Name
	for deadline := time.Now().Add(10 * time.Minute); ; {
		c, err := nstest.DialTCP(m.Nodes[0].Namespace, netip.Addr{}, m.addrs[i], 100*time.Millisecond)
		if err == nil {
			_ = c.Reset() // It is only a probe.
			if c.Answer.Server == want {
				return
			}
		}
		if time.Now().After(deadline) {
			m.t.Fatalf("service %d is not served by %s: %v", i, want, err)
		}
	}
}

func since(begin time.Time) float64 { return float64(time.Since(begin)) / float64(time.Millisecond) }

func (m *measurement) measure(b *testing.B, proxy cluster.Proxy) {
	b.Helper()
	node := m.Nodes[0]
	begin := time.Now()
	m.start(node, proxy)
	m.arrived(m.n - 1)
	b.ReportMetric(since(begin), "first-sync-ms")

	var took []float64
	for i := range *changes {
		service := i * 7919 % m.n
		begin := time.Now()
		m.move(service)
		m.arrived(service)
		took = append(took, since(begin))
	}
	slices.Sort(took)
	b.ReportMetric(took[len(took)/2], "change-p50-ms")
	b.ReportMetric(took[len(took)*99/100], "change-p99-ms")

	m.measureChurn(b, m.proxies[node])

	m.stop(node)
	m.move(m.n - 1)
	begin = time.Now()
	m.start(node, proxy)
	m.arrived(m.n - 1)
	b.ReportMetric(since(begin), "restart-ms")
	m.stop(node)
	if err := node.Cleanup(proxy); err != nil {
		b.Fatal(err)
	}
	b.ReportMetric(0, "ns/op") // It means nothing.
}

// measureChurn changes one service of a hundred per second.
func (m *measurement) measureChurn(b *testing.B, p *cluster.Process) {
	b.Helper()
	before, err := p.Usage()
	if err != nil {
		b.Fatal(err)
	}
	begin := time.Now()
	tick := time.NewTicker(time.Second * 100 / time.Duration(m.n))
	defer tick.Stop()
	last := 0
	for i := 0; time.Since(begin) < *churn; i++ {
		last = i * 7907 % m.n
		m.move(last)
		<-tick.C
	}
	m.arrived(last)
	after, err := p.Usage()
	if err != nil {
		b.Fatal(err)
	}
	b.ReportMetric(float64((after.CPU-before.CPU).Milliseconds())/time.Since(begin).Seconds(), "churn-cpu-ms/s")
	b.ReportMetric(float64(after.Memory)/(1<<20), "resident-MB")
}
