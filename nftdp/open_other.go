//go:build !linux

package nftdp

import (
	"fmt"
	"runtime"

	"github.com/nftdp/go-nftdp/internal/engine"
)

// dial fails, as there is no nf_tables.
func dial(int, string) (engine.Kernel, error) {
	return nil, fmt.Errorf("nf_tables on %s: %w", runtime.GOOS, ErrNotSupported)
}
