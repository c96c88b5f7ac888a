package nftdp

import (
	"slices"
	"strconv"
	"testing"

	"github.com/nftdp/go-nftdp/internal/around"
)

// TestDoctorConntrack: a table of connections that is nearly full, or full. The limit
// is one of the initial namespace, which a test must not change.
func TestDoctorConntrack(t *testing.T) {
	for count, want := range map[int][]Severity{
		0: nil, 899: nil, 900: {SeverityWarning}, 999: {SeverityWarning}, 1000: {SeverityError}, 1001: {SeverityError},
	} {
		x := examination{Node: &around.Node{Parameters: map[string]string{
			"net.netfilter.nf_conntrack_count": strconv.Itoa(count), "net.netfilter.nf_conntrack_max": "1000",
		}}}
		x.look()
		var got []Severity
		for _, f := range x.findings {
			got = append(got, f.Severity)
			if f.Code != CodeConntrackFull || f.Command != "sysctl -w net.netfilter.nf_conntrack_max=2000" || f.Fixable() {
				t.Errorf("with %d connections: %v", count, f)
			}
		}
		if !slices.Equal(got, want) {
			t.Errorf("with %d connections: %v, want %v", count, got, want)
		}
	}
}

// TestReservedPorts: lists of ports are read as the kernel prints them.
func TestReservedPorts(t *testing.T) {
	for _, c := range []struct {
		list        string
		first, last int
		want        bool
	}{
		{"", 1, 1, false},
		{"8080", 8080, 8080, true},
		{"8080,9000-9010", 9000, 9010, true},
		{"8080,9000-9010", 9005, 9011, false},
		{"9000-9010,9011-9020", 9005, 9015, true},
		{"9000,9002", 9000, 9002, false},
	} {
		if got := covered(portRanges(c.list), c.first, c.last); got != c.want {
			t.Errorf("%q covers %d to %d: %v, want %v", c.list, c.first, c.last, got, c.want)
		}
	}
}

// TestDoctorKernel: what a kernel lacks is as severe as the need of it.
func TestDoctorKernel(t *testing.T) {
	for need, want := range map[around.Need]Severity{
		around.Spared: SeverityNotice, around.Missed: SeverityWarning, around.Needed: SeverityError,
	} {
		x := examination{Node: &around.Node{Missing: []around.Missing{{
			What: "the schedulers that hash", Options: "CONFIG_NFT_HASH", Refused: "refused add rule", Need: need, Cost: "services that use this cannot be programmed",
		}}}}
		x.look()
		if len(x.findings) != 1 {
			t.Fatalf("%v", x.findings)
		}
		got := x.findings[0].String()
		const text = " KERNEL_FEATURE: the schedulers that hash: the kernel refused add rule: services that use this cannot be programmed. Use a kernel with CONFIG_NFT_HASH, or load the modules if something keeps the kernel from doing that"
		if got != want.String()+text {
			t.Errorf("got %s, want %v%s", got, want, text)
		}
	}
}
