package health

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"syscall"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/nftdp/go-nftdp/nftdp/kube"
)

var webName = types.NamespacedName{Namespace: "shop", Name: "web"}

// get asks a handler.
func get(h http.Handler, path string) *http.Response {
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil))
	return w.Result()
}

func bodyOf(t *testing.T, r *http.Response) string {
	t.Helper()
	b, err := io.ReadAll(r.Body)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Body.Close(); err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// TestProxy: the status codes and times of /healthz and /livez, as kube-proxy's
// TestHealthzServer and TestLivezServer have them.
func TestProxy(t *testing.T) {
	began := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	now := began
	status := kube.Status{Updated: began}
	node, eligible := &v1.Node{}, true
	var broken time.Time
	answers := map[string]int{}
	p := &Proxy{
		Timeout: 10 * time.Second, Status: func() kube.Status { return status }, Node: func() *v1.Node { return node },
		Broken: func() time.Time { return broken }, Now: func() time.Time { return now },
		Answered: func(path string, code int) { answers[fmt.Sprint(path, code)]++ },
	}
	check := func(what string, healthz, livez int) {
		t.Helper()
		for path, want := range map[string]int{"/healthz": healthz, "/livez": livez} {
			r := get(p.Handler(), path)
			var h Health
			if err := json.Unmarshal([]byte(bodyOf(t, r)), &h); err != nil {
				t.Fatal(err)
			}
			updated := status.Updated
			if want == http.StatusOK {
				updated = now
			}
			healthy := livez == http.StatusOK
			if r.StatusCode != want || !h.LastUpdated.Equal(updated) || !h.CurrentTime.Equal(now) || h.Healthy != healthy {
				t.Errorf("%s: %s: %d %+v, want %d, updated %v", what, path, r.StatusCode, h, want, updated)
			}
			if (h.NodeEligible != nil) != (path == "/healthz") || h.NodeEligible != nil && *h.NodeEligible != eligible {
				t.Errorf("%s: %s: nodeEligible %v, want %v in /healthz alone", what, path, h.NodeEligible, eligible)
			}
			for _, family := range kube.Families() {
				if f := h.Status[family]; f.Healthy != healthy || !f.LastUpdated.Equal(status.Updated) {
					t.Errorf("%s: %s: %s is %+v", what, path, family, f)
				}
			}
			if r.Header.Get("Content-Type") != "application/json" || r.Header.Get("X-Content-Type-Options") != "nosniff" {
				t.Errorf("%s: header %v", what, r.Header)
			}
		}
	}
	check("at the start", 200, 200)
	now = began.Add(time.Hour)
	check("without a change for long", 200, 200)
	status.Pending = now.Add(-9 * time.Second)
	check("with a change that waits", 200, 200)
	status.Pending = now.Add(-10 * time.Second)
	check("with a change that waits too long", 503, 503)
	status.Pending, status.Updated = time.Time{}, now
	check("afterwards", 200, 200)
	broken = now.Add(-9 * time.Second)
	check("with a repair that fails", 200, 200)
	broken = now.Add(-10 * time.Second)
	check("with a repair that fails for long", 503, 503)
	broken = time.Time{}
	node = &v1.Node{Spec: v1.NodeSpec{Taints: []v1.Taint{{Key: "other"}}}}
	check("with another taint", 200, 200)
	eligible = false
	node = &v1.Node{Spec: v1.NodeSpec{Taints: []v1.Taint{{Key: "other"}, {Key: "ToBeDeletedByClusterAutoscaler"}}}}
	check("tainted", 503, 200)
	node = &v1.Node{ObjectMeta: metav1.ObjectMeta{DeletionTimestamp: &metav1.Time{Time: now}}}
	check("being deleted", 503, 200)
	node = nil
	check("deleted", 503, 200)
	if answers["/healthz503"] != 5 || answers["/livez503"] != 2 || answers["/healthz200"] != 6 || answers["/livez200"] != 9 {
		t.Errorf("answers: %v", answers)
	}
}

// TestProxyBody: byte for byte what kube-proxy 1.37 writes.
func TestProxyBody(t *testing.T) {
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	p := &Proxy{
		Status: func() kube.Status { return kube.Status{Updated: at, Pending: at} },
		Node:   func() *v1.Node { return &v1.Node{} },
		Now:    func() time.Time { return at.Add(DefaultTimeout) },
	}
	const want = `{"lastUpdated":"2026-01-02T03:04:05Z","currentTime":"2026-01-02T03:05:05Z","nodeEligible":true,"healthy":false,` +
		`"status":{"IPv4":{"lastUpdated":"2026-01-02T03:04:05Z","healthy":false},"IPv6":{"lastUpdated":"2026-01-02T03:04:05Z","healthy":false}}}`
	if got := bodyOf(t, get(p.Handler(), "/healthz")); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

// loopback is an address that no other process listens at.
func loopback() netip.Addr {
	return netip.AddrFrom4([4]byte{127, byte(1 + rand.IntN(200)), byte(rand.IntN(256)), byte(1 + rand.IntN(200))})
}

// ask connects anew and asks a health check port.
func ask(t *testing.T, at netip.AddrPort) *http.Response {
	t.Helper()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	r, err := client.Get("http://" + at.String() + "/any/path")
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func wantClosed(t *testing.T, at netip.AddrPort) {
	t.Helper()
	if c, err := net.Dial("tcp", at.String()); !errors.Is(err, syscall.ECONNREFUSED) {
		if c != nil {
			_ = c.Close()
		}
		t.Errorf("%v is not closed: %v", at, err)
	}
}

type states = map[types.NamespacedName]*kube.ServiceState

func local(port uint16, n int) *kube.ServiceState {
	return &kube.ServiceState{HealthCheckPort: port, Local: map[v1.IPFamily]int{v1.IPv4Protocol: n}}
}

// TestServices: what load balancers see follows the Services.
func TestServices(t *testing.T) {
	addr, healthy := loopback(), true
	s := NewServices(ServicesConfig{
		Healthy: func() bool { return healthy },
		Addrs: func(f v1.IPFamily) []netip.Addr {
			if f == v1.IPv4Protocol {
				return []netip.Addr{addr}
			}
			return nil
		},
		Failed: func(name types.NamespacedName, port uint16, err error) { t.Errorf("%v %d: %v", name, port, err) },
	})
	t.Cleanup(s.Close)
	at := netip.AddrPortFrom(addr, 10901)
	check := func(code, n int, ok bool) {
		t.Helper()
		r := ask(t, at)
		want := fmt.Sprintf("{\n\t\"service\": {\n\t\t\"namespace\": \"shop\",\n\t\t\"name\": \"web\"\n\t},\n\t\"localEndpoints\": %d,\n\t\"serviceProxyHealthy\": %v\n}", n, ok)
		if got := bodyOf(t, r); r.StatusCode != code || got != want {
			t.Errorf("%d %s, want %d %s", r.StatusCode, got, code, want)
		}
		for name, want := range map[string]string{
			"Content-Type": "application/json", "X-Content-Type-Options": "nosniff", "X-Load-Balancing-Endpoint-Weight": fmt.Sprint(n),
		} {
			if got := r.Header.Get(name); got != want {
				t.Errorf("%s: %q, want %q", name, got, want)
			}
		}
	}
	s.Update(states{webName: local(10901, 0)})
	check(503, 0, true)
	s.Update(states{webName: local(10901, 3)})
	check(200, 3, true)
	healthy = false
	check(503, 3, false)
	healthy = true
	s.Update(states{{Namespace: "shop", Name: "other"}: {}})
	check(200, 3, true)

	s.Update(states{webName: local(10902, 1)}) // another port
	wantClosed(t, at)
	at = netip.AddrPortFrom(addr, 10902)
	check(200, 1, true)

	was := at // another address
	addr = loopback()
	s.Retry()
	wantClosed(t, was)
	at = netip.AddrPortFrom(addr, 10902)
	check(200, 1, true)

	s.Update(states{webName: {}}) // policy Cluster
	wantClosed(t, at)
	s.Update(states{webName: local(10902, 1)})
	s.Update(states{webName: nil}) // deleted
	wantClosed(t, at)
	if ports := s.Ports(); len(ports) > 0 {
		t.Errorf("ports are left: %v", ports)
	}
}

// TestServicesPortTaken: a port that somebody else has is reported, does not keep other
// Services from being served, and is taken when it is free.
func TestServicesPortTaken(t *testing.T) {
	addr, failures := loopback(), 0
	l, err := net.Listen("tcp4", netip.AddrPortFrom(addr, 10901).String())
	if err != nil {
		t.Fatal(err)
	}
	s := NewServices(ServicesConfig{
		Healthy: func() bool { return true },
		Addrs:   func(v1.IPFamily) []netip.Addr { return []netip.Addr{addr} },
		Failed: func(name types.NamespacedName, port uint16, err error) {
			if failures++; name != webName || port != 10901 || !errors.Is(err, syscall.EADDRINUSE) {
				t.Errorf("%v %d: %v", name, port, err)
			}
		},
	})
	t.Cleanup(s.Close)
	s.Update(states{webName: local(10901, 1), {Namespace: "shop", Name: "other"}: local(10902, 1)})
	if r := ask(t, netip.AddrPortFrom(addr, 10902)); r.StatusCode != 200 || failures != 1 {
		t.Errorf("the other Service: %d; %d failures", r.StatusCode, failures)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	s.Retry()
	if r := ask(t, netip.AddrPortFrom(addr, 10901)); r.StatusCode != 200 || failures != 1 {
		t.Errorf("when the port is free: %d; %d failures", r.StatusCode, failures)
	}
}

// TestInterfaceAddrs: the addresses of the loopback interface are among them.
func TestInterfaceAddrs(t *testing.T) {
	all, err := InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range all {
		if a == netip.MustParseAddr("127.0.0.1") {
			return
		}
	}
	t.Errorf("127.0.0.1 is not among %v", all)
}
