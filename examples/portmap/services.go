//go:build linux

package main

import (
	"crypto/sha256"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/containernetworking/cni/pkg/types"
	current "github.com/containernetworking/cni/pkg/types/100"

	"github.com/nftdp/go-nftdp/nftdp"
)

// attachment is a container's interface in a network: what ADD and DEL are about.
// It is the beginning of its services' names.
type attachment struct{ owner, network, container, iface string }

// The longest parts of a name, which has up to 128 bytes with an owner of 16. The ID
// of a container has 64 digits mostly.
const maxNetwork, maxContainer = 20, 64

func (a attachment) prefix() string {
	return networkPrefix(a.owner, a.network) + short(a.container, maxContainer) + "/" + a.iface + "/"
}

func networkPrefix(owner, network string) string {
	return owner + "/" + short(network, maxNetwork) + "/"
}

// short returns a name, or as much of it as there is room for with a hash of all.
// CNI's names have no tilde.
func short(name string, room int) string {
	if len(name) <= room {
		return name
	}
	hash := fmt.Sprintf("~%x", sha256.Sum256([]byte(name)))[:13]
	return name[:room-len(hash)] + hash
}

// holder says in words whose service it is.
func holder(owner, service string) string {
	parts := strings.Split(service, "/")
	if len(parts) != 6 || parts[0] != owner {
		return fmt.Sprintf("service %q", service)
	}
	return fmt.Sprintf("container %s (network %s, interface %s)", parts[2], parts[1], parts[3])
}

// services returns a service for each port of the container that is published. Its
// frontends are the ports of the node that lead there.
func (c *config) services(a attachment, container []netip.Prefix) ([]nftdp.Service, error) {
	list, err := c.mappings()
	if err != nil {
		return nil, err
	}
	var out []nftdp.Service
	index := map[string]int{}
	for i, m := range list {
		addrs, err := m.hostAddrs(container)
		if err != nil {
			return nil, wrong(types.ErrInvalidNetworkConfig, "portMappings[%d]: %v", i, err)
		}
		if len(addrs) == 0 {
			continue
		}
		name := fmt.Sprintf("%s%v/%d", a.prefix(), m.Protocol, m.ContainerPort)
		j, ok := index[name]
		if !ok {
			j = len(out)
			index[name] = j
			out = append(out, nftdp.Service{Name: name, Protocol: m.Protocol})
		}
		for _, addr := range addrs {
			out[j].Frontends = append(out[j].Frontends, c.frontend(addr, m.HostPort, container))
			out[j].Backends = withBackend(out[j].Backends, container, addr, m.ContainerPort)
		}
	}
	return out, nil
}

// hostAddrs returns the node's addresses that the mapping publishes, of the families
// that the container has. Unspecified ones stand for all addresses of their family.
func (m mapping) hostAddrs(container []netip.Prefix) ([]netip.Addr, error) {
	if m.HostIP == "" {
		var all []netip.Addr
		for _, p := range container {
			all = append(all, unspecified(p.Addr()))
		}
		return all, nil
	}
	host, err := netip.ParseAddr(m.HostIP)
	if err != nil {
		return nil, fmt.Errorf("hostIP: %w", err)
	}
	host = host.Unmap()
	switch {
	case len(alike(host, container)) > 0:
		return []netip.Addr{host}, nil
	case host.IsUnspecified():
		return nil, nil // Runtimes ask for both families, whatever the container has.
	}
	return nil, fmt.Errorf("hostIP %v: the container has no address of that family", host)
}

func unspecified(a netip.Addr) netip.Addr {
	if a.Is4() {
		return netip.IPv4Unspecified()
	}
	return netip.IPv6Unspecified()
}

// frontend masquerades the container's neighbours: their packets come and would go
// back without passing through the node, where br_netfilter does not make them.
// Whoever else connects is seen by the container under its own address.
func (c *config) frontend(addr netip.Addr, port uint16, container []netip.Prefix) nftdp.Frontend {
	f := nftdp.Frontend{Addr: addr, Port: port, Allow: alike(addr, c.Allow), Deny: alike(addr, c.Deny)}
	if len(f.Allow) == 0 && len(c.Allow) > 0 {
		f.Deny = []netip.Prefix{netip.PrefixFrom(unspecified(addr), 0)} // Nobody of that family may connect.
	}
	switch {
	case c.SNAT != nil && !*c.SNAT:
		f.Masquerade = nftdp.MasqueradeNever
	case c.MasqAll:
		f.Masquerade = nftdp.MasqueradeAlways
	default:
		f.MasqueradeClients = alike(addr, container)
	}
	return f
}

// alike returns the prefixes of an address's family.
func alike(addr netip.Addr, list []netip.Prefix) (out []netip.Prefix) {
	for _, p := range list {
		if p.Addr().Is4() == addr.Is4() {
			out = append(out, p)
		}
	}
	return out
}

// withBackend adds the container's port in the family of a frontend, once.
func withBackend(backends []nftdp.Backend, container []netip.Prefix, frontend netip.Addr, port uint16) []nftdp.Backend {
	for _, p := range alike(frontend, container) {
		b := nftdp.Backend{Addr: netip.AddrPortFrom(p.Addr(), port)}
		if !slices.Contains(backends, b) {
			backends = append(backends, b)
		}
	}
	return backends
}

// containerAddrs returns the container's first address of each family, with the
// prefix of its network.
func containerAddrs(result *current.Result, iface string) (out []netip.Prefix) {
	for _, ip := range result.IPs {
		if ip.Interface != nil && !inContainer(result, *ip.Interface, iface) {
			continue
		}
		p, err := netip.ParsePrefix(ip.Address.String())
		if err == nil && len(alike(p.Addr(), out)) == 0 {
			out = append(out, p)
		}
	}
	return out
}

// inContainer reports whether an interface of the result is the container's one of
// that name.
func inContainer(result *current.Result, i int, name string) bool {
	if i < 0 || i >= len(result.Interfaces) {
		return false
	}
	return result.Interfaces[i].Name == name && result.Interfaces[i].Sandbox != ""
}
