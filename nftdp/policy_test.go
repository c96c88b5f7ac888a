package nftdp

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestPolicies: which backends a frontend leads to, with their slots, and what
// happens without.
func TestPolicies(t *testing.T) {
	is := func(words string) (b Backend) {
		b.Local = strings.Contains(words, "local")
		b.Backup = strings.Contains(words, "backup")
		if strings.Contains(words, "down") {
			b.State = Down
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
		{"any", AnyBackend, []string{"", "local"}, DefaultAction, "1:1 2:1"},
		{"any of none", AnyBackend, nil, DefaultAction, "reject"},
		{"any of none usable", AnyBackend, []string{"down", "local down"}, DefaultAction, "reject"},
		{"any, dropped", AnyBackend, nil, Drop, "drop"},

		{"local", LocalOnly, []string{"", "local"}, DefaultAction, "2:1"},
		{"local without local ones", LocalOnly, []string{"", ""}, DefaultAction, "drop"},
		{"local without local ones, rejected", LocalOnly, []string{"", ""}, Reject, "reject"},
		{"local without usable ones", LocalOnly, []string{"", "local down"}, DefaultAction, "drop"},
		{"local of none", LocalOnly, nil, DefaultAction, "reject"},
		{"local of none usable", LocalOnly, []string{"down", "local down"}, DefaultAction, "reject"},
		{"local backup beside a local one", LocalOnly, []string{"local", "local backup"}, DefaultAction, "1:1"},
		{"local backup beside one elsewhere", LocalOnly, []string{"", "local backup"}, DefaultAction, "2:1"},
		{"backup elsewhere", LocalOnly, []string{"backup", "local down"}, DefaultAction, "drop"},

		{"external", ExternalLocalOnly, []string{"", "local", ""}, DefaultAction, "1:1 2:2 3:1"},
		{"external, all local", ExternalLocalOnly, []string{"local", "local"}, DefaultAction, "1:1 2:1"},
		{"external without local ones", ExternalLocalOnly, []string{"", ""}, DefaultAction, "1:1 2:1 drop"},
		{"external without local ones, rejected", ExternalLocalOnly, []string{"", ""}, Reject, "1:1 2:1 reject"},
		{"external of none", ExternalLocalOnly, nil, DefaultAction, "reject"},
		{"external with a local backup", ExternalLocalOnly, []string{"", "local backup"}, DefaultAction, "1:1 2:1"},
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

// inShort gives the last number of each backend's address with its slots.
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

// numbered is the n-th address after another.
func numbered(base string, n int) netip.Addr {
	b := addr(base).AsSlice()
	last := b[len(b)-4:]
	binary.BigEndian.PutUint32(last, binary.BigEndian.Uint32(last)+uint32(n))
	a, _ := netip.AddrFromSlice(b)
	return a
}
