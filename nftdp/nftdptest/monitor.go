package nftdptest

import (
	"context"

	"github.com/nftdp/go-nftdp/internal/ruleset"
)

// transaction is what a monitor receives of one.
type transaction struct {
	generation uint32
	port       uint32 // of who committed it
	events     []ruleset.Event
}

// publish ends a transaction of a netlink port, and sends its events to every monitor.
func (n *Node) publish(port uint32, changes []ruleset.Change) {
	n.generation = next(n.generation)
	for m := range n.monitors {
		m.received = append(m.received, transaction{n.generation, port, events(port, changes)})
	}
	n.changed.Broadcast()
}

// events say which tables have changed, but not what in them: whoever receives
// them reads the tables.
func events(port uint32, changes []ruleset.Change) []ruleset.Event {
	var out []ruleset.Event
	for i := range changes {
		out = append(out, ruleset.Event{Kind: ruleset.KindTable, Family: changes[i].Family, Table: changes[i].Table})
	}
	by := ruleset.Process{PID: 1 + int(port), Name: "nftdp"}
	if port == 0 {
		by.Name = "nft"
	}
	return append(out, ruleset.Event{Kind: ruleset.KindEnd, Process: by})
}

// next is the generation after another one, which is never 0.
func next(generation uint32) uint32 { return max(generation+1, 1) }

// monitor implements engine.Monitor.
type monitor struct {
	node     *Node
	port     uint32        // whose transactions it does not report
	at       uint32        // the last known generation
	received []transaction // since Join
}

func (m *monitor) Join() error {
	m.node.mu.Lock()
	defer m.node.mu.Unlock()
	m.node.monitors[m] = true
	return nil
}

func (m *monitor) Leave() error {
	m.node.mu.Lock()
	defer m.node.mu.Unlock()
	delete(m.node.monitors, m)
	m.received = nil
	return nil
}

func (m *monitor) Known(generation uint32) { m.at = generation }

func (m *monitor) Discard() error {
	m.take()
	return nil
}

func (m *monitor) CatchUp(ctx context.Context, to uint32, each func(*ruleset.Event)) (uint32, error) {
	for _, t := range m.take() {
		switch {
		case int32(t.generation-m.at) <= 0:
			continue
		case t.generation != next(m.at):
			return 0, ruleset.ErrMissed
		}
		m.at = t.generation
		for i := range t.events {
			if t.port != m.port {
				each(&t.events[i])
			}
		}
	}
	if int32(m.at-to) < 0 {
		return 0, ruleset.ErrMissed
	}
	return m.at, ctx.Err()
}

func (m *monitor) take() []transaction {
	m.node.mu.Lock()
	defer m.node.mu.Unlock()
	received := m.received
	m.received = nil
	return received
}

// fixed implements engine.AddressMonitor: a node in memory keeps its addresses.
type fixed struct{}

func (fixed) Join() error                        { return nil }
func (fixed) Leave() error                       { return nil }
func (fixed) Changed() ([]ruleset.Family, error) { return nil, nil }

// waker implements engine.Waker.
type waker struct {
	monitor *monitor
	woken   bool
}

func (w *waker) Wait() error {
	n := w.monitor.node
	n.mu.Lock()
	defer n.mu.Unlock()
	for !w.woken && len(w.monitor.received) == 0 {
		n.changed.Wait()
	}
	return nil
}

func (w *waker) Wake() { w.set(true) }

func (w *waker) Reset() error {
	w.set(false)
	return nil
}

func (w *waker) set(woken bool) {
	n := w.monitor.node
	n.mu.Lock()
	defer n.mu.Unlock()
	w.woken = woken
	n.changed.Broadcast()
}

func (w *waker) Close() error { return nil }
