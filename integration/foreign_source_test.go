//go:build linux

package integration

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/nftdp/go-nftdp/internal/nstest"
	"github.com/nftdp/go-nftdp/nftdp"
)

// TestForeignSource: nat chains of others at postrouting, ahead of ours, behind it and
// beside it. Explain says which source the backend sees, and the backend sees it;
// Doctor finds those that rewrite what is to be kept, and its command helps.
func TestForeignSource(t *testing.T) {
	t.Parallel()
	a := nstest.IPv4()
	const chain = "table ip theirs { chain post { type nat hook postrouting priority %d; %s; }; }"
	keep := webOf(withMasquerade(nftdp.MasqueradeNever, nodeWide(80)))
	snat := webOf(withMasquerade(nftdp.MasqueradeAlways, nodeWide(80)))
	snat.SNAT = []netip.Addr{a.Node}
	here := keep
	here.Backends = []nftdp.Backend{{Addr: netip.AddrPortFrom(a.PodGW, backendPort)}}
	internal := nftdp.Config{Internal: []netip.Prefix{a.ClientNet}}
	nft := func(priority int, rules string) string {
		return fmt.Sprintf("nft '"+chain+"'", priority, rules)
	}
	for _, c := range []struct {
		name    string
		config  nftdp.Config
		service nftdp.Service
		rules   string     // shell commands
		sees    netip.Addr // the backend
		finding string
		says    string // Explain
	}{
		{"masquerade beside ours", nftdp.Config{}, keep, nft(100, `oifname "pod1" masquerade`), a.PodGW, "warning FOREIGN_SNAT table ip theirs, chain post", "masqueraded: the backend sees an address of this node, since chain post of table ip theirs rewrites it"},
		{"masquerade ahead of ours", nftdp.Config{}, keep, nft(90, `oifname "pod1" masquerade`), a.PodGW, "warning FOREIGN_SNAT table ip theirs, chain post", "since chain post of table ip theirs rewrites it"},
		{"masquerade behind ours", nftdp.Config{}, keep, nft(110, `oifname "pod1" masquerade`), a.PodGW, "warning FOREIGN_SNAT table ip theirs, chain post", "since chain post of table ip theirs rewrites it"},
		{"iptables masquerades", nftdp.Config{}, keep, "iptables -t nat -A POSTROUTING -o pod1 -j MASQUERADE", a.PodGW, "warning FOREIGN_SNAT table ip nat, chain POSTROUTING", "since chain POSTROUTING of table ip nat rewrites it"},
		{"iptables rewrites in a chain of its own", nftdp.Config{}, keep, "iptables -t nat -N OUT; iptables -t nat -A POSTROUTING ! -o docker0 -j OUT; iptables -t nat -A OUT -p tcp -m tcp --dport 8080 -j SNAT --to-source 192.168.0.2", a.Node, "warning FOREIGN_SNAT table ip nat, chain OUT", "the backend sees 192.168.0.2, since chain OUT of table ip nat rewrites it"},
		{"an address behind ours", nftdp.Config{}, keep, nft(110, "snat to 192.168.0.2"), a.Node, "warning FOREIGN_SNAT table ip theirs, chain post", "the backend sees 192.168.0.2, since chain post"},
		{"jumps, as firewalld writes", nftdp.Config{}, keep, `nft 'table inet theirs {
			chain post { type nat hook postrouting priority 110; jump zones; }
			chain zones { oifname "pod1" goto zone; goto other; }
			chain zone { meta nfproto ipv4 oifname != "lo" masquerade; }
			chain other { return; }
		}'`, a.PodGW, "warning FOREIGN_SNAT table inet theirs, chain zone", "since chain zone of table inet theirs rewrites it"},
		{"by the arriving interface", nftdp.Config{}, keep, nft(110, `iifname "uplink" oifname "pod1" masquerade`), a.PodGW, "", "since chain post of table ip theirs rewrites it"},
		{"ours masquerades, an address behind it", nftdp.Config{}, webOf(nodeWide(80)), nft(110, "snat to 192.168.0.2"), a.PodGW, "", "masqueraded: the backend sees an address of this node, since the client is not in Config.Internal"},
		{"ours masquerades, an address ahead of it", nftdp.Config{}, webOf(nodeWide(80)), nft(90, "snat to 192.168.0.2"), a.Node, "", "the backend sees 192.168.0.2, since chain post"},
		{"Service.SNAT, masquerade ahead of it", nftdp.Config{}, snat, nft(90, "masquerade"), a.PodGW, "warning FOREIGN_SNAT table ip theirs, chain post", "since chain post of table ip theirs rewrites it"},
		{"Service.SNAT, masquerade behind it", nftdp.Config{}, snat, nft(110, "masquerade"), a.Node, "", "the backend sees 192.168.0.2, since the frontend rewrites all sources"},
		{"Service.SNAT, the same address ahead of it", nftdp.Config{}, snat, nft(90, "snat to 192.168.0.2"), a.Node, "", "the backend sees 192.168.0.2"},
		{"internal clients, as Docker writes for its own", internal, webOf(nodeWide(80)), "iptables -t nat -A POSTROUTING -s 203.0.113.0/24 ! -o docker0 -j MASQUERADE", a.PodGW, "notice FOREIGN_SNAT table ip nat, chain POSTROUTING", "since chain POSTROUTING of table ip nat rewrites it"},
		{"clients of others", nftdp.Config{}, keep, "iptables -t nat -A POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE", a.Client, "", "the backend sees the client's address, since the frontend keeps"},
		{"another interface", internal, webOf(nodeWide(80)), nft(110, `oifname "uplink" masquerade`), a.Client, "", "the backend sees the client's address, since the client is internal"},
		{"an accept ahead of it", nftdp.Config{}, keep, nft(110, "ct status dnat accept; masquerade"), a.Client, "", "the backend sees the client's address"},
		{"marks, as kube-proxy writes", nftdp.Config{}, keep, nft(110, "meta mark and 0x4000 != 0x4000 return; masquerade"), a.Client, "", "unless a rule before it that is not understood decides otherwise"},
		{"a backend on the node", nftdp.Config{}, here, "nft 'table ip theirs { chain in { type nat hook input priority 100; tcp dport 8080 snat to 192.168.0.2; }; }'", a.Node, "warning FOREIGN_SNAT table ip theirs, chain in", "the backend sees 192.168.0.2, since chain in"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			needTool(t, "nft")
			w := newWorld(t, c.config, 2)
			if _, err := w.dataplane.MeetRequirements(t.Context()); err != nil {
				t.Fatal(err)
			}
			serve(t, w.Node, backendPort, "tcp")
			w.apply(t, c.service)
			wantFindings(t, w)
			w.shell(t, c.rules)
			p := fromClient(a, a.Node)
			p.Source = netip.AddrPortFrom(a.Client, 0)
			x := explain(t, w.dataplane, p)
			if x.Code != nftdp.CodeDelivered || !strings.Contains(x.String(), c.says) {
				t.Errorf("want %q:\n%v", c.says, x)
			}
			sees := func(want netip.Addr) {
				t.Helper()
				if got := ask(t, w.Client, "tcp", p.Destination).Client.Addr(); got != want {
					t.Errorf("the backend sees %v, want %v; explained as\n%v", got, want, x)
				}
			}
			sees(c.sees)
			if rewritten := x.Backends[0].Masqueraded || x.Backends[0].SNAT.IsValid(); rewritten != (c.sees != a.Client) {
				t.Errorf("explained as rewritten: %t\n%v", rewritten, x)
			}
			if c.finding == "" {
				wantFindings(t, w)
				return
			}
			commands(t, w, wantFindings(t, w, c.finding))
			wantFindings(t, w)
			if len(c.service.SNAT) > 0 {
				sees(c.service.SNAT[0])
			} else {
				sees(a.Client)
			}
		})
	}
}
