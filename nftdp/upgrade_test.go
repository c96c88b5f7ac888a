//go:build linux

package nftdp

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/nftdp/go-nftdp/internal/compile"
	"github.com/nftdp/go-nftdp/internal/nfnl"
	"github.com/nftdp/go-nftdp/internal/nstest"
	"github.com/nftdp/go-nftdp/internal/ruleset"
)

// The batches that each version writes for the same services are recorded in
// testdata/schemas/N.batch for schema N, since later versions have no code that
// could write them.
const schemas = "testdata/schemas"

// recordedServices are the services of the recorded batches.
func recordedServices(t *testing.T) (c Config, services []Service) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(schemas, "services.json"))
	if err != nil {
		t.Fatal(err)
	}
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(&struct {
		Config   *Config    `json:"config"`
		Services *[]Service `json:"services"`
	}{&c, &services}); err != nil {
		t.Fatal(err)
	}
	return c, services
}

// outdated returns the batches of older versions, by the comment of their
// tables.
func outdated(t *testing.T) map[string][]byte {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(schemas, "*.batch"))
	if err != nil || len(files) == 0 {
		t.Fatal("no batches:", err)
	}
	out := map[string][]byte{}
	for _, file := range files {
		batch, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		mark := compile.SchemaPrefix + filepath.Base(file[:len(file)-len(".batch")])
		if !bytes.Contains(batch, []byte(mark+"\x00")) {
			t.Errorf("%s has no %q", file, mark)
		}
		// The batch of this version stands for an older version, too: the first
		// version has no other.
		if mark == compile.Schema {
			batch = bytes.ReplaceAll(batch, []byte(mark), []byte(mark[:len(mark)-1]+"0"))
			mark = mark[:len(mark)-1] + "0"
		}
		out[mark] = batch
	}
	return out
}

// TestSchemaRecorded: the batch that is recorded for this version's schema is
// the one that it writes. With -update a missing record is written; an existing
// one stays.
func TestSchemaRecorded(t *testing.T) {
	c, services := recordedServices(t)
	file := filepath.Join(schemas, compile.Schema[len(compile.SchemaPrefix):]+".batch")
	batch, err := os.ReadFile(file)
	if errors.Is(err, os.ErrNotExist) && *update {
		batch = record(t, mustCompile(t, c, services))
		err = os.WriteFile(file, batch, 0o644)
	}
	if err != nil {
		t.Fatalf("%v: run this test with -update before the schema is released", err)
	}
	n := newNode(t)
	replay(t, n, batch)
	if plan, err := n.open(t, c).Plan(t.Context(), services); err != nil || !plan.Empty() {
		t.Errorf("the layout differs from that of %s: give compile.Schema the next number, "+
			"or delete the file if no release has this schema, and run this test with -update: %v\n%v", file, err, plan)
	}
}

// record returns the batch for a namespace without rules, whose generation is
// 1.
func record(t *testing.T, r *Ruleset) []byte {
	t.Helper()
	count(r)
	batch := nfnl.NewBatch(1, 1)
	changes := nothing().PlanTo(r).changes
	for i := range changes {
		if err := batch.Add(&changes[i]); err != nil {
			t.Fatal(err)
		}
	}
	return batch.Finish()
}

func replay(t *testing.T, n *node, batch []byte) {
	t.Helper()
	if err := nstest.Replay(n.Namespace, batch); err != nil {
		t.Fatal(err)
	}
}

// TestUpgrade: services that an older version has left are not guessed, nor
// lost by an Update that does not know them. Apply replaces everything, and
// counters continue if they have the same meaning.
func TestUpgrade(t *testing.T) {
	c, services := recordedServices(t)
	protected := c
	protected.Protect = true
	for mark, batch := range outdated(t) {
		for _, to := range []Config{c, protected} {
			t.Run(fmt.Sprintf("%s, protect %t", mark, to.Protect), func(t *testing.T) {
				if to.Protect && !newNode(t).protects(t) { // on another node: the batch is for the first generation
					return
				}
				n := newNode(t)
				replay(t, n, batch)
				before := n.read(t, DefaultTable)
				d := n.open(t, to)
				wantOutdated(t, d, services)
				n.wantText(t, DefaultTable, before.String())

				planned, err := d.Plan(t.Context(), services)
				if err != nil || planned.Empty() {
					t.Errorf("plan: %v\n%v", err, planned)
				}
				if diff := cmp.Diff(sortedLines(planned), sortedLines(apply(t, d, services))); diff != "" {
					t.Errorf("(-planned +done):\n%s", diff)
				}
				n.wantServices(t, to, services)
				wantCountersCarried(t, before, n.read(t, DefaultTable))
				held, err := d.Inspect(t.Context())
				if err != nil || len(held) != len(services) {
					t.Errorf("after the upgrade Inspect returns %d services: %v", len(held), err)
				}
				if plan := updateWith(t, d, Change{Set: services}); !plan.Empty() {
					t.Errorf("after the upgrade changes are left:\n%v", plan)
				}
			})
		}
	}
}

// wantOutdated checks that all methods that need the services return
// ErrOutdated.
func wantOutdated(t *testing.T, d *Dataplane, services []Service) {
	t.Helper()
	_, updateErr := d.Update(t.Context(), Change{Set: services[:1]})
	_, inspectErr := d.Inspect(t.Context())
	_, flowsErr := d.Flows(t.Context(), services[0].Name)
	_, drainErr := d.Drain(t.Context(), services[0].Name)
	_, cutErr := d.Cut(t.Context(), services[0].Name)
	for method, err := range map[string]error{
		"update": updateErr, "inspect": inspectErr, "flows": flowsErr, "drain": drainErr, "cut": cutErr,
	} {
		if !errors.Is(err, ErrOutdated) || errors.Is(err, ErrNotOwned) {
			t.Errorf("%s: %v, want %v", method, err, ErrOutdated)
		}
	}
}

// wantCountersCarried checks the maps that have the same keys as before.
func wantCountersCarried(t *testing.T, before, after *Ruleset) {
	t.Helper()
	carried := 0
	for _, table := range before.rules.Tables {
		for _, old := range table.Sets {
			s := after.rules.Table(table.Family).Set(old.Name)
			if s == nil || !s.Counter || !slices.Equal(s.Key, old.Key) {
				continue
			}
			carried++
			former := packets(old)
			for key, n := range packets(s) {
				if want, ok := former[key]; ok && n != want {
					t.Errorf("%s %s: %s counts %d, want %d", table.Family, s.Name, key, n, want)
				}
			}
		}
	}
	t.Logf("%d maps have the same keys as before", carried)
}

// packets returns the counts of a map. Those of a backend's slots are added up.
func packets(s *ruleset.Set) map[string]uint64 {
	out := map[string]uint64{}
	for i := range s.Elements {
		e := &s.Elements[i]
		key := e.Key
		if s.Key[len(s.Key)-1] == ruleset.Slot {
			key = key.Prefix(key.Len() - ruleset.Slot.Len(ruleset.IPv4))
		}
		out[fmt.Sprint(key, e.Data)] += e.Packets
	}
	return out
}

// TestUpgradeOneFamily: a table of an older version beside one of this version.
func TestUpgradeOneFamily(t *testing.T) {
	for _, f := range ruleset.Families {
		n := newNode(t)
		r := mustCompile(t, Config{}, someServices())
		r.rules.Table(f).Comment = compile.SchemaPrefix + "0"
		n.load(t, nothing(), r)
		d := n.open(t, Config{})
		if _, err := d.Update(t.Context(), Change{}); !errors.Is(err, ErrOutdated) {
			t.Errorf("%s: update: %v", f, err)
		}
		apply(t, d, someServices())
		n.wantServices(t, Config{}, someServices())
	}
}

// TestUpgradeRemove: tables that an older version has left can be removed.
func TestUpgradeRemove(t *testing.T) {
	for mark, batch := range outdated(t) {
		n := newNode(t)
		replay(t, n, batch)
		if err := n.open(t, Config{}).Remove(t.Context()); err != nil {
			t.Errorf("%s: %v", mark, err)
		}
		n.wantText(t, DefaultTable, "")
	}
}

// TestDowngradeUndone: if an older version replaces the tables of a Dataplane,
// the next Update replaces them by the wanted ones.
func TestDowngradeUndone(t *testing.T) {
	c, services := recordedServices(t)
	for _, batch := range outdated(t) {
		n := newNode(t)
		replay(t, n, batch)
		d := n.open(t, c)
		apply(t, d, services)
		current := n.read(t, DefaultTable)
		older := mustCompile(t, c, nil)
		for _, table := range older.rules.Tables {
			table.Comment = compile.SchemaPrefix + "0"
		}
		n.load(t, current, older)
		updateWith(t, d, Change{Delete: []string{"sctp"}})
		n.wantServices(t, c, slices.DeleteFunc(slices.Clone(services), func(s Service) bool { return s.Name == "sctp" }))
	}
}
