package nftdp

import "net/netip"

// DefaultTable is the name of the tables when Config.Table is empty.
const DefaultTable = "nftdp"

// Config says how services are programmed on this node. The zero value is
// ready to use. Its prefixes may have host bits, which are ignored, and repeat
// each other; IPv4-mapped IPv6 prefixes are refused.
type Config struct {
	// Table is the name of the two tables (family ip and ip6) that hold
	// everything; empty is DefaultTable. A letter, then letters, digits and
	// any of "/_.-", at most 128 bytes, and no word of nft's own language
	// ("ip", "table", "counter"), since nft could not load its own listing
	// then. Dataplanes with different tables in one namespace do not see
	// each other's services.
	Table string `json:"table,omitempty"`
	// NodeAddrs limits node-wide frontends to the node's addresses inside
	// these prefixes. Nil means every local address except loopback
	// (127.0.0.0/8 and ::1). If it has prefixes of one family only,
	// node-wide frontends take nothing in the other. Each prefix is a rule,
	// which the first packet of a connection to a node-wide frontend, or to
	// none, passes.
	NodeAddrs []netip.Prefix `json:"nodeAddrs,omitempty"`
	// Internal lists the prefixes of clients whose replies come back through
	// this node by themselves: the pods of this node, or all pods where the
	// network routes symmetrically. Connections from elsewhere, and from the
	// node itself (unless its address is listed), are masqueraded: the backend
	// sees an address of this node. Nil masquerades every connection. A backend
	// that reaches itself through its own service is masqueraded always.
	Internal []netip.Prefix `json:"internal,omitempty"`
	// ServiceCIDRs lists the prefixes that belong to services as a whole.
	// What no frontend takes there is rejected, be it another port of an
	// address in use or an address that no service has: TCP with a reset,
	// everything else, also an ICMP echo request, with an ICMP or ICMPv6
	// port-unreachable error.
	ServiceCIDRs []netip.Prefix `json:"serviceCIDRs,omitempty"`
	// Localhost publishes node-wide frontends on 127.0.0.0/8 and ::1 too, for
	// processes on this node. The kernel sends IPv4 packets from there to
	// other machines only with the sysctl net.ipv4.conf.all.route_localnet,
	// which Dataplane.Requirements lists and Dataplane.MeetRequirements sets.
	// Without it a TCP client of such a backend runs into its timeout, and a
	// datagram can not be sent (EINVAL). As it opens loopback addresses to the
	// neighbours of the node, packets for them that arrive on any other
	// interface are dropped then, whoever listens there.
	Localhost bool `json:"localhost,omitempty"`
	// AffinitySize is how many pairs of client and frontend are remembered at
	// a time for services with affinity, in each family: 0 is 65536. When
	// the map is full, further clients have no affinity until others have
	// timed out. Another number than before begins with an empty map.
	AffinitySize uint32 `json:"affinitySize,omitempty"`
	// Protect makes the tables belong to this Dataplane while it is open
	// (nft's flags owner and persist, Linux 6.9 and later). Changes by
	// others, also by root and by other Dataplanes, get EPERM, and
	// `nft flush ruleset` passes the tables over. Everybody can still read
	// them. When the Dataplane is closed or its process ends, however it
	// does, the tables go on working as orphans. An orphan is not
	// protected: anybody can change, delete or adopt it; the next Dataplane
	// with Protect adopts it with its first Apply or Update.
	//
	// The kernel can neither protect tables that are there without it nor
	// let go of them in the end. So where this differs from what a former
	// process set, the tables are replaced in one transaction, with their
	// counters, and connections go on. On older kernels Apply and Update
	// fail with ErrNotSupported.
	//
	// nft before 1.1 does not know the flag persist: it lists "flags owner",
	// and an orphan with empty flags, neither of which loads back as it was.
	Protect bool `json:"protect,omitempty"`
}

// defaultAffinities is the size of the affinity map when nothing is said.
const defaultAffinities = 65536
