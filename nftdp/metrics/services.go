package metrics

import (
	"net/netip"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/nftdp/go-nftdp/nftdp"
)

// collectServices sends the metrics of services.
func (c *Collector) collectServices(to chan<- prometheus.Metric, services []nftdp.ServiceStatus) {
	seen := c.services.scrape()
	for i := range services {
		s := &services[i]
		usable := map[netip.AddrPort]bool{}
		for j := range s.Frontends {
			f := &s.Frontends[j]
			seen.add(series{service: s.Name}, frontendOf(f), f.Counter.Connections)
			for _, b := range f.Backends {
				usable[b.Addr] = true
			}
		}
		to <- gauge(usableDesc, len(usable), s.Name)
		to <- counter(connectionsDesc, seen.total(series{service: s.Name}), s.Name)
	}
	c.services = seen.now
}

// collectBackends sends the metrics of the first backends of services.
func (c *Collector) collectBackends(to chan<- prometheus.Metric, services []nftdp.ServiceStatus) {
	seen, room := c.backends.scrape(), c.options.Backends
	for i := range services {
		s := &services[i]
		own := map[netip.AddrPort]bool{}
		for j := range s.Frontends {
			f := &s.Frontends[j]
			for _, b := range f.Backends {
				if !own[b.Addr] && room <= 0 {
					continue
				}
				if !own[b.Addr] {
					own[b.Addr] = true
					room--
				}
				seen.add(series{s.Name, b.Addr}, frontendOf(f), b.Counter.Connections)
			}
		}
		for b := range own {
			to <- counter(backendDesc, seen.total(series{s.Name, b}), s.Name, b.String())
		}
	}
	c.backends = seen.now
}

// series identifies a time series; of a service, it has no backend.
type series struct {
	service string
	backend netip.AddrPort
}

// frontend identifies one of the kernel's counters that a series adds up.
type frontend struct {
	addr netip.Addr
	port uint16
}

func frontendOf(f *nftdp.FrontendStatus) frontend { return frontend{f.Addr, f.Port} }

// totals keep sums of the kernel's counters from falling when one of them ends with its
// frontend, or begins again (see nftdp.Counter): Prometheus would take the rest for
// that many new connections. Only what the last scrape has seen is kept.
type totals map[series]*total

type total struct {
	sum  uint64
	last map[frontend]mark
}

// mark is the highest value that a counter had since it began. fell says that it was
// seen lower just now.
type mark struct {
	value uint64
	fell  bool
}

// grow returns by how much a counter has grown, and its next mark. One that is lower
// once may have been read while its service lost slots (see Dataplane.Inspect); one that
// still is has begun again.
func (m mark) grow(value uint64) (uint64, mark) {
	switch {
	case value >= m.value:
		return value - m.value, mark{value: value}
	case !m.fell:
		return 0, mark{m.value, true}
	}
	return value, mark{value: value}
}

// scrape begins the totals of a new scrape.
func (t totals) scrape() *sums { return &sums{before: t, now: totals{}} }

// sums are totals, and those that they continue.
type sums struct{ before, now totals }

// add adds what a counter has grown by since the last scrape.
func (s *sums) add(at series, f frontend, value uint64) {
	before, now := s.before[at], s.now[at]
	if now == nil {
		now = &total{last: map[frontend]mark{}}
		if before != nil {
			now.sum = before.sum
		}
		s.now[at] = now
	}
	var last mark
	if before != nil {
		last = before.last[f]
	}
	grown, next := last.grow(value)
	now.sum += grown
	now.last[f] = next
}

func (s *sums) total(at series) uint64 {
	if now := s.now[at]; now != nil {
		return now.sum
	}
	return 0
}
