// Package nftdp is a layer-4 service dataplane: it makes connections to a
// service's address and port arrive at one of its backends, by destination NAT
// in the kernel, where nothing has to listen. It is a library over netlink: no
// daemon, no nft binary, no packet marks.
//
// # Service
//
// A [Service] has a name, a protocol, frontends and backends. A [Frontend] is
// where clients connect to: an address and port (a ClusterIP, an external or
// load-balancer address, the node's own address with port 80), or a port on
// every node address (a NodePort). A [Backend] is where connections go. Both
// may be of IPv4 and IPv6; each connection stays in its family, and
// [Service.Balance] chooses its backend. A [Config] says which of the node's
// addresses take part and which clients keep their source address.
//
// # Ruleset
//
// [Config.Compile] turns services into a [Ruleset]: one table per family with
// a fixed skeleton of chains and a few maps whose elements are the services.
// It is pure and does not depend on any order. Its text is what nft would
// print, and nft loads it.
//
// # Plan
//
// A [Plan] is the difference between two rulesets, as nft commands. Adding or
// removing a service adds or removes elements of maps. A chain comes only
// with a size of pool that was not in use before, and goes when the last pool
// of that size does.
//
// # Apply
//
// A [Dataplane] is one network namespace. [Dataplane.Apply] takes all services
// there shall be and commits the plan in one transaction over both families;
// [Dataplane.Update] takes some and costs what those cost. A new process just
// applies its services: what is in the kernel already stays, with counters and
// connections. Neither needs anything running in between.
//
// # Who owns what
//
// The tables `ip nftdp` and `ip6 nftdp` (see [Config.Table]) belong to this
// package, and whatever else is put into them is removed by the next Apply.
// They carry a comment as a mark; without it a table of that name is somebody
// else's and refused with [ErrNotOwned]. No other table is touched. Several
// processes may share the namespace, each with tables of its own: a transaction
// that began before a change of others is refused by the kernel and computed
// anew. In the same tables, each undoes what it does not know of. With
// [Config.Protect] only one Dataplane at a time can change them, others get
// [ErrProtected], and `nft flush ruleset` passes them over.
//
// The mark names the layout of the tables. Those that an older version of this
// package has left are replaced by the first Apply, in one transaction;
// connections go on, and so do the counters of what both layouts have. UDP flows
// of services that are not applied any more are not looked for then. Before
// that, Update, Inspect, Flows, Drain and Cut, which would have to read services
// out of them, give [ErrOutdated]. Those of a newer version are refused with
// [ErrNotOwned].
//
// # Drift
//
// Whatever others do to our tables, up to `nft flush ruleset` or a firewall's
// reload, the next Apply or Update mends it. [Dataplane.Keep] does so at once
// and reports what it mended and who it was, and [Dataplane.Watch] only tells.
// Both run in the caller's goroutine and wait for the kernel's events. What is
// wanted is what this Dataplane last applied.
//
// A Dataplane listens from Open on, whether it is watched or not: from the
// events it also learns that others have left our tables alone. Up to 4 MiB of
// events wait in the kernel until the next method hears them; in a user
// namespace net.core.rmem_max bounds that. What does not fit is found out by
// reading everything.
//
// While our rules are gone, new connections are refused or go astray. And if
// there is no other nat chain in the namespace, the kernel stops translating
// connections that it has translated so far: those that send just then break.
//
// Hooks are part of the API: chains of type nat at prerouting and output with
// priority -100 (dstnat) and at postrouting and input with priority 100
// (srcnat). As all chains of type nat, they see only the first packet of a
// connection. Of several translations of one destination, or one source, the
// chain with the lower priority wins; of equal ones, such as iptables and
// Docker have, the one that was made last. An accept here does not overrule a
// drop in a filter chain elsewhere: a firewall that drops forwarded packets by
// default needs a rule `ct status dnat accept`, or connections to backends
// elsewhere time out.
//
// # Which connections are taken
//
// Those that arrive and those that local processes begin. A frontend with an
// address wins over a node-wide one with the same port, and a single port over
// a range. A node-wide one takes local addresses, except loopback unless
// [Config.Localhost] is set. Clients that [Frontend.Allow] or [Frontend.Deny]
// exclude are dropped. A frontend without usable backends rejects at once, or
// drops, as [Frontend.NoBackend] says; which ones it may use is a matter of its
// [Policy]. Inside [Config.ServiceCIDRs] what nobody takes is rejected.
// Everything else passes as if this package were not there.
//
// A client of a service with [Service.AffinitySeconds] comes back to its
// backend. The kernel remembers it, in a map that rules fill; when the map is
// full, others are balanced as without. [Dataplane.Affinities] lists it.
//
// For replies to find back through this node, connections from clients outside
// [Config.Internal] are masqueraded, unless [Frontend.Masquerade] says
// otherwise, and so is a backend that is sent to itself.
//
// The node has to forward (net.ipv4.ip_forward, net.ipv6.conf.all.forwarding).
// [Dataplane.Requirements] tells whether it does, and only
// [Dataplane.MeetRequirements] ever sets a kernel parameter. A local process
// reaches a frontend only if the node has some route to its address.
//
// # Flows
//
// The kernel decides with a connection's first packet and then translates it
// until it ends. So established TCP connections and SCTP associations go on
// when their service changes or goes: [Dataplane.Flows] lists them,
// [Dataplane.Drain] waits for their end and [Dataplane.Cut] brings it about.
//
// A UDP client that keeps its socket would never notice a change. So after its
// transaction, Apply or Update deletes those UDP flows of the frontends that
// it changed which lead to a backend that is removed or down, or which began
// before the frontend was there: with its next datagram the client reaches a
// backend that is usable. Flows to draining backends, and to backups that are
// in reserve again, stay. A process that starts anew looks after the flows of
// every service that it is told about. Flows that do not go to a frontend, or
// that lead to where no frontend has led, are not touched, unless the frontend
// is new. A datagram that is on its way through the node while the transaction
// takes effect can still begin a flow by the former rules.
//
// A transaction that takes nothing from a UDP frontend costs nothing here. For
// others the kernel goes through its table of connections: about ten
// milliseconds for 262,144 buckets, thirty with 100,000 connections.
//
// # Kernel
//
// Linux 5.10 or later with nf_tables, NAT, conntrack, fib and numgen, and
// CAP_NET_ADMIN in the user namespace that owns the network namespace; to Open
// another namespace than the thread's takes CAP_SYS_ADMIN, too. What is
// missing is named by an error that matches [ErrNotSupported]. Without conntrack
// over netlink services work, but UDP flows are not deleted, which
// [Dataplane.Apply] reports.
//
// # Limits
//
// A transaction is one netlink message. With CAP_NET_ADMIN in the initial user
// namespace its size is bounded by memory: 500,000 elements are one batch. In
// other user namespaces net.core.wmem_max bounds it. What is larger then is
// split: the fixed parts first, then the services, each of them whole in one
// transaction, then what no service uses any more. A table that is replaced as
// a whole, such as one of an older version, can not be split. A batch, once
// handed over, is carried out by the kernel without regard to the context.
//
// Reading is slower than writing: the kernel walks a map from its start for
// every 32 KiB of a dump, so that time grows with the square of the map's size.
// On the machine of the README's figures a map of 100,000 elements took 0.3 s
// and one of 500,000 ten. A restart costs that, and so does an Update that finds
// that somebody else has changed our tables, unless Keep has mended them, or has
// changed so much elsewhere that not all of it could be heard.
//
// Connections to a range of ports may be refused in the moment in which the
// backends of their service change: a few of thousands, on one slow processor,
// with Linux 5.10, 6.1 and 6.12 of Debian, and none with 6.18 and 7.3.
//
// A pool has at most [MaxBackends] slots. Maps are declared with head-room;
// when one is full, it is made anew and larger in the same transaction as the
// change that needs it, which then costs as much as a full load.
package nftdp
