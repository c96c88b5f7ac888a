//go:build linux

package integration

import (
	"fmt"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nftdp/go-nftdp/internal/nstest"
	"github.com/nftdp/go-nftdp/nftdp"
)

// TestForeignFlowsAreLeft: whatever happens to the services, flows that do not
// belong to our frontends stay in the table: plain ones, those that others have
// translated, flows to other ports of our addresses, to our ports of other
// addresses, directly to our backends, and from our own addresses.
func TestForeignFlowsAreLeft(t *testing.T) {
	t.Parallel()
	for name, config := range map[string]nftdp.Config{"limited": {NodeAddrs: nodePrefixes()}, "all": {}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			inFamilies(t, func(t *testing.T, a nstest.Addrs) {
				t.Parallel()
				testForeignFlows(t, a, config)
			})
		})
	}
}

func testForeignFlows(t *testing.T, a nstest.Addrs, config nftdp.Config) {
	t.Helper()
	w := newWorld(t, config, 3)
	client := netip.AddrPortFrom(a.Client, 1234)
	at := netip.AddrPortFrom
	loopback := netip.MustParseAddr(map[bool]string{true: "127.0.0.1", false: "::1"}[a.Client.Is4()])
	plain := func(src, dst netip.AddrPort) trackedFlow {
		return trackedFlow{syscall.IPPROTO_UDP, src, dst, dst, src}
	}
	client2, client3 := netip.AddrPortFrom(a.Client, 1235), netip.AddrPortFrom(a.Client, 1236)
	dnat := func(src, dst, to netip.AddrPort) trackedFlow {
		return trackedFlow{syscall.IPPROTO_UDP, src, dst, to, src}
	}
	foreign := []trackedFlow{
		plain(client, at(a.External, 53)),                       // somebody's server
		plain(client, at(a.Backend(0), backendPort)),            // our backend itself
		plain(client, at(a.ClusterIP, 54)),                      // another port
		plain(client, at(a.Node, 30054)),                        //
		plain(client, at(a.External, 30053)),                    // no address of the node
		plain(at(loopback, 1234), at(loopback, 30053)),          //
		plain(at(a.Node, 30053), client),                        // a local server's own
		plain(at(a.ClusterIP, 53), client),                      //
		plain(at(a.Backend(1), backendPort), client),            //
		dnat(client2, at(a.External, 53), at(a.Backend(0), 53)), // translated by others
		dnat(client2, at(a.External, 30053), at(a.Backend(0), backendPort)),
	}
	if config.NodeAddrs != nil { // then frontends do not have these addresses
		foreign = append(foreign,
			plain(client, at(a.PodGW, 30053)),
			dnat(client3, at(a.Uplink, 30053), at(a.Backend(0), backendPort)))
	}
	addFlows(t, w.Node, foreign)
	check := func(after string) {
		t.Helper()
		table := flowTable(t, w.Node, syscall.IPPROTO_UDP)
		for _, f := range foreign {
			if !table[f] {
				t.Errorf("%+v is gone after %s", f, after)
			}
		}
	}
	check("adding it")
	w.apply(t, udpService(0))
	check("the first apply")

	// This flow is to the node's own address and our port, but leads to a
	// destination that never was a backend: others translated it before.
	own := dnat(client2, at(a.Node, 30053), at(a.Backend(2), 7))
	addFlows(t, w.Node, []trackedFlow{own})
	foreign = append(foreign, own)
	draining := udpService(0, 1)
	setState(&draining, 0, nftdp.StateDraining)
	for i, services := range [][]nftdp.Service{
		{udpService(1)}, {draining}, {udpService(1)}, {udpService()}, {udpService(0)}, {},
	} {
		w.apply(t, services...)
		check(fmt.Sprintf("apply %d", i))
	}
	w.apply(t, udpService(0))
	if flowTable(t, w.Node, syscall.IPPROTO_UDP)[own] {
		t.Error("a flow to a new frontend that leads elsewhere is still there")
	}
}

// TestOthersFlowsAreLeft: a change of one service leaves the flows of another one,
// even if they share backends.
func TestOthersFlowsAreLeft(t *testing.T) {
	t.Parallel()
	inFamilies(t, func(t *testing.T, a nstest.Addrs) {
		t.Parallel()
		w := newWorld(t, nftdp.Config{}, 3)
		other := nftdp.Service{Name: "other", Protocol: nftdp.ProtocolUDP, Frontends: nodeWide(30054), Backends: backends(0, 1, 2)}
		w.apply(t, udpService(0, 1, 2), other)
		var sockets []*udpClient
		var servers []string
		for range 20 {
			c := dialUDP(t, w.Client, netip.AddrPortFrom(a.Node, 30054))
			sockets, servers = append(sockets, c), append(servers, c.try(t, askTimeout))
		}
		w.update(t, nftdp.Change{Set: []nftdp.Service{udpService(0)}})
		w.update(t, nftdp.Change{Delete: []string{"dns"}})
		for i, c := range sockets {
			c.want(t, servers[i])
		}
	})
}

// TestManyForeignFlows: an Update leaves 100,000 flows of others, and logs how
// much longer it takes beside them. On a machine with little memory there are
// fewer.
func TestManyForeignFlows(t *testing.T) {
	w := newWorld(t, nftdp.Config{}, 3)
	a := nstest.IPv4()
	flip := func(n int) time.Duration {
		w.apply(t, udpService(0))
		begin := time.Now()
		for i := range n {
			w.update(t, nftdp.Change{Set: []nftdp.Service{udpService((i + 1) % 2)}})
		}
		return time.Since(begin) / time.Duration(n)
	}
	client := dialUDP(t, w.Client, netip.AddrPortFrom(a.Node, 30053))
	without := flip(20)
	flows := make([]trackedFlow, min(100_000, conntrackMax(t, w.Node)/2))
	addr := netip.MustParseAddr("198.18.0.0")
	for i := range flows {
		if i%1000 == 0 {
			addr = addr.Next()
		}
		src, dst := netip.AddrPortFrom(addr, uint16(1024+i%1000)), netip.AddrPortFrom(a.Client, 443)
		flows[i] = trackedFlow{syscall.IPPROTO_UDP, src, dst, dst, src}
	}
	addFlows(t, w.Node, flows)
	with := flip(20)
	t.Logf("update of a UDP service: %v without and %v with %d foreign flows, ratio %.2f",
		without, with, len(flows), float64(with)/float64(without))

	client.want(t, "backend-1")
	w.update(t, nftdp.Change{Set: []nftdp.Service{udpService(1)}})
	client.want(t, "backend-2")
	table := flowTable(t, w.Node, syscall.IPPROTO_UDP)
	missing := 0
	for _, f := range flows {
		if !table[f] {
			missing++
		}
	}
	if missing > 0 {
		t.Errorf("%d of %d foreign flows are gone", missing, len(flows))
	}
}

// conntrackMax is the largest number of flows that the kernel keeps.
func conntrackMax(tb testing.TB, ns *nstest.Namespace) int {
	tb.Helper()
	var text []byte
	err := ns.Do(func() (err error) {
		text, err = os.ReadFile("/proc/sys/net/netfilter/nf_conntrack_max")
		return err
	})
	if err != nil {
		tb.Fatal(err)
	}
	n, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		tb.Fatal(err)
	}
	return n
}
