//go:build linux

package main

import (
	"net/netip"
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"

	"github.com/nftdp/go-nftdp/internal/nstest"
)

func TestMain(m *testing.M) { nstest.MainOf(m, main) }

// Whatever stock nft does to the services is repaired, and the program says
// that it was nft. When it is interrupted the services stay.
func TestKeep(t *testing.T) {
	nft, err := exec.LookPath("nft")
	switch {
	case err != nil && os.Getenv("CI") != "":
		t.Fatal("no stock nft, and CI is set:", err)
	case err != nil:
		t.Skip("needs stock nft:", err)
	}
	top := nstest.NewTestTopology(t, 2, "tcp")
	keep := nstest.Start(t, top.Node, "-services", "../embed/services.json")
	keep.Await(t, "programmed 1 services")
	for _, damage := range [][]string{
		{"flush", "map", "ip", "nftdp", "frontends"},
		{"flush", "chain", "ip", "nftdp", "prerouting"},
		{"flush", "ruleset"},
	} {
		if err := top.Node.Do(exec.CommandContext(t.Context(), nft, damage...).Run); err != nil {
			t.Fatal(damage, err)
		}
		keep.Await(t, "it was nft, thread ")
		reach(t, top)
	}
	keep.Signal(t, syscall.SIGINT)
	keep.Exit(t, 0)
	reach(t, top)
}

func reach(t *testing.T, top *nstest.Topology) {
	t.Helper()
	to := netip.AddrPortFrom(nstest.IPv4().ClusterIP, 80)
	if _, err := nstest.Dial(top.Client, "tcp", netip.Addr{}, to, 5*time.Second); err != nil {
		t.Fatal(err)
	}
}
