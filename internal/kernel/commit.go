//go:build linux

package kernel

import (
	"context"
	"encoding/binary"
	"errors"

	"golang.org/x/sys/unix"

	"github.com/nftdp/go-nftdp/internal/netlink"
	"github.com/nftdp/go-nftdp/internal/nfnl"
	"github.com/nftdp/go-nftdp/internal/ruleset"
)

// Commit applies the changes as one batch if the rules of the namespace are still
// at that generation, and returns the next one. Generation 0 stands for any; then
// the returned generation is meaningless.
//
// ruleset.ErrStale: the rules are at another generation. ruleset.ErrUnknown: the
// batch may or may not have been applied. *ruleset.RefusedError: the kernel refused
// a change. *ruleset.TooBigError: the socket cannot send the batch; nothing was
// sent. Once the batch is sent, the context has no influence.
func (c *Conn) Commit(ctx context.Context, generation uint32, changes []ruleset.Change) (uint32, error) {
	if len(changes) == 0 {
		return generation, nil
	}
	batch := nfnl.NewBatch(c.socket.NextSeq(0), generation)
	for i := range changes {
		if err := batch.Add(&changes[i]); err != nil {
			return 0, err
		}
	}
	if err := c.sendBatch(ctx, batch); err != nil {
		return 0, err
	}
	if err := c.outcomeOf(batch); err != nil {
		return 0, err
	}
	return nextGeneration(generation), nil
}

// nextGeneration returns the generation after a commit. Only commits change it,
// each by one, and it is never zero.
func nextGeneration(generation uint32) uint32 { return max(generation+1, 1) }

func (c *Conn) sendBatch(ctx context.Context, batch *nfnl.Batch) error {
	b := batch.Finish()
	c.socket.NextSeq(batch.NextSeq() - batch.FirstSeq())
	limit, err := c.MaxBatch(len(b))
	if err != nil {
		return err
	}
	if len(b) > limit {
		return &ruleset.TooBigError{Size: len(b), Limit: limit, Errno: unix.EMSGSIZE}
	}
	return c.socket.Send(ctx, b)
}

// outcomeOf waits for the answer to a batch and returns the first error.
func (c *Conn) outcomeOf(batch *nfnl.Batch) error {
	var refused error
	err := c.answers(batch, func(m *netlink.Message, errno unix.Errno) {
		switch {
		case errno == unix.ENOMEM: // not specific to the answered message
			refused = &ruleset.RefusedError{Element: -1, Errno: errno}
		case refused == nil:
			change, element := batch.Find(m.Seq, badAttribute(m))
			refused = &ruleset.RefusedError{Change: change, Element: element, Errno: errno}
		}
	})
	switch {
	case err != nil:
		return err
	case errors.Is(refused, unix.ERESTART):
		return ruleset.ErrStale
	}
	return refused
}

// answers waits for the answer to a batch and calls each for every error. Errors
// come in the order of the messages, and the last message is always answered,
// unless the batch as a whole was refused (nfnetlink_rcv_batch in
// net/netfilter/nfnetlink.c). Then another message is answered last:
//
//   - mostly the one that begins the batch;
//   - if there was no memory, the message after that, with ENOMEM;
//   - if the kernel restarted the batch because a message needed a module, and
//     another process committed meanwhile, that message, with ERESTART.
func (c *Conn) answers(batch *nfnl.Batch, each func(*netlink.Message, unix.Errno)) error {
	return outcome(c.socket.Receive(func(m *netlink.Message) (bool, error) {
		if m.Type != unix.NLMSG_ERROR || m.Seq-batch.FirstSeq() > batch.LastSeq()-batch.FirstSeq() {
			return false, nil // an answer to an earlier batch
		}
		errno, err := m.Errno()
		if err != nil {
			return true, err
		}
		if errno != 0 {
			each(m, errno)
		}
		whole := errno == unix.ERESTART || errno == unix.ENOMEM
		return whole || m.Seq == batch.LastSeq() || m.Seq == batch.FirstSeq(), nil
	}))
}

// badAttribute reads the offset of the offending attribute in the request
// (NLMSGERR_ATTR_OFFS); 0 means unknown.
func badAttribute(m *netlink.Message) (offset int) {
	const (
		tlvsFlag = 0x200 // NLM_F_ACK_TLVS
		offs     = 2     // NLMSGERR_ATTR_OFFS
		fixed    = 4 + unix.NLMSG_HDRLEN
	)
	if m.Flags&tlvsFlag == 0 || len(m.Data) < fixed {
		return 0
	}
	for a := netlink.ReadAttributes(m.Data[fixed:]); a.Next(); {
		if a.Type == offs && len(a.Value) >= 4 {
			offset = int(binary.NativeEndian.Uint32(a.Value))
		}
	}
	return offset
}
