//go:build linux

package kernel

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/nftdp/go-nftdp/internal/nfnl"
	"github.com/nftdp/go-nftdp/internal/ruleset"
)

// RefusedError is a change that the kernel refused, and with it the batch.
type RefusedError struct {
	Change  *ruleset.Change // nil: the batch as a whole
	Element int             // of Change; -1: unknown, or not about an element
	Errno   unix.Errno
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

// Unwrap gives the errno.
func (e *RefusedError) Unwrap() error { return e.Errno }

// TooBigError is a batch that the socket can not take. Nothing was sent.
type TooBigError struct {
	Size, Limit int
}

// Error names both sizes and the remedy.
func (e *TooBigError) Error() string {
	return fmt.Sprintf("batch of %d bytes, but the socket takes %d: raise net.core.wmem_max", e.Size, e.Limit)
}

// Unwrap gives what the kernel would have answered.
func (e *TooBigError) Unwrap() error { return unix.EMSGSIZE }

// Commit applies the changes as one batch if the rules of the namespace are
// still of that generation, and returns the next one. ErrStale: they were not.
// ErrUnknown: it may or may not have been applied. Once the batch is handed to
// the kernel the context has no influence.
func (c *Conn) Commit(ctx context.Context, generation uint32, changes []ruleset.Change) (uint32, error) {
	if len(changes) == 0 {
		return generation, nil
	}
	batch := nfnl.NewBatch(c.seq, generation)
	for i := range changes {
		if err := batch.Add(&changes[i]); err != nil {
			return 0, err
		}
	}
	if err := c.sendBatch(ctx, batch); err != nil {
		return 0, err
	}
	if err := c.outcome(batch); err != nil {
		return 0, err
	}
	return nextGeneration(generation), nil
}

// nextGeneration is the one after a commit. It only ever moves by commits, each
// by one, never to zero.
func nextGeneration(generation uint32) uint32 { return max(generation+1, 1) }

func (c *Conn) sendBatch(ctx context.Context, batch *nfnl.Batch) error {
	b := batch.Finish()
	c.seq = batch.NextSeq()
	limit, err := c.MaxBatch(len(b))
	if err != nil {
		return err
	}
	if len(b) > limit {
		return &TooBigError{Size: len(b), Limit: limit}
	}
	return c.send(ctx, b)
}

// outcome waits for the answer to a batch and gives the first error.
func (c *Conn) outcome(batch *nfnl.Batch) error {
	var refused error
	err := c.answers(batch, func(m message, errno unix.Errno) {
		switch {
		case errno == unix.ENOMEM: // not about the message that is answered
			refused = &RefusedError{Element: -1, Errno: errno}
		case refused == nil:
			change, element := batch.Find(m.seq, badAttribute(m))
			refused = &RefusedError{Change: change, Element: element, Errno: errno}
		}
	})
	switch {
	case err != nil:
		return err
	case errors.Is(refused, unix.ERESTART):
		return ErrStale
	}
	return refused
}

// answers waits for the answer to a batch and gives each error. They come in
// the order of the messages, and the last message is answered in any case,
// unless the batch as a whole was refused (nfnetlink_rcv_batch in
// net/netfilter/nfnetlink.c):
//
//   - mostly its begin is answered then;
//   - if there was no memory for any message, the first one behind the begin is,
//     with ENOMEM;
//   - if the kernel began anew because a message wanted a module, and somebody
//     else's commit came meanwhile, that message is, with ERESTART.
func (c *Conn) answers(batch *nfnl.Batch, each func(message, unix.Errno)) error {
	return c.receive(func(m message) (bool, error) {
		if m.typ != unix.NLMSG_ERROR || m.seq-batch.FirstSeq() > batch.LastSeq()-batch.FirstSeq() {
			return false, nil // left over from an earlier batch
		}
		errno, err := errnoOf(m)
		if err != nil {
			return true, err
		}
		if errno != 0 {
			each(m, errno)
		}
		whole := errno == unix.ERESTART || errno == unix.ENOMEM
		return whole || m.seq == batch.LastSeq() || m.seq == batch.FirstSeq(), nil
	})
}

// badAttribute reads NLMSGERR_ATTR_OFFS, where in the request the offending
// attribute is; 0 is unknown.
func badAttribute(m message) (offset int) {
	const (
		tlvsFlag = 0x200 // NLM_F_ACK_TLVS
		offs     = 2     // NLMSGERR_ATTR_OFFS
		fixed    = 4 + unix.NLMSG_HDRLEN
	)
	if m.flags&tlvsFlag == 0 || len(m.data) < fixed {
		return 0
	}
	Attributes(m.data[fixed:], func(typ int, p []byte) {
		if typ == offs && len(p) >= 4 {
			offset = int(binary.NativeEndian.Uint32(p))
		}
	})
	return offset
}
