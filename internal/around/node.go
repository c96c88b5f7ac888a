package around

import (
	"net/netip"

	"github.com/nftdp/go-nftdp/internal/ruleset"
)

// Node is what decides about packets in a network namespace besides our rules, as it
// was read at one moment.
type Node struct {
	// Parameters has the values of those kernel parameters that exist, named as by
	// sysctl(8).
	Parameters map[string]string
	Links      []Link
	Local      []netip.Prefix       // destinations of local routes
	Hops       map[netip.Addr]Reach // to backends
	Neighbours map[Hop]Neighbour    // that packets to backends go to
	Listeners  []Listener
	// Foreign has the chains of others that see packets of a family: by table, and
	// then by name.
	Foreign map[ruleset.Family][]map[string]*Chain
	// Others are tables of ours with another name, with their frontends.
	Others []*ruleset.Table
	// Tables are those of the Dataplane, without elements.
	Tables []*ruleset.Table
	// Legacy lists the tables of iptables-legacy and ip6tables-legacy that exist, as
	// "ip nat". nf_tables does not show their rules.
	Legacy []string
	// Drift is how elements of services differ from what is wanted.
	Drift []ruleset.Change
	// Missing lists what the kernel cannot do.
	Missing []Missing
	// Filtered counts the packets that rp_filter has dropped.
	Filtered uint64
}

// Question says what is to be read.
type Question struct {
	Table string             // the name of our tables
	Addrs []netip.Addr       // of backends, each once
	Flags ruleset.TableFlags // of the tables that are wanted
}

// Missing is something that the kernel cannot do.
type Missing struct {
	What    string // that cannot be done without it
	Options string // the kernel options, or the version, that have it
	Refused string // what the kernel does: "refused add rule …: no such file or directory"
	Need    Need
	Cost    string // what follows: "no service can be programmed"
}

// Need says who needs what is missing.
type Need uint8

// The needs.
const (
	Spared Need = iota // only services that ask for it
	Missed             // some connections of all services
	Needed             // all services
)

// Link is a network device with its parameters.
type Link struct {
	Device
	Master       uint32 // of a port of a bridge and the like
	Kind         string // "veth", "bridge" or the like; hardware has none
	Up, Loopback bool
	NoARP        bool  // packets need no link-layer address
	IPv4         *IPv4 // the values of net.ipv4.conf.NAME; nil without IPv4
	HairpinOff   bool  // a port of a bridge that sends no packet back to where it came from
}

// IPv4 are parameters of a link.
type IPv4 struct {
	Forwarding, RouteLocalnet bool
	RPFilter                  int
}

// Reach is a route, or why there is none. A route by several next hops has none
// of them.
type Reach struct {
	Route
	Refusal Refusal
	Several bool
}

// Listener is a socket that takes packets from any client.
type Listener struct {
	Proto uint8
	Addr  netip.AddrPort // unspecified: every address of the family, or of both
	Both  bool           // an unspecified IPv6 address stands for IPv4, too
}

// BlocksForwarding reports whether IPv4 packets arrive by a link that does not forward
// them. Those that arrive by a port of a bridge or the like arrive by its master.
func (l Link) BlocksForwarding() bool {
	return l.Up && !l.Loopback && l.Master == 0 && l.IPv4 != nil && !l.IPv4.Forwarding
}

// Translation returns the first rule on the ways through a base chain that translates
// the packet's destination, maybe, or nil. All are the chains of its table.
func Translation(base *Chain, all map[string]*Chain, p *Packet) (*Chain, *Rule) {
	return translation(base, all, p, 0)
}

func translation(c *Chain, all map[string]*Chain, p *Packet, depth int) (*Chain, *Rule) {
	if depth > maxJumps {
		return nil, nil
	}
	for i := range c.Rules {
		r := &c.Rules[i]
		answer, e := r.Eval(p)
		if answer == No {
			continue
		}
		if e.Translates {
			return c, r
		}
		if next := all[e.Verdict.Chain]; next != nil {
			if in, by := translation(next, all, p, depth+1); by != nil {
				return in, by
			}
		}
		if answer == Yes && (e.Reject || e.Verdict.Kind == ruleset.Accept || e.Verdict.Kind == ruleset.Drop || e.Verdict.Kind == ruleset.Return) {
			return nil, nil
		}
	}
	return nil, nil
}
