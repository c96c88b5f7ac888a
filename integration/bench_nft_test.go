//go:build linux

package integration

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// loadByNft measures `nft -f`.
func loadByNft(b *testing.B, script string) {
	b.Helper()
	needTool(b, "nft")
	file := filepath.Join(b.TempDir(), "rules.nft")
	if err := os.WriteFile(file, []byte(script), 0o600); err != nil {
		b.Fatal(err)
	}
	ns := newNamespace(b)
	dialRaw(b, ns) // skips where nft could not have a send buffer of this size either
	laps := newLaps()
	for b.Loop() {
		begin := time.Now()
		tool(b, ns, "nft", "-f", file)
		laps.add(begin)
		untimed(b, func() { tool(b, ns, "nft", "delete", "table", "ip", "kube-proxy") })
	}
	laps.report(b, "p50-ns")
}

// What follows writes manyServices in the way of kube-proxy's nftables mode
// (pkg/proxy/nftables/proxier.go), which also sends commands to nft, as far as
// rules grow with the number of services.

// endpointChains has a chain for each service and each endpoint. Versions before
// 1.36 write this for every service, later ones for services with session
// affinity.
func endpointChains(n int) string {
	return kubeProxy(n, func(b *strings.Builder, i int) {
		var pool []string
		for j := range poolSize {
			addr := backendAddr(i, j)
			chain := fmt.Sprintf("endpoint-%08X-default/service-%d/tcp/http__%v/%d", i*poolSize+j, i, addr.Addr(), addr.Port())
			pool = append(pool, fmt.Sprintf("%d : goto %s", j, chain))
			fmt.Fprintf(b, "add chain ip kube-proxy %s\n", chain)
			fmt.Fprintf(b, "add rule ip kube-proxy %s ip saddr %v jump mark-for-masquerade\n", chain, addr.Addr())
			fmt.Fprintf(b, "add rule ip kube-proxy %s meta l4proto tcp dnat to %v\n", chain, addr)
		}
		fmt.Fprintf(b, "add rule ip kube-proxy %s numgen random mod %d vmap { %s }\n",
			serviceChain(i), poolSize, strings.Join(pool, " , "))
	})
}

// serviceChains has a chain and a map for each service.
func serviceChains(n int) string {
	return kubeProxy(n, func(b *strings.Builder, i int) {
		var pool []string
		for j := range poolSize {
			addr := backendAddr(i, j)
			pool = append(pool, fmt.Sprintf("%d : %v . %d", j, addr.Addr(), addr.Port()))
		}
		fmt.Fprintf(b, "add rule ip kube-proxy %s meta l4proto tcp dnat ip addr . port to numgen random mod %d map { %s }\n",
			serviceChain(i), poolSize, strings.Join(pool, " , "))
	})
}

func serviceChain(i int) string {
	return fmt.Sprintf("service-%08X-default/service-%d/tcp/http", i, i)
}

func kubeProxy(n int, choose func(b *strings.Builder, i int)) string {
	var b strings.Builder
	b.WriteString(kubeProxySkeleton)
	for i := range n {
		addr, chain := clusterAddr(i), serviceChain(i)
		fmt.Fprintf(&b, "add chain ip kube-proxy %s\n", chain)
		fmt.Fprintf(&b, "add rule ip kube-proxy %s ip daddr %v tcp dport 80 ip saddr != 10.128.0.0/9 jump mark-for-masquerade\n", chain, addr)
		choose(&b, i)
		fmt.Fprintf(&b, "add element ip kube-proxy cluster-ips { %v }\n", addr)
		fmt.Fprintf(&b, "add element ip kube-proxy service-ips { %v . tcp . 80 : goto %s }\n", addr, chain)
	}
	return b.String()
}

const kubeProxySkeleton = `add table ip kube-proxy
add set ip kube-proxy cluster-ips { type ipv4_addr ; }
add map ip kube-proxy service-ips { type ipv4_addr . inet_proto . inet_service : verdict ; }
add chain ip kube-proxy mark-for-masquerade
add rule ip kube-proxy mark-for-masquerade mark set mark or 0x4000
add chain ip kube-proxy masquerading
add rule ip kube-proxy masquerading mark and 0x4000 == 0 return
add rule ip kube-proxy masquerading mark set mark xor 0x4000
add rule ip kube-proxy masquerading masquerade fully-random
add chain ip kube-proxy services
add rule ip kube-proxy services ip daddr . meta l4proto . th dport vmap @service-ips
add chain ip kube-proxy nat-prerouting { type nat hook prerouting priority -100 ; }
add rule ip kube-proxy nat-prerouting jump services
add chain ip kube-proxy nat-output { type nat hook output priority -100 ; }
add rule ip kube-proxy nat-output jump services
add chain ip kube-proxy nat-postrouting { type nat hook postrouting priority 100 ; }
add rule ip kube-proxy nat-postrouting jump masquerading
`
