package health

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/nftdp/go-nftdp/nftdp/kube"
)

// ServicesConfig is what Services need.
type ServicesConfig struct {
	// Healthy reports whether the proxy is healthy.
	Healthy func() bool
	// Addrs returns the addresses that the ports are bound to in a family (see
	// kube.Options.HealthCheckAddrs).
	Addrs func(v1.IPFamily) []netip.Addr
	// Failed is called when a port cannot be bound, if it is not nil. It is tried again
	// at each Update and Retry.
	Failed func(service types.NamespacedName, port uint16, err error)
}

// Services serves the health check ports of Services, in the network namespace of the
// process. Its methods can be called concurrently.
type Services struct {
	config ServicesConfig

	mu       sync.Mutex
	services map[types.NamespacedName]*service
}

// service is one with a health check port.
type service struct {
	name  types.NamespacedName
	state *kube.ServiceState
	bound map[netip.AddrPort]*port
}

// port is a bound one.
type port struct {
	listener net.Listener
	server   *http.Server
}

// close ends the listener itself, too: the server does not know it before it serves.
func (p *port) close() {
	_ = p.listener.Close() // it is closed in any case
	_ = p.server.Close()
}

// NewServices returns Services that serve nothing yet.
func NewServices(c ServicesConfig) *Services {
	return &Services{config: c, services: map[types.NamespacedName]*service{}}
}

// Update takes over the states of the Services that have changed (see kube.Sync).
func (s *Services) Update(states map[types.NamespacedName]*kube.ServiceState) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for name, state := range states {
		switch {
		case state != nil && state.HealthCheckPort != 0:
			if s.services[name] == nil {
				s.services[name] = &service{name: name, bound: map[netip.AddrPort]*port{}}
			}
			s.services[name].state = state
		case s.services[name] != nil:
			s.services[name].close(nil)
			delete(s.services, name)
		}
	}
	s.bind()
}

// Retry binds what could not be bound, or whose addresses have changed since.
func (s *Services) Retry() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.bind()
}

// Run calls Retry from time to time, until the context ends, and then closes all ports.
func (s *Services) Run(ctx context.Context, every time.Duration) {
	t := time.NewTicker(every)
	defer t.Stop()
	for {
		select {
		case <-t.C:
			s.Retry()
		case <-ctx.Done():
			s.Close()
			return
		}
	}
}

// Close closes all ports.
func (s *Services) Close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, of := range s.services {
		of.close(nil)
	}
	clear(s.services)
}

// bind makes all services listen where they should. Ports are closed first: one Service
// may get the port of another.
func (s *Services) bind() {
	if len(s.services) == 0 {
		return
	}
	addrs := map[v1.IPFamily][]netip.Addr{}
	for _, family := range kube.Families() {
		addrs[family] = s.config.Addrs(family)
	}
	wanted := map[*service][]netip.AddrPort{}
	for _, of := range s.services {
		for family := range of.state.Local {
			for _, a := range addrs[family] {
				wanted[of] = append(wanted[of], netip.AddrPortFrom(a, of.state.HealthCheckPort))
			}
		}
		of.close(wanted[of])
	}
	for of, at := range wanted {
		if err := s.open(of, at); err != nil && s.config.Failed != nil {
			s.config.Failed(of.name, of.state.HealthCheckPort, err)
		}
	}
}

// open makes a service listen where it does not yet.
func (s *Services) open(of *service, wanted []netip.AddrPort) error {
	var errs []error
	for _, at := range wanted {
		if of.bound[at] != nil {
			continue
		}
		network, family := "tcp4", v1.IPv4Protocol
		if at.Addr().Is6() {
			network, family = "tcp6", v1.IPv6Protocol
		}
		l, err := net.Listen(network, at.String())
		if err != nil {
			errs = append(errs, err)
			continue
		}
		server := &http.Server{Handler: s.handler(of, family), ReadHeaderTimeout: headerTimeout}
		of.bound[at] = &port{l, server}
		go func() { _ = server.Serve(l) }() // until it is closed
	}
	return errors.Join(errs...)
}

// headerTimeout is how long a client may take for its request.
const headerTimeout = 10 * time.Second

// close closes the ports of a service, but for some.
func (of *service) close(but []netip.AddrPort) {
	for at, p := range of.bound {
		if !slices.Contains(but, at) {
			p.close()
			delete(of.bound, at)
		}
	}
}

// handler answers to all paths whether a node has endpoints of a service in a family.
func (s *Services) handler(of *service, family v1.IPFamily) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		s.mu.Lock()
		local := of.state.Local[family]
		s.mu.Unlock()
		healthy := s.config.Healthy()
		code := http.StatusServiceUnavailable
		if local > 0 && healthy {
			code = http.StatusOK
		}
		w.Header().Set("X-Load-Balancing-Endpoint-Weight", strconv.Itoa(local))
		write(w, code, body(of.name, local, healthy))
	})
}

// body is indented by tabs, as kube-proxy's is.
func body(name types.NamespacedName, local int, healthy bool) []byte {
	type object struct {
		Namespace string `json:"namespace"`
		Name      string `json:"name"`
	}
	out, _ := json.MarshalIndent(struct { // plain values cannot fail
		Service             object `json:"service"`
		LocalEndpoints      int    `json:"localEndpoints"`
		ServiceProxyHealthy bool   `json:"serviceProxyHealthy"`
	}{object{name.Namespace, name.Name}, local, healthy}, "", "\t")
	return out
}

// Ports lists the ports that are bound, by Service, for logs and tests.
func (s *Services) Ports() map[types.NamespacedName][]netip.AddrPort {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := map[types.NamespacedName][]netip.AddrPort{}
	for name, of := range s.services {
		out[name] = slices.SortedFunc(maps.Keys(of.bound), netip.AddrPort.Compare)
	}
	return out
}

// InterfaceAddrs returns the addresses of the interfaces of the process's network
// namespace.
func InterfaceAddrs() (out []netip.Addr, err error) {
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return nil, fmt.Errorf("addresses of interfaces: %w", err)
	}
	for _, a := range addrs {
		if p, err := netip.ParsePrefix(a.String()); err == nil {
			out = append(out, p.Addr().Unmap())
		}
	}
	return out, nil
}
