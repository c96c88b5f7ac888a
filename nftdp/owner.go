package nftdp

import (
	"context"
	"fmt"
	"strings"

	"github.com/nftdp/go-nftdp/internal/compile"
	"github.com/nftdp/go-nftdp/internal/engine"
)

// maxOwnerLen is the most bytes of an owner.
const maxOwnerLen = 32

// ownerFlaw says what is wrong with an owner, or "".
func ownerFlaw(owner string) string {
	if len(owner) > maxOwnerLen {
		return fmt.Sprintf("has %d bytes: at most %d are possible", len(owner), maxOwnerLen)
	}
	for i, r := range owner {
		if !isLetter(r) && !strings.ContainsRune("0123456789_.-", r) {
			return fmt.Sprintf(`%q has %q at byte %d: only letters, digits and any of "_.-" are possible`, owner, r, i)
		}
	}
	return ""
}

// ownerProblems finds services that do not belong to Config.Owner.
func (c Config) ownerProblems(services []Service) []*FieldError {
	var found []*FieldError
	for i := range services {
		if s := &services[i]; s.Name != "" && !c.owns(s.Name) {
			found = append(found, s.problem(i, "name", c.notOwned(s.Name)))
		}
	}
	return found
}

// owns reports whether the name is one that a service of Config.Owner can have.
func (c Config) owns(name string) bool { return c.Owner == "" || compile.OwnerOf(name) == c.Owner }

func (c Config) notOwned(name string) string {
	return fmt.Sprintf("%q is not of owner %q: begin it with %q", name, c.Owner, c.Owner+compile.OwnerSeparator)
}

// TakeOver is Apply, whatever configuration and layout the tables have: it is how
// the configuration of tables that several owners share is changed. The tables are
// replaced in one transaction. Services of other owners stay, with their counters,
// unless the tables are of an older version, whose services cannot be read.
// Services without an owner go. Without Config.Owner all services of others go. The
// other Dataplanes then get ErrOtherConfig, until they are opened with the same
// configuration. What clients with affinity were remembered is forgotten.
func (d *Dataplane) TakeOver(ctx context.Context, services []Service) (*Plan, error) {
	return d.change("TakeOver", func() (*Plan, error) {
		edit, err := d.whole(services)
		if err != nil {
			return nil, err
		}
		edit.TakeOver = true
		return planOf(services)(d.engine.Commit(ctx, edit))
	})
}

// whole returns the edit that leaves exactly these services of our owner.
func (d *Dataplane) whole(services []Service) (*engine.Edit, error) {
	if err := joinProblems(d.config().problemsOf(services)); err != nil {
		return nil, err
	}
	return &engine.Edit{Whole: true, Set: d.lowerAll(services)}, nil
}

// problemsOf returns the problems of a complete list of services.
func (c Config) problemsOf(services []Service) []*FieldError {
	return append(newClaims(len(services)).admit(services), c.ownerProblems(services)...)
}
