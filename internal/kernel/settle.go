//go:build linux

package kernel

import (
	"context"

	"golang.org/x/sys/unix"
)

// Settle returns when no packet is under way any more that has met rules before the
// last commit: packets traverse the hooks as readers of RCU (nf_hook in
// include/linux/netfilter.h), and membarrier(2) waits for all of these
// (synchronize_rcu in kernel/sched/membarrier.c), some 10 to 30 ms. Where it is not
// possible, with nohz_full or by seccomp, it does not wait. Nor does it wait for
// packets that another program's rules have queued (NFQUEUE).
func Settle(ctx context.Context) error {
	const global = 1 // MEMBARRIER_CMD_GLOBAL
	_, _, _ = unix.Syscall(unix.SYS_MEMBARRIER, global, 0, 0)
	return ctx.Err()
}
