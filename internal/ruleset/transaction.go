package ruleset

import (
	"errors"
	"fmt"
	"slices"
)

// Transaction turns one ruleset into another one in up to three batches, so
// that no packet falls between the two states. Mostly there is Now alone; the
// others change nothing for any packet by themselves.
//
// The kernel looks at the generation once for the rules of a packet, but again
// for every set that it looks up (nft_do_chain in net/netfilter/
// nf_tables_core.c), and a packet meets the sets of postrouting a little after
// the maps of prerouting.
type Transaction struct {
	// Ahead has chains and sets that were not there before: elements that
	// lead to them are seen before the rules that come with the same batch.
	Ahead []Change
	// Now is the change itself, taken as a whole.
	Now []Change
	// Behind deletes what packets on their way may still look up: elements of
	// sets that are asked after the destination was chosen (Set.AfterDNAT),
	// the chains that these have led to, and chains that help while a table
	// is replaced.
	Behind []Change
	// Unused deletes what no service needs any more, in tables that several
	// processes change. It is left out unless the rules are known to be the
	// same as when that was found out.
	Unused []Change
}

// Stages returns the batches that are not empty, in order.
func (t *Transaction) Stages() [][]Change {
	stages := [][]Change{t.Ahead, t.Now, t.Behind, t.Unused}
	return slices.DeleteFunc(stages, func(s []Change) bool { return len(s) == 0 })
}

// Changes returns all changes in the order in which the kernel gets them.
func (t *Transaction) Changes() []Change { return slices.Concat(t.Ahead, t.Now, t.Behind, t.Unused) }

// Empty reports whether there is nothing to do.
func (t *Transaction) Empty() bool { return len(t.Changes()) == 0 }

func (t *Transaction) append(o Transaction) {
	t.Ahead = append(t.Ahead, o.Ahead...)
	t.Now = append(t.Now, o.Now...)
	t.Behind = append(t.Behind, o.Behind...)
}

var (
	// ErrUnknown says that replies were lost (ENOBUFS), so that it is not
	// known whether a batch was applied.
	ErrUnknown = errors.New("outcome unknown, replies of the kernel were lost")
	// ErrStale says that the rules of the namespace are of another generation
	// than the batch was made for, or changed while they were read. Nothing
	// was applied.
	ErrStale = errors.New("rules changed meanwhile")
	// ErrMissed says that events were lost.
	ErrMissed = errors.New("events of the kernel were lost")
)

// RefusedError is a change that the kernel refused, and with it the batch.
type RefusedError struct {
	Change  *Change // nil: the batch as a whole
	Element int     // index in Change.Elements; -1: unknown, or not about an element
	Errno   error   // a syscall.Errno
}

// Error names the change and the errno.
func (e *RefusedError) Error() string {
	return fmt.Sprintf("refused %s: %v", e.Command(), e.Errno)
}

// Command is the refused change in nft words.
func (e *RefusedError) Command() string {
	switch {
	case e.Change == nil:
		return "batch"
	case e.Element >= 0:
		return e.Change.ElementString(e.Element)
	case len(e.Change.Elements) > 1:
		return fmt.Sprintf("%s %d elements of %s %s %s", e.Change.Verb, len(e.Change.Elements),
			e.Change.Family, e.Change.Table, e.Change.Set.Name)
	}
	return e.Change.String()
}

// Unwrap returns the errno.
func (e *RefusedError) Unwrap() error { return e.Errno }

// TooBigError is a batch that the socket cannot take. Nothing was sent.
type TooBigError struct {
	What        string // what does not fit by itself; empty: the batch
	Service     string // what does not fit by itself is all of this service
	Size, Limit int    // in bytes
	Errno       error  // what the kernel would have answered: EMSGSIZE
}

// Error names both sizes and the remedy.
func (e *TooBigError) Error() string {
	what := "batch"
	if e.What != "" {
		what = e.What + ": a batch"
	}
	return fmt.Sprintf("%s of %d bytes, but the socket takes %d: raise net.core.wmem_max", what, e.Size, e.Limit)
}

// Unwrap returns the errno.
func (e *TooBigError) Unwrap() error { return e.Errno }
