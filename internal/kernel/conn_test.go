//go:build linux

package kernel

import (
	"encoding/binary"
	"errors"
	"testing"

	"golang.org/x/sys/unix"
)

// netlinkMessage is a message as it comes from the kernel.
func netlinkMessage(typ, flags uint16, data ...byte) []byte {
	b := make([]byte, unix.NLMSG_HDRLEN, unix.NLMSG_HDRLEN+len(data))
	binary.NativeEndian.PutUint32(b, uint32(unix.NLMSG_HDRLEN+len(data)))
	binary.NativeEndian.PutUint16(b[4:], typ)
	binary.NativeEndian.PutUint16(b[6:], flags)
	b = append(b, data...)
	for len(b)%4 != 0 {
		b = append(b, 0)
	}
	return b
}

func TestParse(t *testing.T) {
	two := append(netlinkMessage(1, 0, 1, 2, 3), netlinkMessage(2, 0)...)
	var seen []uint16
	done, err := parse(two, func(m message) (bool, error) { seen = append(seen, m.typ); return m.typ == 2, nil })
	if err != nil || !done || len(seen) != 2 {
		t.Errorf("%v, done %t, error %v", seen, done, err)
	}
	for name, change := range map[string]func([]byte){
		"shorter than a header": func(b []byte) { binary.NativeEndian.PutUint32(b, 15) },
		"longer than there is":  func(b []byte) { binary.NativeEndian.PutUint32(b, 1000) },
	} {
		b := netlinkMessage(1, 0, 1, 2, 3, 4)
		change(b)
		if _, err := parse(b, func(message) (bool, error) { return false, nil }); !errors.Is(err, errMalformed) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// extendedAck is an error message with attributes behind the failed header.
func extendedAck(attrs ...byte) message {
	const tlvs = 0x200
	return message{typ: unix.NLMSG_ERROR, flags: tlvs, data: append(make([]byte, 4+unix.NLMSG_HDRLEN), attrs...)}
}

func ackAttr(typ uint16, value uint32) []byte {
	b := binary.NativeEndian.AppendUint16(nil, 8)
	b = binary.NativeEndian.AppendUint16(b, typ)
	return binary.NativeEndian.AppendUint32(b, value)
}

// TestBadAttribute: whatever the kernel puts around it, the offset is found,
// and without it nothing is invented.
func TestBadAttribute(t *testing.T) {
	const msgText, offs = 1, 2
	text := append(binary.NativeEndian.AppendUint16(binary.NativeEndian.AppendUint16(nil, 7), msgText), 'n', 'o', 0, 0)
	short := message{flags: 0x200, data: make([]byte, 10)}
	plain := extendedAck(ackAttr(offs, 100)...)
	plain.flags = 0
	for _, c := range []struct {
		name string
		m    message
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
		if got := badAttribute(c.m); got != c.want {
			t.Errorf("%s: %d, want %d", c.name, got, c.want)
		}
	}
}

// FuzzReply: whatever a datagram holds, reading it ends.
func FuzzReply(f *testing.F) {
	f.Add(netlinkMessage(unix.NLMSG_ERROR, 0x200, extendedAck(ackAttr(2, 100)...).data...))
	f.Add(append(netlinkMessage(1, 0, 1, 2, 3), netlinkMessage(unix.NLMSG_DONE, 0)...))
	f.Fuzz(func(_ *testing.T, b []byte) {
		_, _ = parse(b, func(m message) (bool, error) {
			badAttribute(m)
			_, err := errnoOf(m)
			return false, err
		})
	})
}
