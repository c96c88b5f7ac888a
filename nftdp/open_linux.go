package nftdp

import (
	"errors"
	"fmt"
	"io/fs"

	"github.com/nftdp/go-nftdp/internal/engine"
	"github.com/nftdp/go-nftdp/internal/host"
)

// dial opens a network namespace of the running kernel.
func dial(ns int, table string) (engine.Kernel, error) {
	h, err := host.Open(ns, table, engine.DecodableSet)
	switch {
	case errors.Is(err, fs.ErrPermission):
		return nil, fmt.Errorf("%w: CAP_SYS_ADMIN is needed to enter another network namespace (setns(2))", err)
	case err != nil:
		return nil, engine.Explain(err)
	}
	return h, nil
}
