package nftdp

import "github.com/nftdp/go-nftdp/internal/compile"

// status reads services and counters out of a ruleset.
func (r *Ruleset) status() []ServiceStatus {
	held := compile.Holds(r.rules)
	out := make([]ServiceStatus, len(held))
	for i := range held {
		h := &held[i]
		out[i] = ServiceStatus{Name: h.Name, Protocol: protocolOf(h.Proto)}
		for j := range h.Frontends {
			out[i].Frontends = append(out[i].Frontends, frontendStatus(&h.Frontends[j]))
		}
	}
	return out
}

func frontendStatus(h *compile.HeldFrontend) FrontendStatus {
	f := FrontendStatus{Addr: h.Addr, Port: h.Port, Counter: Counter{h.Packets, h.Bytes}}
	if h.NoBackend {
		action := Reject
		if h.Drop {
			action = Drop
		}
		f.NoBackend = &action
	}
	for _, b := range h.Pool {
		f.Backends = append(f.Backends, BackendStatus{Addr: b.Addr, Counter: Counter{b.Packets, b.Bytes}})
	}
	return f
}
