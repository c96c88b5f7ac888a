package nftdp

import "net/netip"

// Counter counts new connections: the kernel consults the maps only for the
// first packet of each, so Packets is the number of connections begun (or
// attempted, where they were rejected or dropped) and Bytes the size of their
// first packets. It keeps its value over Apply, Update and restarts as long as
// its frontend, or its backend behind that frontend, exists; a backend with
// another MaxConns than before, or no longer any, is another one. A range of
// ports is known by its first port. Where its element
// has to be replaced, since the pool gets another size, connections that begin
// between the reading of the old count and the commit (some tens of
// microseconds) are not counted.
type Counter struct {
	Connections uint64 `json:"connections"`
	Bytes       uint64 `json:"bytes"`
}

// ServiceStatus is a service as the kernel holds it.
type ServiceStatus struct {
	Name      string           `json:"name"`
	Protocol  Protocol         `json:"protocol"`
	Frontends []FrontendStatus `json:"frontends"`
}

// FrontendStatus is a frontend of one family as the kernel holds it.
type FrontendStatus struct {
	// Addr is 0.0.0.0 or :: for a node-wide frontend; one that is node-wide
	// for both families is two of these.
	Addr    netip.Addr `json:"addr"`
	Port    uint16     `json:"port"`
	EndPort uint16     `json:"endPort,omitempty"` // of a range
	// NoBackend is set while there is no usable backend: new connections
	// are rejected or dropped. With PolicyExternalLocalOnly that may hold for
	// clients outside alone, and there are backends for others.
	NoBackend *Action         `json:"noBackend,omitempty"`
	Counter   Counter         `json:"counter"`
	Backends  []BackendStatus `json:"backends,omitempty"`
}

// BackendStatus is a usable backend of one frontend.
type BackendStatus struct {
	Addr    netip.AddrPort `json:"addr"`  // port 0: the one that the client connects to
	Slots   int            `json:"slots"` // of the frontend's pools: its share
	Counter Counter        `json:"counter"`
}
