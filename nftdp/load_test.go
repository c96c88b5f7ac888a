//go:build linux

package nftdp

import (
	"errors"
	"strings"
	"testing"
)

// TestStoriesLoad: the kernel takes the services of every story and those that
// follow, and holds them as we meant them. Where it can not protect tables, it
// is that which the error names.
func TestStoriesLoad(t *testing.T) {
	for _, s := range stories(t) {
		if s.invalid() {
			continue
		}
		t.Run(s.name(), func(t *testing.T) {
			n := newNode(t)
			n.programs(t, s.config, s.services)
			n.programs(t, s.nextConfig, s.next)
		})
	}
}

// programs applies services and wants them in the kernel, and nothing to be left
// to do.
func (n *node) programs(t *testing.T, c Config, services []Service) {
	t.Helper()
	d := n.open(t, c)
	_, err := d.Apply(t.Context(), services)
	if c.Protect && errors.Is(err, ErrNotSupported) {
		if !strings.Contains(err.Error(), "Config.Protect") {
			t.Errorf("what is not supported has no name in %q", err)
		}
		t.Log(err)
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	n.wantServices(t, c, services)
	if plan, err := d.Plan(t.Context(), services); err != nil || !plan.Empty() {
		t.Errorf("error %v, still to be done:\n%v", err, plan)
	}
}
