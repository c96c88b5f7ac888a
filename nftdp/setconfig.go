package nftdp

import (
	"context"
	"fmt"
)

// SetConfig replaces the configuration while the Dataplane is open: the node's
// addresses, the pods' or services' prefixes, or whatever else is no longer what it
// was. All services stay. The rules follow in one transaction, which is returned. Its
// size does not depend on the number of services, but if it changes rules, the kernel
// validates the verdicts of all frontends (as if a service were added to each chain
// that changes). If the rules of the namespace have changed since the last commit of
// this Dataplane, the tables are read first, as by Apply. Keep and Watch go on, by the
// new configuration.
//
// Flows and clients with affinity that the new rules would treat otherwise are
// deleted, as Apply does it. Before the first Apply or Update nothing is changed yet:
// the configuration takes effect with that.
//
// Table, Owner and Protect cannot change, and tables with owners are configured for
// all of them by TakeOver: that is a *FieldError, as a wrong configuration is. With any
// error but those of the flows, the Dataplane has the former configuration.
func (d *Dataplane) SetConfig(ctx context.Context, c Config) (*Plan, error) {
	return d.change("SetConfig", func() (*Plan, error) { return d.setConfig(ctx, c) })
}

func (d *Dataplane) setConfig(ctx context.Context, c Config) (*Plan, error) {
	d.setting.Lock()
	defer d.setting.Unlock()
	if err := joinProblems(append(c.problems(), c.fixed(d.config())...)); err != nil {
		return nil, err
	}
	plan, err := planOf(nil)(d.engine.SetConfig(ctx, c.lower()))
	if err == nil || plan != nil {
		d.cfg.Store(&c)
	}
	return plan, err
}

// fixed finds fields that differ from those of the configuration by which a Dataplane
// was opened, and cannot.
func (c Config) fixed(opened Config) (found []*FieldError) {
	add := func(field, reason string) { found = append(found, &FieldError{Field: field, Reason: reason}) }
	const other = "open another Dataplane instead"
	if c.table() != opened.table() {
		add("table", fmt.Sprintf("%q cannot take the place of %q: %s", c.table(), opened.table(), other))
	}
	switch {
	case c.Owner != opened.Owner:
		add("owner", fmt.Sprintf("%q cannot take the place of %q: %s", c.Owner, opened.Owner, other))
	case c.Owner != "":
		add("owner", "shares the tables with others, who need the same configuration: open another Dataplane with it, and TakeOver")
	}
	if c.Protect != opened.Protect {
		add("protect", "cannot begin or end while the Dataplane is open: "+other)
	}
	return found
}
