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
	// Scheduler chooses the backend of a new connection; zero is Random.
	Scheduler Scheduler `json:"scheduler,omitzero"`
	// AffinitySeconds is how long a client, known by its address, comes back
	// to its backend, counted from its last connection; 0 is not at all. Each
	// frontend address remembers its clients by itself, all of them in one
	// map of the kernel (see Config.AffinitySize). A backend that is removed,
	// draining or down, or that turns into a backup in reserve, loses its
	// clients with the change. Not together with port ranges or MaxConns.
	AffinitySeconds uint32 `json:"affinitySeconds,omitempty"`
	// SNAT lists the addresses that backends see instead of one of the
	// outgoing interface, where a connection is masqueraded: at most one of
	// each family. They have to lead back to this node.
	SNAT []netip.Addr `json:"snat,omitempty"`
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
	// EndPort makes the frontend a range, from Port to EndPort, which costs
	// no more elements than a single port. The backends of a service with a
	// range have port 0: they get connections on the port that the client
	// connects to. A single port wins over a range that contains it.
	EndPort uint16 `json:"endPort,omitempty"`
	// Policy is which backends connections may go to; zero is PolicyAnyBackend.
	Policy Policy `json:"policy,omitzero"`
	// Masquerade is when backends see an address of this node instead of
	// the client's; zero is MasqueradeAuto.
	Masquerade Masquerade `json:"masquerade,omitzero"`
	// Allow lists the prefixes of clients that may connect; empty is
	// everybody. If it has prefixes of one family only, nobody of the other
	// may. Deny lists those that may not, also inside of Allow. Packets of
	// the others are dropped silently, before they are translated, wherever
	// they come from: also those of pods, and of the node itself.
	Allow []netip.Prefix `json:"allow,omitempty"`
	Deny  []netip.Prefix `json:"deny,omitempty"`
	// NoBackend is what happens to new connections while no backend that
	// the frontend may use is usable; zero is ActionDefault.
	NoBackend Action `json:"noBackend,omitzero"`
}

// Backend is a destination.
type Backend struct {
	// Addr is where connections go, as the node reaches it. The port is 0 if
	// and only if the service has a range of ports. An unspecified, multicast,
	// broadcast, loopback or scoped address is refused; an IPv4-mapped IPv6
	// address means the IPv4 address. If the service has frontends, one must be
	// of the same family, and no two backends have the same address and port.
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
	// Local says that the backend is on this node, for PolicyLocalOnly and
	// PolicyExternalLocalOnly.
	Local bool `json:"local,omitempty"`
	// MaxConns limits the connections that the backend has at a time; 0 does
	// not. Those over the limit are refused as NoBackend says, although other
	// backends may have room: with Drop, a TCP client's next try finds one.
	// The kernel counts connections from the time when the limit is set, over
	// all frontends with the same NoBackend of all services that give the
	// backend the same limit: those of TCP until both sides have closed them,
	// others until conntrack forgets them. Not together with AffinitySeconds
	// or port ranges.
	MaxConns uint32 `json:"maxConns,omitempty"`
}

// Limits of one service.
const (
	// MaxNameLen is the most bytes of a name: what nft takes as a comment.
	MaxNameLen = 128
	// MaxBackends is the most usable backends of one family in a service:
	// the slots that a pool can have.
	MaxBackends = 65535
	// MaxRangeBackends is the same for services with port ranges.
	MaxRangeBackends = 8192
)

// Scheduler is how the backend of a new connection is chosen. In JSON it is
// "random", "round-robin", "source-hash" or "maglev".
type Scheduler uint8

// The ways to balance.
const (
	// SchedulerRandom draws a backend for every connection.
	SchedulerRandom Scheduler = iota
	// SchedulerRoundRobin takes backends in turn, in each frontend for itself; with
	// weights, turns of one backend are spread over the period. As the
	// kernel keeps the position in a rule, every frontend has a chain of its
	// own: this is for tens or hundreds of services rather than thousands.
	SchedulerRoundRobin
	// SchedulerSourceHash takes the backend by a hash of the client's address. When
	// the number of backends changes, most clients move.
	SchedulerSourceHash
	// SchedulerMaglev takes the backend by a hash of the client's address from a
	// consistent table: when a backend comes or goes, few clients besides
	// its own move. All nodes with the same backends choose alike, and so
	// they do with SourceHash. A table takes MaglevSize elements for each
	// frontend.
	SchedulerMaglev
)

// Protocol is a layer-4 protocol. In JSON it is "tcp", "udp" or "sctp" in
// upper or lower case.
type Protocol uint8

// The protocols.
const (
	ProtocolTCP Protocol = iota
	ProtocolUDP
	ProtocolSCTP
)

// Action is what becomes of a connection that no backend can take. In JSON it
// is "default", "reject" or "drop" in upper or lower case.
type Action uint8

// The actions.
const (
	// ActionDefault is Reject, but Drop while there are usable backends that
	// the frontend's Policy leaves out. So a load balancer whose probe gets
	// no answer here turns to other nodes, as Kubernetes specifies it.
	ActionDefault Action = iota
	// ActionReject answers at once: TCP with a reset, other protocols with an
	// ICMP or ICMPv6 port-unreachable error. A local process that sends a
	// datagram gets EPERM from the kernel instead.
	ActionReject
	// ActionDrop stays silent, so that the client runs into its own timeout.
	ActionDrop
)

// Policy is which backends a frontend leads to. In JSON it is "any-backend",
// "local-only" or "external-local-only".
type Policy uint8

// The policies.
const (
	// PolicyAnyBackend leads to all.
	PolicyAnyBackend Policy = iota
	// PolicyLocalOnly leads all clients to backends on this node, as Kubernetes'
	// internalTrafficPolicy: Local does. Clients keep their source address.
	PolicyLocalOnly
	// PolicyExternalLocalOnly leads clients outside to backends on this node, with
	// their source address, as Kubernetes' externalTrafficPolicy: Local does.
	// Clients in Config.Internal and processes on the node reach all backends.
	PolicyExternalLocalOnly
)

// Masquerade is when the source address of connections is rewritten, so that
// replies come back through this node: to one of the outgoing interface, or
// that of Service.SNAT. A backend that reaches itself through its own service
// is masqueraded always, and so is a process that connects to a loopback
// address. Where the backend is on an address of the node itself, the packet
// does not leave, and the source is never rewritten. In JSON it is "auto",
// "always" or "never".
type Masquerade uint8

// When to masquerade.
const (
	// MasqueradeAuto leaves out clients in Config.Internal. With PolicyLocalOnly
	// and PolicyExternalLocalOnly it leaves out all clients but the node itself.
	MasqueradeAuto Masquerade = iota
	// MasqueradeAlways leaves out none.
	MasqueradeAlways
	// MasqueradeNever leaves out all: the network has to send replies of
	// the backends through this node.
	MasqueradeNever
)

// State is a backend's readiness. In JSON it is "active", "draining" or "down"
// in upper or lower case.
type State uint8

// The states. Established TCP connections and SCTP associations go on in every
// state: the kernel translates them until they end.
const (
	// StateActive backends get new connections.
	StateActive State = iota
	// StateDraining backends get no new connections, and keep their UDP flows.
	StateDraining
	// StateDown backends get no new connections, and lose their UDP flows to
	// others.
	StateDown
)
