package engine

import (
	"context"
	"net/netip"

	"github.com/nftdp/go-nftdp/internal/around"
	"github.com/nftdp/go-nftdp/internal/compile"
	"github.com/nftdp/go-nftdp/internal/ruleset"
)

// Surroundings is implemented by a Kernel that knows what is around our rules. Its
// methods may be called at any time before Close; Foreign uses the Reader that is aside.
type Surroundings interface {
	// Route returns what the kernel does with a packet, or why it refuses it.
	Route(ctx context.Context, q around.Query) (around.Route, around.Refusal, error)
	// Device returns the network device of that name.
	Device(ctx context.Context, name string) (around.Device, error)
	// Neighbours returns what is known of neighbours. Those that are not known
	// are asked, for at most some seconds.
	Neighbours(ctx context.Context, hops []around.Hop) ([]around.Neighbour, error)
	// Foreign reads the chains of all tables but those of that name which see IP
	// packets of a family: by table, and then by name.
	Foreign(ctx context.Context, f ruleset.Family, table string) ([]map[string]*around.Chain, error)
}

// View is what one packet meets in the namespace.
type View struct {
	Rules   *ruleset.Ruleset
	Local   []netip.Prefix    // of both families
	Learned []ruleset.Learned // the clients that our rules remember
	Foreign []map[string]*around.Chain
	Around  Surroundings // nil: nothing is known about it
}

// Look reads what a packet of a family meets. Other methods do not wait for it.
func (e *Engine) Look(ctx context.Context, f ruleset.Family) (v *View, err error) {
	v = &View{Around: e.around}
	if v.Rules, err = e.Ruleset(ctx, true); err != nil {
		return nil, err
	}
	if v.Local, err = e.flows.Local(ctx); err != nil {
		return nil, explainPermission(err)
	}
	if t := v.Rules.Table(f); t != nil && compile.HasAffinity(t) {
		if v.Learned, err = e.aside.learned(ctx, f); err != nil {
			return nil, err
		}
	}
	if e.around == nil {
		return v, nil
	}
	err = e.aside.do(ctx, func(Reader) (err error) {
		v.Foreign, err = e.around.Foreign(ctx, f, e.aside.table)
		return err
	})
	return v, err
}

// learned reads the clients that our rules remember.
func (a *aside) learned(ctx context.Context, f ruleset.Family) (out []ruleset.Learned, err error) {
	for _, of := range (compile.Config{}).AffinityMaps() {
		entries, err := a.entries(ctx, f, of)
		if err != nil {
			return nil, err
		}
		for i := range entries {
			if n := &entries[i]; !n.CatchAll && !n.Opaque {
				out = append(out, ruleset.Learned{Map: of.Name, Key: padded(n.Key), Data: padded(n.Data)})
			}
		}
	}
	return out, nil
}

// padded returns fields as they are in the kernel's registers.
func padded(fields [][]byte) (out []byte) {
	for _, f := range fields {
		out = append(append(out, f...), make([]byte, -len(f)&3)...)
	}
	return out
}
