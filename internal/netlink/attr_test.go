package netlink

import (
	"bytes"
	"encoding/binary"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	mdlayher "github.com/mdlayher/netlink"
)

// walk collects what a reader finds.
func walk(b []byte) (types []uint16, values [][]byte, err error) {
	a := ReadAttributes(b)
	for a.Next() {
		types, values = append(types, a.Type), append(values, a.Value)
	}
	return types, values, a.Err()
}

// TestAttributesAsOthers: the attributes that are written are those that
// another codec writes, and are read back as they were.
func TestAttributesAsOthers(t *testing.T) {
	host := binary.NativeEndian.AppendUint32(nil, 0x01020304)
	inner, err := mdlayher.MarshalAttributes([]mdlayher.Attribute{
		{Type: 9, Data: []byte("name\x00")},
		{Type: 10, Data: []byte{7}},
	})
	if err != nil {
		t.Fatal(err)
	}
	all := []mdlayher.Attribute{
		{Type: 1, Data: []byte{1, 2, 3, 4, 5}},
		{Type: 2, Data: []byte{7}},
		{Type: 3, Data: []byte{1, 2}},
		{Type: 4, Data: []byte{1, 2, 3, 4}},
		{Type: 5, Data: []byte{1, 2, 3, 4, 5, 6, 7, 8}},
		{Type: 6, Data: host},
		{Type: 7, Data: []byte{}},
		{Type: 8 | mdlayher.Nested, Data: inner},
	}
	only, err := mdlayher.MarshalAttributes([]mdlayher.Attribute{{Type: 12, Data: []byte("12345")}})
	if err != nil {
		t.Fatal(err)
	}
	last := []mdlayher.Attribute{{Type: 11 | mdlayher.Nested, Data: only}}
	want, err := mdlayher.MarshalAttributes(slices.Concat(all, all[7:], last))
	if err != nil {
		t.Fatal(err)
	}

	b := Buffer(bytes.Repeat([]byte{0xff}, 1024))[:0] // memory that has been used before
	b.Put(1, []byte{1, 2, 3, 4, 5})
	b.PutUint8(2, 7)
	b.PutUint16(3, 0x0102)
	b.PutUint32(4, 0x01020304)
	b.PutUint64(5, 0x0102030405060708)
	b.PutHostUint32(6, 0x01020304)
	b.Put(7, nil)
	at := b.Nest(8)
	b.PutString(9, "name")
	b.PutUint8(10, 7)
	b.Unnest(at)
	b.PutNested(8, inner)
	copy(b.ReserveNested(11, 12, 5), "12345")
	if diff := cmp.Diff(want, []byte(b)); diff != "" {
		t.Errorf("written (-want +got):\n%s", diff)
	}

	types, values, err := walk(b)
	if err != nil || len(types) != len(all)+2 {
		t.Fatalf("read types %v, error %v", types, err)
	}
	for i, a := range all {
		if types[i] != a.Type&^mdlayher.Nested || string(values[i]) != string(a.Data) {
			t.Errorf("attribute %d is read as type %d, %v", a.Type, types[i], values[i])
		}
	}
}

func TestMalformedAttributes(t *testing.T) {
	var good Buffer
	good.PutUint32(1, 2)
	for name, c := range map[string]struct {
		after []byte
		want  int // attributes that are read
		bad   bool
	}{
		"nothing more":                {nil, 1, false},
		"no padding at the end":       {[]byte{5, 0, 1, 0, 9}, 2, false},
		"length within the header":    {[]byte{3, 0, 1, 0}, 1, true},
		"length of zero":              {[]byte{0, 0, 0, 0}, 1, true},
		"length after the end":        {[]byte{9, 0, 1, 0, 1, 2, 3, 4}, 1, true},
		"header cut off":              {[]byte{4, 0}, 1, true},
		"bytes after a padded length": {[]byte{5, 0, 1, 0, 9, 0, 0, 0, 1}, 2, true},
	} {
		after := slices.Clone(c.after)
		if len(after) >= 4 { // lengths and types are in the machine's byte order
			binary.NativeEndian.PutUint16(after, binary.LittleEndian.Uint16(after))
			binary.NativeEndian.PutUint16(after[2:], binary.LittleEndian.Uint16(after[2:]))
		}
		types, _, err := walk(slices.Concat(good, after))
		if len(types) != c.want || (err != nil) != c.bad {
			t.Errorf("%s: %d attributes, error %v", name, len(types), err)
		}
	}
}

func TestMessages(t *testing.T) {
	b := Buffer(bytes.Repeat([]byte{0xff}, 1024))[:0]
	for i := range uint32(2) {
		at := b.Message(16, 1, 7+i)
		b.Netfilter(2, 0x0102)
		b.PutUint32(1, i)
		b.EndMessage(at)
	}
	m := ReadMessages(b)
	for i := range uint32(2) {
		var body Buffer
		body.Netfilter(2, 0x0102)
		body.PutUint32(1, i)
		if !m.Next() || m.Type != 16 || m.Flags != 1 || m.Seq != 7+i || string(m.Data) != string(body) {
			t.Errorf("message %d is read as %+v", i, m)
		}
	}
	if m.Next() || m.Err() != nil {
		t.Errorf("after the last message: %+v", m)
	}
	var other mdlayher.Message
	if err := other.UnmarshalBinary(b[:len(b)/2]); err != nil || other.Header.Sequence != 7 || other.Header.PID != 0 || len(other.Data) != 12 {
		t.Errorf("another codec reads %+v, error %v", other, err)
	}
	for _, bad := range [][]byte{b[:len(b)-1], b[:3], append(slices.Clone(b), 0), make([]byte, 16)} {
		m := ReadMessages(bad)
		for m.Next() {
		}
		if m.Err() == nil {
			t.Errorf("no error in %v", bad)
		}
	}
}

func TestString(t *testing.T) {
	for in, want := range map[string]string{"": "", "\x00": "", "a": "a", "ab\x00": "ab", "a\x00b\x00": "a"} {
		if got := String([]byte(in)); got != want {
			t.Errorf("%q is read as %q", in, got)
		}
	}
}

// TestReadingAllocatesNothing: the elements of large sets are read this way.
func TestReadingAllocatesNothing(t *testing.T) {
	var b Buffer
	for i := range uint16(100) {
		b.PutUint32(i, 1)
	}
	n := 0
	if allocs := testing.AllocsPerRun(100, func() {
		for a := ReadAttributes(b); a.Next(); {
			n += len(a.Value)
		}
	}); allocs != 0 || n == 0 {
		t.Errorf("%v allocations", allocs)
	}
}

func FuzzAttributes(f *testing.F) {
	f.Add([]byte{8, 0, 1, 0, 1, 2, 3, 4, 3, 0, 1, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		types, values, err := walk(b)
		var again Buffer
		for i, typ := range types {
			again.Put(typ, values[i])
		}
		types2, values2, err2 := walk(again)
		if err2 != nil || !slices.Equal(types, types2) || !cmp.Equal(values, values2) {
			t.Errorf("read again: %v %v, %v; at first with %v", types2, values2, err2, err)
		}
	})
}
