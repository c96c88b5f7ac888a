package health

import (
	"container/heap"
	"context"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/nftdp/go-nftdp/nftdp"
)

// Check says how the backends of a service are checked. The zero value of a field is
// the value that its comment calls the default.
type Check struct {
	// Probe is what each check does; the default is TCP.
	Probe Probe
	// Port is the port that is checked; the default is the backend's own. Backends
	// of a range of ports have none, and are not checked without it.
	Port uint16
	// Interval is the time from the beginning of a check to that of the next one; the
	// default is 5 seconds. Each is up to a tenth shorter or longer, so that checks
	// of many nodes do not come in step.
	Interval time.Duration
	// Timeout is when a check that has not ended has failed; the default is one
	// second, or Interval if that is shorter.
	Timeout time.Duration
	// Rise is how many checks in a row have to succeed until a backend that is down
	// is used again; the default is 2. Fall is how many have to fail until a healthy
	// one is down; the default is 3.
	Rise, Fall int
	// Panic is the share of healthy backends, from 0 to 1, below which all are used,
	// the failed ones, too. It counts active backends of one family: those that are
	// not in reserve (Backup, LocalOnly), or those in reserve while these alone are
	// healthy. The default, 0, is never: then a service whose backends have all
	// failed refuses connections.
	Panic float64
}

func (c Check) withDefaults() Check {
	if c.Probe == nil {
		c.Probe = TCP{}
	}
	if c.Interval <= 0 {
		c.Interval = 5 * time.Second
	}
	if c.Timeout <= 0 {
		c.Timeout = min(time.Second, c.Interval)
	}
	if c.Rise <= 0 {
		c.Rise = 2
	}
	if c.Fall <= 0 {
		c.Fall = 3
	}
	return c
}

// Options of a Checker.
type Options struct {
	// Check returns how the backends of a service are checked, or nil if they are
	// not. It is called whenever the service is set; if it is nil, no service is
	// checked. It must not call methods of the Checker.
	Check func(*nftdp.Service) *Check
	// Dial connects to backends. Nil connects from the network namespace of the
	// process, Namespace.Dial from another one.
	Dial Dial
	// Concurrency is the most checks under way at a time, each with a goroutine and a
	// socket; 0 means 256. While there are as many, others begin later than they
	// should: see Stats.Late. As long as backends do not hang, few are under way.
	Concurrency int
	// Report, unless it is nil, is called in the goroutine of Run, for each change
	// and for each failed attempt to set a state.
	Report func(Event)
}

// Event is something that Run has found or done.
type Event struct {
	Service string
	// Backend is the one that has become healthy or has failed; a port of the node
	// (nftdp.Backend.NodePort) is 0.0.0.0:PORT. It is unset if the event concerns the
	// service.
	Backend netip.AddrPort
	Healthy bool
	// Panic says that failed backends of the service are used from now on, since too
	// few are healthy. Without it, and without Backend and Err, that is over.
	Panic bool
	// Err says why the backend has failed or, without Backend, why the states could
	// not be set, which is tried again every second.
	Err error
}

// Checker checks the backends of services. Its methods may be called concurrently.
type Checker struct {
	dataplane *nftdp.Dataplane
	options   Options
	wake      chan struct{} // there may be something to do for Run
	results   chan result

	mu        sync.Mutex // also held while the dataplane is changed
	services  map[string]*service
	dirty     map[string]bool // services whose states may differ from those that were set
	notBefore time.Time       // when they may be set
	schedule  schedule        // backends by the time of their next check, but those that are being checked
	running   int             // checks under way
	active    bool            // Run is running
	counts    Stats
	events    []Event // to report
}

// New returns a Checker. The services that it checks are set by it alone: what others
// set by the Dataplane itself, it does not know.
func New(d *nftdp.Dataplane, o Options) *Checker {
	if o.Dial == nil {
		o.Dial = new(net.Dialer).DialContext
	}
	if o.Concurrency <= 0 {
		o.Concurrency = 256
	}
	return &Checker{
		dataplane: d, options: o, wake: make(chan struct{}, 1), results: make(chan result, o.Concurrency),
		services: map[string]*service{}, dirty: map[string]bool{},
	}
}

// Apply is that of nftdp.Dataplane, with the states that the checks have found. What is
// known about a backend stays known as long as its service has it.
func (c *Checker) Apply(ctx context.Context, services []nftdp.Service) (*nftdp.Plan, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	next, filled := c.fill(services)
	plan, err := c.dataplane.Apply(ctx, filled)
	if plan != nil {
		for name := range c.services {
			c.replace(name, next[name])
		}
		c.adopt(next)
	}
	return plan, err
}

// Update is that of nftdp.Dataplane, with the states that the checks have found.
func (c *Checker) Update(ctx context.Context, change nftdp.Change) (*nftdp.Plan, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	next, filled := c.fill(change.Set)
	plan, err := c.dataplane.Update(ctx, nftdp.Change{Set: filled, Delete: change.Delete})
	if plan != nil {
		for _, name := range change.Delete {
			c.replace(name, nil)
		}
		for i := range change.Set {
			c.replace(change.Set[i].Name, next[change.Set[i].Name])
		}
		c.adopt(next)
	}
	return plan, err
}

// fill returns the services that are checked, and all of them with the states that
// their backends have now. It changes nothing.
func (c *Checker) fill(services []nftdp.Service) (map[string]*service, []nftdp.Service) {
	next, filled := map[string]*service{}, slices.Clone(services)
	for i := range services {
		s := &filled[i]
		if c.options.Check == nil {
			continue
		}
		if check := c.options.Check(s); check != nil {
			checked := newService(s, check.withDefaults(), c.services[s.Name])
			next[s.Name] = checked
			s.Backends = slices.Clone(s.Backends)
			for j, m := range checked.members {
				s.Backends[j].State = m.set
			}
		}
	}
	return next, filled
}

// replace ends the checks of backends that a service has no more. The next one is nil
// if it is not checked any more.
func (c *Checker) replace(name string, next *service) {
	former := c.services[name]
	if former == nil {
		return
	}
	for _, m := range former.members {
		m.gone = next == nil || next.known[m.addr] != m.backend
	}
	delete(c.services, name)
	delete(c.dirty, name)
}

// adopt begins to check services, and goes on with what is known of their backends. New
// ones are checked first at some time within their interval.
func (c *Checker) adopt(next map[string]*service) {
	now := time.Now()
	for name, s := range next {
		c.services[name] = s
		if _, panics := s.states(); panics != s.panics {
			c.dirty[name] = true
		}
		for _, m := range s.members {
			m.service, m.backend.target = s, m.target
			if m.next.IsZero() && m.target.Port() > 0 {
				m.next = now.Add(rand.N(s.check.Interval))
				heap.Push(&c.schedule, m.backend)
			}
		}
	}
	select {
	case c.wake <- struct{}{}:
	default:
	}
}
