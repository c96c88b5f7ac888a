package trace

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

const own = TablePrefix + "1"

// script feeds messages to a Joiner. Times are counted from zero.
type script struct {
	*Joiner
	now time.Time
}

func newScript() *script { return &script{NewJoiner(own), time.Unix(0, 0)} }

func packet(port uint16, number uint64) *Packet {
	return &Packet{
		Proto: UDP, Src: netip.MustParseAddrPort("203.0.113.7:4000"),
		Dst: netip.AddrPortFrom(netip.MustParseAddr("10.96.0.10"), port), number: number,
	}
}

var (
	eth0     = Device{Index: 2}
	loopback = Device{Index: 1, Loopback: true}
)

func (s *script) add(m Message) { s.Add(&m, s.now) }

// begin begins the way of a packet.
func (s *script) begin(id uint32, p *Packet) {
	s.add(Message{ID: id, Kind: Rule, Table: own, Chain: Arriving, Handle: 2, Verdict: Verdict{Code: Continue}, Packet: p, In: eth0})
	s.add(Message{ID: id, Kind: Policy, Table: own, Chain: "prerouting", Verdict: Verdict{Code: Accept}})
}

func (s *script) at(id uint32, chain string, p *Packet, in, out Device) {
	s.add(Message{ID: id, Kind: Policy, Table: own, Chain: chain, Verdict: Verdict{Code: Accept}, Packet: p, In: in, Out: out})
}

func (s *script) rule(id uint32, code int32) {
	s.add(Message{ID: id, Kind: Rule, Table: "t", Chain: "c", Handle: 7, Verdict: Verdict{Code: code}})
}

// wantDone compares the ways that have ended, as "where it was seen last, the number
// of messages, the verdict".
func (s *script) wantDone(t *testing.T, want ...string) {
	t.Helper()
	var got []string
	for _, w := range s.Done(s.now) {
		verdict := "none"
		if m := w.Verdict(); m != nil {
			verdict = m.Verdict.String()
		}
		got = append(got, fmt.Sprintf("port %d at %d, %d rules, %s", w.Packet.Dst.Port(), w.Last(), len(w.Messages), verdict))
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("ended (-want +got):\n%s", diff)
	}
}

// TestJoin: messages of packets that are on their way at the same time.
func TestJoin(t *testing.T) {
	s := newScript()
	s.begin(1, packet(80, 1))
	s.begin(2, packet(81, 2))
	s.rule(1, Jump)
	s.rule(2, Drop)
	s.wantDone(t, "port 81 at 0, 1 rules, drop")
	s.rule(2, Accept) // of a packet that has ended
	s.at(1, "prerouting-end", packet(80, 1), eth0, Device{})
	s.at(1, "postrouting-end", packet(8080, 1), Device{}, eth0)
	s.wantDone(t, "port 80 at 7, 1 rules, none")
	if s.Pending() {
		t.Error("still pending")
	}
}

// TestJoinOthers: packets that other traces follow are left out, also where our
// chains see them.
func TestJoinOthers(t *testing.T) {
	s := newScript()
	s.rule(1, Jump)
	s.at(1, "prerouting", packet(80, 1), eth0, Device{})
	s.at(1, "postrouting-end", packet(80, 1), Device{}, eth0)
	s.add(Message{ID: 2, Kind: Rule, Table: own, Chain: Arriving, Packet: packet(80, 1)}) // the end of the chain: over the limit
	s.wantDone(t)
	if s.Pending() {
		t.Error("there are pending packets")
	}
}

// TestJoinNumberReused: a later packet can have the number of a former one that has
// disappeared.
func TestJoinNumberReused(t *testing.T) {
	s := newScript()
	s.begin(1, packet(80, 1))
	s.at(1, "prerouting-end", packet(8080, 1), eth0, Device{})
	s.begin(1, packet(81, 2))
	s.wantDone(t, "port 80 at 1, 0 rules, none")
	s.rule(1, Drop)
	s.wantDone(t, "port 81 at 0, 1 rules, drop")
}

// TestJoinQuiet: a packet that disappears has ended after a while.
func TestJoinQuiet(t *testing.T) {
	s := newScript()
	s.begin(1, packet(80, 1))
	s.now = s.now.Add(Quiet - 1)
	s.wantDone(t)
	s.now = s.now.Add(1)
	s.wantDone(t, "port 80 at 0, 0 rules, none")
}

// TestJoinLoopback: a packet that leaves by the loopback device comes back with
// another number, and may be selected again. Another packet with the same addresses
// is another one.
func TestJoinLoopback(t *testing.T) {
	for _, again := range []bool{false, true} {
		s := newScript()
		s.add(Message{ID: 1, Kind: Rule, Table: own, Chain: Leaving, Handle: 3, Packet: packet(80, 1), Out: loopback})
		s.at(1, "postrouting-end", packet(8080, 1), Device{}, loopback)
		s.wantDone(t)
		if again {
			s.add(Message{ID: 9, Kind: Rule, Table: own, Chain: Arriving, Handle: 2, Packet: packet(8080, 1), In: loopback})
		} else {
			s.at(9, "prerouting", packet(8080, 1), loopback, Device{})
		}
		s.begin(5, packet(8080, 2))
		s.at(9, "input-end", packet(8080, 1), loopback, Device{})
		s.wantDone(t, "port 80 at 3, 0 rules, none")
		s.rule(5, Drop)
		s.wantDone(t, "port 8080 at 0, 1 rules, drop")
	}
}

// TestJoinReply: a reply that the filter selects twice in its first hook is one
// packet.
func TestJoinReply(t *testing.T) {
	s := newScript()
	s.begin(1, packet(80, 1))
	s.add(Message{ID: 1, Kind: Rule, Table: own, Chain: Replying, Handle: 4, Packet: packet(80, 1), In: eth0, Conn: Conn{ID: 7, Reply: true, State: StateEstablished}})
	s.at(1, "input-end", packet(80, 1), eth0, Device{})
	ways := s.Done(s.now)
	if len(ways) != 1 || !ways[0].Reply || ways[0].Conn.ID != 7 {
		t.Errorf("%+v", ways)
	}
}

// TestJoinMissed: if messages were missed, no pending way is complete, and those that
// ended before are.
func TestJoinMissed(t *testing.T) {
	s := newScript()
	s.begin(1, packet(80, 1))
	s.begin(2, packet(81, 2))
	s.rule(1, Drop)
	s.Missed()
	ways := s.Done(s.now)
	if len(ways) != 2 || ways[0].Lost || !ways[1].Lost {
		t.Errorf("%+v", ways)
	}
}

// TestReadPacket: headers of both families, cut short as the kernel does.
func TestReadPacket(t *testing.T) {
	v4 := []byte{
		0x45, 0, 0, 60, 0x12, 0x34, 0, 0, 64, TCP, 0, 0,
		10, 0, 0, 1, 10, 0, 0, 2,
	}
	v6 := append([]byte{0x60, 0, 0, 0, 0, 8, ICMPv6, 64, 0xfd, 23: 1, 24: 0xfd, 39: 2}, make([]byte, 8)...)
	tcp := []byte{0x9c, 0x40, 0, 80, 0, 0, 0, 1, 0, 0, 0, 0, 0x50, 0x02, 0, 0}
	for name, c := range map[string]struct {
		network, transport []byte
		want               string
	}{
		"tcp":          {v4, tcp, "{6 10.0.0.1:40000 10.0.0.2:80 2 0 0 60 20014547599361}"},
		"tcp, cut":     {v4, tcp[:8], "{6 10.0.0.1:40000 10.0.0.2:80 0 0 0 60 4660}"},
		"no transport": {v4, nil, "{6 10.0.0.1:0 10.0.0.2:0 0 0 0 60 4660}"},
		"icmpv6":       {v6, []byte{128, 0, 0, 0}, "{58 [fd00::1]:0 [fd00::2]:0 0 128 0 48 0}"},
		"cut":          {v4[:19], tcp, ""},
		"empty":        {nil, nil, ""},
		"neither":      {make([]byte, 40), tcp, ""},
	} {
		got := ""
		if p, ok := ReadPacket(c.network, c.transport); ok {
			got = fmt.Sprint(p)
		}
		if got != c.want {
			t.Errorf("%s: %s, want %s", name, got, c.want)
		}
	}
}
