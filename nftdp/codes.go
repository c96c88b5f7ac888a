package nftdp

// Code says in one word why a packet went where it did. The words are stable:
// programs may compare them, and documents refer to them.
type Code string

// The codes.
const (
	// CodeDelivered: the packet belongs to a service and left the node towards
	// a backend, or reached a backend on this node. Nothing is known about
	// what happened to it there. If there is no answer, trace the replies.
	CodeDelivered Code = "DELIVERED"
	// CodeNoService: no frontend takes packets to this destination. The packet
	// passed, or was rejected because its address is in Config.ServiceCIDRs;
	// the verdict says which. Compare address, port and protocol with those of
	// Inspect. A node-wide frontend takes packets to the node's own addresses
	// only, and of these those in Config.NodeAddrs.
	CodeNoService Code = "NO_SERVICE"
	// CodeNoBackend: the frontend has no usable backend of the packet's
	// family, or none that its policy allows, so that our rules rejected or
	// dropped the packet (see Frontend.NoBackend).
	CodeNoBackend Code = "NO_BACKEND"
	// CodeLocalOnlyNone: the frontend's policy is PolicyExternalLocalOnly, the
	// client is external, and no usable backend is on this node. Clients on
	// this node and in Config.Internal do reach a backend.
	CodeLocalOnlyNone Code = "LOCAL_ONLY_NONE"
	// CodeClientDenied: the client is in Frontend.Deny, or not in
	// Frontend.Allow.
	CodeClientDenied Code = "CLIENT_DENIED"
	// CodeLimitReached: the chosen backend has as many connections as its
	// MaxConns allows.
	CodeLimitReached Code = "LIMIT_REACHED"
	// CodeForeignDNATFirst: a rule of others has translated the destination
	// before ours saw the packet. Connections are translated once. Let the
	// other chain have a priority above -100, or leave the address out there.
	CodeForeignDNATFirst Code = "FOREIGN_DNAT_FIRST"
	// CodeNotTranslated: a frontend takes packets to this destination, but this
	// one kept its destination. That happens to connections that began before
	// the frontend existed, as conntrack has noted that they are not
	// translated, and to packets that conntrack does not track or calls
	// invalid.
	CodeNotTranslated Code = "NOT_TRANSLATED"
	// CodeNotRouted: the packet passed the chains before routing and then
	// appeared neither at this node's processes nor where packets are
	// forwarded. The kernel dropped it when it looked for a route:
	// net.ipv4.ip_forward or net.ipv6.conf.all.forwarding is 0, rp_filter
	// refuses its source, there is no route to its destination, its TTL has
	// ended, or it is larger than the MTU.
	CodeNotRouted Code = "NOT_ROUTED"
	// CodePreroutingDroppedBy and the four after it: something else than our
	// rules dropped or rejected the packet at this hook. Trace.By is the rule
	// or the policy that did. If By is nil, nothing that nftables knows did:
	// iptables-legacy, conntrack with a full table, an eBPF program, or a
	// program that the packet was queued to.
	CodePreroutingDroppedBy  Code = "PREROUTING_DROPPED_BY"
	CodeInputDroppedBy       Code = "INPUT_DROPPED_BY"
	CodeForwardDroppedBy     Code = "FORWARD_DROPPED_BY"
	CodeOutputDroppedBy      Code = "OUTPUT_DROPPED_BY"
	CodePostroutingDroppedBy Code = "POSTROUTING_DROPPED_BY"
)
