//go:build linux

package integration

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"syscall"
	"testing"

	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/nftdp/go-nftdp/nftdp"
)

// TestFileDescriptors: a process that has more than 1,024 files open can do
// everything, as nothing here uses select. When it can open no more, Open says
// so, and a Dataplane that is there goes on.
func TestFileDescriptors(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"many files", "no more files"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, nftdp.Config{}, 1)
			c := startChild(t, w.Node, name)
			if got := c.line(t); got != "done" {
				t.Error(got)
			}
			askFor(t, "backend-1", w.Client, "tcp", netip.AddrPortFrom(w.vip(), 80))
			closeOrFail(t, c.stdin)
			_ = c.Wait() // it was done
		})
	}
}

func manyFiles() error {
	const many = 1100
	if err := limitFiles(2 * many); err != nil {
		return err
	}
	for range many {
		if _, err := os.Open("/dev/null"); err != nil {
			return err
		}
	}
	d, err := openHere()
	if err != nil {
		return err
	}
	return useAll(d)
}
