//go:build linux

package nftdp

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/nftdp/go-nftdp/internal/ruleset"
)

// observed collects events. Durations are left out.
type observed struct {
	mu     sync.Mutex
	events []Event
}

func (o *observed) add(e Event) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.events = append(o.events, e)
}

// kinds returns the words of all events since the last call.
func (o *observed) kinds() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	var out []string
	for _, e := range o.events {
		out = append(out, strings.TrimSpace(string(e.Kind)+" "+e.Method))
	}
	o.events = nil
	return strings.Join(out, ", ")
}

// TestEvents: everything that a Dataplane does is reported once, in its order, and
// nothing after stop. An observer can call the Dataplane, since nobody holds its lock.
func TestEvents(t *testing.T) {
	n := newNode(t)
	d, s := n.spied(t, Config{})
	var o observed
	stop := d.Observe(func(e Event) {
		o.add(e)
		if e.Kind != EventTransaction {
			return
		}
		if _, err := d.Plan(t.Context(), nil); err != nil {
			t.Error(err)
		}
	})
	want := func(what, kinds string, err error) {
		t.Helper()
		if err != nil {
			t.Errorf("%s: %v", what, err)
		}
		if diff := cmp.Diff(kinds, o.kinds()); diff != "" {
			t.Errorf("%s (-want +got):\n%s", what, diff)
		}
	}
	services := someServices()
	s.before = func([]ruleset.Change) { s.before = nil; n.disturb(t) }
	_, err := d.Apply(t.Context(), services)
	want("first Apply, while others change rules", "read, retry, read, transaction, change Apply", err)
	_, err = d.Apply(t.Context(), services)
	want("Apply of the same", "change Apply", err)
	_, err = d.Update(t.Context(), Change{Delete: []string{services[0].Name}})
	want("Update", "transaction, change Update", err)
	_, err = d.SetConfig(t.Context(), Config{Localhost: true})
	want("SetConfig", "transaction, change SetConfig", err)
	_, err = d.SetState(t.Context(), services[2].Name, StateDown, services[2].Backends[0].Addr)
	want("SetState", "transaction, transaction, transaction, change SetState", err)

	s.fails = errors.New("no memory")
	if _, err = d.Update(t.Context(), Change{Delete: []string{services[1].Name}}); err == nil {
		t.Error("no error")
	}
	want("a failure", "change Update", nil)
	s.fails = nil
	want("Remove", "transaction, read, change Remove", d.Remove(t.Context())) // read by the observer's Plan

	for i := range 200 {
		services = append(services, web(fmt.Sprint(i), 10+i, 3))
	}
	s.limit = 60000
	_, err = d.Apply(t.Context(), services)
	if got := o.kinds(); err != nil || !strings.HasPrefix(got, "read, split, transaction, transaction, ") {
		t.Errorf("split: %q, %v", got, err)
	}
	stop()
	want("after stop", "", d.Remove(t.Context()))
}

// TestLogEvents: the levels, and the attributes of which there are any.
func TestLogEvents(t *testing.T) {
	var out bytes.Buffer
	log := LogEvents(slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{
		Level: slog.LevelDebug,
		ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
			if a.Key == slog.TimeKey {
				return slog.Attr{}
			}
			return a
		},
	})))
	log(Event{Kind: EventChange, Method: "Apply", Count: 7, Duration: 1000})
	log(Event{Kind: EventChange, Method: "Update", Duration: 1000, Err: ErrConflict})
	log(Event{Kind: EventRetry, Count: 1})
	log(Event{Kind: EventRepair, Count: 2, By: []Process{{42, "nft"}}})
	want := `level=DEBUG msg="nftdp: change" count=7 duration=1µs method=Apply
level=ERROR msg="nftdp: change" count=0 duration=1µs method=Update error="rules kept changing"
level=INFO msg="nftdp: retry" count=1 duration=0s
level=WARN msg="nftdp: repair" count=2 by="[{PID:42 Name:nft}]"
`
	if diff := cmp.Diff(want, out.String()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}
