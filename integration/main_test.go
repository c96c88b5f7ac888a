//go:build linux

// Package integration tests the library with real packets in namespaces of
// its own, against the packet cases that name the expected outcomes: "case 14"
// in a comment is one of them.
package integration

import (
	"os"
	"testing"

	"github.com/nftdp/go-nftdp/internal/nstest"
)

func TestMain(m *testing.M) {
	if os.Getenv(unprivilegedEnv) != "" {
		os.Exit(runUnprivileged())
	}
	nstest.Main(m)
}
