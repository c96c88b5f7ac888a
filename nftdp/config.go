package nftdp

import "net/netip"

// DefaultTable is the name of the tables when Config.Table is empty.
const DefaultTable = "nftdp"

// Config says how services are programmed on this node. The zero value is ready to
// use. Dataplane.SetConfig changes it later. Prefixes may have host bits, which are
// ignored, and may overlap; IPv4-mapped IPv6 prefixes are refused.
type Config struct {
	// Table is the name of the two tables (families ip and ip6) that hold
	// everything; empty is DefaultTable. It is a letter, then letters, digits
	// and any of "/_.-", at most 128 bytes. A keyword of nft ("ip", "table",
	// "counter") is refused, since nft could not load its own listing.
	// Dataplanes with different tables in one namespace do not see each
	// other's services.
	Table string `json:"table,omitempty"`
	// Owner lets several programs share the tables, each with services of its
	// own: their names begin with the owner and a slash, as in "cni/web" of
	// the owner "cni". It consists of letters, digits and any of "_.-", at
	// most 32 bytes. Apply, Update, Keep and Remove then concern these services
	// alone, and those of other owners stay as they are. A frontend of another
	// service, whosever it is, is a *FieldError that names that service. All
	// owners need the same NodeAddrs, Internal, InternalInterfaces, ServiceCIDRs,
	// Unallocated, Localhost and AffinitySize, else ErrOtherConfig; TakeOver changes
	// them for all. Several processes may have one owner, as long as each changes
	// other services by Update: Apply is about all services of the owner.
	//
	// If it is empty, the tables hold one list of services, and nobody else's.
	Owner string `json:"owner,omitempty"`
	// NodeAddrs limits node-wide frontends to the node's addresses within
	// these prefixes. If it is empty, they take every local address except
	// loopback (127.0.0.0/8 and ::1) and link-local ones (169.254.0.0/16 and
	// fe80::/10). They take link-local IPv4 addresses within a prefix that lies
	// in 169.254.0.0/16; prefixes of link-local IPv6 addresses are refused, as
	// the kernel does not forward what clients send there. If it has prefixes of
	// one family only, they take none of the other. Each prefix is a rule that
	// the kernel evaluates for the first packet of each connection that no
	// frontend with an address takes.
	NodeAddrs []netip.Prefix `json:"nodeAddrs,omitempty"`
	// Internal lists the prefixes of clients to which backends reply through
	// this node without masquerading: the pods of this node, or all pods if the
	// network routes symmetrically. Connections of other clients, and of the
	// node itself unless its address is listed, are masqueraded: the backend
	// sees an address of this node. If Internal is empty, all are. See
	// Masquerade for what is masqueraded always or never.
	Internal []netip.Prefix `json:"internal,omitempty"`
	// InternalInterfaces lists interfaces whose clients count as Internal, whatever
	// their addresses: "cni0", or "veth*" for all whose names begin so. A name has
	// 1 to 15 letters, digits and any of "_.:@-", and an asterisk can follow. Each
	// is a rule that the kernel evaluates for first packets whose treatment depends
	// on it. A process on the node is not internal by this. A flow does not show by
	// which interface it began: when SetConfig changes the list, UDP flows that it
	// could concern go on as they are.
	InternalInterfaces []string `json:"internalInterfaces,omitempty"`
	// ServiceCIDRs lists prefixes that belong to services as a whole. What no
	// frontend takes there is rejected, whether another port of an address in
	// use or, unless Unallocated says otherwise, an address that no service has: TCP
	// with a reset, everything else, including an ICMP echo request, with an ICMP or
	// ICMPv6 port-unreachable error.
	ServiceCIDRs []netip.Prefix `json:"serviceCIDRs,omitempty"`
	// Unallocated says what happens to packets to addresses in ServiceCIDRs that
	// no service has, with whatever port or protocol: ActionDefault and
	// ActionReject reject them, and ActionDrop drops them silently, as kube-proxy
	// does. ActionPass is refused. Unused ports of an address that a service has
	// are rejected in any case. With ActionDrop each address of services takes an
	// element.
	Unallocated Action `json:"unallocated,omitzero"`
	// Localhost makes node-wide frontends also take 127.0.0.1 and ::1, for
	// processes on this node. Other addresses in 127.0.0.0/8 are left to whoever
	// listens there, such as resolvers; a frontend can have one. The sysctl
	// net.ipv4.conf.all.route_localnet, which would open these addresses to the
	// node's neighbours, is not needed.
	Localhost bool `json:"localhost,omitempty"`
	// AffinitySize is the most pairs of client and frontend that the kernel
	// remembers at a time, in each family, for services with affinity, and as
	// many for node-wide frontends; 0 means
	// 65536. While the map is full, other clients have no affinity. When the
	// size changes, the map begins empty.
	AffinitySize uint32 `json:"affinitySize,omitempty"`
	// Protect makes the tables belong to this Dataplane while it is open
	// (nft's flags owner and persist, Linux 6.9 and later). Changes by others,
	// including root and other Dataplanes, fail with EPERM, and `nft flush
	// ruleset` skips the tables. Everybody can still read them. When the
	// Dataplane is closed or its process ends, for whatever reason, the tables
	// continue to work as orphans. An orphan is not protected: anybody can
	// change, delete or adopt it; the next Dataplane with Protect adopts it
	// with its first Apply or Update.
	//
	// The kernel can neither begin nor end the protection of a table that
	// exists. If Protect differs from what a former process has set, the tables
	// are therefore replaced in one transaction, with their counters, and
	// connections continue. On older kernels Apply and Update fail with
	// ErrNotSupported.
	//
	// nft before 1.1 does not know the flag persist: it lists "flags owner",
	// or empty flags for an orphan, and neither loads back as it was.
	Protect bool `json:"protect,omitempty"`
}

// defaultAffinities is what an AffinitySize of 0 means.
const defaultAffinities = 65536
