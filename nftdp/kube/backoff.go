package kube

import (
	"context"
	"time"
)

// backoff is the time between two attempts, which doubles from one to the next. The zero
// value is the beginning.
type backoff struct{ wait time.Duration }

const soonest, latest = 100 * time.Millisecond, 30 * time.Second

func (b *backoff) next() time.Duration {
	b.wait = min(max(2*b.wait, soonest), latest)
	return b.wait
}

// sleep waits, unless the context ends before.
func sleep(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}
