package nftdp

import "net/netip"

// Counter counts new connections, of which the kernel looks up only the first
// packet. It keeps its value over Apply, Update and restarts as long as its
// frontend, or its backend behind that frontend, exists. A range of ports is
// identified by its first port. A backend begins a new count when its MaxConns
// is set, changed or removed, or when the first port of the node comes into its pool
// or the last one leaves it. If the kernel's element has to be replaced, since
// the number of slots changes, connections that begin between the reading of the
// old count and the commit (some tens of microseconds) are not counted.
type Counter struct {
	// Connections is the number of connections that began, or were rejected,
	// dropped or left to the host.
	Connections uint64 `json:"connections"`
	// Bytes is the size of their first packets.
	Bytes uint64 `json:"bytes"`
}

// ServiceStatus is a service as the kernel holds it.
type ServiceStatus struct {
	Name      string           `json:"name"`
	Protocol  Protocol         `json:"protocol"`
	Frontends []FrontendStatus `json:"frontends"`
}

// FrontendStatus is a frontend of one family as the kernel holds it.
type FrontendStatus struct {
	// Addr is 0.0.0.0 or :: for a node-wide frontend; a frontend that is
	// node-wide for both families appears as two.
	Addr    netip.Addr `json:"addr"`
	Port    uint16     `json:"port"`
	EndPort uint16     `json:"endPort,omitempty"` // the last port of a range, else 0
	// NoBackend is ActionReject, ActionDrop or ActionPass while there is no
	// usable backend, else nil. With PolicyExternalLocalOnly it may concern only
	// external clients, while other clients have the Backends.
	NoBackend *Action         `json:"noBackend,omitempty"`
	Counter   Counter         `json:"counter"`
	Backends  []BackendStatus `json:"backends,omitempty"`
}

// BackendStatus is a usable backend of one frontend.
type BackendStatus struct {
	// Addr has port 0 if the backend has the port that the client connects to. It is
	// 0.0.0.0:PORT or [::]:PORT for a port of the node (Backend.NodePort).
	Addr    netip.AddrPort `json:"addr"`
	Slots   int            `json:"slots"` // its share of the connections, relative to other backends
	Counter Counter        `json:"counter"`
}
