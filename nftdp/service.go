package nftdp

import "net/netip"

// Service says which connections are taken (Frontends) and where they go
// (Backends). It is plain data: comparable by its JSON, safe to copy, never
// changed by this package.
type Service struct {
	// Name identifies the service, by convention "namespace/name:port". It
	// is unique among all services, stays the same over the service's life
	// and is seen in listings, errors and statistics. 1 to MaxNameLen bytes
	// of UTF-8: printable characters and spaces (also at the ends), but no
	// double quote, since nft can not carry one in a comment.
	Name string `json:"name"`
	// Protocol of all frontends and backends; zero is TCP.
	Protocol Protocol `json:"protocol,omitzero"`
	// Frontends are the ways in, in any order. A service without frontends
	// is valid and takes no connection.
	Frontends []Frontend `json:"frontends,omitempty"`
	// Backends are the destinations, in any order, of both families if the
	// frontends are. Each connection goes to one of its frontend's family.
	Backends []Backend `json:"backends,omitempty"`
	// Balance chooses the backend of a new connection; zero is Random.
	Balance Balance `json:"balance,omitzero"`
	// MaglevSize is the number of slots of a Maglev table: a prime, at least
	// the number of usable backends and at most 65521. Zero chooses one with
	// a hundred slots per backend where possible: 251 for up to 2 backends,
	// 1021 for up to 10, 4093 for up to 40, 16381 for up to 160, else 65521.
	// Another size moves almost every client, so set it where the number of
	// backends passes these limits often.
	MaglevSize uint16 `json:"maglevSize,omitempty"`
}

// Frontend is an address and port, or a port on the node's own addresses,
// that clients connect to. Nothing needs to listen there; if something does,
// the frontend wins for every connection that begins while it is programmed.
type Frontend struct {
	// Addr is the destination address: a ClusterIP, an external or
	// load-balancer address, or one of the node's own. Unset (or "" in JSON)
	// makes the frontend node-wide: it takes Port on every node address of
	// both families, as Config.NodeAddrs limits them. 0.0.0.0 is node-wide
	// for IPv4 alone and :: for IPv6 alone. An IPv4-mapped IPv6 address
	// means the IPv4 address. Multicast, broadcast, loopback and scoped
	// addresses are refused.
	//
	// A frontend with an address takes precedence over a node-wide one with
	// the same port and protocol on that address.
	Addr netip.Addr `json:"addr,omitzero"`
	// Port is the destination port, 1 to 65535.
	Port uint16 `json:"port"`
	// NoBackend is what happens to new connections while no backend of the
	// frontend's family is usable; zero is Reject.
	NoBackend Action `json:"noBackend,omitzero"`
}

// Backend is a destination.
type Backend struct {
	// Addr is where connections go, as the node reaches it. A port of 0, an
	// unspecified, multicast, broadcast, loopback or scoped address is
	// refused; an IPv4-mapped IPv6 address means the IPv4 address. If the
	// service has frontends, one must be of the same family, and no two
	// backends have the same address and port.
	Addr netip.AddrPort `json:"addr"`
	// State says whether new connections may go there; zero is Active.
	State State `json:"state,omitzero"`
	// Weight is the backend's share of connections, relative to the weights
	// of the others in the pool; zero means 1. Weights are divided by their
	// greatest common divisor and become slots, each as likely as the
	// others: exact, unless there are more than 1024 slots and more than
	// four per backend. Then they are rounded to that many, each backend to
	// at least one.
	Weight uint16 `json:"weight,omitempty"`
	// Backup keeps the backend in reserve: it gets connections only while
	// no other backend of its family is Active.
	Backup bool `json:"backup,omitempty"`
}

// Limits of one service.
const (
	// MaxNameLen is the most bytes of a name: what nft takes as a comment.
	MaxNameLen = 128
	// MaxBackends is the most usable backends of one family in a service:
	// the slots that a pool can have.
	MaxBackends = 65535
)

// Balance is how the backend of a new connection is chosen. In JSON it is
// "random", "round-robin", "source-hash" or "maglev".
type Balance uint8

// The ways to balance.
const (
	// Random draws a backend for every connection.
	Random Balance = iota
	// RoundRobin takes backends in turn, in each frontend for itself; with
	// weights, turns of one backend are spread over the period. As the
	// kernel keeps the position in a rule, every frontend has a chain of its
	// own: this is for tens or hundreds of services rather than thousands.
	RoundRobin
	// SourceHash takes the backend by a hash of the client's address. When
	// the number of backends changes, most clients move.
	SourceHash
	// Maglev takes the backend by a hash of the client's address from a
	// consistent table: when a backend comes or goes, few clients besides
	// its own move. All nodes with the same backends choose alike, and so
	// they do with SourceHash. A table takes MaglevSize elements for each
	// frontend.
	Maglev
)

// Protocol is a layer-4 protocol. In JSON it is "tcp", "udp" or "sctp" in
// upper or lower case.
type Protocol uint8

// The protocols.
const (
	TCP Protocol = iota
	UDP
	SCTP
)

// Action is what becomes of a connection that no backend can take. In JSON it
// is "reject" or "drop" in upper or lower case.
type Action uint8

// The actions.
const (
	// Reject answers at once: TCP with a reset, other protocols with an
	// ICMP or ICMPv6 port-unreachable error. A local process that sends a
	// datagram gets EPERM from the kernel instead.
	Reject Action = iota
	// Drop stays silent, so that the client runs into its own timeout.
	Drop
)

// State is a backend's readiness. In JSON it is "active", "draining" or "down"
// in upper or lower case.
type State uint8

// The states. Established TCP connections and SCTP associations go on in every
// state: the kernel translates them until they end.
const (
	// Active backends get new connections.
	Active State = iota
	// Draining backends get no new connections, and keep their UDP flows.
	Draining
	// Down backends get no new connections, and lose their UDP flows to
	// others.
	Down
)
