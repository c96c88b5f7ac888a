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

// bridged puts both backends into one network on a bridge of the node.
func bridged(t *testing.T, w *world) (gateway netip.Addr, pods [2]netip.Addr) {
	t.Helper()
	net := netip.MustParsePrefix("10.77.0.0/24")
	gateway = netip.MustParseAddr("10.77.0.1")
	w.shell(t, "ip link add bridge type bridge && ip link set bridge up && ip addr add 10.77.0.1/24 dev bridge")
	for i, pod := range w.Backends[:2] {
		pods[i] = netip.AddrFrom4([4]byte{10, 77, 0, byte(i + 2)})
		w.shell(t, fmt.Sprintf("ip addr flush dev %[1]s && ip link set %[1]s master bridge", nstest.PodLink(i)))
		tool(t, pod, "sh", "-c", fmt.Sprintf("ip -4 addr flush dev eth0; ip addr add %v dev eth0 && ip route add default via %v",
			netip.PrefixFrom(pods[i], net.Bits()), gateway))
	}
	return gateway, pods
}

// TestDoctorBridge: backends on a bridge that reach each other, or themselves, through
// a service only with the right parameters.
func TestDoctorBridge(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nftdp.Config{Internal: []netip.Prefix{netip.MustParsePrefix("10.77.0.0/24")}}, 2)
	if _, err := w.dataplane.MeetRequirements(t.Context()); err != nil {
		t.Fatal(err)
	}
	_, pods := bridged(t, w)
	if err := w.Node.Sysctl("net/bridge/bridge-nf-call-iptables", "0"); err != nil {
		skipOrFail(t, "needs br_netfilter: %v", err)
	}
	vip := netip.AddrPortFrom(nstest.IPv4().ClusterIP, 80)
	w.apply(t, nftdp.Service{
		Name: "web", Frontends: []nftdp.Frontend{{Addr: vip.Addr(), Port: vip.Port()}},
		Backends: []nftdp.Backend{{Addr: netip.AddrPortFrom(pods[0], backendPort)}},
	})
	if got := attempt(w.Backends[1], "tcp", vip, silence); got == "backend-1" {
		t.Error("a backend reaches another one although replies are not translated")
	}
	found := wantFindings(t, w, "warning BRIDGE_NETFILTER_OFF bridge")
	fix(t, w, found)
	askFor(t, "backend-1", w.Backends[1], "tcp", vip)

	if got := attempt(w.Backends[0], "tcp", vip, silence); got == "backend-1" {
		t.Error("a backend reaches itself although the bridge sends nothing back")
	}
	found = wantFindings(t, w, "warning BRIDGE_HAIRPIN_OFF bridge")
	commands(t, w, found)
	wantFindings(t, w)
	askFor(t, "backend-1", w.Backends[0], "tcp", vip)
}

// TestDoctorRouteLocalnet: neighbours reach loopback addresses.
func TestDoctorRouteLocalnet(t *testing.T) {
	t.Parallel()
	for _, of := range []string{"all", "uplink"} {
		t.Run(of, func(t *testing.T) {
			t.Parallel()
			w := healthy(t, nftdp.Config{}, webOf(nodeWide(80)))
			if err := w.Node.Sysctl("net/ipv4/conf/"+of+"/route_localnet", "1"); err != nil {
				t.Fatal(err)
			}
			found := wantFindings(t, w, "warning ROUTE_LOCALNET net.ipv4.conf."+of+".route_localnet")
			commands(t, w, found)
			wantFindings(t, w)
		})
	}
}

// TestDoctorLegacyIptables: that there are rules which nf_tables does not show.
func TestDoctorLegacyIptables(t *testing.T) {
	t.Parallel()
	needTool(t, "iptables-legacy")
	w := healthy(t, nftdp.Config{}, webOf(nodeWide(80)))
	if out, err := runTool(t, w.Node, "", "env", xtablesLock(t), "iptables-legacy", "-t", "filter", "-L"); err != nil {
		skipOrFail(t, "the kernel has no legacy tables: %v %s", err, out)
	}
	found := examine(t, w)
	if len(found) != 1 || found[0].Code != nftdp.CodeLegacyIptables || !strings.Contains(found[0].Subject, "ip filter") {
		t.Errorf("findings: %v", found)
	}
}
