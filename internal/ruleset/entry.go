package ruleset

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"time"
)

// Entry is an element of a dynamic set. Packets make and renew entries, and
// time takes them away: they are state, and no part of a ruleset.
type Entry struct {
	Key, Data [][]byte      // field by field, without padding, all numbers big-endian; Data is that of a map
	Timeout   time.Duration // how long it lasts if it is not renewed; 0: for ever
	Expires   time.Duration // what is left of that; 0: all of it

	CatchAll bool // it has no key: it holds for all keys that have no entry
	Opaque   bool // it has more than an entry of a packet has, such as a comment
}

// Registers returns the fields of a Key or of Data as the kernel's registers have them,
// where each takes a multiple of four bytes: as in a Learned.
func Registers(fields [][]byte) (registers []byte) {
	for _, f := range fields {
		registers = append(append(registers, f...), make([]byte, -len(f)&3)...)
	}
	return registers
}

// text is the entry as nft writes it inside the braces, or its key alone.
func (e *Entry) text(s *Set, keyOnly bool) string {
	out := "*"
	if !e.CatchAll {
		out = fieldsText(s.Key, e.Key)
	}
	if keyOnly {
		return out
	}
	if e.Timeout > 0 {
		out += " timeout " + e.Timeout.String()
	}
	if e.Expires > 0 {
		out += " expires " + e.Expires.Round(time.Millisecond).String()
	}
	return out + " : " + fieldsText(s.Data, e.Data)
}

func fieldsText(types []Type, fields [][]byte) string {
	var words []string
	for i, b := range fields {
		word := fmt.Sprintf("%x", b)
		switch addr, ok := netip.AddrFromSlice(b); {
		case i >= len(types):
		case types[i] == Addr && ok:
			word = addr.String()
		case types[i] == Proto && len(b) == 1:
			word = ProtoName(b[0])
		case types[i] == Port && len(b) == 2:
			word = strconv.Itoa(int(binary.BigEndian.Uint16(b)))
		}
		words = append(words, word)
	}
	return strings.Join(words, " . ")
}

// EntryChange adds entries to a set or deletes them.
type EntryChange struct {
	Verb    Verb
	Family  Family
	Table   string
	Set     *Set
	Entries []Entry
}
