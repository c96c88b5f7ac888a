//go:build linux

package netlink

import (
	"context"
	"encoding/binary"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/nftdp/go-nftdp/internal/nstest"
)

func TestMain(m *testing.M) { nstest.Main(m) }

func dial(t *testing.T, ns *nstest.Namespace, protocol int) *Socket {
	t.Helper()
	s, err := Dial(protocol, int(ns.Handle()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// disturbing is a context whose n-th check runs a function. A request checks its
// context just before it is sent, and after each datagram.
type disturbing struct {
	context.Context
	n      int
	happen func()
}

func (d *disturbing) Err() error {
	if d.n--; d.n == 0 {
		d.happen()
	}
	return d.Context.Err()
}

// nfTables collects messages to nf_tables.
type nfTables struct {
	Buffer
	seq uint32
}

func (b *nfTables) add(typ, flags, resource uint16, attributes Buffer) {
	at := b.Message(typ, unix.NLM_F_REQUEST|flags, b.seq)
	b.Netfilter(unix.AF_INET, resource)
	b.Buffer = append(b.Buffer, attributes...)
	b.EndMessage(at)
	b.seq++
}

func (b *nfTables) create(typ uint16, attributes Buffer) {
	b.add(unix.NFNL_SUBSYS_NFTABLES<<8|typ, unix.NLM_F_CREATE, 0, attributes)
}

// commit sends the messages as one batch, which must succeed.
func (b *nfTables) commit(t *testing.T, s *Socket) {
	t.Helper()
	batch := nfTables{seq: s.NextSeq(b.seq + 2)}
	first := batch.seq
	batch.add(unix.NFNL_MSG_BATCH_BEGIN, 0, unix.NFNL_SUBSYS_NFTABLES, nil)
	for m := ReadMessages(b.Buffer); m.Next(); {
		flags := m.Flags
		if batch.seq == first+b.seq {
			flags |= unix.NLM_F_ACK // for the last message; errors are sent anyway
		}
		batch.add(m.Type, flags, 0, m.Data[NetfilterHeaderLen:])
	}
	last := batch.seq - 1
	batch.add(unix.NFNL_MSG_BATCH_END, 0, unix.NFNL_SUBSYS_NFTABLES, nil)
	if err := s.Send(t.Context(), batch.Buffer); err != nil {
		t.Fatal(err)
	}
	err := s.Receive(func(m *Message) (bool, error) {
		if m.Type != unix.NLMSG_ERROR {
			return false, nil
		}
		return m.Seq == last || m.Seq == first, m.failure()
	})
	if err != nil {
		t.Fatal(err)
	}
}

// tables adds or deletes tables.
func tables(t *testing.T, s *Socket, typ uint16, names ...string) {
	t.Helper()
	var b nfTables
	for _, name := range names {
		var table Buffer
		table.PutString(unix.NFTA_TABLE_NAME, name)
		b.create(typ, table)
	}
	b.commit(t, s)
}

// addNumbers adds a table t with a set of the numbers below many.
func addNumbers(t *testing.T, s *Socket) {
	t.Helper()
	tables(t, s, unix.NFT_MSG_NEWTABLE, "t")
	var b nfTables
	var set Buffer
	set.PutString(unix.NFTA_SET_TABLE, "t")
	set.PutString(unix.NFTA_SET_NAME, "numbers")
	set.PutUint32(unix.NFTA_SET_KEY_LEN, 4)
	set.PutUint32(unix.NFTA_SET_ID, 1)
	size := set.Nest(unix.NFTA_SET_DESC)
	set.PutUint32(unix.NFTA_SET_DESC_SIZE, uint32(many)) // makes it a hash table of fixed size
	set.Unnest(size)
	b.create(unix.NFT_MSG_NEWSET, set)
	b.commit(t, s)
	for first := 0; first < many; first += 1000 { // an attribute has at most 64 KiB
		b = nfTables{}
		elements := numbers()
		list := elements.Nest(unix.NFTA_SET_ELEM_LIST_ELEMENTS)
		for i := first; i < min(first+1000, many); i++ {
			element := elements.Nest(1)
			key := elements.Nest(unix.NFTA_SET_ELEM_KEY)
			elements.PutUint32(unix.NFTA_DATA_VALUE, uint32(i))
			elements.Unnest(key)
			elements.Unnest(element)
		}
		elements.Unnest(list)
		b.create(unix.NFT_MSG_NEWSETELEM, elements)
		b.commit(t, s)
	}
}

// numbers returns the attributes that name the set.
func numbers() (b Buffer) {
	b.PutString(unix.NFTA_SET_ELEM_LIST_TABLE, "t")
	b.PutString(unix.NFTA_SET_ELEM_LIST_SET, "numbers")
	return b
}

// list dumps the set and calls each with the elements of every message.
func list(ctx context.Context, s *Socket, each func(numbers []uint32) error) error {
	var body Buffer
	body.Netfilter(unix.AF_INET, 0)
	body = append(body, numbers()...)
	return s.Ask(ctx, unix.NFNL_SUBSYS_NFTABLES<<8|unix.NFT_MSG_GETSETELEM, unix.NLM_F_DUMP, body, func(b []byte) error {
		return each(numbersIn(b[NetfilterHeaderLen:]))
	})
}

// numbersIn reads elements as addNumbers writes them.
func numbersIn(b []byte) (out []uint32) {
	path := []uint16{unix.NFTA_SET_ELEM_LIST_ELEMENTS, 1, unix.NFTA_SET_ELEM_KEY, unix.NFTA_DATA_VALUE}
	var walk func(b []byte, path []uint16)
	walk = func(b []byte, path []uint16) {
		for a := ReadAttributes(b); a.Next(); {
			switch {
			case a.Type != path[0]:
			case len(path) == 1:
				out = append(out, binary.BigEndian.Uint32(a.Value))
			default:
				walk(a.Value, path[1:])
			}
		}
	}
	walk(b, path)
	return out
}

// generation reads the generation of the rules.
func generation(ctx context.Context, s *Socket) (n uint32, err error) {
	var body Buffer
	body.Netfilter(unix.AF_UNSPEC, 0)
	err = s.Ask(ctx, unix.NFNL_SUBSYS_NFTABLES<<8|unix.NFT_MSG_GETGEN, 0, body, func(b []byte) error {
		for a := ReadAttributes(b[NetfilterHeaderLen:]); a.Next(); {
			if a.Type == unix.NFTA_GEN_ID {
				n = binary.BigEndian.Uint32(a.Value)
			}
		}
		return nil
	})
	return n, err
}
