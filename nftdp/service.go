package nftdp

import (
	"net/netip"
	"slices"
)

// Service says which connections are taken (Frontends) and where they go
// (Backends). It is plain data, which this package never changes. Two services
// are the same if their JSON is.
type Service struct {
	// Name identifies the service, by convention "namespace/name:port". It is
	// unique among all services, stays the same over the service's life and
	// appears in listings, errors and statistics. It has 1 to MaxNameLen bytes
	// of UTF-8: printable characters and spaces (also at the ends), but no
	// double quote, since a comment in nft cannot contain one.
	Name string `json:"name"`
	// Protocol is that of all frontends and backends; zero is ProtocolTCP.
	Protocol Protocol `json:"protocol,omitzero"`
	// Frontends are where clients connect to, in any order. A service without
	// frontends is valid and takes no connections.
	Frontends []Frontend `json:"frontends,omitempty"`
	// Backends are where connections go, in any order. A connection goes to a
	// backend of its own family, IPv4 or IPv6.
	Backends []Backend `json:"backends,omitempty"`
	// Scheduler chooses the backend of a new connection; zero is
	// SchedulerRandom.
	Scheduler Scheduler `json:"scheduler,omitzero"`
	// Affinity is how long a client, known by its address, comes back to its
	// backend, counted from its last connection: whole seconds, at least one
	// and at most math.MaxUint32. 0 disables affinity. The client comes back to
	// the same backend by every frontend of the service of its family that may lead
	// it to all backends of the frontend by which it came: where a policy leaves
	// other backends to a frontend, that one remembers the client separately.
	// Frontends with a loopback address always do. Each frontend takes an entry for
	// each client in a map of the kernel (see Config.AffinitySize), so a connection
	// of a service with n frontends of a family writes n entries. A frontend that is
	// added knows a client from its next connection to one of the others on. A
	// backend that is removed, draining or down, or that becomes a backup in
	// reserve, loses its clients with the change. It cannot be combined with port
	// ranges or MaxConns.
	Affinity Duration `json:"affinity,omitzero"`
	// SNAT lists the source addresses of masqueraded connections, at most one
	// of each family, also for those that are always masqueraded (see
	// Masquerade). They have to lead back to this node; replies to a process
	// that connects to a loopback address are delivered only if the address is
	// the node's own. Without one, it is an address of the outgoing interface.
	SNAT []netip.Addr `json:"snat,omitempty"`
	// MaglevSize is the number of slots of the table of SchedulerMaglev: a
	// prime, at least the number of active backends of a family and at most
	// 65521 (32749 with port ranges). Zero chooses one with a hundred slots per
	// backend where possible: 251 for up to 2 backends, 1021 for up to 10, 4093
	// for up to 40, 16381 for up to 160, else 65521; with port ranges it is
	// always 16381. A change of the size moves almost every client, so set it
	// where the number of backends often crosses these limits.
	MaglevSize uint16 `json:"maglevSize,omitempty"`
	// CutStale breaks established TCP connections and SCTP associations that are
	// stale, as UDP flows are always: those that lead to a backend which is
	// removed or down, or which their client may not reach any more, also when
	// the service is deleted. The next segment of a client is answered with a
	// reset. Without it they go on until they end, or until Dataplane.Cut. It
	// takes effect with the change that it is set in, and makes nothing stale by
	// itself.
	CutStale bool `json:"cutStale,omitempty"`
}

// alike reports whether two services are the same but for their frontends.
func (s *Service) alike(o *Service) bool {
	return s.Name == o.Name && s.Protocol == o.Protocol && s.Scheduler == o.Scheduler && s.Affinity == o.Affinity &&
		s.MaglevSize == o.MaglevSize && s.CutStale == o.CutStale &&
		slices.Equal(s.SNAT, o.SNAT) && slices.Equal(s.Backends, o.Backends)
}

// Frontend is an address and port, or a port on the node's own addresses, that
// clients connect to. Nothing needs to listen there. If something does, it gets
// none of the connections that begin while the frontend is programmed.
type Frontend struct {
	// Addr is the destination address: a ClusterIP, an external or
	// load-balancer address, or one of the node's own. The zero Addr ("" or
	// nothing in JSON) makes the frontend node-wide: it takes Port on the
	// node's addresses, within the limits of Config.NodeAddrs, in the families
	// of the service's backends, or in both while there are none. In a family
	// that has no backend it claims the port as well, but leaves connections to
	// the host unless NoBackend says otherwise (see ActionDefault). 0.0.0.0 is
	// node-wide for IPv4 alone and :: for IPv6 alone, whatever the backends
	// are.
	//
	// A loopback address (127.0.0.0/8 or ::1) is for processes on this node
	// alone, and works without Config.Localhost and without the sysctl
	// net.ipv4.conf.all.route_localnet: where others have set that, packets from
	// outside to backends behind such an address are dropped. Link-local IPv6
	// addresses are refused, since the kernel does not forward what clients send
	// to them; those of IPv4 work. An IPv4-mapped IPv6 address means the IPv4
	// address. Multicast and broadcast addresses are refused, and so are those
	// with a zone.
	//
	// A frontend with an address takes precedence over a node-wide one with
	// the same port and protocol on that address.
	Addr netip.Addr `json:"addr,omitzero"`
	// Port is the destination port, 1 to 65535.
	Port uint16 `json:"port"`
	// EndPort makes the frontend a range of ports from Port to EndPort, both
	// included, which costs no more elements than a single port; zero makes it
	// a single port. The backends of a service with a range have port 0: they
	// get each connection on the port that the client connects to. A frontend
	// with a single port takes precedence over a range that contains it.
	EndPort uint16 `json:"endPort,omitempty"`
	// Policy says which backends connections may go to; zero is
	// PolicyAnyBackend.
	Policy Policy `json:"policy,omitzero"`
	// Masquerade says when backends see an address of this node instead of
	// the client's; zero is MasqueradeAuto.
	Masquerade Masquerade `json:"masquerade,omitzero"`
	// MasqueradeClients lists the prefixes of the clients that are
	// masqueraded, whatever Policy and Config.Internal say: the subnet of a
	// bridge, for example, where replies from one container to another do not
	// pass through this node. All other clients keep their address, also
	// processes on this node. If it is empty, Masquerade decides. If it has
	// prefixes of one family only, no client of the other family is
	// masqueraded. It is possible with MasqueradeAuto only.
	MasqueradeClients []netip.Prefix `json:"masqueradeClients,omitempty"`
	// Allow lists the prefixes of clients that may connect; if it is empty,
	// all may. If it has prefixes of one family only, no client of the other
	// family may. Deny lists the prefixes of clients that may not connect,
	// also within Allow. Connections from clients that may not connect are
	// dropped silently, also from pods and from the node itself.
	Allow []netip.Prefix `json:"allow,omitempty"`
	Deny  []netip.Prefix `json:"deny,omitempty"`
	// NoBackend says what happens to new connections while the frontend has
	// no usable backend; zero is ActionDefault.
	NoBackend Action `json:"noBackend,omitzero"`
}

// equal reports whether two frontends are the same, field by field.
func (f *Frontend) equal(o *Frontend) bool {
	return f.Addr == o.Addr && f.Port == o.Port && f.EndPort == o.EndPort && f.Policy == o.Policy &&
		f.Masquerade == o.Masquerade && f.NoBackend == o.NoBackend &&
		slices.Equal(f.MasqueradeClients, o.MasqueradeClients) && slices.Equal(f.Allow, o.Allow) && slices.Equal(f.Deny, o.Deny)
}

// Backend is where connections go.
type Backend struct {
	// Addr is the address and port at which the node reaches the backend. The
	// port is 0 if and only if the service has a range of ports. Unspecified,
	// multicast, broadcast, loopback and link-local IPv6 addresses are refused,
	// and so are those with a zone; an IPv4-mapped IPv6 address means the IPv4
	// address. No two backends of a service have the same address and port, and
	// if it has frontends, at least one is of the backend's family. The kernel
	// translates a connection once, so a backend is never taken for a frontend,
	// neither of this service nor of another one: the address is that of a
	// machine, or the node's own.
	Addr netip.AddrPort `json:"addr,omitzero"`
	// NodePort, in place of Addr, makes the backend a port of the node itself, in
	// both families, whichever of the node's addresses there are: nft's redirect.
	// Connections from elsewhere arrive at an address of the interface by which they
	// came in (the first one in IPv4), and are dropped if it has none; those of local
	// processes arrive at 127.0.0.1 or ::1. So a server that listens on a loopback
	// address alone gets the latter only, and one for all listens on every address.
	// What the client has connected to, OriginalDst tells it. Sources are never
	// rewritten. The backend is on this node, whether Local is set or not. Other
	// backends can be beside it, with weights. It cannot be combined with Affinity or
	// port ranges. In Drain, Cut and SetState it is 0.0.0.0:PORT or [::]:PORT; the zero
	// Addr with PORT means both in Drain and Cut.
	NodePort uint16 `json:"nodePort,omitempty"`
	// State says whether the backend gets new connections; zero is
	// StateActive.
	State State `json:"state,omitzero"`
	// Weight is the backend's share of new connections, relative to the
	// weights of the other backends; zero means 1. Weights are divided by their
	// greatest common divisor and become slots of equal probability. Shares are
	// exact, unless that makes more than 1024 slots and more than four per
	// backend. Then they are rounded to that many slots, at least one for each
	// backend.
	Weight uint16 `json:"weight,omitempty"`
	// Backup keeps the backend in reserve: it gets new connections only while
	// the service has no other active backend of its family. Where a policy
	// allows only backends on this node, those alone count: a local backup is
	// used while no other local backend is active, whatever there is elsewhere.
	Backup bool `json:"backup,omitempty"`
	// Local says that the backend is on this node, for PolicyLocalOnly and
	// PolicyExternalLocalOnly.
	Local bool `json:"local,omitempty"`
	// LocalOnly keeps a local backend for the connections that a policy restricts
	// to backends on this node. Where all backends are allowed, it gets
	// connections only while there is no other active one of its family, not even
	// a backup. So pods can use the backends of their zone, while clients outside
	// reach all backends of this node, through frontends of one service.
	LocalOnly bool `json:"localOnly,omitempty"`
	// MaxConns limits the number of connections that the backend has at a
	// time; 0 means no limit. Connections over the limit are rejected or
	// dropped as Frontend.NoBackend says, although other backends may have
	// room; if they are dropped, a TCP client's next attempt may find one. The
	// kernel counts connections from the time when the limit is set, over all
	// frontends with the same NoBackend of all services that have the same
	// limit for the backend: TCP connections until both sides have closed them,
	// others until conntrack removes their entries. A UDP socket that is refused
	// several times within two jiffies of the kernel (up to 20 ms), and then let
	// in, may count several times as long as its flow lasts. It cannot be combined
	// with Affinity or port ranges.
	MaxConns uint32 `json:"maxConns,omitempty"`
}

// Limits of one service.
const (
	// MaxNameLen is the most bytes of a name: what nft takes as a comment.
	MaxNameLen = 128
	// MaxBackends is the most active backends of one family in a service.
	MaxBackends = 65535
	// MaxRangeBackends is the same for a service with port ranges.
	MaxRangeBackends = 8192
)

// Scheduler is how the backend of a new connection is chosen. In JSON it is
// "random", "round-robin", "source-hash", "maglev" or "source-port-hash", in upper
// or lower case.
type Scheduler uint8

// The schedulers.
const (
	// SchedulerRandom chooses a backend at random for every connection.
	SchedulerRandom Scheduler = iota
	// SchedulerRoundRobin chooses the backends in turn, separately for each
	// frontend; with weights, the turns of a backend are spread over the
	// cycle. As the kernel keeps the position in a rule, every frontend has a
	// chain of its own, so this is for tens or hundreds of services rather
	// than thousands.
	SchedulerRoundRobin
	// SchedulerSourceHash chooses the backend by a hash of the client's
	// address, alike on all nodes with the same backends. When the number of
	// backends changes, most clients move.
	SchedulerSourceHash
	// SchedulerMaglev chooses the backend by a hash of the client's address
	// from a consistent table, alike on all nodes with the same backends. When
	// a backend is added or removed, few other clients move. The table takes
	// Service.MaglevSize elements for each frontend.
	SchedulerMaglev
	// SchedulerSourcePortHash chooses the backend by a hash of the client's
	// address and port, alike on all nodes with the same backends: the
	// connections of one client spread over all backends, and all packets
	// from one port of a client go to the same backend, even if this node has
	// forgotten the connection; it goes on then, unless it is masqueraded,
	// which takes another port. When the number of backends changes, most
	// new connections go elsewhere than they would have gone before.
	SchedulerSourcePortHash
)

func (s Scheduler) word() word {
	return word{"scheduler", "random round-robin source-hash maglev source-port-hash", uint8(s)}
}

// Protocol is a layer-4 protocol. In JSON it is "tcp", "udp" or "sctp", in upper
// or lower case.
type Protocol uint8

// The protocols.
const (
	ProtocolTCP Protocol = iota
	ProtocolUDP
	ProtocolSCTP
)

// Action is what happens to a connection that no backend can take. In JSON it is
// "default", "reject", "drop" or "pass", in upper or lower case.
type Action uint8

// The actions.
const (
	// ActionDefault drops while the service has usable backends that the
	// frontend's Policy excludes, so that a load balancer whose probe is not
	// answered uses other nodes, as Kubernetes specifies. It passes in a family
	// in which a frontend with an unset Addr serves nobody: all of the service's
	// backends, whatever their State, are of the other one. Else it rejects.
	ActionDefault Action = iota
	// ActionReject answers TCP with a reset and other protocols with an ICMP
	// or ICMPv6 port-unreachable error. A local process that sends a datagram
	// gets EPERM from the kernel instead.
	ActionReject
	// ActionDrop does not answer, so that the client waits for its timeout.
	ActionDrop
	// ActionPass leaves the connection to the host, untranslated: on an address
	// of the node whoever listens there gets it, and to other addresses it is
	// forwarded. The frontend still belongs to the service and counts such
	// connections, so neither a less specific frontend (a range, or a node-wide
	// one) nor Config.ServiceCIDRs takes them. A UDP flow that the host has got
	// goes to a backend as soon as there is one. Connections over MaxConns are
	// rejected.
	ActionPass
)

// Policy is which backends the connections to a frontend may go to. In JSON it is
// "any-backend", "local-only" or "external-local-only", in upper or lower case.
type Policy uint8

// The policies.
const (
	// PolicyAnyBackend allows all backends.
	PolicyAnyBackend Policy = iota
	// PolicyLocalOnly allows only backends on this node (Backend.Local), as
	// Kubernetes' internalTrafficPolicy: Local does. Backends see the client's
	// address.
	PolicyLocalOnly
	// PolicyExternalLocalOnly allows external clients only backends on this
	// node, which see the client's address, as Kubernetes'
	// externalTrafficPolicy: Local does. Clients in Config.Internal and
	// processes on the node reach all backends.
	PolicyExternalLocalOnly
)

// Masquerade is when the source address of connections is rewritten to one of the
// outgoing interface, or to that of Service.SNAT, so that replies come back
// through this node. A backend that reaches itself through its own service is
// always masqueraded, and so is a process that connects to a loopback address. If
// the backend has an address of the node itself, packets from elsewhere end there and
// keep their source; processes on the node are masqueraded like other clients. The
// kernel chooses a random source port. In JSON it is "auto", "always", "never" or
// "external", in upper or lower case.
type Masquerade uint8

// The ways to masquerade.
const (
	// MasqueradeAuto masquerades those in Frontend.MasqueradeClients. Without
	// any, it masquerades all clients except those in Config.Internal; with
	// PolicyLocalOnly and PolicyExternalLocalOnly only the node itself.
	MasqueradeAuto Masquerade = iota
	// MasqueradeAlways masquerades all clients.
	MasqueradeAlways
	// MasqueradeNever masquerades no client: the network has to route the
	// replies of backends through this node.
	MasqueradeNever
	// MasqueradeExternal masquerades all clients except those in
	// Config.Internal, whatever Frontend.Policy says. With PolicyLocalOnly it is
	// how Kubernetes treats a ClusterIP with internalTrafficPolicy: Local, whose
	// clients outside of the cluster do not route the replies through this node.
	MasqueradeExternal
)

// State is whether a backend gets connections. In JSON it is "active", "draining"
// or "down", in upper or lower case.
type State uint8

// The states. Established TCP connections and SCTP associations continue in every
// state, unless Service.CutStale is set: the kernel translates them until they end.
const (
	// StateActive backends get new connections.
	StateActive State = iota
	// StateDraining backends get no new connections and keep their flows.
	StateDraining
	// StateDown backends get no new connections and lose their UDP flows to
	// other backends.
	StateDown
)
