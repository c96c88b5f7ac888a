//go:build linux

package integration

import (
	"errors"
	"net"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nftdp/go-nftdp/internal/nstest"
	"github.com/nftdp/go-nftdp/nftdp"
)

// TestICMPErrorsAreTranslated: ICMP errors about translated packets reach the
// client with the addresses that it has used: the backend's "port unreachable" as
// ECONNREFUSED, and the node's "packet too big" as the path MTU to the frontend.
func TestICMPErrorsAreTranslated(t *testing.T) {
	t.Parallel()
	inFamilies(t, func(t *testing.T, a nstest.Addrs) {
		w := newWorld(t, nftdp.Config{}, 1)
		closed := nftdp.Backend{Addr: netip.AddrPortFrom(a.Backend(0), 9)}
		w.apply(t,
			nftdp.Service{Name: "closed", Protocol: nftdp.ProtocolUDP, Frontends: nodeWide(81), Backends: []nftdp.Backend{closed}},
			nftdp.Service{Name: "open", Protocol: nftdp.ProtocolUDP, Frontends: nodeWide(80), Backends: backends(0)})
		t.Run("unreachable", func(t *testing.T) {
			wantRefused(t, w.Client, "udp", netip.AddrPortFrom(a.Node, 81))
		})
		t.Run("too-big", func(t *testing.T) {
			testPathMTU(t, w, netip.AddrPortFrom(a.Node, 80))
		})
	})
}

// linkMTU is smaller than the MTU of the other links, and large enough for IPv6.
const linkMTU = 1400

func testPathMTU(t *testing.T, w *world, dst netip.AddrPort) {
	t.Helper()
	if err := w.Node.SetMTU(nstest.PodLink(0), linkMTU); err != nil {
		t.Fatal(err)
	}
	socket, err := nstest.Open(w.Client, "udp", netip.Addr{}, dst, askTimeout)
	if err != nil {
		t.Fatal(err)
	}
	defer socket.Close()
	forbidFragments(t, socket)
	if got := pathMTU(t, socket); got != 1500 {
		t.Fatalf("path MTU is %d before anything was sent, want 1500", got)
	}
	if _, err := exchange(socket, "first"); err != nil {
		t.Fatalf("small datagram: %v", err)
	}
	// 1,440 bytes fit the client's link, but not the backend's.
	if _, err := socket.Write([]byte(strings.Repeat("x", 1440))); err != nil {
		t.Fatalf("big datagram: %v", err)
	}
	deadline := time.Now().Add(askTimeout)
	for pathMTU(t, socket) != linkMTU {
		if time.Now().After(deadline) {
			t.Fatalf("path MTU is %d after the big datagram, want %d", pathMTU(t, socket), linkMTU)
		}
	}
	if _, err := socket.Write([]byte(strings.Repeat("x", 1440))); !errors.Is(err, syscall.EMSGSIZE) {
		t.Errorf("second big datagram: %v, want %v", err, syscall.EMSGSIZE)
	}
}

// TestFragments: a datagram in several fragments arrives whole, and so does its
// answer.
func TestFragments(t *testing.T) {
	t.Parallel()
	inFamilies(t, func(t *testing.T, a nstest.Addrs) {
		w := newWorld(t, nftdp.Config{}, 1)
		w.apply(t, nftdp.Service{Name: "open", Protocol: nftdp.ProtocolUDP, Frontends: nodeWide(80), Backends: backends(0)})
		socket, err := nstest.Open(w.Client, "udp", netip.Addr{}, netip.AddrPortFrom(a.Node, 80), askTimeout)
		if err != nil {
			t.Fatal(err)
		}
		defer socket.Close()
		payload := strings.Repeat("0123456789", 1000)
		answer, err := exchange(socket, payload)
		if err != nil || !strings.HasSuffix(answer, " "+payload) {
			t.Errorf("answer of %d bytes to %d: %v", len(answer), len(payload), err)
		}
	})
}

// forbidFragments sets the "don't fragment" bit of what the socket sends.
func forbidFragments(t *testing.T, socket net.Conn) {
	t.Helper()
	onSocket(t, socket, func(fd int) error {
		return errors.Join(
			ignoreWrongFamily(unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_DO)),
			ignoreWrongFamily(unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_MTU_DISCOVER, unix.IPV6_PMTUDISC_DO)))
	})
}

// pathMTU is the kernel's path MTU of a connected socket.
func pathMTU(t *testing.T, socket net.Conn) (mtu int) {
	t.Helper()
	level, option := unix.IPPROTO_IP, unix.IP_MTU
	if netip.MustParseAddrPort(socket.RemoteAddr().String()).Addr().Is6() {
		level, option = unix.IPPROTO_IPV6, unix.IPV6_MTU
	}
	onSocket(t, socket, func(fd int) (err error) {
		mtu, err = unix.GetsockoptInt(fd, level, option)
		return err
	})
	return mtu
}

// ignoreWrongFamily drops the error about an option of the other family.
func ignoreWrongFamily(err error) error {
	if errors.Is(err, unix.ENOPROTOOPT) || errors.Is(err, unix.EOPNOTSUPP) {
		return nil
	}
	return err
}

func onSocket(t *testing.T, socket net.Conn, fn func(fd int) error) {
	t.Helper()
	raw, err := socket.(syscall.Conn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var result error
	if err := raw.Control(func(fd uintptr) { result = fn(int(fd)) }); err != nil {
		t.Fatal(err)
	}
	if result != nil {
		t.Fatal(result)
	}
}
