package kube

import (
	"cmp"
	"net/netip"
	"slices"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"github.com/nftdp/go-nftdp/nftdp"
)

// claim is what only one service can have: an address and port of a protocol.
type claim struct {
	protocol nftdp.Protocol
	addr     netip.Addr
	port     uint16
}

// claimant is a Service that wants something. The oldest one gets it.
type claimant struct {
	name    types.NamespacedName
	created time.Time
}

func (c claimant) compare(other claimant) int {
	return cmp.Or(c.created.Compare(other.created), cmp.Compare(c.name.String(), other.name.String()))
}

// claims remembers who wants what, in the order of their age: two Services may have the
// same external address, which Kubernetes does not prevent.
type claims map[claim][]claimant

// claimsOf lists what services want, each once.
func claimsOf(services []nftdp.Service) map[claim]bool {
	out := map[claim]bool{}
	for i := range services {
		for _, f := range services[i].Frontends {
			out[claim{services[i].Protocol, f.Addr, f.Port}] = true
		}
	}
	return out
}

// replace notes what a Service wants now and no longer, and returns other Services that
// this makes gain or lose something.
func (c claims) replace(who claimant, before, after map[claim]bool) (others map[types.NamespacedName]bool) {
	others = map[types.NamespacedName]bool{}
	touch := func(of claim, change func([]claimant) []claimant) {
		first := func() types.NamespacedName {
			if list := c[of]; len(list) > 0 {
				return list[0].name
			}
			return types.NamespacedName{}
		}
		was := first()
		if list := change(c[of]); len(list) > 0 {
			c[of] = list
		} else {
			delete(c, of)
		}
		if is := first(); is != was {
			others[was], others[is] = true, true
		}
	}
	without := func(list []claimant) []claimant {
		return slices.DeleteFunc(list, func(x claimant) bool { return x.name == who.name })
	}
	for of := range before {
		if !after[of] {
			touch(of, without)
		}
	}
	for of := range after {
		touch(of, func(list []claimant) []claimant {
			list = append(without(list), who)
			slices.SortFunc(list, claimant.compare)
			return list
		})
	}
	delete(others, who.name)
	delete(others, types.NamespacedName{})
	return others
}

// granted returns services without those frontends that an older Service has, and who
// has them.
func (c claims) granted(who types.NamespacedName, services []nftdp.Service) ([]nftdp.Service, map[claim]types.NamespacedName) {
	lost := map[claim]types.NamespacedName{}
	var out []nftdp.Service
	for _, s := range services {
		var frontends []nftdp.Frontend
		for _, f := range s.Frontends {
			of := claim{s.Protocol, f.Addr, f.Port}
			if list := c[of]; len(list) > 0 && list[0].name != who {
				lost[of] = list[0].name
				continue
			}
			if taken(out, of) {
				lost[of] = who
				continue
			}
			frontends = append(frontends, f)
		}
		if s.Frontends = frontends; len(frontends) > 0 {
			s.Backends = slices.DeleteFunc(slices.Clone(s.Backends), func(b nftdp.Backend) bool { return !hasFamily(frontends, b.Addr.Addr()) })
			out = append(out, s)
		}
	}
	return out, lost
}

// taken reports whether one of the services has a frontend: two ports of a Service may
// want the same port of the node.
func taken(services []nftdp.Service, of claim) bool {
	return slices.ContainsFunc(services, func(s nftdp.Service) bool {
		return s.Protocol == of.protocol && slices.ContainsFunc(s.Frontends, func(f nftdp.Frontend) bool {
			return f.Addr == of.addr && f.Port == of.port
		})
	})
}
