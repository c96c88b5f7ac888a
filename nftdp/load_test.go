//go:build linux

package nftdp

import "testing"

// TestStoriesLoad: the kernel accepts the services of every story, and those
// that follow, and holds them as compiled.
func TestStoriesLoad(t *testing.T) {
	for _, s := range stories(t) {
		if s.invalid() {
			continue
		}
		t.Run(s.name(), func(t *testing.T) {
			n := newNode(t)
			for _, c := range []*Config{&s.config, &s.nextConfig} {
				c.Protect = c.Protect && n.protects(t)
			}
			n.programs(t, s.config, s.services)
			n.programs(t, s.nextConfig, s.next)
		})
	}
}

// programs applies services and checks that the kernel holds them and that no
// change is left.
func (n *node) programs(t *testing.T, c Config, services []Service) {
	t.Helper()
	d := n.open(t, c)
	apply(t, d, services)
	n.wantServices(t, c, services)
	if plan, err := d.Plan(t.Context(), services); err != nil || !plan.Empty() {
		t.Errorf("error %v, changes are left:\n%v", err, plan)
	}
}
