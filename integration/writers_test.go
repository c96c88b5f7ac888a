//go:build linux

package integration

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"testing"

	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/nftdp/go-nftdp/internal/nstest"
	"github.com/nftdp/go-nftdp/nftdp"
)

// tableEnv and writerEnv are the table and the name of a process that writes.
const (
	tableEnv  = "NFTDP_TEST_TABLE"
	writerEnv = "NFTDP_TEST_WRITER"
)

// TestWriters: two processes change services as fast as they can, and after each
// change another program changes the rules of another table. A change that ends in
// ErrConflict has not been made and can be tried again; every other one has been
// made. With the same table each writer undoes the other one's changes, and all
// services are those of the last writer in the end.
func TestWriters(t *testing.T) {
	t.Parallel()
	for _, table := range []string{"blue", "red"} {
		t.Run("red and "+table, func(t *testing.T) {
			t.Parallel()
			ns := newNamespace(t)
			done, rules := make(chan struct{}, 1), 0
			var writers, others sync.WaitGroup
			theirs, other := nftTable{unix.NFPROTO_INET, "theirs"}, dialOther(t, ns)
			meddle(t, ns, theirs.add(), theirs.addChain("chain"))
			rule := theirs.insertRule(t, "chain", &expr.Verdict{Kind: expr.VerdictAccept})
			others.Go(func() { rules = writeRules(t, other, done, theirs.flushChain("chain"), rule) })
			one := startChild(t, ns, "write", tableEnv+"=red", writerEnv+"=one")
			two := startChild(t, ns, "write", tableEnv+"="+table, writerEnv+"=two")
			writers.Go(func() { passOn(one, done) })
			writers.Go(func() { passOn(two, done) })
			writers.Wait()
			one.end(t)
			two.end(t)
			close(done)
			others.Wait()
			t.Logf("another program wrote %d rules\none: %stwo: %s", rules, one.stderr, two.stderr)
			isOne, isTwo := holds(t, ns, "red", "one"), holds(t, ns, table, "two")
			if table == "red" && isOne == isTwo || table != "red" && (!isOne || !isTwo) {
				t.Errorf("the tables hold the services of one: %t, of two: %t", isOne, isTwo)
			}
		})
	}
}

// write is a process that changes services, and tries again after a conflict.
func write() error {
	ctx := context.Background()
	d, err := nftdp.Config{Table: os.Getenv(tableEnv)}.Open(ctx)
	if err != nil {
		return err
	}
	writer, conflicts := os.Getenv(writerEnv), 0
	again := func(change func() error) error {
		for err := change(); ; err = change() {
			if !errors.Is(err, nftdp.ErrConflict) {
				return err
			}
			conflicts++
		}
	}
	if err := again(func() error { _, err := d.Apply(ctx, written(writer, 0)); return err }); err != nil {
		return err
	}
	for i := range writings {
		change := nftdp.Change{Set: written(writer, i+1)[i%perWriter:][:1]}
		if err := again(func() error { _, err := d.Update(ctx, change); return err }); err != nil {
			return err
		}
		fmt.Println(i)
	}
	fmt.Fprintf(os.Stderr, "%d changes, %d times ErrConflict\n", writings, conflicts)
	return nil
}

const (
	perWriter = 10  // services
	writings  = 200 // changes
)

// written are the services of a writer after so many changes, each of which is of
// the next service.
func written(writer string, changes int) []nftdp.Service {
	out := make([]nftdp.Service, perWriter)
	for i := range out {
		rounds := (changes - i + perWriter - 1) / perWriter
		out[i] = nftdp.Service{
			Name: fmt.Sprint(writer, i), Frontends: nodeWide(uint16(80 + i)), Backends: backends(upTo(1 + (rounds+i)%5)...),
		}
	}
	return out
}

// holds reports whether a table holds exactly the services of a writer.
func holds(t *testing.T, ns *nstest.Namespace, table, writer string) bool {
	t.Helper()
	config := nftdp.Config{Table: table}
	held, err := openDataplane(t, ns, config).Ruleset(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	want, err := config.Compile(written(writer, writings))
	if err != nil {
		t.Fatal(err)
	}
	return held.PlanTo(want).Empty()
}

// passOn sends to done after each change of a writer, unless the receiver is still
// busy, until the writer ends.
func passOn(writer *child, done chan<- struct{}) {
	for {
		if _, err := writer.lines.ReadString('\n'); err != nil {
			return
		}
		select {
		case done <- struct{}{}:
		default:
		}
	}
}

// writeRules is another program that makes the same edits several times whenever it
// receives from done, and returns how often. Without pauses it would take all the
// time of a single slow processor.
func writeRules(t *testing.T, other other, done <-chan struct{}, edits ...edit) (n int) {
	t.Helper()
	const times = 8
	for range done {
		for range times {
			if err := other.commit(edits...); err != nil {
				t.Errorf("another program's change: %v", err)
				return n
			}
			n++
		}
	}
	return n
}
