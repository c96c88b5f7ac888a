//go:build linux

package main

import (
	"context"
	"errors"
	"net/http"
	"net/netip"
	"os"
	"slices"

	"github.com/nftdp/go-nftdp/internal/nstest"
	"github.com/nftdp/go-nftdp/nftdp"
	"github.com/nftdp/go-nftdp/nftdp/health"
)

// cloud is the network around nftdp, with nginx and the applications in it.
type cloud struct {
	client   host
	router   host // the cloud's, and on it the load balancer
	machines []machine
	server   string // what the ingress is
	cert     *certificate
	dir      string // of nginx
	closers  []func() error
}

// machine is a node with its pods.
type machine struct {
	node
	host
	ingress, app host
	dataplane    *nftdp.Dataplane // nil until nftdp runs
}

// host is a namespace, and a client in it that makes a connection for each request.
type host struct {
	*nstest.Namespace
	http *http.Client
}

// newCloud starts everything but nftdp. Close the cloud also after an error.
func newCloud(ctx context.Context, nginx string) (c *cloud, err error) {
	c = &cloud{}
	if c.cert, err = newCertificate(); err != nil {
		return c, err
	}
	if c.dir, err = os.MkdirTemp("", "ingress-"); err != nil {
		return c, err
	}
	c.atEnd(func() error { return os.RemoveAll(c.dir) })
	if err := c.connect(); err != nil {
		return c, err
	}
	for i := range c.machines {
		m := &c.machines[i]
		if err := c.serveApp(m.app, apps[i].name); err != nil {
			return c, err
		}
		if nginx != "" {
			c.server, err = "nginx", c.startNginx(ctx, nginx, m)
		} else {
			c.server, err = "a Go reverse proxy, as there is no nginx here", c.startProxy(m)
		}
		if err != nil {
			return c, err
		}
	}
	return c, nil
}

// connect makes the namespaces, and the links between them.
func (c *cloud) connect() (err error) {
	if c.router, err = c.newHost("balancer"); err != nil {
		return err
	}
	if c.client, err = c.attach(c.router, netip.MustParseAddr("198.51.100.1"), "client", clientAddr); err != nil {
		return err
	}
	for i, n := range nodes {
		m := machine{node: n}
		if m.host, err = c.attach(c.router, netip.MustParseAddr("192.168.0.1"), n.name, n.addr); err != nil {
			return err
		}
		if m.ingress, err = c.attach(m.host, n.gateway, "ingress"+n.name[len("node"):], n.ingress); err != nil {
			return err
		}
		if m.app, err = c.attach(m.host, n.gateway, apps[i].name, n.app); err != nil {
			return err
		}
		if err := c.router.AddRoute(n.name, n.pods, n.addr, netip.Addr{}); err != nil {
			return err
		}
		c.machines = append(c.machines, m)
	}
	for _, router := range []host{c.router, c.machines[0].host, c.machines[1].host} {
		err = errors.Join(err, router.Sysctl("net/ipv4/ip_forward", "1"), router.WaitUp())
	}
	return err
}

// attach makes a host whose only link, with one address and the default route, leads to
// a gateway of another one.
func (c *cloud) attach(to host, gateway netip.Addr, name string, addr netip.Addr) (host, error) {
	const link = "eth0"
	h, err := c.newHost(name)
	if err != nil {
		return h, err
	}
	if err := nstest.Connect(h.Namespace, link, to.Namespace, name); err != nil {
		return h, err
	}
	return h, errors.Join(
		h.AddAddr(link, single(addr)),
		h.AddRoute(link, netip.PrefixFrom(netip.IPv4Unspecified(), 0), gateway, addr),
		to.AddAddr(name, single(gateway)),
		to.AddRoute(name, single(addr), netip.Addr{}, gateway))
}

func single(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, a.BitLen()) }

func (c *cloud) newHost(name string) (h host, err error) {
	if h.Namespace, err = nstest.New(name); err != nil {
		return h, err
	}
	c.atEnd(h.Close)
	from, err := health.OpenNamespace(h.Handle())
	if err != nil {
		return h, err
	}
	c.atEnd(from.Close)
	h.http = &http.Client{
		Timeout: patience,
		Transport: &http.Transport{
			DialContext: from.Dial, DisableKeepAlives: true, TLSClientConfig: c.cert.trust(),
		},
	}
	return h, nil
}

// inBackground runs something until the end.
func (c *cloud) inBackground(ctx context.Context, run func(context.Context) error) {
	ctx, stop := context.WithCancel(ctx)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = run(ctx) // The context's error.
	}()
	c.atEnd(func() error {
		stop()
		<-ended
		return nil
	})
}

// atEnd has something closed at the end, before what was made earlier.
func (c *cloud) atEnd(closer func() error) { c.closers = append(c.closers, closer) }

// Close takes everything down.
func (c *cloud) Close() error {
	var errs []error
	for _, closer := range slices.Backward(c.closers) {
		errs = append(errs, closer())
	}
	return errors.Join(errs...)
}
