// Package nftdp is a layer-4 service dataplane: it makes connections to a
// service's address and port arrive at one of its backends, by destination NAT
// in the kernel, where nothing has to listen. It is a library over netlink: no
// daemon, no nft binary, no packet marks.
//
// A [Service] has a name, a protocol, frontends and backends. A [Frontend] is
// where clients connect to: an address and port (a ClusterIP, an external or
// load-balancer address, an address of the node), or a port on every address of
// the node (a NodePort, or port 80). A [Backend] is where connections go. Both
// may be of IPv4 and IPv6; each connection stays in its family, and
// [Service.Scheduler] chooses its backend. [ParseServices] reads services from
// JSON. A [Config] says which addresses of the node take part and which clients
// keep their source address.
//
// A frontend with an address wins over a node-wide one with the same port, and
// a single port over a range. Without usable backends it rejects at once or
// drops, as [Frontend.NoBackend] says. What no frontend takes passes as if this
// package were not there.
//
// [Config.Compile] turns services into a [Ruleset]: a table for each address
// family with a fixed skeleton of chains and a few maps whose elements are the
// services. A [Plan] is the difference between two rulesets, as nft commands.
// Both are pure: they touch no kernel.
//
// A [Dataplane] programs one network namespace. [Dataplane.Apply] takes the
// complete list of services and commits the difference in one transaction over both
// families; [Dataplane.Update] takes a few services, at a cost that follows their
// size. A new process applies its services likewise and so adopts what the kernel
// holds already, with counters and connections. The rules stay when a process ends.
//
// The tables `ip nftdp` and `ip6 nftdp` (see [Config.Table]) belong to this
// package; no other table is touched. Several processes may share a namespace,
// each with tables of its own. What others do to ours, up to `nft flush
// ruleset`, is repaired by the next Apply, or at once by [Dataplane.Keep];
// [Dataplane.Watch] only reports it. With [Config.Protect] the kernel refuses it.
//
// The kernel decides with a connection's first packet, and translates it until
// it ends. So established TCP connections and SCTP associations go on when
// their service changes: [Dataplane.Flows] lists them, [Dataplane.Drain] waits
// for their end, [Dataplane.Draining] shows how many are left, and [Dataplane.Cut]
// ends them. A proxy learns with [OriginalDst] what its client has connected to. UDP flows that the rules
// would treat otherwise now are deleted after each change. A client of a service with
// [Service.Affinity] comes back to its backend; [Dataplane.Affinities] lists
// these. [Dataplane.Inspect] counts connections, and [Dataplane.Observe] shows what
// the Dataplane does; package metrics makes Prometheus metrics of both.
//
// Linux 5.10 or later and CAP_NET_ADMIN are needed. The node has to forward,
// which [Dataplane.Requirements] checks. A firewall that drops forwarded packets
// by default needs a rule `ct status dnat accept`, since an accept here does not
// overrule a drop elsewhere: chains have type nat, with priority -100 (dstnat)
// at prerouting and output and 100 (srcnat) at postrouting and input.
//
// Validation reports all problems at once, each a [FieldError]. What the kernel
// refuses is an [ApplyError], which names the service. Callers branch on
// [ErrNotSupported], [ErrNotOwned], [ErrProtected], [ErrOutdated], [ErrConflict]
// and [ErrClosed].
//
// Package nftdptest has a Dataplane in memory for unit tests. The documents in
// docs say more: design.md how the rules look and why, packet.md how a packet
// passes them, operations.md what to do about errors and limits, and
// processes.md how several processes share a namespace.
package nftdp
