//go:build linux

package kernel

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nftdp/go-nftdp/internal/netlink"
	"github.com/nftdp/go-nftdp/internal/nfnl"
	"github.com/nftdp/go-nftdp/internal/ruleset"
	"github.com/nftdp/go-nftdp/internal/trace"
)

// Tracer has a table whose rules make the kernel report the way of packets, and
// receives these reports. The socket owns the table, so that the kernel deletes it
// with the socket, whatever ends the process. Before Linux 5.12 tables have no
// owner: then Close deletes it. It is not safe for concurrent use.
type Tracer struct {
	conn   *Conn // owns the table
	events *netlink.Socket
	table  string // ours, whose rules are read with their meaning
	name   string
	begun  bool
	owned  bool

	at     uint32 // the generation of what is remembered
	rules  map[ruleOf]trace.RuleInfo
	chains map[chainOf]trace.ChainInfo
	sets   map[ruleset.Family]*ruleset.Names
}

type chainOf struct {
	family       ruleset.Family
	table, chain string
}

type ruleOf struct {
	chainOf
	handle uint64
}

// NewTracer opens sockets in the network namespace of a file descriptor, or Here.
// Rules of the tables of that name are ours.
func NewTracer(ns int, table string) (*Tracer, error) {
	conn, err := Dial(ns)
	if err != nil {
		return nil, err
	}
	t := &Tracer{conn: conn, table: table, name: trace.TablePrefix + strconv.FormatUint(uint64(conn.Port()), 10)}
	if t.events, err = netlink.Dial(unix.NETLINK_NETFILTER, ns); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	if err := t.SetBuffer(eventBuffer); err != nil {
		return nil, errors.Join(err, t.Close())
	}
	return t, nil
}

// SetBuffer sets how many bytes of messages may wait in the kernel. Messages that do
// not fit are missed.
func (t *Tracer) SetBuffer(n int) error {
	if err := t.events.Conn().SetReadBuffer(n); err != nil {
		return fmt.Errorf("netlink receive buffer: %w", err)
	}
	return nil
}

// Table returns the name of the table.
func (t *Tracer) Table() string { return t.name }

// Begin makes the table. From then on the kernel reports packets that pass the
// filter.
func (t *Tracer) Begin(ctx context.Context, f *trace.Filter) error {
	if err := t.events.Conn().JoinGroup(unix.NFNLGRP_NFTRACE); err != nil {
		return fmt.Errorf("join netlink group: %w", err)
	}
	err := t.add(ctx, ruleset.Owner, f)
	t.owned = err == nil
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EOPNOTSUPP) { // before Linux 5.12
		if again := t.add(ctx, 0, f); again == nil {
			err = nil
		}
	}
	t.begun = err == nil
	if err != nil {
		return fmt.Errorf("add table inet %s: %w", t.name, err)
	}
	return nil
}

// add adds the table. One of that name is left of a process that was killed before
// Linux 5.12, since no other socket has this port.
func (t *Tracer) add(ctx context.Context, flags ruleset.TableFlags, f *trace.Filter) error {
	err := t.addOver(ctx, false, flags, f)
	if errors.Is(err, unix.EEXIST) {
		err = t.addOver(ctx, true, flags, f)
	}
	return err
}

func (t *Tracer) addOver(ctx context.Context, leftover bool, flags ruleset.TableFlags, f *trace.Filter) error {
	batch := nfnl.NewBatch(t.conn.socket.NextSeq(0), 0)
	if leftover {
		batch.DeleteTraceTable(t.name)
	}
	if err := batch.AddTraceTable(t.name, flags, f); err != nil {
		return err
	}
	return t.commit(ctx, batch)
}

func (t *Tracer) commit(ctx context.Context, batch *nfnl.Batch) error {
	if err := t.conn.sendBatch(ctx, batch); err != nil {
		return err
	}
	return t.conn.outcomeOf(batch)
}

// Close deletes the table and closes the sockets.
func (t *Tracer) Close() error {
	var err error
	if t.begun && !t.owned {
		batch := nfnl.NewBatch(t.conn.socket.NextSeq(0), 0)
		batch.DeleteTraceTable(t.name)
		// The trace may end because its context has.
		if err = t.commit(context.Background(), batch); errors.Is(err, unix.ENOENT) {
			err = nil // another process has deleted it
		}
	}
	return errors.Join(err, t.conn.Close(), t.events.Close())
}

// maxReports is how many messages are read before the packets that they complete are
// passed on.
const maxReports = 1000

// Messages waits for messages, but at most for a given time, and calls each for
// some that have arrived. ruleset.ErrMissed: some were missed.
func (t *Tracer) Messages(ctx context.Context, atMost time.Duration, each func(*trace.Message)) error {
	err := t.events.Wait(ctx, atMost)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return nil
	}
	if err == nil {
		err = t.events.DrainSome(maxReports, func(msg *netlink.Message) error {
			if msg.Type != unix.NFNL_SUBSYS_NFTABLES<<8|unix.NFT_MSG_TRACE {
				return nil
			}
			m, err := nfnl.DecodeTrace(msg.Data)
			if err == nil {
				each(&m)
			}
			return err
		})
	}
	if errors.Is(err, netlink.ErrLost) {
		return ruleset.ErrMissed
	}
	return err
}

// Refresh forgets what it knows about rules if they have changed.
func (t *Tracer) Refresh(ctx context.Context) error {
	at, err := t.conn.Generation(ctx)
	if err == nil && at != t.at {
		t.at, t.rules, t.chains, t.sets = at, map[ruleOf]trace.RuleInfo{}, map[chainOf]trace.ChainInfo{}, map[ruleset.Family]*ruleset.Names{}
	}
	return err
}

// Rule describes the rule of a message. One that does not exist any more is empty.
func (t *Tracer) Rule(ctx context.Context, m *trace.Message) (trace.RuleInfo, error) {
	key := ruleOf{chainOf{m.Family, m.Table, m.Chain}, m.Handle}
	if out, ok := t.rules[key]; ok || m.Handle == 0 {
		return out, nil
	}
	attrs := inTable(m.Table)
	attrs.PutString(unix.NFTA_RULE_CHAIN, m.Chain)
	attrs.PutUint64(unix.NFTA_RULE_HANDLE, m.Handle)
	var out trace.RuleInfo
	err := t.get(ctx, unix.NFT_MSG_GETRULE, m.Family, attrs, func(b []byte) error {
		d, err := nfnl.DescribeRule(b)
		out = trace.RuleInfo{Text: d.Text, Comment: d.Comment, Reject: d.Reject}
		return err
	})
	if err == nil && m.Table == t.table {
		err = t.ownRule(ctx, m, attrs, &out)
	}
	if err != nil {
		return out, fmt.Errorf("read rule %d of %s: %w", m.Handle, m.Table, err)
	}
	t.rules[key] = out
	return out, nil
}

// ownRule renders a rule of ours in full, which takes the types of our sets.
func (t *Tracer) ownRule(ctx context.Context, m *trace.Message, attrs netlink.Buffer, out *trace.RuleInfo) error {
	if m.Family != ruleset.IPv4 && m.Family != ruleset.IPv6 {
		return nil
	}
	names := t.sets[m.Family]
	if names == nil {
		table := &ruleset.Table{Family: m.Family, Name: m.Table}
		if err := t.conn.readSets(ctx, table, func(string) bool { return false }); err != nil {
			return err
		}
		names = table.Names()
		t.sets[m.Family] = names
	}
	return t.get(ctx, unix.NFT_MSG_GETRULE, m.Family, attrs, func(b []byte) error {
		_, _, _, rule, err := nfnl.DecodeRule(b, names)
		if err != nil || len(rule) == 0 {
			return err
		}
		if _, opaque := rule[0].(ruleset.Opaque); !opaque {
			out.Text = rule.Text(m.Family)
		}
		return nil
	})
}

// Chain describes the chain of a message.
func (t *Tracer) Chain(ctx context.Context, m *trace.Message) (trace.ChainInfo, error) {
	key := chainOf{m.Family, m.Table, m.Chain}
	if out, ok := t.chains[key]; ok {
		return out, nil
	}
	attrs := inTable(m.Table)
	attrs.PutString(unix.NFTA_CHAIN_NAME, m.Chain)
	var out trace.ChainInfo
	err := t.get(ctx, unix.NFT_MSG_GETCHAIN, m.Family, attrs, func(b []byte) error {
		d, err := nfnl.DescribeChain(b)
		if out = (trace.ChainInfo{Type: d.Type, Priority: d.Priority}); d.Base {
			out.Hook = hookName(m.Family, d.Hook)
		}
		return err
	})
	if err != nil {
		return out, fmt.Errorf("read chain %s of %s: %w", m.Chain, m.Table, err)
	}
	t.chains[key] = out
	return out, nil
}

// hookName is the name of a hook in a family of tables.
func hookName(f ruleset.Family, hook uint32) string {
	const ingress = 5 // NF_INET_INGRESS
	switch {
	case f == unix.NFPROTO_NETDEV && hook == 0, f == unix.NFPROTO_INET && hook == ingress:
		return "ingress"
	case f == unix.NFPROTO_NETDEV:
		return "egress"
	}
	return ruleset.HookNum(hook).String()
}

// get reads one object. If it does not exist, that is no error.
func (t *Tracer) get(ctx context.Context, typ int, f ruleset.Family, attrs netlink.Buffer, each func([]byte) error) error {
	err := t.conn.ask(ctx, t.conn.socket, typ, unix.NLM_F_ACK, f, attrs, each)
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	return err
}

// Device returns the name of a network device, or its number if it no longer exists.
func (t *Tracer) Device(d trace.Device) string {
	if d.Index == 0 {
		return ""
	}
	name := strconv.FormatUint(uint64(d.Index), 10)
	ifr, err := unix.NewIfreq("")
	if err != nil {
		return name
	}
	ifr.SetUint32(d.Index)
	if err := t.events.Ioctl(unix.SIOCGIFNAME, ifr); err == nil {
		name = ifr.Name()
	}
	return name
}
