//go:build linux

// Package integration tests the library with real packets in namespaces of
// its own. TestCases lists the packet cases, which name what has to happen to
// which packet; "case 14" in a comment elsewhere is one of them.
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
	if os.Getenv(requirementsEnv) != "" {
		os.Exit(runRequirements())
	}
	if os.Getenv(ownerEnv) != "" {
		os.Exit(runOwner())
	}
	if name := os.Getenv(childEnv); name != "" {
		os.Exit(beChild(name))
	}
	nstest.Main(m)
}
