//go:build !linux

package nftdp

import (
	"fmt"
	"net/netip"
	"runtime"
	"syscall"
)

// originalDst fails, as there is no conntrack.
func originalDst(syscall.Conn) (netip.AddrPort, error) {
	return netip.AddrPort{}, fmt.Errorf("conntrack on %s: %w", runtime.GOOS, ErrNotSupported)
}
