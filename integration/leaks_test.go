//go:build linux

package integration

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"sync"
	"testing"
	"time"

	"github.com/nftdp/go-nftdp/internal/nstest"
	"github.com/nftdp/go-nftdp/nftdp"
)

// TestNothingLeaks measures processes that do the same thing very often.
// Afterwards they hold no more than before, and all their threads are in the
// namespace where they began.
func TestNothingLeaks(t *testing.T) {
	t.Parallel()
	ns := newNamespace(t)
	for _, name := range []string{"open often", "update often"} {
		c := startChild(t, ns, name)
		c.end(t)
		t.Logf("%s: %s", name, c.stderr)
	}
}

// openOften opens, uses and closes Dataplanes in many namespaces, by handle or as
// the calling thread's namespace.
func openOften() error {
	const namespaces, opens, workers = 50, 1000, 4
	all := make([]*nstest.Namespace, namespaces)
	for i := range all {
		ns, err := nstest.New(fmt.Sprint("node ", i))
		if err != nil {
			return err
		}
		defer ns.Close()
		all[i] = ns
	}
	before := holdings()
	debug.SetGCPercent(-1) // finalizers would close files that leak
	var errs [workers]error
	var wait sync.WaitGroup
	for worker := range workers {
		wait.Go(func() {
			for i := worker; i < opens && errs[worker] == nil; i += workers {
				errs[worker] = openAndUse(all[i%namespaces], i%3 == 0)
			}
		})
	}
	wait.Wait()
	if err := errors.Join(errs[:]...); err != nil {
		return err
	}
	return before.compare()
}

func openAndUse(ns *nstest.Namespace, inside bool) (err error) {
	var d *nftdp.Dataplane
	if inside {
		err = ns.Do(func() (err error) { d, err = nftdp.Config{}.Open(context.Background()); return err })
	} else {
		d, err = nftdp.Config{}.OpenIn(context.Background(), ns.Handle())
	}
	if err != nil {
		return err
	}
	_, err = d.Apply(context.Background(), restartServices()[:1])
	return errors.Join(err, d.Close())
}

// updateOften changes a few services very often.
func updateOften() error {
	const updates = 10_000
	d, err := nftdp.Config{}.Open(context.Background())
	if err != nil {
		return err
	}
	var before *held
	for i := range updates + updates/10 {
		if i == updates/10 { // maps and buffers have reached their size
			before = holdings()
		}
		change := nftdp.Change{Set: []nftdp.Service{{
			Name: fmt.Sprint("web ", i%20), Frontends: nodeWide(uint16(1000 + i%20)), Backends: backends(upTo(1 + i%3)...),
		}}}
		if i%7 == 0 {
			change.Delete = []string{fmt.Sprint("web ", (i+10)%20)}
		}
		if _, err := d.Update(context.Background(), change); err != nil {
			return fmt.Errorf("update %d: %w", i, err)
		}
	}
	return errors.Join(before.compare(), d.Close())
}

// held counts what a process holds.
type held struct {
	files, goroutines int
	heap              uint64 // in bytes
}

func holdings() *held {
	runtime.GC()
	runtime.GC() // objects with finalizers go in the second cycle
	var memory runtime.MemStats
	runtime.ReadMemStats(&memory)
	return &held{files: openFiles(), goroutines: runtime.NumGoroutine(), heap: memory.HeapAlloc}
}

func openFiles() int {
	files, _ := filepath.Glob("/proc/self/fd/*")
	return len(files)
}

// slack is how much the heap may grow by chance, in bytes. A leak in each of
// thousands of calls would be larger.
const slack = 256 << 10

// compare returns an error if the process holds more than before. Goroutines and
// threads that are about to end have some time to do so.
func (before *held) compare() error {
	if files := openFiles(); files > before.files {
		return fmt.Errorf("%d files are open, %d were", files, before.files)
	}
	deadline := time.Now().Add(askTimeout)
	for {
		after := holdings()
		err := foreignThreads()
		if after.goroutines > before.goroutines || after.heap > before.heap+slack {
			err = errors.Join(err, fmt.Errorf("the process holds %+v, before it held %+v", *after, *before))
		}
		if err == nil || time.Now().After(deadline) {
			fmt.Fprintf(os.Stderr, "before %+v, after %+v\n", *before, *after)
			return err
		}
		runtime.Gosched()
	}
}

// foreignThreads returns an error that names the threads in another network
// namespace than the process.
func foreignThreads() error {
	home, err := os.Readlink("/proc/self/ns/net")
	if err != nil {
		return err
	}
	threads, _ := filepath.Glob("/proc/self/task/*/ns/net")
	var errs []error
	for _, thread := range threads {
		if at, err := os.Readlink(thread); err == nil && at != home { // a thread that has ended has no link
			errs = append(errs, fmt.Errorf("%s is %s, not %s", thread, at, home))
		}
	}
	return errors.Join(errs...)
}
