package trace

import (
	"slices"
	"time"
)

// Joiner joins messages to ways. The kernel numbers packets by the address of their
// buffer, a hash of their flow and the device they arrived on (nft_trace_init in
// net/netfilter/nf_tables_trace.c). So a packet that reaches another device, as the
// loopback device, gets another number, and a later packet can have the same one.
type Joiner struct {
	table   string
	places  map[string]Place
	pending []*Way // in the order in which they began
	done    []*Way
}

// Quiet is how long after its last message a packet is waited for. The kernel
// handles a packet at once, except for a program that it is queued to.
const Quiet = 200 * time.Millisecond

// NewJoiner returns a Joiner of the packets that the rules of a table select.
func NewJoiner(table string) *Joiner {
	j := &Joiner{table: table, places: map[string]Place{}}
	for _, c := range Chains() {
		j.places[c.Name] = c.Place
	}
	return j
}

// Add adds a message.
func (j *Joiner) Add(m *Message, now time.Time) {
	own := m.Table == j.table
	w := j.find(m)
	if own && m.Handle != 0 && begins(m.Chain) && (w == nil || w.another(m)) {
		j.end(w)
		w = &Way{Began: now, id: m.ID, Local: m.Chain == Leaving, Reply: m.Chain == Replying}
		j.pending = append(j.pending, w)
	}
	if w == nil {
		return // another trace's
	}
	w.last = now
	w.add(m)
	switch {
	case own && j.places[m.Chain] != Nowhere && m.Packet != nil:
		w.Seen = append(w.Seen, Sight{j.places[m.Chain], *m.Packet})
	case !OfTrace(m.Table):
		w.Messages = append(w.Messages, *m)
	}
	if w.ended() {
		j.end(w)
	}
}

func begins(chain string) bool { return chain == Arriving || chain == Leaving || chain == Replying }

// another reports whether a message that begins a way is of another packet than w,
// which has the same number. A reply can be selected twice in its first hook, and a
// packet that comes back from the loopback device, again.
func (w *Way) another(m *Message) bool {
	if m.Chain == Replying && len(w.Seen) == 0 {
		w.Reply = true
		return false
	}
	return !w.looping()
}

// find returns the way that a message belongs to, or nil. A packet that comes from
// another device has a new number, and the headers that it had there.
func (j *Joiner) find(m *Message) *Way {
	i := slices.IndexFunc(j.pending, func(w *Way) bool { return w.id == m.ID })
	if i < 0 && m.Packet != nil && m.In.Index != 0 {
		i = slices.IndexFunc(j.pending, func(w *Way) bool { return w.at != m.In && w.now().same(m.Packet) })
	}
	if i < 0 {
		return nil
	}
	j.pending[i].id = m.ID
	return j.pending[i]
}

// now is the packet as it was seen last.
func (w *Way) now() *Packet {
	if n := len(w.Seen); n > 0 {
		return &w.Seen[n-1].Packet
	}
	return &w.Packet
}

// add takes over what a message says about the packet.
func (w *Way) add(m *Message) {
	if w.Conn == (Conn{}) {
		w.Conn = m.Conn
	}
	if m.Packet == nil {
		return
	}
	if w.Packet == (Packet{}) {
		w.Packet, w.In = *m.Packet, m.In
	}
	w.at = m.In
	if m.Out.Index != 0 {
		w.Out = m.Out
	}
}

// looping reports whether the packet leaves by the loopback device, and so comes
// back.
func (w *Way) looping() bool {
	n := len(w.Seen)
	return n > 0 && w.Seen[n-1].At == PostroutingEnd && w.Out.Loopback
}

// ended reports whether no more messages can follow.
func (w *Way) ended() bool {
	if w.Verdict() != nil {
		return true
	}
	n := len(w.Seen)
	return n > 0 && (w.Seen[n-1].At == InputEnd || w.Seen[n-1].At == PostroutingEnd && !w.Out.Loopback)
}

// Verdict is the message that ended the way in a rule or a policy, or nil.
func (w *Way) Verdict() *Message {
	if len(w.Messages) == 0 {
		return nil
	}
	m := &w.Messages[len(w.Messages)-1]
	if b := m.Verdict.Base(); b == Drop || b == Stolen {
		return m
	}
	return nil
}

// Last is where one of our chains saw the packet last.
func (w *Way) Last() Place {
	if n := len(w.Seen); n > 0 {
		return w.Seen[n-1].At
	}
	return Nowhere
}

func (j *Joiner) end(w *Way) {
	if w == nil {
		return
	}
	j.pending = slices.DeleteFunc(j.pending, func(p *Way) bool { return p == w })
	j.done = append(j.done, w)
}

// Missed says that messages were missed: no pending way is complete.
func (j *Joiner) Missed() {
	for _, w := range j.pending {
		w.Lost = true
	}
	j.done, j.pending = append(j.done, j.pending...), nil
}

// Done returns the ways that have ended, in the order in which they did, and those
// of which nothing has been reported for the time Quiet.
func (j *Joiner) Done(now time.Time) []*Way {
	for _, w := range slices.Clone(j.pending) {
		if now.Sub(w.last) >= Quiet {
			j.end(w)
		}
	}
	out := j.done
	j.done = nil
	return out
}

// Pending reports whether there are ways that have not ended.
func (j *Joiner) Pending() bool { return len(j.pending) > 0 }
