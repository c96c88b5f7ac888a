//go:build linux

package nstest

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
)

// Listening returns the addresses on which sockets of the namespace accept TCP
// connections or, if not connected, UDP datagrams.
func (n *Namespace) Listening(protocol string) ([]netip.AddrPort, error) {
	var all []netip.AddrPort
	for _, family := range []string{"", "6"} {
		var table []byte
		// Not /proc/net: that is the namespace of the process's first thread.
		err := n.Do(func() (err error) {
			table, err = os.ReadFile("/proc/thread-self/net/" + protocol + family)
			return err
		})
		if err != nil {
			return nil, fmt.Errorf("%s: list %s sockets: %w", n.Name, protocol, err)
		}
		for line := range strings.Lines(string(table)) {
			if f := strings.Fields(line); len(f) > 3 && isListening(f[3]) {
				addr, err := parseSocketAddr(f[1])
				if err != nil {
					return nil, fmt.Errorf("%s: %s socket %q: %w", n.Name, protocol, f[1], err)
				}
				all = append(all, addr)
			}
		}
	}
	return all, nil
}

// isListening reports whether a state is TCP_LISTEN or, for UDP, TCP_CLOSE of
// linux/net/tcp_states.h.
func isListening(state string) bool { return state == "0A" || state == "07" }

// parseSocketAddr reads an address as proc_net_tcp(5) has it: 32-bit words,
// each in the machine's byte order.
func parseSocketAddr(s string) (netip.AddrPort, error) {
	host, port, _ := strings.Cut(s, ":")
	raw, err := hex.DecodeString(host)
	if err != nil {
		return netip.AddrPort{}, err
	}
	number, err := strconv.ParseUint(port, 16, 16)
	if err != nil {
		return netip.AddrPort{}, err
	}
	for word := range slices.Chunk(raw, 4) {
		binary.NativeEndian.PutUint32(word, binary.BigEndian.Uint32(word))
	}
	addr, ok := netip.AddrFromSlice(raw)
	if !ok {
		return netip.AddrPort{}, fmt.Errorf("%d bytes are not an address", len(raw))
	}
	return netip.AddrPortFrom(addr.Unmap(), uint16(number)), nil
}
