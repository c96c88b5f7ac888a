package ruleset

import "strings"

// TableFlags say what becomes of a table besides what is in it, numbered as
// NFT_TABLE_F_* in linux/netfilter/nf_tables.h.
type TableFlags uint32

// The flags that tables of ours can have.
const (
	// Owner: only the socket that set it can change the table, and nobody's
	// `flush ruleset` deletes it. Without Persist the table ends with the
	// socket (Linux 5.12 and later).
	Owner TableFlags = 0x2
	// Persist: the table outlives the owner's socket, and then has this flag
	// alone: an orphan, which everybody can change, delete and adopt (Linux
	// 6.9 and later).
	Persist TableFlags = 0x4

	// Protected is both. They are only ever set together: at no time would
	// the end of the owner take the table along.
	Protected = Owner | Persist
)

// String is the flags in nft, as version 1.1 and later print and take them.
func (f TableFlags) String() string {
	var words []string
	for _, w := range [...]struct {
		flag TableFlags
		word string
	}{{Owner, "owner"}, {Persist, "persist"}} {
		if f&w.flag != 0 {
			words = append(words, w.word)
		}
	}
	return strings.Join(words, ",")
}

// becomes reports whether a table that is there can get the other flags. The
// kernel lets an orphan be adopted, and nothing else: who owns a table can not
// let go of it but by closing the socket, and a table that was made without
// flags can not get any (nf_tables_updtable in net/netfilter/nf_tables_api.c).
func (f TableFlags) becomes(next TableFlags) bool {
	return f == next || f == Persist && next == Protected
}
