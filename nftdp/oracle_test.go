//go:build linux

package nftdp

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/nftdp/go-nftdp/internal/ruleset"
)

// nft runs stock nft inside the namespace and returns its output.
func (n *node) nft(t *testing.T, stdin string, args ...string) string {
	t.Helper()
	path, err := exec.LookPath("nft")
	switch {
	case err != nil && os.Getenv("CI") != "":
		t.Fatal("no stock nft, and CI is set:", err)
	case err != nil:
		t.Skip("needs stock nft:", err)
	}
	var out []byte
	err = n.Do(func() error {
		cmd := exec.CommandContext(t.Context(), path, args...)
		cmd.Stdin = strings.NewReader(stdin)
		if out, err = cmd.Output(); err != nil {
			return fmt.Errorf("nft %s: %w\n%s", strings.Join(args, " "), err, stderrOf(err))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

func stderrOf(err error) []byte {
	if exit, ok := err.(*exec.ExitError); ok { //nolint:errorlint // it comes straight from Output
		return exit.Stderr
	}
	return nil
}

// validStories returns the stories with services that can be applied, and with
// flags that every version of nft knows: those of protected tables are new in
// 1.1 (TestNftProtected).
func validStories(t *testing.T) []*story {
	t.Helper()
	return slices.DeleteFunc(stories(t), func(s *story) bool {
		return s.invalid() || s.config.Protect || s.nextConfig.Protect
	})
}

// TestNftLoads: stock nft loads the text of every story, and the kernel then
// holds what we would have programmed.
func TestNftLoads(t *testing.T) {
	for _, s := range validStories(t) {
		t.Run(s.name(), func(t *testing.T) {
			n := newNode(t)
			n.nft(t, mustCompile(t, s.config, s.services).String(), "-f", "-")
			n.wantNothingToDo(t, s.config, s.services)
		})
	}
}

func (n *node) wantNothingToDo(t *testing.T, c Config, services []Service) {
	t.Helper()
	plan, err := n.open(t, c).Plan(t.Context(), services)
	if err != nil || !plan.Empty() {
		t.Errorf("error %v, changes are left:\n%v", err, plan)
	}
}

// TestNftRunsPlan: a plan's text is an nft script, which leads from the first
// services of a story to the next ones.
//
// nft 1.0.6 cannot add a rule that uses a map which the kernel already has and
// which was declared by typeof. From the declaration in the kernel it takes "th
// dport" for a second protocol beside "ip daddr": "conflicting protocols
// specified: ip vs. th". A plan with such a rule is run together with the one
// before it, as one script.
func TestNftRunsPlan(t *testing.T) {
	for _, s := range validStories(t) {
		t.Run(s.name(), func(t *testing.T) {
			n := newNode(t)
			current, next := mustCompile(t, s.config, s.services), mustCompile(t, s.nextConfig, s.next)
			first, second := nothing().PlanTo(current).String(), current.PlanTo(next).String()
			if strings.Contains(second, " map @") {
				n.nft(t, first+second, "-f", "-")
			} else {
				n.nft(t, first, "-f", "-")
				n.wantNothingToDo(t, s.config, s.services)
				n.nft(t, second, "-f", "-")
			}
			n.wantNothingToDo(t, s.nextConfig, s.next)
			n.nft(t, next.PlanTo(nothing()).String(), "-f", "-")
			n.wantText(t, s.config.table(), "")
		})
	}
}

// TestNftLists: stock nft lists what we program for a story, as text and as JSON.
// The text loads into another namespace, where we read the same ruleset, including
// counters, and nft lists the same text.
func TestNftLists(t *testing.T) {
	for _, s := range validStories(t) {
		t.Run(s.name(), func(t *testing.T) {
			ours, theirs := newNode(t), newNode(t)
			held := mustCompile(t, s.config, s.services)
			count(held)
			ours.load(t, nothing(), held)
			apply(t, ours.open(t, s.config), s.services)

			listing := ours.nft(t, "", "list", "ruleset")
			wantListing(t, held, listing)
			theirs.nft(t, listing, "-f", "-")
			theirs.wantText(t, s.config.table(), held.String())
			theirs.wantNothingToDo(t, s.config, s.services)
			if diff := cmp.Diff(lines(listing), lines(theirs.nft(t, "", "list", "ruleset"))); diff != "" {
				t.Errorf("the loaded listing is listed differently (-ours +theirs):\n%s", diff)
			}
			wantJSON(t, s.config.table(), ours.nft(t, "", "-j", "list", "ruleset"))
		})
	}
}

func lines(s string) []string { return strings.Split(s, "\n") }

// wantListing compares a listing with our text, line by line. nft uses another
// order and another layout of lists, and leaves out what it adds again when it
// loads the listing:
//
//   - the match of TCP before "reject with tcp reset";
//   - the number of a priority that has a name, at prerouting and postrouting.
func wantListing(t *testing.T, held *Ruleset, listing string) {
	t.Helper()
	want, got := plainLines(held.String()), plainLines(listing)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("listing (-ours +nft's):\n%s", diff)
	}
}

// plainLines returns the lines of a ruleset without their layout, sorted.
func plainLines(text string) []string {
	rewrite := strings.NewReplacer(
		"elements = {", "", ", }", "", " }", "",
		"meta l4proto tcp reject with tcp reset", "reject with tcp reset",
		"hook prerouting priority -100", "hook prerouting priority dstnat",
		"hook prerouting priority -99", "hook prerouting priority dstnat + 1",
		"hook prerouting priority -300", "hook prerouting priority raw",
		"hook postrouting priority 100", "hook postrouting priority srcnat",
	)
	var out []string
	for _, line := range lines(text) {
		for _, item := range splitElements(rewrite.Replace(strings.TrimSpace(line))) {
			if item != "" && item != "}" {
				out = append(out, item)
			}
		}
	}
	slices.Sort(out)
	return out
}

// splitElements splits a line of several elements, as nft writes short ones.
func splitElements(line string) []string {
	if strings.Contains(line, `"`) {
		return []string{strings.TrimSuffix(strings.TrimSpace(line), ",")}
	}
	items := strings.Split(line, ",")
	for i := range items {
		items[i] = strings.TrimSpace(items[i])
	}
	return items
}

// wantJSON checks that the JSON form of a listing has our tables, and every
// object that it refers to.
func wantJSON(t *testing.T, table, text string) {
	t.Helper()
	var listing struct {
		Nftables []map[string]struct {
			Family string `json:"family"`
			Table  string `json:"table"`
			Name   string `json:"name"`
		} `json:"nftables"`
	}
	if err := json.Unmarshal([]byte(text), &listing); err != nil {
		t.Fatalf("%v in\n%s", err, text)
	}
	seen := map[string]int{}
	for _, object := range listing.Nftables {
		for kind, o := range object {
			if kind == "table" && o.Name == table || o.Table == table {
				seen[kind+" "+o.Family]++
			}
		}
	}
	for _, kind := range []string{"table ip", "table ip6", "map ip", "map ip6", "set ip", "chain ip", "rule ip"} {
		if seen[kind] == 0 {
			t.Errorf("the listing has no %s of %s", kind, table)
		}
	}
}

// TestNftShowsNames: an administrator who lists the rules finds the service's
// name beside ports 80 and 30644.
func TestNftShowsNames(t *testing.T) {
	n := newNode(t)
	s := readStory(t, "testdata/nodeip-and-nodeport.txtar")
	apply(t, n.open(t, s.config), s.services)
	listing := n.nft(t, "", "list", "ruleset")
	for _, want := range []string{
		`tcp . 80 counter packets 0 bytes 0 comment "ingress-nginx/controller:http" : goto node-random-3`,
		`tcp . 30644 counter packets 0 bytes 0 comment "ingress-nginx/controller:http" : goto node-random-3`,
	} {
		if !strings.Contains(listing, want) {
			t.Errorf("no %q in\n%s", want, listing)
		}
	}
}

// TestNftLoadsRandom is TestNftLoads for random services.
func TestNftLoadsRandom(t *testing.T) {
	for seed := range uint64(20) {
		d := &dice{randomBytes(seed, 800)}
		services, config := loadable(d.services()), d.config()
		n := newNode(t)
		n.nft(t, mustCompile(t, config, services).String(), "-f", "-")
		n.wantNothingToDo(t, config, services)
		if t.Failed() {
			t.Fatalf("seed %d: %s\n%s", seed, asJSON(config), asJSON(services))
		}
	}
}

// loadable leaves out what makes nft 1.0.6 abort when it loads rules, but not
// when it lists them ("dreg < ctx->reg_low"): a map to which rules add IPv6
// addresses, and a verdict for an IPv6 address and a hash.
func loadable(services []Service) []Service {
	for i := range services {
		s := &services[i]
		if !slices.ContainsFunc(s.Frontends, func(f Frontend) bool { return f.families().has(ruleset.IPv6) }) {
			continue
		}
		s.Affinity = 0
		for j := range s.Backends {
			s.Backends[j].MaxConns = 0
		}
		s.Backends = slices.DeleteFunc(s.Backends, func(b Backend) bool { return b.NodePort > 0 })
	}
	return services
}

// TestNftListsIPv6: nft lists even the rules that it cannot load.
func TestNftListsIPv6(t *testing.T) {
	n := newNode(t)
	front := []Frontend{{Addr: netip.MustParseAddr("fd00:96::1"), Port: 80}}
	apply(t, n.open(t, Config{}), []Service{{
		Name: "affinity", Affinity: 90 * aSecond, Frontends: front,
		Backends: []Backend{{Addr: netip.MustParseAddrPort("[fd00:180::1]:80")}},
	}, {
		Name: "limit", Scheduler: SchedulerMaglev, MaglevSize: 3, Protocol: ProtocolUDP, Frontends: front,
		Backends: []Backend{{Addr: netip.MustParseAddrPort("[fd00:180::1]:80"), MaxConns: 7}},
	}})
	listing := n.nft(t, "", "list", "ruleset")
	for _, want := range []string{
		"update @affinity { ip6 saddr . ct original ip6 daddr . meta l4proto . ct original proto-dst timeout 1m30s : ct reply ip6 saddr . ct reply proto-src }",
		"dnat ip6 to ip6 saddr . ip6 daddr . meta l4proto . th dport map @affinity",
		"ip6 daddr . meta l4proto . th dport . jhash ip6 saddr mod 3 seed 0x6e667464 vmap @limited_backends",
		"ct count over 7 goto no-backend",
	} {
		if !strings.Contains(listing, want) {
			t.Errorf("no %q in\n%s", want, listing)
		}
	}
}
