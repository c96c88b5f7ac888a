//go:build linux

package nftdp

import (
	"errors"
	"io/fs"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/nftdp/go-nftdp/internal/nstest"
	"github.com/nftdp/go-nftdp/internal/ruleset"
)

// adoption is the plan of a Dataplane that finds orphaned tables and nothing
// else to change.
const adoption = "add table ip nftdp { flags owner,persist; }\nadd table ip6 nftdp { flags owner,persist; }\n"

// protects reports whether the kernel can protect tables, as Linux can from 6.9
// on. If it cannot, Apply names what is missing and changes nothing.
func (n *node) protects(t *testing.T) bool {
	t.Helper()
	c := Config{Table: "protection", Protect: true}
	d := n.open(t, c)
	_, err := d.Apply(t.Context(), someServices())
	if err == nil {
		err = d.Remove(t.Context())
	}
	if err == nil {
		return true
	}
	if !errors.Is(err, ErrNotSupported) || !strings.Contains(err.Error(), "Config.Protect, Linux 6.9") || !nstest.LinuxBefore(6, 9) {
		t.Fatal(err)
	}
	n.wantText(t, c.Table, "")
	t.Log(err)
	return false
}

// TestProtect: while one Dataplane is open, others can read its tables but not
// change them. After Close the tables are unchanged, and the next Dataplane
// adopts them with its first change.
func TestProtect(t *testing.T) {
	for name, act := range map[string]func(*testing.T, *Dataplane) *Plan{
		"apply":  func(t *testing.T, d *Dataplane) *Plan { t.Helper(); return apply(t, d, someServices()) },
		"update": func(t *testing.T, d *Dataplane) *Plan { t.Helper(); return updateWith(t, d, Change{}) },
	} {
		t.Run(name, func(t *testing.T) {
			n, c := newNode(t), Config{Protect: true}
			if !n.protects(t) {
				return
			}
			owner, itsKernel := n.spied(t, c)
			apply(t, owner, someServices())
			n.wantOwner(t, itsKernel)
			n.wantForeignEditsRefused(t)
			if plan := apply(t, owner, someServices()); !plan.Empty() {
				t.Errorf("the owner's second Apply makes changes:\n%v", plan)
			}

			next, itsKernel := n.spied(t, c)
			wantProtected(t, next)
			wantProtected(t, n.open(t, Config{}))
			services, err := next.Inspect(t.Context())
			if err != nil || len(services) != len(someServices()) {
				t.Errorf("another Dataplane reads %d services: %v", len(services), err)
			}
			n.wantServices(t, c, someServices())

			closeOf(t, owner)
			n.wantFlags(t, ruleset.Persist, 0)
			if diff := cmp.Diff(adoption, act(t, next).String()); diff != "" {
				t.Errorf("the adoption of orphaned tables (-want +got):\n%s", diff)
			}
			n.wantOwner(t, itsKernel)
			n.wantForeignEditsRefused(t)
			n.wantServices(t, c, someServices())
		})
	}
}

// wantOwner checks that a Dataplane owns both tables, and that they would
// outlive it.
func (n *node) wantOwner(t *testing.T, itsKernel *spy) {
	t.Helper()
	n.wantFlags(t, ruleset.Protected, itsKernel.Port())
}

func (n *node) wantFlags(t *testing.T, flags ruleset.TableFlags, port uint32) {
	t.Helper()
	tables := n.read(t, DefaultTable).rules.Tables
	if len(tables) != len(ruleset.Families) {
		t.Errorf("%d tables", len(tables))
	}
	for _, table := range tables {
		if table.Flags != flags || table.Port != port {
			t.Errorf("table %s has flags %q of port %d, want %q of %d", table.Family, table.Flags, table.Port, flags, port)
		}
	}
}

// wantForeignEditsRefused tries each kind of change from another socket.
func (n *node) wantForeignEditsRefused(t *testing.T) {
	t.Helper()
	for _, table := range n.read(t, DefaultTable).rules.Tables {
		set, chain := table.Set("frontends"), table.Chain("services")
		for _, c := range []ruleset.Change{
			{Verb: ruleset.Delete},
			{Verb: ruleset.Adopt, Flags: ruleset.Protected},
			{Verb: ruleset.Adopt},
			{Verb: ruleset.Add, Chain: &ruleset.Chain{Name: "theirs"}},
			{Verb: ruleset.Flush, Chain: chain},
			{Verb: ruleset.Add, Chain: chain, Rule: ruleset.Rule{ruleset.Verdict{Kind: ruleset.Drop}}},
			{Verb: ruleset.Add, Set: &ruleset.Set{Name: "theirs", Key: set.Key}},
			{Verb: ruleset.Delete, Set: set, Elements: set.Elements[:1]},
		} {
			c.Family, c.Table = table.Family, table.Name
			_, err := n.conn.Commit(t.Context(), n.generation(t), []ruleset.Change{c})
			if !errors.Is(err, unix.EPERM) {
				t.Errorf("%s: %v, want %v", &c, err, unix.EPERM)
			}
		}
	}
}

// wantProtected checks that a Dataplane refuses all changes of tables that
// another one owns.
func wantProtected(t *testing.T, d *Dataplane) {
	t.Helper()
	_, planErr := d.Plan(t.Context(), someServices())
	_, applyErr := d.Apply(t.Context(), someServices())
	_, updateErr := d.Update(t.Context(), Change{})
	for method, err := range map[string]error{
		"plan": planErr, "apply": applyErr, "update": updateErr, "remove": d.Remove(t.Context()),
	} {
		if !errors.Is(err, ErrProtected) || !errors.Is(err, fs.ErrPermission) {
			t.Errorf("%s: %v, want %v", method, err, ErrProtected)
		}
	}
}

// TestProtectSwitched: Apply and Update make tables protected or not, as the
// Config says, whatever they were before. Tables that are replaced keep their
// counters and services.
func TestProtectSwitched(t *testing.T) {
	for _, c := range []struct {
		name       string
		from, to   Config
		want       string // the beginning of the plan
		port       bool
		finalFlags ruleset.TableFlags
	}{
		{
			"on",
			Config{},
			Config{Protect: true},
			"delete table ip nftdp\nadd table ip nftdp { flags owner,persist; ", true, ruleset.Protected,
		},
		{"off", Config{Protect: true}, Config{}, "delete table ip nftdp\nadd table ip nftdp { comment ", false, 0},
		{"left on", Config{Protect: true}, Config{Protect: true}, adoption[:43], true, ruleset.Protected},
	} {
		for _, by := range []string{"apply", "update"} {
			t.Run(c.name+" by "+by, func(t *testing.T) {
				n := newNode(t)
				if !n.protects(t) {
					return
				}
				n.loadCounted(t, c.from)
				before := n.read(t, DefaultTable)

				d, itsKernel := n.spied(t, c.to)
				var plan *Plan
				if by == "apply" {
					plan = apply(t, d, someServices())
				} else {
					plan = updateWith(t, d, Change{})
				}
				if !strings.HasPrefix(plan.String(), c.want) {
					t.Errorf("the plan does not begin with %q:\n%v", c.want, plan)
				}
				var port uint32
				if c.port {
					port = itsKernel.Port()
				}
				n.wantFlags(t, c.finalFlags, port)
				n.wantServices(t, c.to, someServices())
				after := n.read(t, DefaultTable)
				if diff := cmp.Diff(before.status(), after.status(), plainAddrs()); diff != "" {
					t.Errorf("services and counters (-before +after):\n%s", diff)
				}
			})
		}
	}
}

// loadCounted loads services with counts, as a former process would leave them:
// orphaned if it protected them.
func (n *node) loadCounted(t *testing.T, c Config) {
	t.Helper()
	r := mustCompile(t, c, someServices())
	count(r)
	for _, table := range r.rules.Tables {
		table.Flags &= ruleset.Persist
	}
	n.load(t, nothing(), r)
}

// TestProtectRemove: the owner can remove its tables, and anybody can remove
// orphaned ones.
func TestProtectRemove(t *testing.T) {
	for _, orphan := range []bool{false, true} {
		n := newNode(t)
		if !n.protects(t) {
			return
		}
		d := n.open(t, Config{Protect: true})
		apply(t, d, someServices())
		if orphan {
			closeOf(t, d)
			d = n.open(t, Config{})
		}
		if err := d.Remove(t.Context()); err != nil {
			t.Errorf("orphan %t: %v", orphan, err)
		}
		n.wantText(t, DefaultTable, "")
	}
}

// TestAdoptionUndone: an orphaned table stays orphaned if the kernel refuses
// the batch that adopts it.
func TestAdoptionUndone(t *testing.T) {
	n := newNode(t)
	if !n.protects(t) {
		return
	}
	n.loadCounted(t, Config{Protect: true})
	adopt := ruleset.Change{Verb: ruleset.Adopt, Family: ruleset.IPv4, Table: DefaultTable, Flags: ruleset.Protected}
	wrong := ruleset.Change{Verb: ruleset.Delete, Family: ruleset.IPv4, Table: DefaultTable, Chain: &ruleset.Chain{Name: "none"}}
	if _, err := n.conn.Commit(t.Context(), n.generation(t), []ruleset.Change{adopt, wrong}); !errors.Is(err, unix.ENOENT) {
		t.Fatalf("the batch returned %v", err)
	}
	n.wantFlags(t, ruleset.Persist, 0)
}

// TestFlagsStay: the kernel does not change the flags of a table, so tables are
// replaced when Protect is turned on or off.
func TestFlagsStay(t *testing.T) {
	for _, c := range []struct {
		from Config
		to   ruleset.TableFlags
	}{
		{Config{}, ruleset.Protected},
		{Config{}, ruleset.Persist},
		{Config{Protect: true}, ruleset.Persist},
		{Config{Protect: true}, 0},
	} {
		n := newNode(t)
		if !n.protects(t) {
			return
		}
		n.load(t, nothing(), mustCompile(t, c.from, nil)) // by the same socket
		set := ruleset.Change{Verb: ruleset.Adopt, Family: ruleset.IPv4, Table: DefaultTable, Flags: c.to}
		if _, err := n.conn.Commit(t.Context(), n.generation(t), []ruleset.Change{set}); !errors.Is(err, unix.EOPNOTSUPP) {
			t.Errorf("protected %t, then flags %q: %v", c.from.Protect, c.to, err)
		}
	}
}

// TestProtectedChain: the chain of a new class of pools is committed ahead of
// the change, even if orphaned tables are adopted with it.
func TestProtectedChain(t *testing.T) {
	c := Config{Protect: true}
	orphans := mustCompile(t, c, []Service{web("a", 1, 1)})
	for _, table := range orphans.rules.Tables {
		table.Flags = ruleset.Persist
	}
	phased := ruleset.Diff(orphans.rules, mustCompile(t, c, []Service{web("a", 1, 2)}).rules).Stages()
	if len(phased) != 2 || !strings.HasPrefix(phased[0][0].String(), "add chain") {
		t.Errorf("%d batches, the first begins with %q", len(phased), &phased[0][0])
	}
}

// TestNftProtected: stock nft lists protected tables, but can neither change
// nor flush them. It can flush orphaned ones.
func TestNftProtected(t *testing.T) {
	n, c := newNode(t), Config{Protect: true}
	if !n.protects(t) {
		return
	}
	d, itsKernel := n.spied(t, c)
	apply(t, d, someServices())
	listing := n.nft(t, "", "list", "table", "ip", DefaultTable)
	if !strings.Contains(listing, "\tflags owner") {
		t.Errorf("no flags in\n%s", listing)
	}
	n.nft(t, "", "flush", "ruleset")
	n.wantServices(t, c, someServices())
	n.wantOwner(t, itsKernel)

	closeOf(t, d)
	listing = n.nft(t, "", "list", "table", "ip", DefaultTable)
	if strings.Contains(listing, "owner") || !strings.Contains(listing, "\tflags ") {
		t.Errorf("the orphan is listed as\n%s", listing)
	}
	n.nft(t, "", "flush", "ruleset")
	n.wantText(t, DefaultTable, "")
}
