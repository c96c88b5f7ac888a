package nftdp

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestPolicies: the backends that a frontend leads to, with their slots, and
// what happens without any.
func TestPolicies(t *testing.T) {
	is := func(words string) (b Backend) {
		b.Local = strings.Contains(words, "local")
		b.Backup = strings.Contains(words, "backup")
		if strings.Contains(words, "down") {
			b.State = StateDown
		}
		return b
	}
	for _, c := range []struct {
		name     string
		policy   Policy
		backends []string
		action   Action
		want     string
	}{
		{"any", PolicyAnyBackend, []string{"", "local"}, ActionDefault, "1:1 2:1"},
		{"any of none", PolicyAnyBackend, nil, ActionDefault, "reject"},
		{"any of none usable", PolicyAnyBackend, []string{"down", "local down"}, ActionDefault, "reject"},
		{"any, dropped", PolicyAnyBackend, nil, ActionDrop, "drop"},

		{"local", PolicyLocalOnly, []string{"", "local"}, ActionDefault, "2:1"},
		{"local without local ones", PolicyLocalOnly, []string{"", ""}, ActionDefault, "drop"},
		{"local without local ones, rejected", PolicyLocalOnly, []string{"", ""}, ActionReject, "reject"},
		{"local without usable ones", PolicyLocalOnly, []string{"", "local down"}, ActionDefault, "drop"},
		{"local of none", PolicyLocalOnly, nil, ActionDefault, "reject"},
		{"local of none usable", PolicyLocalOnly, []string{"down", "local down"}, ActionDefault, "reject"},
		{"local backup beside a local one", PolicyLocalOnly, []string{"local", "local backup"}, ActionDefault, "1:1"},
		{"local backup beside one elsewhere", PolicyLocalOnly, []string{"", "local backup"}, ActionDefault, "2:1"},
		{"backup elsewhere", PolicyLocalOnly, []string{"backup", "local down"}, ActionDefault, "drop"},

		{"external", PolicyExternalLocalOnly, []string{"", "local", ""}, ActionDefault, "1:1 2:2 3:1"},
		{"external, all local", PolicyExternalLocalOnly, []string{"local", "local"}, ActionDefault, "1:1 2:1"},
		{"external without local ones", PolicyExternalLocalOnly, []string{"", ""}, ActionDefault, "1:1 2:1 drop"},
		{"external without local ones, rejected", PolicyExternalLocalOnly, []string{"", ""}, ActionReject, "1:1 2:1 reject"},
		{"external of none", PolicyExternalLocalOnly, nil, ActionDefault, "reject"},
		{"external with a local backup", PolicyExternalLocalOnly, []string{"", "local backup"}, ActionDefault, "1:1 2:1"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := Service{Name: "s", Frontends: []Frontend{{Port: 80, Policy: c.policy, NoBackend: c.action}}}
			for i, words := range c.backends {
				for _, a := range []string{"10.8.0.0", "fd00:8::"} {
					b := is(words)
					b.Addr = netip.AddrPortFrom(numbered(a, i+1), 80)
					s.Backends = append(s.Backends, b)
				}
			}
			for _, f := range mustCompile(t, Config{}, []Service{s}).status()[0].Frontends {
				if diff := cmp.Diff(c.want, inShort(f)); diff != "" {
					t.Errorf("%v (-want +got):\n%s", f.Addr, diff)
				}
			}
		})
	}
}

// inShort returns the last number of each backend's address with its slots.
func inShort(f FrontendStatus) string {
	var words []string
	for _, b := range f.Backends {
		raw := b.Addr.Addr().AsSlice()
		words = append(words, fmt.Sprintf("%d:%d", raw[len(raw)-1], b.Slots))
	}
	if f.NoBackend != nil {
		words = append(words, f.NoBackend.String())
	}
	return strings.Join(words, " ")
}

// numbered returns the n-th address after another.
func numbered(base string, n int) netip.Addr {
	b := addr(base).AsSlice()
	last := b[len(b)-4:]
	binary.BigEndian.PutUint32(last, binary.BigEndian.Uint32(last)+uint32(n))
	a, _ := netip.AddrFromSlice(b)
	return a
}
