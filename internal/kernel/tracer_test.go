//go:build linux

package kernel

import (
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/nftdp/go-nftdp/internal/nfnl"
	"github.com/nftdp/go-nftdp/internal/nstest"
	"github.com/nftdp/go-nftdp/internal/ruleset"
	"github.com/nftdp/go-nftdp/internal/trace"
)

func newTracer(t *testing.T, ns *nstest.Namespace) *Tracer {
	t.Helper()
	tr, err := NewTracer(int(ns.Handle()), "t")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := tr.Close(); err != nil {
			t.Error(err)
		}
	})
	return tr
}

// describedRules are rules of a table of family inet as stock nft writes them, with
// what describes them where that is not the same.
const describedRules = `
ip saddr 10.0.0.0/8 ip daddr != 10.1.2.3 accept
ip6 saddr fd00::/64 drop
ip6 daddr fd00::1 accept
ip daddr & 0.0.0.255 == 0.0.0.1 accept => ip daddr & 0x000000ff == 0.0.0.1 accept
icmpv6 type 135 accept => meta nfproto ipv6 meta l4proto ipv6-icmp icmp type 135 accept
meta nfproto ipv6 drop
meta l4proto tcp accept
meta l4proto { tcp, udp } th dport 53 accept => meta l4proto @__set0 th dport 53 accept
tcp dport 80 reject with tcp reset
udp sport 1000-2000 counter reject => udp sport >= 1000 udp sport <= 2000 counter reject
ip saddr 10.0.0.1 tcp dport != 22 drop
iifname "eth*" oifname "veth0" return
meta mark 0x00000001 meta mark set 0x00000002
ct state established,related accept
ct state new ct status dnat ct direction original accept => ct state new ct status dnat ct direction 0 accept
ct original ip daddr 10.96.0.10 accept
fib daddr type local jump other
fib saddr . iif oif 0 drop => fib saddr iif oif 0 drop
limit rate 10/second burst 5 packets log prefix "hello " => limit rate 10/second log prefix "hello "
ip protocol tcp ip saddr . tcp dport @pairs drop => ip protocol tcp ip saddr . th dport @pairs drop
tcp dport vmap { 80 : jump other } => tcp dport vmap @__map0
goto other comment "why not" => goto other # why not
`

// TestDescribeRules: rules of others in words, in their own as far as possible.
func TestDescribeRules(t *testing.T) {
	ns := nstest.NewTestNamespace(t)
	var script, want strings.Builder
	script.WriteString("table inet f {\nset pairs { type ipv4_addr . inet_service; }\nchain other { }\nchain c {\n")
	for line := range strings.Lines(strings.TrimSpace(describedRules)) {
		rule, text, differs := strings.Cut(strings.TrimSpace(line), " => ")
		if !differs {
			text = rule
		}
		script.WriteString(rule + "\n")
		want.WriteString(text + "\n")
	}
	script.WriteString("}\n}\n")
	nft(t, ns, script.String(), "-f", "-")
	conn := dial(t, ns)
	tr := newTracer(t, ns)
	if err := tr.Refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	wants := strings.Split(strings.TrimSpace(want.String()), "\n")
	n := 0
	err := conn.dump(t.Context(), unix.NFT_MSG_GETRULE, unix.NFPROTO_INET, inTable("f"), func(b []byte) error {
		d, err := nfnl.DescribeRule(b)
		if err != nil {
			return err
		}
		m := &trace.Message{Family: unix.NFPROTO_INET, Table: "f", Chain: "c", Handle: d.Handle}
		got, err := tr.Rule(t.Context(), m)
		text := got.Text
		if got.Comment != "" {
			text += " # " + got.Comment
		}
		if text != wants[n] {
			t.Errorf("%s\nwant %s", text, wants[n])
		}
		if reject := strings.Contains(text, "reject"); got.Reject != reject {
			t.Errorf("%s: reject %t", text, got.Reject)
		}
		n++
		return err
	})
	if err != nil || n != len(wants) {
		t.Errorf("%d rules of %d, error %v", n, len(wants), err)
	}
}

// TestTracerForgets: a rule with the same handle in a new table is another one.
func TestTracerForgets(t *testing.T) {
	ns := nstest.NewTestNamespace(t)
	tr := newTracer(t, ns)
	load := func(rule string) string {
		t.Helper()
		nft(t, ns, "add table ip f\ndelete table ip f\ntable ip f {\nchain c {\n"+rule+"\n}\n}\n", "-f", "-")
		if err := tr.Refresh(t.Context()); err != nil {
			t.Fatal(err)
		}
		got, err := tr.Rule(t.Context(), &trace.Message{Family: ruleset.IPv4, Table: "f", Chain: "c", Handle: 2})
		if err != nil {
			t.Fatal(err)
		}
		return got.Text
	}
	if got := load("accept"); got != "accept" {
		t.Errorf("%q", got)
	}
	if got := load("drop"); got != "drop" {
		t.Errorf("%q", got)
	}
	got, err := tr.Rule(t.Context(), &trace.Message{Family: ruleset.IPv4, Table: "f", Chain: "c", Handle: 99})
	if err != nil || got != (trace.RuleInfo{}) {
		t.Errorf("a missing rule: %+v, error %v", got, err)
	}
	if name := tr.Device(trace.Device{Index: 1}); name != "lo" {
		t.Errorf("device 1 is %q", name)
	}
	if name := tr.Device(trace.Device{Index: 999}); name != "999" {
		t.Errorf("a missing device is %q", name)
	}
}

// TestTracerWithoutOwner: on a kernel before Linux 5.12 the table has no owner, and
// Close deletes it. One that is left of a killed process is replaced.
func TestTracerWithoutOwner(t *testing.T) {
	ns := nstest.NewTestNamespace(t)
	tr, err := NewTracer(int(ns.Handle()), "t")
	if err != nil {
		t.Fatal(err)
	}
	f := &trace.Filter{Matches: []trace.Match{{}}, Rate: 1}
	for range 2 { // the first one is like that of a killed process
		if err := tr.add(t.Context(), 0, f); err != nil {
			t.Fatal(err)
		}
	}
	tr.begun = true
	tables := func() (n int) {
		err := dial(t, ns).dump(t.Context(), unix.NFT_MSG_GETTABLE, unix.NFPROTO_INET, nil, func([]byte) error { n++; return nil })
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	if n := tables(); n != 1 {
		t.Errorf("%d tables", n)
	}
	if err := tr.Close(); err != nil {
		t.Error(err)
	}
	if n := tables(); n != 0 {
		t.Errorf("%d tables after Close", n)
	}
}
