//go:build linux

// Package integration tests the library with real packets in namespaces of
// its own.
package integration

import (
	"os"
	"testing"

	"github.com/nftdp/go-nftdp/internal/nstest"
)

func TestMain(m *testing.M) {
	if name := os.Getenv(childEnv); name != "" {
		os.Exit(beChild(name))
	}
	nstest.Main(m)
}
