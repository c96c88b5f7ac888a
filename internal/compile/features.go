package compile

import (
	"net/netip"

	"github.com/nftdp/go-nftdp/internal/ruleset"
)

// Feature is something that not every kernel can do.
type Feature struct {
	Name    string // what cannot be programmed without it
	Options string // the kernel options that it needs, besides those of a feature before it
	Basic   bool   // no service can be programmed without it
	Config  Config
	Example []*Service // nil: the tables without services
}

// Features lists what a kernel may lack, each with a ruleset that needs it, which no
// packet meets. What all others need, too, comes first. Flags are those of the tables
// that are wanted.
func Features(table string, flags ruleset.TableFlags) []Feature {
	example := func(change func(*Service)) []*Service {
		s := &Service{Name: "example", Proto: TCP}
		for _, a := range []string{"192.0.2.1", "2001:db8::1"} {
			addr := netip.MustParseAddr(a)
			pool := []netip.AddrPort{netip.AddrPortFrom(addr.Next(), 80), netip.AddrPortFrom(addr.Next().Next(), 80)}
			s.Frontends = append(s.Frontends, &Frontend{Addr: addr, Port: 80, Pool: pool})
		}
		change(s)
		return []*Service{s}
	}
	plain, protected := Config{Table: table, Flags: ruleset.Dormant}, Config{Table: table, Flags: flags | ruleset.Dormant}
	out := []Feature{
		{"services", "CONFIG_NFT_NAT, CONFIG_NFT_MASQ, CONFIG_NFT_CT, CONFIG_NFT_NUMGEN, CONFIG_NFT_FIB_IPV4, CONFIG_NFT_FIB_IPV6, CONFIG_NFT_SOCKET, CONFIG_NFT_REJECT_IPV4, CONFIG_NFT_REJECT_IPV6", true, plain, nil},
		{"the schedulers that hash", "CONFIG_NFT_HASH", false, plain, example(func(s *Service) { s.Scheduler = Maglev })},
		{"Backend.MaxConns", "CONFIG_NFT_CONNLIMIT", false, plain, example(func(s *Service) {
			s.Limits = map[netip.AddrPort]uint32{}
			for _, f := range s.Frontends {
				s.Limits[f.Pool[0]] = 1
			}
		})},
		{"Backend.NodePort", "CONFIG_NFT_REDIR", false, plain, example(func(s *Service) {
			s.ToNode = true
			for _, f := range s.Frontends {
				f.Pool = []netip.AddrPort{netip.AddrPortFrom(ruleset.FamilyOf(f.Addr).Unspecified(), 80)}
			}
		})},
	}
	if flags != 0 {
		out = append(out, Feature{"Config.Protect, which needs tables that outlive their owner", "Linux 6.9 or later", true, protected, nil})
	}
	return out
}

// Ruleset is one that needs the feature.
func (f *Feature) Ruleset() *ruleset.Ruleset { return New(f.Config, f.Example).Ruleset() }
