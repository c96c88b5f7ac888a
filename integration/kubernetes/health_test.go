//go:build linux

package kubernetes_test

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nftdp/go-nftdp/integration/kubernetes/cluster"
)

// fetch gets what a node serves at an address of its own, without keeping a connection.
func fetch(node *cluster.Node, url string) (code int, header http.Header, body string, err error) {
	client := &http.Client{Timeout: timeout, Transport: &http.Transport{
		DisableKeepAlives: true,
		TLSClientConfig:   &tls.Config{InsecureSkipVerify: true}, // the API server's certificate is its own
		DialContext: func(_ context.Context, network, address string) (c net.Conn, err error) {
			err = node.Do(func() (err error) {
				c, err = net.DialTimeout(network, address, timeout)
				return err
			})
			return c, err
		},
	}}
	r, err := client.Get(url)
	if err != nil {
		return 0, nil, "", err
	}
	defer r.Body.Close()
	b, err := io.ReadAll(r.Body)
	return r.StatusCode, r.Header, string(b), err
}

// wantAnswers waits until a URL answers with a status and a part of the body.
func (w *world) wantAnswers(node *cluster.Node, url string, code int, part string) (header http.Header, body string) {
	w.t.Helper()
	w.eventually(fmt.Sprintf("%s answers %d %s", url, code, part), func() (err error) {
		var got int
		got, header, body, err = fetch(node, url)
		if err == nil && (got != code || !strings.Contains(body, part)) {
			err = fmt.Errorf("%d %s", got, body)
		}
		return err
	})
	return header, body
}

// TestHealthCheckNodePort: a Service with policy Local answers at its health check port,
// as long as it has the policy, how many endpoints the node has. It expects the same of
// kube-proxy.
func TestHealthCheckNodePort(t *testing.T) {
	w := newServedWorld(t, 2)
	node := w.Nodes[0]
	local := all(withLoadBalancer, externalLocal)
	s := w.putService(t, serviceCase{change: local, endpoints: "pod-a0 pod-a1"})
	for _, a := range cluster.Families() {
		url := fmt.Sprintf("http://%s/", netip.AddrPortFrom(a.Node(0), uint16(s.Spec.HealthCheckNodePort)))
		header, body := w.wantAnswers(node, url, http.StatusOK, `"localEndpoints": 2`)
		want := fmt.Sprintf("{\n\t\"service\": {\n\t\t\"namespace\": %q,\n\t\t\"name\": %q\n\t},\n\t\"localEndpoints\": 2,\n\t\"serviceProxyHealthy\": true\n}", s.Namespace, s.Name)
		if body != want || header.Get("X-Load-Balancing-Endpoint-Weight") != "2" || header.Get("Content-Type") != "application/json" {
			t.Errorf("%s: %v %s, want %s", url, header, body, want)
		}
	}
	url := fmt.Sprintf("http://%s/", netip.AddrPortFrom(cluster.V4.Node(0), uint16(s.Spec.HealthCheckNodePort)))
	s = w.putService(t, serviceCase{change: local})
	w.wantAnswers(node, url, http.StatusServiceUnavailable, `"localEndpoints": 0`)
	w.deleteService(t, s.Name)
	w.eventually("the port is closed", func() error {
		if code, _, _, err := fetch(node, url); err == nil {
			return fmt.Errorf("it answers %d", code)
		}
		return nil
	})
}

// TestHealthAndMetrics: the ports of both proxies answer alike, and follow the Node.
func TestHealthAndMetrics(t *testing.T) {
	w := newServedWorld(t, 1)
	node := w.Nodes[0]
	w.wantAnswers(node, "http://127.0.0.1:10249/proxyMode", http.StatusOK, "nftables")
	w.wantAnswers(node, "http://127.0.0.1:10249/metrics", http.StatusOK, `kubeproxy_sync_proxy_rules_last_timestamp_seconds{ip_family="IPv4"} 1`)
	w.wantAnswers(node, "http://127.0.0.1:10249/metrics", http.StatusOK, "rest_client_requests_total")
	w.wantAnswers(node, "http://127.0.0.1:10256/healthz", http.StatusOK, `"nodeEligible":true,"healthy":true,"status":{"IPv4":{"lastUpdated":"`)
	nodes := control.Client.CoreV1().Nodes()
	object, err := nodes.Get(t.Context(), node.Name, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	object.Spec.Taints = append(object.Spec.Taints, corev1.Taint{Key: "ToBeDeletedByClusterAutoscaler", Effect: corev1.TaintEffectNoSchedule})
	if _, err := nodes.Update(t.Context(), object, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	w.wantAnswers(node, "http://127.0.0.1:10256/healthz", http.StatusServiceUnavailable, `"nodeEligible":false,"healthy":true`)
	w.wantAnswers(node, "http://127.0.0.1:10256/livez", http.StatusOK, `"healthy":true`)
}

// TestEvents: the API server has an Event of a Service that does not get all it wants.
func TestEvents(t *testing.T) {
	w := newWorld(t, 1)
	w.start(w.Nodes[0], cluster.Agent)
	taken := w.putService(t, serviceCase{change: func(s *corev1.Service) { s.Name = "taken"; withExternalIPs(s) }, endpoints: "pod-a0"})
	w.sync()
	w.putService(t, serviceCase{change: func(s *corev1.Service) { s.Name = "younger"; s.Spec.ExternalIPs = taken.Spec.ExternalIPs }, endpoints: "pod-a0"})
	w.eventually("there is an Event", func() error {
		list, err := control.Client.EventsV1().Events(cluster.Space).List(t.Context(), metav1.ListOptions{})
		if err != nil {
			return err
		}
		for i := range list.Items {
			e := &list.Items[i]
			if e.Reason == "AddressConflict" && e.Regarding.Name == "younger" && e.Type == corev1.EventTypeWarning && e.ReportingController == "nftdp-kubeproxy" {
				return nil
			}
		}
		return fmt.Errorf("%d others", len(list.Items))
	})
}

// TestConfigFile: the agent knows each field of the file that kube-proxy writes, serves
// by it, and names what has no effect.
func TestConfigFile(t *testing.T) {
	w := newWorld(t, 1)
	node, file := w.Nodes[0], filepath.Join(t.TempDir(), "config.yaml")
	if err := node.WriteConfig(file); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(file)
	if err != nil || !strings.Contains(string(text), "KubeProxyConfiguration") {
		t.Fatalf("%v\n%s", err, text)
	}
	p, err := node.StartProxy(cluster.Agent, "--config", file)
	if err != nil {
		t.Fatal(err)
	}
	w.proxies[node] = p
	w.sync()
	if log := p.Tail(); !strings.Contains(log, "conntrack.maxPerCore") {
		t.Errorf("no warning about fields without effect:\n%s", log)
	}
}
