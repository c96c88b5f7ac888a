//go:build linux

package netlink

import (
	"context"
	"errors"
	"testing"

	"golang.org/x/sys/unix"
)

// TestUntilLoaded: a request that is answered by EINVAL, as while the module of a
// subsystem is being loaded, is repeated. Any other answer is final.
func TestUntilLoaded(t *testing.T) {
	other := errors.New("other")
	for _, c := range []struct {
		name    string
		answers []error // the last one repeats
		asked   int
		want    error
	}{
		{"loaded", []error{nil}, 1, nil},
		{"being loaded", []error{unix.EINVAL, unix.EINVAL, nil}, 3, nil},
		{"another error", []error{other}, 1, other},
		{"another error later", []error{unix.EINVAL, other}, 2, other},
		{"missing", []error{unix.EINVAL}, 7, unix.EINVAL},
	} {
		t.Run(c.name, func(t *testing.T) {
			asked := 0
			err := untilLoaded(t.Context(), func() error {
				asked++
				return c.answers[min(asked, len(c.answers))-1]
			})
			if !errors.Is(err, c.want) || asked != c.asked {
				t.Errorf("asked %d times: %v, want %d times: %v", asked, err, c.asked, c.want)
			}
		})
	}
	ctx, cancel := context.WithCancel(t.Context())
	err := untilLoaded(ctx, func() error { cancel(); return unix.EINVAL })
	if !errors.Is(err, context.Canceled) {
		t.Errorf("after the context's end: %v", err)
	}
}
