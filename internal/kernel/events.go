//go:build linux

package kernel

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nftdp/go-nftdp/internal/ruleset"
)

// Listener hears what anybody commits to the rules of a namespace. The kernel
// tells each transaction in the order of the generations, object by object,
// and ends it with a message that names the generation (nf_tables_commit in
// net/netfilter/nf_tables_api.c). So whoever has heard every generation up to
// the present one knows all that has been changed. It is not safe for
// concurrent use, apart from its bells.
type Listener struct {
	*socket
	at    uint32 // the last generation that has been heard, or is known otherwise
	doubt bool   // transactions may have gone by unheard after it
}

// Event is one message of a transaction.
type Event struct {
	Type    int // NFT_MSG_NEWRULE and so on; NFT_MSG_NEWGEN ends a transaction
	Family  ruleset.Family
	Table   string
	Process Process // with NFT_MSG_NEWGEN
	Msg     []byte  // from struct nfgenmsg on, valid during the call
}

// Process is who committed a transaction, in the words of the kernel.
type Process struct {
	PID  int
	Name string
}

// ErrMissed says that not all transactions have been heard.
var ErrMissed = errors.New("not every change of the rules was heard")

const (
	// eventBuffer takes some ten thousand elements, or a thousand small
	// transactions. In a user namespace net.core.rmem_max bounds it.
	eventBuffer = 4 << 20
	// The generation moves a little before the transaction is told: by the
	// time that it takes to write it down.
	patience = time.Second
	// What went by unheard is not waited for as long as that.
	littlePatience = 20 * time.Millisecond
)

// Listen opens a socket in the namespace, like Dial, and begins to listen.
func Listen(ns int) (*Listener, error) {
	s, err := dialSocket(unix.NETLINK_NETFILTER, ns)
	if err != nil {
		return nil, err
	}
	l := &Listener{socket: s, doubt: true}
	if err := l.setup(); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}

func (l *Listener) setup() error {
	if err := l.SetBuffer(eventBuffer); err != nil {
		return err
	}
	return l.Join()
}

// SetBuffer says how many bytes may wait to be heard. What does not fit is
// missed.
func (l *Listener) SetBuffer(n int) error {
	if err := l.nl.SetReadBuffer(n); err != nil {
		return fmt.Errorf("netlink receive buffer: %w", err)
	}
	return nil
}

// Join begins to listen.
func (l *Listener) Join() error {
	if err := l.nl.JoinGroup(unix.NFNLGRP_NFTABLES); err != nil {
		return fmt.Errorf("join netlink group: %w", err)
	}
	return nil
}

// Leave stops to listen. The kernel writes no transaction down if nobody
// listens, which saves it a good part of the work.
func (l *Listener) Leave() error {
	l.doubt = true
	if err := l.nl.LeaveGroup(unix.NFNLGRP_NFTABLES); err != nil {
		return fmt.Errorf("leave netlink group: %w", err)
	}
	return nil
}

// Close ends it.
func (l *Listener) Close() error { return l.close() }

// Known says that everything up to a generation, which was read since the last
// Join, is known: there is no doubt any more.
func (l *Listener) Known(generation uint32) { l.at, l.doubt = generation, false }

// Discard forgets what there is to hear.
func (l *Listener) Discard() error {
	if err := l.drain(func(*Event) {}); err != nil && !errors.Is(err, ErrMissed) {
		return err
	}
	return nil
}

// CatchUp gives each the messages of all transactions after the generation
// from, which is known, and returns the last one that is complete: to or a
// later one. ErrMissed: some were not heard. Then each may have been called
// for others.
func (l *Listener) CatchUp(from, to uint32, each func(*Event)) (uint32, error) {
	wait := patience
	if l.doubt {
		wait = littlePatience
	}
	l.at = from
	for {
		err := l.drain(each)
		if err == nil && int32(l.at-to) < 0 {
			err = l.wait(wait)
			if errors.Is(err, os.ErrDeadlineExceeded) {
				err = ErrMissed
			}
			if err == nil {
				continue
			}
		}
		if err != nil {
			return 0, err
		}
		l.doubt = false
		return l.at, nil
	}
}

// wait waits until there is something to hear.
func (l *Listener) wait(atMost time.Duration) error {
	if err := l.nl.SetReadDeadline(time.Now().Add(atMost)); err != nil {
		return fmt.Errorf("netlink deadline: %w", err)
	}
	if err := l.raw.Read(readable); err != nil {
		return fmt.Errorf("wait for events: %w", err)
	}
	return nil
}

// readable looks without taking anything, also not the error that says that
// something was missed.
func readable(fd uintptr) bool {
	p := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	n, _ := unix.Poll(p, 0)
	return n != 0 // an error is for the reader to see
}

// drain hears all that is there. It does not wait, and so does not mind those
// who do.
func (l *Listener) drain(each func(*Event)) error {
	var failed error
	err := l.raw.Control(func(fd uintptr) {
		for {
			n, from, err := unix.Recvfrom(int(fd), l.buf, unix.MSG_DONTWAIT|unix.MSG_TRUNC)
			sa, ok := from.(*unix.SockaddrNetlink)
			switch {
			case errors.Is(err, unix.EINTR):
			case errors.Is(err, unix.EAGAIN):
				return
			case errors.Is(err, unix.ENOBUFS), n > len(l.buf):
				failed = ErrMissed // and the rest is dropped
			case err != nil:
				failed = os.NewSyscallError("recvfrom", err)
				return
			case failed == nil && ok && sa.Pid == 0:
				_, failed = parse(l.buf[:n], func(m message) (bool, error) { return false, l.hear(m, each) })
			}
		}
	})
	if err != nil {
		return fmt.Errorf("netlink socket: %w", err)
	}
	return failed
}

// hear takes a message, unless it is of a transaction that is known. Every one
// has the lower half of its generation in the header (nfnl_msg_put with
// nft_base_seq in net/netfilter/nf_tables_api.c).
func (l *Listener) hear(m message, each func(*Event)) error {
	const header = 4 // struct nfgenmsg
	if m.typ>>8 != unix.NFNL_SUBSYS_NFTABLES || len(m.data) < header {
		return nil
	}
	if int16(binary.BigEndian.Uint16(m.data[2:])-uint16(l.at)) <= 0 {
		return nil
	}
	e := Event{Type: int(m.typ & 0xff), Family: ruleset.Family(m.data[0]), Msg: m.data}
	if e.Type == unix.NFT_MSG_NEWGEN {
		generation, process := endOf(m.data[header:])
		if generation != max(l.at+1, 1) {
			return ErrMissed
		}
		l.at, e.Process = generation, process
	} else {
		Attributes(m.data[header:], func(typ int, p []byte) {
			if typ == 1 { // NFTA_RULE_TABLE and its like, which are all the same
				e.Table = unix.ByteSliceToString(p)
			}
		})
	}
	each(&e)
	return nil
}

// endOf reads the attributes of NFT_MSG_NEWGEN.
func endOf(attrs []byte) (generation uint32, by Process) {
	Attributes(attrs, func(typ int, p []byte) {
		switch {
		case typ == unix.NFTA_GEN_ID && len(p) == 4:
			generation = binary.BigEndian.Uint32(p)
		case typ == unix.NFTA_GEN_PROC_PID && len(p) == 4:
			by.PID = int(binary.BigEndian.Uint32(p))
		case typ == unix.NFTA_GEN_PROC_NAME:
			by.Name = unix.ByteSliceToString(p)
		}
	})
	return generation, by
}

// Bell rings when there is something to hear.
type Bell struct {
	file *os.File
	raw  syscall.RawConn
}

// Bell makes one. Waiting for it does not keep anybody from hearing.
func (l *Listener) Bell() (*Bell, error) {
	fd, err := -1, error(nil)
	if ctl := l.raw.Control(func(s uintptr) { fd, err = unix.FcntlInt(s, unix.F_DUPFD_CLOEXEC, 0) }); ctl != nil || err != nil {
		return nil, fmt.Errorf("duplicate netlink socket: %w", errors.Join(ctl, err))
	}
	b := &Bell{file: os.NewFile(uintptr(fd), "netlink")}
	if b.raw, err = b.file.SyscallConn(); err != nil {
		return nil, fmt.Errorf("netlink socket: %w", errors.Join(err, b.file.Close()))
	}
	return b, nil
}

// Wait waits until there is something to hear, or until it has been rung since
// the last Reset.
func (b *Bell) Wait() error {
	if err := b.raw.Read(readable); err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
		return fmt.Errorf("wait for events: %w", err)
	}
	return nil
}

// Ring ends Wait. It may be called at any time.
func (b *Bell) Ring() { _ = b.file.SetReadDeadline(time.Unix(1, 0)) }

// Reset makes Wait wait again.
func (b *Bell) Reset() error {
	if err := b.file.SetReadDeadline(time.Time{}); err != nil {
		return fmt.Errorf("netlink deadline: %w", err)
	}
	return nil
}

// Close ends it.
func (b *Bell) Close() error { return b.file.Close() }
