package compile

import (
	"strconv"
	"sync"

	"github.com/nftdp/go-nftdp/internal/ruleset"
)

// Directory finds services by name and by frontend.
type Directory struct {
	mu       sync.RWMutex // of what Delta.Commit changes while Find runs
	services map[string]*Service
	index    *Index
}

func newDirectory(n int) *Directory {
	return &Directory{services: make(map[string]*Service, n), index: NewIndex(n)}
}

// NewDirectory returns the directory of services, whose names may be the same. Of
// several with a frontend, Find returns the first one.
func NewDirectory(services []*Service) *Directory {
	out := newDirectory(len(services))
	for i, s := range services {
		name := strconv.Itoa(i)
		out.services[name] = s
		out.index.add(s, name)
	}
	return out
}

// Find returns the service whose frontend takes packets to an address and port, or
// nil. If wide is set, that is a node-wide frontend: it takes them only if the
// address is one of the node's. Find may run at the same time as any other method.
func (d *Directory) Find(k Key) (s *Service, wide bool) {
	d.mu.RLock()
	defer d.mu.RUnlock()
	for _, at := range [...]Key{k, k.NodeWide()} {
		if found, ok := d.index.Match(at); ok {
			return d.services[d.index.owner[found]], found.Addr.IsUnspecified()
		}
	}
	return nil, false
}

// Service returns the service of that name, or nil. It may run at the same time as
// any other method.
func (d *Directory) Service(name string) *Service {
	d.mu.RLock()
	defer d.mu.RUnlock()
	return d.services[name]
}

// NodeWide returns the key of the node-wide frontend with the same port.
func (k Key) NodeWide() Key {
	k.Addr = ruleset.FamilyOf(k.Addr).Unspecified()
	return k
}

// Each calls do for every service, while none is changed.
func (d *Directory) Each(do func(*Service)) {
	d.mu.RLock()
	defer d.mu.RUnlock()
	for _, s := range d.services {
		do(s)
	}
}
