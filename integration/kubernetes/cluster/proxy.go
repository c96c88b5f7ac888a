//go:build linux

package cluster

import (
	"fmt"
	"net/netip"
	"os/exec"
	"regexp"
	"strings"
)

// Proxy is a program that programs a node's services.
type Proxy string

// The two that are compared.
const (
	KubeProxy Proxy = "kube-proxy" // of Kubernetes, in nftables mode
	Agent     Proxy = "nftdp"      // examples/kubeproxy of this repository
)

// StartProxy starts a service proxy on the node. Further arguments are flags that both
// understand.
func (n *Node) StartProxy(p Proxy, args ...string) (*Process, error) {
	program, fixed := n.command(p)
	return Start(n.Namespace, n.dir, string(p)+"-"+n.Name, program, append(fixed, args...)...)
}

// Cleanup runs a proxy's own removal of its rules.
func (n *Node) Cleanup(p Proxy) error {
	program, fixed := n.command(p)
	return n.Do(func() error {
		out, err := exec.Command(program, append(fixed, "--cleanup")...).CombinedOutput()
		if err != nil {
			return fmt.Errorf("%s --cleanup: %w\n%s", p, err, out)
		}
		return nil
	})
}

// WriteConfig makes kube-proxy write its configuration file with all defaults.
func (n *Node) WriteConfig(file string) error {
	if out, err := exec.Command(n.bin.KubeProxy, "--write-config-to", file).CombinedOutput(); err != nil {
		return fmt.Errorf("%s --write-config-to: %w\n%s", KubeProxy, err, out)
	}
	return nil
}

func (n *Node) command(p Proxy) (program string, args []string) {
	common := []string{
		"--kubeconfig", n.kubeconfig, "--hostname-override", n.Name,
		"--cluster-cidr", strings.Join([]string{V4.PodNet.String(), V6.PodNet.String()}, ","),
	}
	if p == Agent {
		return n.bin.Agent, common
	}
	// Limits of conntrack belong to the machine.
	return n.bin.KubeProxy, append(common, "--proxy-mode", "nftables", "--conntrack-max-per-core", "0")
}

// Programmed reports whether a proxy's own tables have the address, whatever the tables of
// others have.
func (n *Node) Programmed(p Proxy, addr netip.Addr) (has bool, err error) {
	family := "ip"
	if addr.Is6() {
		family = "ip6"
	}
	table := map[Proxy]string{Agent: "nftdp-kube", KubeProxy: "kube-proxy"}[p]
	err = n.Do(func() error {
		out, err := exec.Command("nft", "list", "table", family, table).CombinedOutput()
		if err != nil {
			return fmt.Errorf("nft: %w: %s", err, out)
		}
		has = regexp.MustCompile(`(^|[^0-9a-f:.])` + regexp.QuoteMeta(addr.String()) + `($|[^0-9a-f:.])`).Match(out)
		return nil
	})
	return has, err
}
