package nftdp

import (
	"net/netip"
	"slices"

	"github.com/nftdp/go-nftdp/internal/compile"
)

// status reads services and counters from a ruleset.
func (r *Ruleset) status() []ServiceStatus {
	held := compile.Holds(r.rules)
	out := make([]ServiceStatus, len(held))
	for i := range held {
		h := &held[i]
		out[i] = ServiceStatus{Name: h.Name, Protocol: protocolOf(h.Proto)}
		for j := range h.Slots {
			out[i].Frontends = append(out[i].Frontends, frontendStatus(&h.Slots[j]))
		}
	}
	return out
}

func frontendStatus(h *compile.HeldFrontend) FrontendStatus {
	f := FrontendStatus{Addr: h.Addr, Port: h.Port, EndPort: h.End, Counter: Counter{h.Packets, h.Bytes}}
	if h.NoBackend {
		action := [...]Action{compile.Reject: ActionReject, compile.Drop: ActionDrop, compile.Pass: ActionPass}[h.Empty]
		f.NoBackend = &action
	}
	index := map[netip.AddrPort]int{}
	for _, b := range h.Slots {
		i, ok := index[b.Addr]
		if !ok {
			i = len(f.Backends)
			index[b.Addr] = i
			f.Backends = append(f.Backends, BackendStatus{Addr: b.Addr})
		}
		f.Backends[i].Slots++
		f.Backends[i].Counter.Connections += b.Packets
		f.Backends[i].Counter.Bytes += b.Bytes
	}
	slices.SortFunc(f.Backends, func(x, y BackendStatus) int { return x.Addr.Compare(y.Addr) })
	return f
}
