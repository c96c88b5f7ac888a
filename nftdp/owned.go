//go:build linux

package nftdp

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/nftdp/go-nftdp/internal/compile"
	"github.com/nftdp/go-nftdp/internal/kernel"
	"github.com/nftdp/go-nftdp/internal/ruleset"
)

// checkOwned refuses a table that is not of this version or an older one.
func checkOwned(t *ruleset.Table) error {
	switch {
	case !compile.Owned(t):
		return fmt.Errorf("table %s %s: %w: choose another Config.Table, or delete it", t.Family, t.Name, ErrNotOwned)
	case t.Comment != compile.Schema && !compile.Outdated(t):
		return fmt.Errorf("table %s %s: %w: it has %q, this version writes %q: use the version that made it, or delete it",
			t.Family, t.Name, ErrNotOwned, t.Comment, compile.Schema)
	}
	return nil
}

// checkCurrent refuses to read services out of the layout of an older version.
func checkCurrent(r *ruleset.Ruleset) error {
	for _, t := range r.Tables {
		if compile.Outdated(t) {
			return fmt.Errorf("table %s %s: %w: it has %q, this version writes %q: Apply all services once, which replaces it",
				t.Family, t.Name, ErrOutdated, t.Comment, compile.Schema)
		}
	}
	return nil
}

// checkChangeable refuses tables that another socket owns: the kernel would
// answer every change of them with EPERM.
func (d *Dataplane) checkChangeable(r *ruleset.Ruleset) error {
	for _, t := range r.Tables {
		if t.Port != 0 && t.Port != d.conn.Port() {
			return fmt.Errorf("table %s %s: %w (netlink port %d): close its Dataplane, or end it: %w",
				t.Family, t.Name, ErrProtected, t.Port, unix.EPERM)
		}
	}
	return nil
}

// refusedFlags reports whether the kernel does not know the flags of a table:
// EINVAL before Linux 5.12, then EOPNOTSUPP. Nothing else is wrong with a table
// that we add or adopt.
func refusedFlags(r *kernel.RefusedError) bool {
	return r.Change != nil && r.Change.Flags != 0 &&
		(errors.Is(r.Errno, unix.EOPNOTSUPP) || errors.Is(r.Errno, unix.EINVAL))
}
