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
	// dropped the packet, or left it to the host (see Frontend.NoBackend).
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
	// CodeForeignSNAT: a rule of others rewrites the source of packets to backends
	// that are to see their clients, or to see Service.SNAT. Only Doctor has it:
	// the packet gets there all the same, and Explain says which source is seen.
	CodeForeignSNAT Code = "FOREIGN_SNAT"
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
	// CodeIngressDroppedBy and the six after it: something else than our
	// rules dropped or rejected the packet at this hook. Trace.By is the rule
	// or the policy that did. If By is nil, nothing that nftables knows did:
	// iptables-legacy, conntrack with a full table, an eBPF program, or a
	// program that the packet was queued to.
	CodeIngressDroppedBy     Code = "INGRESS_DROPPED_BY" // Trace does not see this hook and egress
	CodePreroutingDroppedBy  Code = "PREROUTING_DROPPED_BY"
	CodeInputDroppedBy       Code = "INPUT_DROPPED_BY"
	CodeForwardDroppedBy     Code = "FORWARD_DROPPED_BY"
	CodeOutputDroppedBy      Code = "OUTPUT_DROPPED_BY"
	CodePostroutingDroppedBy Code = "POSTROUTING_DROPPED_BY"
	CodeEgressDroppedBy      Code = "EGRESS_DROPPED_BY"
	// CodeForwardingOff and the four after it are found by Explain, which asks
	// the kernel; a Trace of such a packet ends with CodeNotRouted, or with
	// CodeDelivered if the packet has left our sight.
	//
	// CodeForwardingOff: the kernel does not forward packets that arrive on this
	// device: net.ipv4.ip_forward, net.ipv4.conf.DEVICE.forwarding or
	// net.ipv6.conf.all.forwarding is 0.
	CodeForwardingOff Code = "FORWARDING_OFF"
	// CodeRPFilter: rp_filter refuses the packet, since the route to its source
	// leads to another device than the one on which it arrives.
	CodeRPFilter Code = "RP_FILTER"
	// CodeNoRouteToBackend: the node has no route to the backend, or one that
	// refuses.
	CodeNoRouteToBackend Code = "NO_ROUTE_TO_BACKEND"
	// CodeNeighbourFailed: the next hop on the way to the backend does not answer
	// when the node asks for its link-layer address (ARP, neighbour discovery).
	CodeNeighbourFailed Code = "NEIGHBOUR_FAILED"
	// CodeConntrackFull: conntrack has as many entries as
	// net.netfilter.nf_conntrack_max allows, and the kernel drops packets of new
	// connections.
	CodeConntrackFull Code = "CONNTRACK_FULL"
)

// The codes that Doctor finds, besides those above of empty pools, dropped
// packets, foreign translations, parameters, routes and neighbours. What to do about
// each is in docs/codes.md.
const (
	// CodeTCPBeLiberalOff: conntrack leaves TCP segments untranslated that are
	// outside of the window which it has tracked, and the answer to them resets the
	// connection.
	CodeTCPBeLiberalOff Code = "TCP_BE_LIBERAL_OFF"
	// CodeRouteLocalnet: route_localnet opens 127.0.0.0/8 of this node to its
	// neighbours.
	CodeRouteLocalnet Code = "ROUTE_LOCALNET"
	// CodeBridgeNetfilterOff: backends on a bridge are not masqueraded as clients,
	// and replies that cross the bridge do not pass conntrack, which would have to
	// translate them.
	CodeBridgeNetfilterOff Code = "BRIDGE_NETFILTER_OFF"
	// CodeBridgeHairpinOff: packets on a bridge pass conntrack, and its ports send
	// none back, so that a backend does not reach itself through its service.
	CodeBridgeHairpinOff Code = "BRIDGE_HAIRPIN_OFF"
	// CodeKernelFeature: the kernel lacks what services, or some of them, need.
	CodeKernelFeature Code = "KERNEL_FEATURE"
	// CodeDrift: others have changed elements of services in our tables. Trace and
	// Explain say it of packets that our rules translate although no frontend takes them.
	CodeDrift Code = "DRIFT"
	// CodeLegacyIptables: iptables-legacy has tables. nf_tables does not show their
	// rules, so Doctor has not looked at them.
	CodeLegacyIptables Code = "LEGACY_IPTABLES"
	// CodeSocketShadowed: a process on this node listens where a frontend takes the
	// packets, so that it gets no new ones.
	CodeSocketShadowed Code = "SOCKET_SHADOWED"
	// CodeEphemeralPort: node-wide frontends have ports that the kernel also gives
	// to outgoing connections of the node.
	CodeEphemeralPort Code = "EPHEMERAL_PORT"
	// CodeFrontendTwice: another table of ours has a frontend with the same address,
	// protocol and port.
	CodeFrontendTwice Code = "FRONTEND_TWICE"
	// CodeBackendIsFrontend: a backend is an address and port that a frontend has,
	// too, and no host is seen there. A packet is translated once, so that it goes
	// to that address and not on to the frontend's backends.
	CodeBackendIsFrontend Code = "BACKEND_IS_FRONTEND"
	// CodeNodeAddrsLimit: node-wide frontends do not take some of the node's
	// addresses, since Config.NodeAddrs has none of them.
	CodeNodeAddrsLimit Code = "NODE_ADDRS_LIMIT"
)
