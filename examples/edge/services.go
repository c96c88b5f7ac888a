//go:build linux

package main

import (
	"net/netip"
	"time"

	"github.com/nftdp/go-nftdp/internal/nstest"
	"github.com/nftdp/go-nftdp/nftdp"
)

// Ports of the services, at the external address if nothing else is said.
const (
	serverPort = 8080 // of the backends

	webPort   = 80
	localPort = 81    // of the same service, with PolicyExternalLocalOnly
	nodePort  = 30080 // of the same service, at every address of the gateway
	cartPort  = 443
	chatPort  = 6000
	adminPort = 9000
	dbPort    = 5432
	dbLimit   = 2
	mediaPort = 5000
	mediaEnd  = 5100
)

// mediaPorts are those of the range on which servers listen.
var mediaPorts = []uint16{mediaPort, 5042, mediaEnd}

func (g *gateway) config() nftdp.Config {
	return nftdp.Config{
		ServiceCIDRs: []netip.Prefix{netip.PrefixFrom(g.addrs.External, 24)},
		Localhost:    true,
	}
}

func (g *gateway) services() []nftdp.Service {
	return []nftdp.Service{g.web(), g.admin(), g.media(), g.db(), g.chat(), g.cart()}
}

// web leads to all backends, in both families.
func (g *gateway) web() nftdp.Service {
	local := g.frontend(localPort)
	local.Policy = nftdp.PolicyExternalLocalOnly
	return nftdp.Service{
		Name:      "shop/web",
		Frontends: []nftdp.Frontend{g.frontend(webPort), local, {Port: nodePort}},
		Backends:  append(pool(g.addrs, serverPort), pool(nstest.IPv6(), serverPort)...),
		Scheduler: nftdp.SchedulerRoundRobin,
	}
}

// admin is not for everybody.
func (g *gateway) admin() nftdp.Service {
	f := g.frontend(adminPort)
	f.Allow = []netip.Prefix{g.addrs.ClientNet}
	f.Deny = []netip.Prefix{netip.PrefixFrom(g.clients[1], g.clients[1].BitLen())}
	return nftdp.Service{Name: "shop/admin", Frontends: []nftdp.Frontend{f}, Backends: pool(g.addrs, serverPort)[:1]}
}

// media takes datagrams on a range of ports.
func (g *gateway) media() nftdp.Service {
	f := g.frontend(mediaPort)
	f.EndPort = mediaEnd
	return nftdp.Service{Name: "shop/media", Protocol: nftdp.ProtocolUDP, Frontends: []nftdp.Frontend{f}, Backends: pool(g.addrs, 0)[:1]}
}

// db has a backend with a limit.
func (g *gateway) db() nftdp.Service {
	backends := pool(g.addrs, serverPort)[:1]
	backends[0].MaxConns = dbLimit
	return nftdp.Service{Name: "shop/db", Frontends: []nftdp.Frontend{g.frontend(dbPort)}, Backends: backends}
}

// chat has long connections.
func (g *gateway) chat() nftdp.Service {
	return nftdp.Service{Name: "shop/chat", Frontends: []nftdp.Frontend{g.frontend(chatPort)}, Backends: pool(g.addrs, serverPort)[:1]}
}

// cart remembers its clients.
func (g *gateway) cart() nftdp.Service {
	s := nftdp.Service{
		Name:      "shop/cart",
		Frontends: []nftdp.Frontend{g.frontend(cartPort)},
		Backends:  pool(g.addrs, serverPort),
		Scheduler: nftdp.SchedulerRoundRobin,
		Affinity:  nftdp.Duration(time.Hour),
	}
	for i := range s.Backends {
		if g.Name(s.Backends[i].Addr) == g.draining {
			s.Backends[i].State = nftdp.StateDraining
		}
	}
	return s
}

func (g *gateway) frontend(port uint16) nftdp.Frontend {
	return nftdp.Frontend{Addr: g.addrs.External, Port: port}
}

// pool lists all backends. Two of them are on this node and one is on another
// node.
func pool(a nstest.Addrs, port uint16) []nftdp.Backend {
	return []nftdp.Backend{
		{Addr: netip.AddrPortFrom(a.Backend(0), port), Local: true},
		{Addr: netip.AddrPortFrom(a.Backend(1), port), Local: true},
		{Addr: netip.AddrPortFrom(a.Remote(0), port)},
	}
}
