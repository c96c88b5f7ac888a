//go:build linux

package main

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/nftdp/go-nftdp/internal/nstest"
)

// TestWays publishes a port in every protocol and reaches it from everywhere: from
// outside, from the node, from the container itself and from its neighbour, whether
// the bridge passes its packets to netfilter or not.
func TestWays(t *testing.T) {
	for _, filtered := range []string{"0", "1"} {
		t.Run("bridge-nf-call="+filtered, func(t *testing.T) {
			w := newWorld(t)
			for _, name := range []string{"iptables", "ip6tables"} {
				if err := w.Node.Sysctl("net/bridge/bridge-nf-call-"+name, filtered); err != nil {
					t.Skip("br_netfilter:", err)
				}
			}
			var mappings []string
			for proto := range strings.FieldsSeq(protocol) {
				mappings = append(mappings, fmt.Sprintf(`{"hostPort": 80, "containerPort": 8080, "protocol": %q}`, proto))
			}
			web, neighbour := w.published("web", mappings...), w.published("neighbour")
			for _, a := range nstest.Families() {
				is4 := a.Node.Is4()
				for proto := range strings.FieldsSeq(protocol) {
					to := netip.AddrPortFrom(a.Node, 80)
					if seen := w.wantServer(w.Client, proto, to, "web"); seen != a.Client {
						t.Errorf("%s %s: the container sees %v, want the client's own address %v", a.Family, proto, seen, a.Client)
					}
					w.wantServer(w.Node, proto, to, "web")
					w.wantServer(w.Node, proto, netip.AddrPortFrom(loopback(is4), 80), "web")
					w.wantServer(neighbour.Namespace, proto, to, "web")
					w.wantServer(neighbour.Namespace, proto, netip.AddrPortFrom(w.gateway(is4), 80), "web")
					w.wantServer(web.Namespace, proto, to, "web")
				}
			}
		})
	}
}

func loopback(is4 bool) netip.Addr {
	if is4 {
		return netip.AddrFrom4([4]byte{127, 0, 0, 1})
	}
	return netip.IPv6Loopback()
}

// gateway returns the node's address on the bridge.
func (w *world) gateway(is4 bool) netip.Addr {
	if is4 {
		return netip.MustParseAddr("10.88.0.1")
	}
	return netip.MustParseAddr("fd00:88::1")
}

// TestLife takes a container through all that a runtime does with it, twice each.
func TestLife(t *testing.T) {
	w := newWorld(t)
	other := w.published("other", `{"hostPort": 81, "containerPort": 8080}`)
	web := w.published("web", `{"hostPort": 80, "containerPort": 8080, "protocol": "tcp"}`, `{"hostPort": 8000, "containerPort": 8080}`)
	to := netip.AddrPortFrom(nstest.IPv4().Node, 80)
	w.mustCNI("status", web)
	w.mustCNI("check", web)
	w.wantServer(w.Client, "tcp", netip.AddrPortFrom(to.Addr(), 8000), "web")
	ports := web.ports
	for _, web.ports = range []string{"{}", ports} { // Runtimes forget what they have published.
		w.mustCNI("del", web)
		w.wantServer(w.Client, "tcp", to, "")
		w.wantServer(w.Client, "tcp", netip.AddrPortFrom(to.Addr(), 81), "other")
	}
	w.mustCNI("check", other)
	w.mustCNI("add", web)
	w.wantServer(w.Client, "tcp", netip.AddrPortFrom(nstest.IPv6().Node, 80), "web")
	w.mustCNI("gc", web)
	w.wantServer(w.Client, "tcp", to, "")
	w.wantServer(w.Client, "tcp", netip.AddrPortFrom(to.Addr(), 81), "")
}

// TestSNAT: who sees which address, as the keys snat and masqAll say. Without snat,
// the container answers its neighbour past the node, and so not at all.
func TestSNAT(t *testing.T) {
	for _, test := range []struct {
		option            string
		client, neighbour string // the addresses that the container sees; empty: no connection
	}{
		{`"snat": true`, "203.0.113.122", "10.88.0.1"},
		{`"masqAll": true`, "10.88.0.1", "10.88.0.1"},
		{`"snat": false`, "203.0.113.122", ""},
	} {
		t.Run(test.option, func(t *testing.T) {
			w := newWorld(t, test.option)
			for _, name := range []string{"iptables", "ip6tables"} {
				if err := w.Node.Sysctl("net/bridge/bridge-nf-call-"+name, "0"); err != nil {
					t.Log("the kernel has no br_netfilter, which is as well:", err)
				}
			}
			web, neighbour := w.published("web", `{"hostPort": 80, "containerPort": 8080}`), w.published("neighbour")
			to := netip.AddrPortFrom(nstest.IPv4().Node, 80)
			for _, from := range []struct {
				*nstest.Namespace
				sees string
			}{{w.Client, test.client}, {neighbour.Namespace, test.neighbour}, {w.Node, "10.88.0.1"}, {web.Namespace, "10.88.0.1"}} {
				server := "web"
				if from.sees == "" {
					server = ""
				}
				if seen := w.wantServer(from.Namespace, "tcp", to, server); from.Namespace != w.Node && from.sees != "" && seen.String() != from.sees {
					t.Errorf("%s is seen as %v, want %s", from.Name, seen, from.sees)
				}
			}
		})
	}
}
