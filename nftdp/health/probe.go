package health

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"slices"
)

// Dial connects to an address, as the method DialContext of net.Dialer does.
type Dial func(ctx context.Context, network, address string) (net.Conn, error)

// Probe finds out whether a backend works.
type Probe interface {
	// Probe returns nil if the backend works, and else why not. It connects by
	// dial, if at all, and returns when the context ends. It may be called for
	// many backends at once.
	Probe(ctx context.Context, dial Dial, backend netip.AddrPort) error
}

// TCP finds that a backend works if it accepts a connection, which is then reset.
type TCP struct{}

// Probe connects.
func (TCP) Probe(ctx context.Context, dial Dial, backend netip.AddrPort) error {
	conn, err := dial(ctx, "tcp", backend.String())
	if err != nil {
		return err
	}
	if tcp, ok := conn.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0) // Otherwise the port would be in TIME_WAIT for a minute.
	}
	return conn.Close()
}

// HTTP finds that a backend works if it answers GET with an expected status. Redirects
// are not followed.
type HTTP struct {
	// Path is that of the request, with a query if there is one; empty is "/".
	Path string
	// Host is the request's; empty is the backend's address.
	Host string
	// Status lists the expected ones; empty means 200 to 399.
	Status []int
	// TLS makes it HTTPS. If its ServerName is empty, that is Host or, without
	// one, the backend's address.
	TLS *tls.Config
}

// Probe sends a request.
func (h HTTP) Probe(ctx context.Context, dial Dial, backend netip.AddrPort) error {
	path := h.Path
	if path == "" {
		path = "/"
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, scheme(h.TLS)+"://"+backend.String()+path, nil)
	if err != nil {
		return err
	}
	request.Host = h.Host
	request.Header.Set("User-Agent", "nftdp-health")
	transport := once(dial, h.TLS, h.Host)
	defer transport.CloseIdleConnections()
	response, err := transport.RoundTrip(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if s := response.StatusCode; !slices.Contains(h.Status, s) && (len(h.Status) > 0 || s < 200 || s > 399) {
		return fmt.Errorf("status %s", response.Status)
	}
	return nil
}

func scheme(c *tls.Config) string {
	if c == nil {
		return "http"
	}
	return "https"
}

// once returns a transport for a single request.
func once(dial Dial, c *tls.Config, name string) *http.Transport {
	if c != nil && c.ServerName == "" && name != "" {
		c = c.Clone()
		c.ServerName = name
	}
	return &http.Transport{
		DialContext: dial, TLSClientConfig: c, DisableKeepAlives: true, DisableCompression: true,
		MaxResponseHeaderBytes: 64 << 10,
	}
}
