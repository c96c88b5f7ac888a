//go:build linux

package kernel

import (
	"encoding/binary"
	"errors"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/nftdp/go-nftdp/internal/netlink"
	"github.com/nftdp/go-nftdp/internal/nstest"
)

// extendedAck returns an error message with attributes after the failed header.
func extendedAck(attrs ...byte) netlink.Message {
	const tlvs = 0x200
	return netlink.Message{Type: unix.NLMSG_ERROR, Flags: tlvs, Data: append(make([]byte, 4+unix.NLMSG_HDRLEN), attrs...)}
}

func ackAttr(typ uint16, value uint32) []byte {
	b := binary.NativeEndian.AppendUint16(nil, 8)
	b = binary.NativeEndian.AppendUint16(b, typ)
	return binary.NativeEndian.AppendUint32(b, value)
}

// TestBadAttribute: the offset is found among other attributes, and is 0 if it is
// missing or malformed.
func TestBadAttribute(t *testing.T) {
	const msgText, offs = 1, 2
	text := append(binary.NativeEndian.AppendUint16(binary.NativeEndian.AppendUint16(nil, 7), msgText), 'n', 'o', 0, 0)
	short := netlink.Message{Flags: 0x200, Data: make([]byte, 10)}
	plain := extendedAck(ackAttr(offs, 100)...)
	plain.Flags = 0
	for _, c := range []struct {
		name string
		m    netlink.Message
		want int
	}{
		{"an offset", extendedAck(ackAttr(offs, 100)...), 100},
		{"a text before it", extendedAck(append(text, ackAttr(offs, 100)...)...), 100},
		{"no attributes", extendedAck(), 0},
		{"another attribute", extendedAck(ackAttr(3, 7)...), 0},
		{"no flag", plain, 0},
		{"short", short, 0},
		{"an attribute without a length", extendedAck(0, 0, offs, 0, 1, 1, 1, 1), 0},
		{"an attribute that is too long", extendedAck(200, 0, offs, 0, 1, 1, 1, 1), 0},
		{"a cut off attribute", extendedAck(ackAttr(offs, 100)[:6]...), 0},
	} {
		if got := badAttribute(&c.m); got != c.want {
			t.Errorf("%s: %d, want %d", c.name, got, c.want)
		}
	}
}

// FuzzReply: reading any datagram ends.
func FuzzReply(f *testing.F) {
	for _, m := range []netlink.Message{extendedAck(ackAttr(2, 100)...), {Type: unix.NLMSG_DONE}} {
		var b netlink.Buffer
		at := b.Message(m.Type, m.Flags, 0)
		b = append(b, m.Data...)
		b.EndMessage(at)
		f.Add([]byte(b))
	}
	f.Fuzz(func(_ *testing.T, b []byte) {
		for m := netlink.ReadMessages(b); m.Next(); {
			badAttribute(&m)
			_, _ = m.Errno()
		}
	})
}

// TestNoSubsystem: only the first request waits for a subsystem that the kernel does
// not have.
func TestNoSubsystem(t *testing.T) {
	c := dial(t, nstest.NewTestNamespace(t))
	const none = 0xe0 // combined with the number of nf_tables, no subsystem
	for _, want := range []int{7, 1} {
		ctx := &disturbing{t.Context(), 0, nil}
		err := c.ask(ctx, c.socket, none<<8, 0, unix.AF_UNSPEC, nil, func([]byte) error { return nil })
		if checks := -ctx.n; !errors.Is(err, unix.EINVAL) || checks/2 != want { // before and after each request
			t.Errorf("asked %d times: %v, want %d times: %v", checks/2, err, want, unix.EINVAL)
		}
	}
}
