package nftdp

import (
	"fmt"
	"math"
	"net/netip"
	"strings"

	"github.com/nftdp/go-nftdp/internal/engine"
	"github.com/nftdp/go-nftdp/internal/ruleset"
	"github.com/nftdp/go-nftdp/internal/trace"
)

// DefaultTraceRate is the rate of a TraceFilter whose Rate is 0.
const DefaultTraceRate = 50

// TraceFilter selects packets by their headers before translation. A packet has to
// meet all conditions; the zero value selects all packets.
type TraceFilter struct {
	// Service selects packets to the frontends of this service.
	Service string `json:"service,omitempty"`
	// Protocol is "tcp", "udp", "sctp", "icmp" or "icmpv6"; empty is any.
	Protocol string `json:"protocol,omitempty"`
	// Source and Destination are prefixes of addresses; the zero value is any.
	// Host bits are ignored.
	Source      netip.Prefix `json:"source,omitzero"`
	Destination netip.Prefix `json:"destination,omitzero"`
	// SourcePort and DestinationPort take a Protocol with ports, or a Service;
	// 0 is any.
	SourcePort      uint16 `json:"sourcePort,omitempty"`
	DestinationPort uint16 `json:"destinationPort,omitempty"`
	// Interface is the device on which packets arrive. If it is empty, packets
	// of the node's own processes are selected, too.
	Interface string `json:"interface,omitempty"`
	// Replies also selects packets of the other direction, that is those of
	// connections whose first packet meets the conditions, except Interface.
	Replies bool `json:"replies,omitempty"`
	// Rate is the most packets per second that are followed, counted
	// separately for those that arrive, those of the node's own processes, and
	// replies; 0 is DefaultTraceRate. The others pass unnoticed.
	Rate int `json:"rate,omitempty"`
}

// traceProtocols are the numbers of the protocols by name.
func traceProtocols() map[string]uint8 {
	return map[string]uint8{
		"": 0, "tcp": trace.TCP, "udp": trace.UDP, "sctp": trace.SCTP, "icmp": trace.ICMP, "icmpv6": trace.ICMPv6,
	}
}

// lower checks the filter and turns it into the engine's form.
func (f *TraceFilter) lower() (engine.Selection, error) {
	out := engine.Selection{Service: f.Service}
	if err := joinProblems(f.problems()); err != nil {
		return out, err
	}
	out.Interface, out.Replies, out.Rate = f.Interface, f.Replies, uint32(f.Rate)
	if f.Rate == 0 {
		out.Rate = DefaultTraceRate
	}
	m := &out.Match
	m.Proto = traceProtocols()[strings.ToLower(f.Protocol)]
	for _, p := range []struct {
		prefix netip.Prefix
		to     *[]netip.Prefix
	}{{f.Source, &m.Sources}, {f.Destination, &m.Destinations}} {
		if p.prefix.IsValid() {
			*p.to, m.Family = []netip.Prefix{p.prefix.Masked()}, ruleset.FamilyOf(p.prefix.Addr())
		}
	}
	if f.SourcePort != 0 {
		m.Sport = trace.Ports{First: f.SourcePort, Last: f.SourcePort}
	}
	if f.DestinationPort != 0 {
		m.Dport = trace.Ports{First: f.DestinationPort, Last: f.DestinationPort}
	}
	return out, nil
}

func (f *TraceFilter) problems() (problems []*FieldError) {
	report := func(field, reason string) {
		problems = append(problems, &FieldError{Field: field, Reason: reason})
	}
	proto, known := traceProtocols()[strings.ToLower(f.Protocol)]
	if !known {
		report("protocol", fmt.Sprintf("%q is unknown: use tcp, udp, sctp, icmp or icmpv6", f.Protocol))
	}
	ports := proto == trace.TCP || proto == trace.UDP || proto == trace.SCTP || proto == 0 && f.Service != ""
	if known && !ports && (f.SourcePort != 0 || f.DestinationPort != 0) {
		report("protocol", "has no ports: set tcp, udp or sctp")
	}
	for _, p := range []struct {
		field  string
		prefix netip.Prefix
	}{{"source", f.Source}, {"destination", f.Destination}} {
		if p.prefix.Addr().Is4In6() {
			report(p.field, "is an IPv4-mapped IPv6 prefix: write it as IPv4")
		}
	}
	if f.Source.IsValid() && f.Destination.IsValid() && f.Source.Addr().Is4() != f.Destination.Addr().Is4() {
		report("destination", "is of another family than source")
	}
	if len(f.Interface) > maxDeviceName || strings.ContainsAny(f.Interface, "/ \x00") {
		report("interface", fmt.Sprintf("%q is no name of a network device", f.Interface))
	}
	if f.Rate < 0 || f.Rate > math.MaxInt32 {
		report("rate", "is not between 0 and 2147483647")
	}
	return problems
}

// maxDeviceName is the length of the longest name: IFNAMSIZ without the terminating
// zero.
const maxDeviceName = 15
