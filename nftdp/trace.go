package nftdp

import (
	"context"
	"errors"
	"iter"
	"net/netip"
	"time"

	"github.com/nftdp/go-nftdp/internal/flows"
)

// Trace follows packets that pass the filter through all tables of the namespace, of
// whatever program, and yields the way of each as soon as it has left the node,
// reached a process or been dropped. Of a packet that disappears, the way is yielded
// 0.2 seconds later. It runs in the caller's goroutine.
//
// Meanwhile there is a table "nftdp-trace-PORT" of family inet, whose rules select
// packets in prerouting and output at priority -350; its other chains have no rules
// and show how far a packet comes. It is deleted when the loop ends. The kernel also
// deletes it when the process dies, for whatever reason; before Linux 5.12 the kernel
// cannot do that, and a killed process leaves the table behind (`nft delete table
// inet nftdp-trace-PORT`). Other tables are only read.
//
// Tracing costs the selected packets some microseconds for each rule that they
// match, and every other packet of the namespace the evaluation of the selecting
// rules and of four empty chains. While any rule of the machine sets nftrace, the
// kernel checks for each evaluated rule, in all namespaces, whether its packet is
// traced. The next Apply reads our tables, since their generation has changed.
//
// Several traces can run at once, also of several processes; each yields the packets
// of its own filter. Packets that only pass a flow table (offload), or that bpf or
// netdev chains handle alone, are not seen. The packets of one connection share
// Trace.Connection on Linux 6.18 and later.
//
// Errors are yielded and do not end the loop, as with ErrMissed. Only the last error
// does: the context's, ErrClosed after Close, a *FieldError of a wrong filter, or
// what prevents the table. Without nf_tables' family inet, and in package nftdptest,
// it matches ErrNotSupported. In a namespace that is not the one of the calling
// thread, it takes CAP_SYS_ADMIN, as OpenIn does.
func (d *Dataplane) Trace(ctx context.Context, f TraceFilter) iter.Seq2[*Trace, error] {
	return func(yield func(*Trace, error) bool) {
		selection, err := f.lower()
		if err != nil {
			yield(nil, err)
			return
		}
		for found, err := range d.engine.Trace(ctx, selection) {
			if errors.Is(err, flows.ErrNoService) {
				err = &FieldError{Service: f.Service, Field: "name", Reason: "no such service"}
			}
			if !yield(traceOf(found, d.config().table()), err) {
				return
			}
		}
	}
}

// Trace is the way of one packet through the node.
type Trace struct {
	// Time is when the first report about the packet was read. The kernel does
	// not note the time.
	Time time.Time `json:"time"`
	// Packet is the packet before translation, Last as it was seen last.
	Packet Packet `json:"packet"`
	Last   Packet `json:"last"`
	// In is the device on which the packet arrived. It is empty for a packet
	// of a process on this node. Out is the device by which it left, as far as
	// it came.
	In  string `json:"in,omitempty"`
	Out string `json:"out,omitempty"`
	// Connection is the identifier that conntrack has for the connection, and
	// State what the packet is to it: "new", "established", "related",
	// "invalid" or "untracked". Before Linux 6.18, and if the packet did not
	// come so far, they are zero.
	Connection uint32 `json:"connection,omitempty"`
	State      string `json:"state,omitempty"`
	// Reply says that the packet goes from the backend to the client.
	Reply bool `json:"reply,omitempty"`

	// Service is the service whose frontend takes packets to the client's
	// destination, or empty. Backend is where the destination was translated
	// to, if it was, whoever did it. For a reply it is the sender.
	Service string         `json:"service,omitempty"`
	Backend netip.AddrPort `json:"backend,omitzero"`
	// Verdict is what happened to the packet on this node, and Code why.
	Verdict TraceVerdict `json:"verdict"`
	Code    Code         `json:"code"`
	// By is the rule or the policy that dropped the packet, or that translated
	// it before we could. It is one of Steps, or nil.
	By *TraceStep `json:"by,omitempty"`
	// Steps are the rules that the packet matched, in order, and the ends of
	// the chains that it passed.
	Steps []TraceStep `json:"steps"`
	// Incomplete says that reports were missed meanwhile (see ErrMissed).
	Incomplete bool `json:"incomplete,omitempty"`
}

// Packet is what the headers of a packet say.
type Packet struct {
	// Protocol is "tcp", "udp", "sctp", "icmp", "icmpv6" or a number.
	Protocol string `json:"protocol"`
	// Source and Destination have port 0 if the protocol has no ports.
	Source      netip.AddrPort `json:"source"`
	Destination netip.AddrPort `json:"destination"`
	// Info is what distinguishes the packet from others of its connection: the
	// flags of TCP ("syn,ack"), or type and code of ICMP ("type 3 code 1").
	Info string `json:"info,omitempty"`
	// Length is that of the IP packet in bytes.
	Length int `json:"length"`
}

// TraceVerdict is what happened to a packet. In JSON it is the same word.
type TraceVerdict string

// The verdicts.
const (
	// VerdictSent: it left the node by Trace.Out.
	VerdictSent TraceVerdict = "sent"
	// VerdictDelivered: it passed the hook input, so that a process of this
	// node gets it if one listens.
	VerdictDelivered TraceVerdict = "delivered"
	// VerdictDropped: a rule or a policy dropped it.
	VerdictDropped TraceVerdict = "dropped"
	// VerdictRejected: a rule dropped it and answered the sender.
	VerdictRejected TraceVerdict = "rejected"
	// VerdictStolen: a rule has taken it for another purpose, such as synproxy
	// or fwd.
	VerdictStolen TraceVerdict = "stolen"
	// VerdictLost: it was not seen any more, and no rule dropped it.
	VerdictLost TraceVerdict = "lost"
)

// TraceStep is a rule that a packet matched, or the end of a chain.
type TraceStep struct {
	// Hook and Priority are those of the base chain that the packet is in.
	Hook     string `json:"hook"`
	Priority int    `json:"priority"`
	// Family, Table and Chain name the place: "inet", "firewalld",
	// "filter_FORWARD".
	Family string `json:"family"`
	Table  string `json:"table"`
	Chain  string `json:"chain"`
	// Handle is the rule's number, as `nft -a list ruleset` shows it. It is 0
	// at the end of a chain.
	Handle uint64 `json:"handle,omitempty"`
	// Rule is the rule's text. For tables of others it is close to nft's, and
	// names what it does not know, such as "xt match addrtype". Comment is the
	// rule's comment. Both are empty if the rule has been deleted meanwhile.
	Rule    string `json:"rule,omitempty"`
	Comment string `json:"comment,omitempty"`
	// Verdict is "continue", "accept", "drop", "return", "jump CHAIN" and so
	// on; at the end of a base chain its policy.
	Verdict string `json:"verdict"`
	// Packet is the packet at the beginning of a base chain, if that differs
	// from what was seen before.
	Packet *Packet `json:"packet,omitempty"`
}
