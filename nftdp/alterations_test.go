//go:build linux

package nftdp

import (
	"net/netip"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// alteration is something that stock nft can do to our tables. The script or, if
// that is empty, an edit of the listing, which replaces a table, is for the table
// of one family; FAM stands for the name of the family, and ADDR for an address.
type alteration struct {
	name   string
	script string
	edit   [2]string // a part of the listing, and what replaces it
	// read is what Keep has to read to repair it.
	read reading
}

// aFlowtable needs CONFIG_NF_FLOW_TABLE.
const aFlowtable = "a flowtable"

func alterations() []alteration {
	add := func(what, kind, body string) alteration {
		return alteration{"a " + what, "add " + kind + " FAM nftdp x { " + body + " }", [2]string{}, readNothing}
	}
	script := func(name, script string, read reading) alteration { return alteration{name, script, [2]string{}, read} }
	edit := func(name, old, next string) alteration { return alteration{name, "", [2]string{old, next}, readAll} }
	return []alteration{
		add("counter", "counter", ""),
		add("quota", "quota", "over 5 mbytes"),
		add("ct helper", "ct helper", `type "ftp" protocol tcp; l3proto FAM;`),
		add("ct timeout", "ct timeout", "protocol tcp; l3proto FAM; policy = { close: 1 };"),
		add("ct expectation", "ct expectation", "protocol tcp; dport 9; timeout 1m; size 3; l3proto FAM;"),
		add("limit", "limit", "rate 10/second"),
		add("synproxy", "synproxy", "mss 1460 wscale 7"),
		script(aFlowtable, "add flowtable FAM nftdp x { hook ingress priority 0; devices = { lo }; }", readNothing),
		script("a name of two kinds", "add counter FAM nftdp x\nadd quota FAM nftdp x { over 5 mbytes }", readNothing),
		script("a counter in use", "add counter FAM nftdp x\nadd rule FAM nftdp services counter name x", readRules),
		script("a counter in use by a set", "add counter FAM nftdp x\nadd map FAM nftdp y { type inet_service : counter; }\n"+
			"add element FAM nftdp y { 80 : \"x\" }\nadd chain FAM nftdp z\nadd rule FAM nftdp z counter name tcp dport map @y", readAll),
		script("a counter that came and went", "add counter FAM nftdp x\nadd quota FAM nftdp y { over 5 mbytes }\ndelete counter FAM nftdp x", readNothing),

		script("a set", "add set FAM nftdp x { type inet_service; comment \"c\"; elements = { 1 } }", readAll),
		script("a map", "add map FAM nftdp x { type inet_service : verdict; elements = { 1 : drop } }", readAll),
		script("a chain", "add chain FAM nftdp x", readRules),
		script("a chain with a comment", "add chain FAM nftdp x { comment \"c\"; }", readRules),
		script("a base chain", "add chain FAM nftdp x { type filter hook forward priority 0; policy drop; }", readRules),
		script("a chain of ours with another name", "rename chain FAM nftdp random-2 x", readAll),
		script("the policy of a chain", "chain FAM nftdp prerouting { policy drop; }", readAll),
		script("a dormant table", "add table FAM nftdp { flags dormant; }", readAll),
		script("a rule", "add rule FAM nftdp services counter accept", readRules),
		script("a rule in front", "insert rule FAM nftdp prerouting drop", readRules),
		script("a rule repeated", "add rule FAM nftdp prerouting jump services", readRules),
		script("a rule with a comment", "flush chain FAM nftdp prerouting\nadd rule FAM nftdp prerouting jump services comment \"c\"", readRules),
		script("no rules", "flush table FAM nftdp", readRules),
		script("an element that catches all", "add element FAM nftdp node_frontends { * : drop }", readAll),
		script("an element with a comment", "delete element FAM nftdp hairpin { ADDR . ADDR }\n"+
			"add element FAM nftdp hairpin { ADDR . ADDR comment \"c\" }", readNothing),
		script("an element with a counter", "add element FAM nftdp node_frontends { tcp . 9 counter packets 5 bytes 5 : drop }", readNothing),
		script("an element of a list", "add element FAM nftdp internal { FOREIGN }", readRules),
		script("an element of a list of clients", "add element FAM nftdp CLIENTS { FOREIGN }", readRules),
		script("no elements", "flush map FAM nftdp frontends", readNothing),
		script("a protocol", "add element FAM nftdp protocols { icmp }", readRules),

		edit("comment of a set", "set hairpin {", "set hairpin {\n comment \"c\""),
		edit("comment of a chain", "chain random-2 {", "chain random-2 {\n comment \"c\""),
		edit("comment of a base chain", "chain prerouting {", "chain prerouting {\n comment \"c\""),
		edit("comment of a rule", "jump services", "jump services comment \"c\""),
		edit("size of a set", "\t\tsize 1024\n", "\t\tsize 70000\n"),
		edit("no size", "\t\tsize 1024\n", "\t\t\n"),
		edit("policy of a set", "set internal {", "set internal {\n policy memory;"),
		edit("timeout of a set", "set masq {", "set masq {\n timeout 1h;"),
		edit("timeouts in a set", "set masq {", "set masq {\n flags timeout;"),
		edit("a set with a period of cleaning", "set masq {", "set masq {\n flags timeout; gc-interval 1h;"),
		edit("timeout of the dynamic map", "map affinity {", "map affinity {\n timeout 1h;"),
		edit("size of the dynamic map", "size 65536", "size 1000"),
		edit("merging of intervals", "set internal {", "set internal {\n auto-merge"),
		edit("size of a list", "set internal {", "set internal {\n size 1000;"),
		edit("priority of a chain", "priority dstnat;", "priority -99;"),
		edit("policy of a base chain", "policy accept;", "policy drop;"),
		edit("hook of a chain", "hook input", "hook prerouting"),
	}
}

// alteredServices has something in most sets, and nothing that nft 1.0.6 cannot
// load back.
func alteredServices() []Service {
	return []Service{{
		Name: "web",
		Frontends: append(fronts("10.96.0.1:80", "[fd00:96::1]:80"), Frontend{
			Port: 30080, Deny: append(manyClients(), netip.MustParsePrefix("192.0.2.0/24"), netip.MustParsePrefix("2001:db8::/32")),
		}),
		Backends: []Backend{
			{Addr: netip.MustParseAddrPort("10.180.0.1:80")},
			{Addr: netip.MustParseAddrPort("10.180.0.2:80")},
			{Addr: netip.MustParseAddrPort("[fd00:180::1]:80")},
			{Addr: netip.MustParseAddrPort("[fd00:180::2]:80")},
		},
	}}
}

// in returns the script for the table of a family.
func (a *alteration) in(t *testing.T, n *node, family string) string {
	t.Helper()
	script := a.script
	if script == "" {
		listing := n.nft(t, "", "list", "table", family, DefaultTable)
		if !strings.Contains(listing, a.edit[0]) {
			t.Fatalf("the listing does not have %q:\n%s", a.edit[0], listing)
		}
		script = "delete table FAM nftdp\n" + strings.Replace(listing, a.edit[0], a.edit[1], 1)
	}
	addr, foreign := "10.180.0.1", "192.0.2.128/25"
	if family == "ip6" {
		addr, foreign = "fd00:180::1", "2001:db9::/32"
	}
	clients := ""
	for _, table := range mustCompile(t, keptConfig(), alteredServices()).rules.Tables {
		for _, s := range table.Sets {
			if strings.HasPrefix(s.Name, "clients-") && table.Family.String() == family {
				clients = s.Name
			}
		}
	}
	if family == "ip" {
		foreign = "198.51.100.0/24"
	}
	return strings.NewReplacer("FAM", family, "ADDR", addr, "FOREIGN", foreign, "CLIENTS", clients).Replace(script) + "\n"
}

// hasFlowtables asks a kernel that has them loaded already.
func hasFlowtables(t *testing.T) bool {
	t.Helper()
	n := newNode(t)
	return n.Do(func() error {
		cmd := exec.CommandContext(t.Context(), "nft", "add table ip t; add flowtable ip t x { hook ingress priority 0; devices = { lo }; }")
		return cmd.Run()
	}) == nil
}

// TestAlterations: whatever nft does to our tables, Plan shows it, and Apply, the
// empty Update and Keep leave tables that nft lists as before, in whatever order.
// Keep reads no more than it has to.
func TestAlterations(t *testing.T) {
	services := alteredServices()
	for _, a := range alterations() {
		if a.name == aFlowtable && !hasFlowtables(t) {
			t.Log("the kernel has no flowtables")
			continue
		}
		for _, family := range []string{"ip", "ip6"} {
			t.Run(a.name+"/"+family, func(t *testing.T) {
				n := newNode(t)
				d := n.open(t, keptConfig())
				apply(t, d, services)
				list := func() []string { return slices.Sorted(strings.Lines(n.nft(t, "", "-s", "list", "ruleset"))) }
				pristine := list()
				script := a.in(t, n, family)
				for name, repair := range map[string]func() *Plan{
					"apply":           func() *Plan { return apply(t, d, services) },
					"update":          func() *Plan { return updateWith(t, d, Change{}) },
					"another process": func() *Plan { return apply(t, n.open(t, keptConfig()), services) },
				} {
					n.nft(t, script, "-f", "-")
					plan, err := d.Plan(t.Context(), services)
					if err != nil || plan.Empty() {
						t.Errorf("%s: the plan is empty, %v", name, err)
					}
					if got := repair(); got.Empty() {
						t.Errorf("%s: nothing was repaired", name)
					}
					if diff := cmp.Diff(pristine, list()); diff != "" {
						t.Fatalf("%s leaves (-before +after):\n%s", name, diff)
					}
				}
				d, spy := n.spied(t, keptConfig())
				apply(t, d, services)
				repaired := kept(t, d)
				spy.watched(t, d, 1)
				spy.reset()
				n.nft(t, script, "-f", "-")
				drift := receive(t, repaired)
				if drift.Empty() || len(drift.By) != 1 || drift.By[0].Name != "nft" {
					t.Errorf("Keep repaired %v, done by %v", drift, drift.By)
				}
				updateWith(t, d, Change{})
				if read := spy.reset(); read != a.read {
					t.Errorf("Keep read %d of the tables, want %d", read, a.read)
				}
				if diff := cmp.Diff(pristine, list()); diff != "" {
					t.Errorf("Keep leaves (-before +after):\n%s", diff)
				}
			})
		}
	}
}
