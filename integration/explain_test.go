//go:build linux

package integration

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/nftdp/go-nftdp/internal/nstest"
	"github.com/nftdp/go-nftdp/nftdp"
)

// explain explains a packet from a client, or from the node, to a destination.
func explain(t *testing.T, d *nftdp.Dataplane, p nftdp.Probe) *nftdp.Explanation {
	t.Helper()
	x, err := d.Explain(t.Context(), p)
	if err != nil {
		t.Fatal(p, err)
	}
	return x
}

func fromClient(a nstest.Addrs, dst netip.Addr) nftdp.Probe {
	return nftdp.Probe{Source: netip.AddrPortFrom(a.Client, 40000), Destination: netip.AddrPortFrom(dst, 80)}
}

// TestExplainBrokenNode: what is wrong with a node is found, in both families where it
// concerns both, and with the connection it is as explained.
func TestExplainBrokenNode(t *testing.T) {
	t.Parallel()
	web := nftdp.Service{Name: "web", Frontends: append(on(clusterIP, 80), nodeWide(80)...), Backends: backends(0)}
	v4, v6 := nstest.IPv4(), nstest.IPv6()
	dead := func(a nstest.Addrs) nftdp.Service {
		s := web
		s.Backends = []nftdp.Backend{{Addr: netip.AddrPortFrom(a.Client2, backendPort)}}
		s.Frontends = []nftdp.Frontend{{Addr: a.ClusterIP, Port: 80}}
		return s
	}
	local := web
	local.Frontends = []nftdp.Frontend{{Addr: v4.ClusterIP, Port: 80, Policy: nftdp.PolicyExternalLocalOnly}, {Addr: v6.ClusterIP, Port: 80, Policy: nftdp.PolicyExternalLocalOnly}}
	for _, c := range []struct {
		name    string
		config  nftdp.Config
		service nftdp.Service
		nft     string
		sysctls map[string]string
		addrs   []nstest.Addrs
		dst     func(nstest.Addrs) netip.Addr
		code    nftdp.Code
		says    string
		outcome string
	}{
		{"nothing", nftdp.Config{}, web, "", nil, nstest.Families(), clusterIP, nftdp.CodeDelivered, "by pod1", "backend-1"},
		{"forwarding off on one interface", nftdp.Config{}, web, "", map[string]string{"net/ipv4/conf/uplink/forwarding": "0"}, []nstest.Addrs{v4}, clusterIP, nftdp.CodeForwardingOff, "set net.ipv4.conf.uplink.forwarding=1", "no answer"},
		{"forwarding off on the interface of replies", nftdp.Config{}, web, "", map[string]string{"net/ipv4/conf/pod1/forwarding": "0"}, []nstest.Addrs{v4}, clusterIP, nftdp.CodeForwardingOff, "set net.ipv4.conf.pod1.forwarding=1", "no answer"},
		{"forwarding off", nftdp.Config{}, web, "", map[string]string{"net/ipv4/ip_forward": "0"}, []nstest.Addrs{v4}, clusterIP, nftdp.CodeForwardingOff, "set net.ipv4.ip_forward=1", "no answer"},
		{"forwarding off for IPv6", nftdp.Config{}, web, "", map[string]string{"net/ipv6/conf/all/forwarding": "0"}, []nstest.Addrs{v6}, clusterIP, nftdp.CodeForwardingOff, "set net.ipv6.conf.all.forwarding=1", "no answer"},
		{"firewalld", nftdp.Config{}, web, `
			table inet firewalld {
				chain filter_FORWARD {
					type filter hook forward priority filter + 10; policy accept;
					ct state { established, related } accept
					iifname "lo" accept
					jump filter_FORWARD_POLICIES
					ct state { invalid } drop
					reject with icmpx admin-prohibited
				}
				chain filter_FORWARD_POLICIES {
					oifname "other0" accept
					tcp dport { 22, 100-200 } accept
				}
			}`, nil, nstest.Families(), clusterIP, nftdp.CodeForwardDroppedBy, "table inet firewalld, chain filter_FORWARD, rule", "no answer"},
		{"ingress", nftdp.Config{}, web, "table netdev f { chain in { type filter hook ingress device uplink priority 0; tcp dport 80 drop; }; }", nil, nstest.Families(), clusterIP, nftdp.CodeIngressDroppedBy, "table netdev f, chain in, rule", "no answer"},
		{"ingress of another device", nftdp.Config{}, web, "table netdev f { chain in { type filter hook ingress device pod2 priority 0; tcp dport 80 drop; }; }", nil, nstest.Families(), clusterIP, nftdp.CodeDelivered, "by pod1", "backend-1"},
		{"egress", nftdp.Config{}, web, "table netdev f { chain out { type filter hook egress device pod1 priority 0; tcp dport 8080 drop; }; }", nil, nstest.Families(), clusterIP, nftdp.CodeEgressDroppedBy, "table netdev f, chain out, rule", "no answer"},
		{"a policy that drops", nftdp.Config{}, web, `
			table inet firewall {
				chain forward {
					type filter hook forward priority filter; policy drop;
					ct state established,related accept
				}
			}`, nil, nstest.Families(), clusterIP, nftdp.CodeForwardDroppedBy, "table inet firewall, chain forward, policy drop", "no answer"},
		{"a firewall that lets services pass", nftdp.Config{}, web, `
			table inet firewall {
				set ports { type inet_service; flags interval; elements = { 1-100 } }
				map verdicts { type ifname : verdict; elements = { "uplink" : jump uplink } }
				chain uplink { ct status dnat accept; }
				chain forward {
					type filter hook forward priority filter; policy drop;
					ct state vmap { established : accept, related : accept, invalid : drop }
					tcp dport @ports drop
					iifname vmap @verdicts
				}
			}`, nil, nstest.Families(), clusterIP, nftdp.CodeDelivered, "by pod1", "backend-1"},
		{"others translate first", nftdp.Config{}, web, dnatTable(-101), nil, nstest.Families(), clusterIP, nftdp.CodeForeignDNATFirst, "priority above -100", ""},
		{"a frontend that NodeAddrs limits", nftdp.Config{NodeAddrs: []netip.Prefix{single(v4.Node), single(v6.Node)}}, web, "", nil, nstest.Families(), func(a nstest.Addrs) netip.Addr { return a.Uplink }, nftdp.CodeNoService, "node-wide frontends are limited to", "refused"},
		{"a dead neighbour", nftdp.Config{}, dead(v4), "", nil, []nstest.Addrs{v4}, clusterIP, nftdp.CodeNeighbourFailed, "203.0.113.200 does not answer on uplink", ""},
		{"a dead neighbour of IPv6", nftdp.Config{}, dead(v6), "", nil, []nstest.Addrs{v6}, clusterIP, nftdp.CodeNeighbourFailed, "does not answer on uplink", ""},
		{"a policy without local backend", nftdp.Config{}, local, "", nil, nstest.Families(), clusterIP, nftdp.CodeLocalOnlyNone, "only backends on this node", "no answer"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			if c.nft != "" {
				needTool(t, "nft")
			}
			w := newWorld(t, c.config, 2)
			w.apply(t, c.service)
			if c.nft != "" {
				nftLoad(t, w.Node, c.nft)
			}
			for path, value := range c.sysctls {
				if err := w.Node.Sysctl(path, value); err != nil {
					t.Fatal(err)
				}
			}
			for _, a := range c.addrs {
				p := fromClient(a, c.dst(a))
				x := explain(t, w.dataplane, p)
				t.Log(x)
				if x.Code != c.code || !strings.Contains(x.String(), c.says) {
					t.Errorf("want %s, %q:\n%v", c.code, c.says, x)
				}
				if c.outcome == "" {
					continue
				}
				timeout := silence
				if c.code == nftdp.CodeDelivered {
					timeout = askTimeout
				}
				got := attempt(w.Client, "tcp", p.Destination, timeout)
				if answered := strings.HasPrefix(got, "backend"); answered != (c.code == nftdp.CodeDelivered) {
					t.Errorf("%v: %s, explained as\n%v", p, got, x)
				}
			}
		})
	}
}

// TestExplainRoutes: what the kernel says about routes, and a process of the node.
func TestExplainRoutes(t *testing.T) {
	t.Parallel()
	needTool(t, "ip")
	w := newWorld(t, nftdp.Config{Localhost: true}, 2)
	v4 := nstest.IPv4()
	w.apply(t, nftdp.Service{Name: "web", Frontends: append(on(clusterIP, 80), nodeWide(80)...), Backends: backends(0)})
	want := func(p nftdp.Probe, code nftdp.Code, says string) {
		t.Helper()
		if x := explain(t, w.dataplane, p); x.Code != code || !strings.Contains(x.String(), says) {
			t.Errorf("want %s, %q:\n%v", code, says, x)
		}
	}
	end := netip.AddrPortFrom
	for _, a := range nstest.Families() {
		want(nftdp.Probe{Source: end(a.Node, 0), Destination: end(a.ClusterIP, 80)}, nftdp.CodeDelivered, "sent by a process of this node")
		want(nftdp.Probe{Source: end(loopback(a), 0), Destination: end(loopback(a), 80)}, nftdp.CodeDelivered, "masqueraded")
		want(nftdp.Probe{Source: end(a.Backend(1), 0), Destination: end(a.ClusterIP, 80)}, nftdp.CodeDelivered, "on pod2, where the route")
		want(nftdp.Probe{Source: end(loopback(a), 0), Destination: end(a.ClusterIP, 80), Interface: "uplink"}, nftdp.CodeNotRouted, "loopback")
	}
	if _, err := w.dataplane.Explain(t.Context(), nftdp.Probe{Source: end(v4.Client, 0), Destination: end(v4.Node, 80), Interface: "none"}); err == nil || !strings.Contains(err.Error(), "no device") {
		t.Error(err)
	}
	if err := w.Node.Sysctl("net/ipv4/conf/uplink/rp_filter", "1"); err != nil {
		t.Fatal(err)
	}
	want(nftdp.Probe{Source: end(v4.Backend(1), 0), Destination: end(v4.ClusterIP, 80), Interface: "uplink"}, nftdp.CodeRPFilter, "rp_filter on uplink")
	tool(t, w.Node, "ip", "route", "add", "unreachable", "198.18.0.1")
	w.apply(t, nftdp.Service{Name: "web", Frontends: []nftdp.Frontend{{Addr: v4.ClusterIP, Port: 80}}, Backends: []nftdp.Backend{{Addr: netip.MustParseAddrPort("198.18.0.1:80")}}})
	want(fromClient(v4, v4.ClusterIP), nftdp.CodeNoRouteToBackend, "no route to 198.18.0.1")
}

// TestExplainLimit: a backend that is full is noticed.
func TestExplainLimit(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nftdp.Config{}, 1)
	a := nstest.IPv4()
	list := backends(0)
	for i := range list {
		list[i].MaxConns = 1
	}
	w.apply(t, nftdp.Service{Name: "web", Frontends: on(clusterIP, 80), Backends: list})
	p := fromClient(a, a.ClusterIP)
	if x := explain(t, w.dataplane, p); x.Code != nftdp.CodeDelivered {
		t.Errorf("no connection yet:\n%v", x)
	}
	c, err := nstest.DialTCP(w.Client, a.Client, p.Destination, askTimeout)
	if err != nil {
		t.Fatal(err)
	}
	defer closeOrFail(t, c)
	if x := explain(t, w.dataplane, p); x.Code != nftdp.CodeLimitReached {
		t.Errorf("one connection of one:\n%v", x)
	}
	if got := attempt(w.Client, "tcp", p.Destination, askTimeout); got != "refused" {
		t.Errorf("one more connection: %s", got)
	}
}
