//go:build linux

package integration

import (
	"crypto/tls"
	"errors"
	"io/fs"
	"net"
	"net/netip"
	"path/filepath"
	"testing"

	"github.com/nftdp/go-nftdp/internal/nstest"
	"github.com/nftdp/go-nftdp/nftdp"
)

// listenIn listens for TCP connections on a port of a namespace: on all addresses with
// the network "tcp".
func listenIn(t *testing.T, ns *nstest.Namespace, network string, at netip.AddrPort) net.Listener {
	t.Helper()
	var l net.Listener
	if err := ns.Do(func() (err error) { l, err = net.Listen(network, at.String()); return err }); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l
}

// accepted connects from a namespace, and returns both ends of the connection.
func accepted(t *testing.T, l net.Listener, from *nstest.Namespace, dst netip.AddrPort) (client, server net.Conn) {
	t.Helper()
	client, err := nstest.Open(from, "tcp", netip.Addr{}, dst, askTimeout)
	if err != nil {
		t.Fatalf("from %s to %v: %v", from.Name, dst, err)
	}
	t.Cleanup(func() { _ = client.Close() })
	if server, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = server.Close() })
	return client, server
}

// TestOriginalDst: a server on the node learns what its clients have connected to,
// whatever kind of socket it has, through TLS and from whichever side the client
// comes, also if its source is rewritten. The client's end of a connection has the
// same original destination, and a connection past the services its own address.
func TestOriginalDst(t *testing.T) {
	t.Parallel()
	inFamilies(t, func(t *testing.T, a nstest.Addrs) {
		t.Parallel()
		w := newWorld(t, nftdp.Config{}, 1)
		port := uint16(9000)
		for network, at := range map[string]netip.Addr{
			"tcp": netip.IPv6Unspecified(), "tcp" + a.Family[1:]: a.Uplink,
		} {
			port++
			l := listenIn(t, w.Node, network, netip.AddrPortFrom(at, port))
			w.apply(t, nftdp.Service{
				Name: "proxy", Frontends: withMasquerade(nftdp.MasqueradeAlways, append(nodeWide(80), on(external, 443)...)),
				Backends: []nftdp.Backend{{Addr: netip.AddrPortFrom(a.Uplink, port)}},
			})
			for _, from := range []*nstest.Namespace{w.Client, w.Node} {
				for _, dst := range []netip.AddrPort{
					netip.AddrPortFrom(a.Node, 80), netip.AddrPortFrom(a.External, 443), netip.AddrPortFrom(a.Uplink, port),
				} {
					client, server := accepted(t, l, from, dst)
					wantOriginal(t, server, dst)
					wantOriginal(t, tls.Server(server, &tls.Config{}), dst) //nolint:gosec // Nothing is sent.
					if from == w.Node {
						wantOriginal(t, client, dst)
					}
				}
			}
		}
	})
}

func wantOriginal(t *testing.T, conn net.Conn, want netip.AddrPort) {
	t.Helper()
	if got, err := nftdp.OriginalDst(conn); err != nil || got != want {
		t.Errorf("original destination of %v, from %v: %v, %v; want %v", conn.LocalAddr(), conn.RemoteAddr(), got, err, want)
	}
}

// TestOriginalFlow: in another namespace than the one that has translated the
// connection the kernel cannot answer. The node can, for any protocol, and knows the
// client that is behind the masquerade.
func TestOriginalFlow(t *testing.T) {
	t.Parallel()
	inFamilies(t, func(t *testing.T, a nstest.Addrs) {
		t.Parallel()
		w := newWorld(t, nftdp.Config{}, 1)
		l := listenIn(t, w.Backends[0], "tcp", netip.AddrPortFrom(netip.IPv6Unspecified(), 9000))
		w.apply(t, append(perProtocol(nodeWide(30080), backends(0)),
			nftdp.Service{Name: "web", Frontends: nodeWide(80), Backends: onPort(9000, backends(0))})...)
		dst := netip.AddrPortFrom(a.Node, 80)
		client, server := accepted(t, l, w.Client, dst)
		if got, err := nftdp.OriginalDst(server); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("in the pod: %v, %v", got, err)
		}
		addr := func(a net.Addr) netip.AddrPort { return a.(*net.TCPAddr).AddrPort() }
		want := nftdp.Flow{
			Client: addr(client.LocalAddr()), Frontend: dst, Backend: netip.AddrPortFrom(a.Backend(0), 9000),
			Source: netip.AddrPortFrom(addr(server.RemoteAddr()).Addr().Unmap(), addr(server.RemoteAddr()).Port()),
		}
		got, err := w.dataplane.OriginalFlow(t.Context(), nftdp.ProtocolTCP, addr(server.RemoteAddr()), addr(server.LocalAddr()))
		if err != nil || got != want || got.Source.Addr() != a.PodGW {
			t.Errorf("the node says %+v, %v; want %+v", got, err, want)
		}
		for _, p := range protocols() {
			backend, front := netip.AddrPortFrom(a.Backend(0), backendPort), netip.AddrPortFrom(a.Node, 30080)
			source := ask(t, w.Client, p.name, front).Client
			got, err := w.dataplane.OriginalFlow(t.Context(), p.proto, source, backend)
			if err != nil || got.Frontend != front || got.Client.Addr() != a.Client || got.Protocol != p.proto {
				t.Errorf("%s: %+v, %v", p.name, got, err)
			}
			// A tuple of the other direction, and one of nobody's, are no flow to a backend.
			for _, to := range [][2]netip.AddrPort{{front, got.Client}, {source, front}} {
				if got, err := w.dataplane.OriginalFlow(t.Context(), p.proto, to[0], to[1]); !errors.Is(err, fs.ErrNotExist) {
					t.Errorf("%s from %v to %v: %+v, %v", p.name, to[0], to[1], got, err)
				}
			}
		}
		if _, err := w.dataplane.OriginalFlow(t.Context(), nftdp.ProtocolTCP, dst, netip.AddrPort{}); err == nil {
			t.Error("no error for no backend")
		}
	})
}

// TestOriginalDstUnknown: connections of which the kernel cannot know it.
func TestOriginalDstUnknown(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nftdp.Config{}, 1)
	w.apply(t, nftdp.Service{Name: "web", Frontends: nodeWide(80), Backends: backends(0)})
	datagrams, err := nstest.Open(w.Node, "udp", netip.Addr{}, netip.AddrPortFrom(nstest.IPv4().Backend(0), backendPort), askTimeout)
	if err != nil {
		t.Fatal(err)
	}
	defer datagrams.Close()
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "socket"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	unix, err := net.Dial("unix", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close()
	for _, conn := range []net.Conn{datagrams, unix} {
		if got, err := nftdp.OriginalDst(conn); !errors.Is(err, nftdp.ErrNotSupported) {
			t.Errorf("%T: %v, %v", conn, got, err)
		}
	}
	pipe, _ := net.Pipe()
	if got, err := nftdp.OriginalDst(pipe); err == nil {
		t.Errorf("a pipe: %v", got)
	}
	l4 := listenIn(t, w.Node, "tcp", netip.AddrPortFrom(nstest.IPv4().Uplink, 9000))
	_, server := accepted(t, l4, w.Client, netip.AddrPortFrom(nstest.IPv4().Uplink, 9000))
	closeOrFail(t, server)
	if got, err := nftdp.OriginalDst(server); !errors.Is(err, net.ErrClosed) {
		t.Errorf("a closed connection: %v, %v", got, err)
	}
}
