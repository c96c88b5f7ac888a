//go:build linux

package kernel

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nftdp/go-nftdp/internal/netlink"
	"github.com/nftdp/go-nftdp/internal/nfnl"
	"github.com/nftdp/go-nftdp/internal/ruleset"
)

// Monitor receives the events of all commits to the rules of a namespace. The
// kernel sends the events of each transaction in the order of the generations,
// object by object, and ends them with a message that names the generation
// (nf_tables_commit in net/netfilter/nf_tables_api.c). So a monitor that has
// received every generation up to the present one knows all changes. It is not safe
// for concurrent use.
//
// While any socket of the machine is in the group, the kernel allocates 8 kB of
// event for each element of every transaction, in all namespaces. So a monitor
// joins the group only while it is needed.
type Monitor struct {
	socket *netlink.Socket
	own    uint32 // the netlink port whose transactions are left out
	table  string
	sets   func(name string) *ruleset.Set
	at     uint32 // the last generation that was received, or is known from elsewhere
	gap    bool   // transactions after it may have been missed
}

const (
	// eventBuffer has room for some ten thousand elements, or a thousand small
	// transactions. In a user namespace net.core.rmem_max bounds it.
	eventBuffer = 4 << 20
	// maxDelay bounds the time between a new generation and its events, which
	// the kernel builds and sends after that.
	maxDelay = time.Second
	// maxDelayInGap is shorter, since the events may have been missed.
	maxDelayInGap = 20 * time.Millisecond
)

// NewMonitor opens a socket in the network namespace of a file descriptor, or
// Here. The monitor leaves out transactions of the port own, and decodes elements
// of those sets of the table for which sets returns a declaration.
func NewMonitor(ns int, own uint32, table string, sets func(name string) *ruleset.Set) (*Monitor, error) {
	s, err := netlink.Dial(unix.NETLINK_NETFILTER, ns)
	if err != nil {
		return nil, err
	}
	m := &Monitor{socket: s, own: own, table: table, sets: sets, gap: true}
	if err := m.SetBuffer(eventBuffer); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return m, nil
}

// SetBuffer sets how many bytes of events may wait in the kernel. Events that do
// not fit are missed.
func (m *Monitor) SetBuffer(n int) error {
	if err := m.socket.Conn().SetReadBuffer(n); err != nil {
		return fmt.Errorf("netlink receive buffer: %w", err)
	}
	return nil
}

// Join begins to receive events.
func (m *Monitor) Join() error {
	m.gap = true
	if err := m.socket.Conn().JoinGroup(unix.NFNLGRP_NFTABLES); err != nil {
		return fmt.Errorf("join netlink group: %w", err)
	}
	return nil
}

// Leave stops receiving events.
func (m *Monitor) Leave() error {
	m.gap = true
	if err := m.socket.Conn().LeaveGroup(unix.NFNLGRP_NFTABLES); err != nil {
		return fmt.Errorf("leave netlink group: %w", err)
	}
	return nil
}

// Close closes the socket.
func (m *Monitor) Close() error { return m.socket.Close() }

// Socket returns the socket that receives the events, to wait for them.
func (m *Monitor) Socket() *netlink.Socket { return m.socket }

// Known tells the monitor that everything up to a generation is known, and that no
// later event has been missed.
func (m *Monitor) Known(generation uint32) { m.at, m.gap = generation, false }

// Discard drops all received events.
func (m *Monitor) Discard() error { return m.socket.Discard() }

// CatchUp calls each for the objects of all transactions after the last known
// one, except our own, and returns the last complete generation, which is to or a
// later one. ruleset.ErrMissed: events were missed; each may have been called for
// others.
func (m *Monitor) CatchUp(ctx context.Context, to uint32, each func(*ruleset.Event)) (uint32, error) {
	delay := maxDelay
	if m.gap {
		delay = maxDelayInGap
	}
	for {
		err := m.socket.Drain(func(msg *netlink.Message) error { return m.receive(msg, each) })
		if err == nil && int32(m.at-to) < 0 {
			if err = m.socket.Wait(ctx, delay); err == nil {
				continue
			}
		}
		if errors.Is(err, netlink.ErrLost) || errors.Is(err, os.ErrDeadlineExceeded) {
			m.gap = true
			return 0, ruleset.ErrMissed
		}
		if err != nil {
			return 0, err
		}
		m.gap = false
		return m.at, nil
	}
}

// receive handles a message, unless its transaction is known. The header of every
// message has the lower half of its generation (nfnl_msg_put with nft_base_seq in
// net/netfilter/nf_tables_api.c).
func (m *Monitor) receive(msg *netlink.Message, each func(*ruleset.Event)) error {
	if msg.Type>>8 != unix.NFNL_SUBSYS_NFTABLES || len(msg.Data) < netlink.NetfilterHeaderLen {
		return nil
	}
	if int16(binary.BigEndian.Uint16(msg.Data[2:])-uint16(m.at)) <= 0 {
		return nil
	}
	e := ruleset.Event{Kind: kindOf(msg.Type & 0xff), Family: ruleset.Family(msg.Data[0]), Verb: ruleset.Add}
	if e.Kind == ruleset.KindEnd {
		var generation uint32
		if generation, e.Process = generationOf(msg.Data); generation != nextGeneration(m.at) {
			return netlink.ErrLost
		}
		m.at = generation
	}
	if msg.Port == m.own {
		return nil
	}
	switch e.Kind {
	case ruleset.KindElement:
		m.elements(msg, &e)
	case ruleset.KindObject:
		object(msg, &e)
	case ruleset.KindEnd:
	default:
		e.Table, e.Name = names(msg.Data)
		if e.Kind == ruleset.KindChain {
			e.Name = chainName(msg.Data)
		}
	}
	each(&e)
	return nil
}

// kindOf returns the kind of object of a message type.
func kindOf(typ uint16) ruleset.Kind {
	switch typ {
	case unix.NFT_MSG_NEWGEN:
		return ruleset.KindEnd
	case unix.NFT_MSG_NEWTABLE, unix.NFT_MSG_DELTABLE:
		return ruleset.KindTable
	case unix.NFT_MSG_NEWCHAIN, unix.NFT_MSG_DELCHAIN:
		return ruleset.KindChain
	case unix.NFT_MSG_NEWRULE, unix.NFT_MSG_DELRULE:
		return ruleset.KindRule
	case unix.NFT_MSG_NEWSET, unix.NFT_MSG_DELSET:
		return ruleset.KindSet
	case unix.NFT_MSG_NEWSETELEM, unix.NFT_MSG_DELSETELEM:
		return ruleset.KindElement
	case unix.NFT_MSG_NEWOBJ, unix.NFT_MSG_DELOBJ, unix.NFT_MSG_NEWFLOWTABLE, unix.NFT_MSG_DELFLOWTABLE:
		return ruleset.KindObject
	}
	return ruleset.KindOther
}

// names reads the first two attributes of an object: the name of its table and,
// for elements, that of their set; the names of rules' chains and of sets have the
// same number.
func names(b []byte) (table, set string) {
	for a := netlink.ReadAttributes(b[netlink.NetfilterHeaderLen:]); a.Next(); {
		switch a.Type {
		case unix.NFTA_SET_ELEM_LIST_TABLE:
			table = netlink.String(a.Value)
		case unix.NFTA_SET_ELEM_LIST_SET:
			set = netlink.String(a.Value)
		}
	}
	return table, set
}

// chainName reads a chain's name, which follows its handle.
func chainName(b []byte) (name string) {
	for a := netlink.ReadAttributes(b[netlink.NetfilterHeaderLen:]); a.Next(); {
		if a.Type == unix.NFTA_CHAIN_NAME {
			name = netlink.String(a.Value)
		}
	}
	return name
}

// object reads the event of a stateful object or a flowtable. It is of an unknown
// kind if it cannot be read.
func object(msg *netlink.Message, e *ruleset.Event) {
	var err error
	typ := msg.Type & 0xff
	flowtable := typ == unix.NFT_MSG_NEWFLOWTABLE || typ == unix.NFT_MSG_DELFLOWTABLE
	if e.Table, _, e.Object, err = nfnl.DecodeObject(msg.Data, flowtable); err != nil {
		e.Table, _ = names(msg.Data)
		e.Kind = ruleset.KindOther
	}
	if typ == unix.NFT_MSG_DELOBJ || typ == unix.NFT_MSG_DELFLOWTABLE {
		e.Verb = ruleset.Delete
	}
}

func (m *Monitor) elements(msg *netlink.Message, e *ruleset.Event) {
	e.Table, e.Set = names(msg.Data)
	if msg.Type&0xff == unix.NFT_MSG_DELSETELEM {
		e.Verb = ruleset.Delete
	}
	if e.Table != m.table {
		return
	}
	set := m.sets(e.Set)
	if set == nil {
		e.Opaque = true
		return
	}
	err := nfnl.DecodeElements(msg.Data, set, e.Family, func(el ruleset.Element) { e.Elements = append(e.Elements, el) })
	e.Opaque = err != nil || set.Opaque != ""
}
