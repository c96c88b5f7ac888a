package ruleset

import "strings"

// TableFlags say who may change a table and how long it lasts. They are numbered
// as NFT_TABLE_F_* in linux/netfilter/nf_tables.h.
type TableFlags uint32

// The flags that tables of ours can have.
const (
	// Owner: only the socket that set it can change the table, and a
	// `flush ruleset` by anybody else leaves it alone. Without Persist the
	// table is deleted when the socket is closed (Linux 5.12 and later).
	Owner TableFlags = 0x2
	// Persist: the table outlives the owner's socket. Then it is an orphan,
	// which has this flag alone, and which anybody can change, delete and adopt
	// (Linux 6.9 and later).
	Persist TableFlags = 0x4

	// Dormant: the table's base chains are not registered, so that no packet meets
	// them. Tables that are only tried have it.
	Dormant TableFlags = 0x1

	// Protected is both Owner and Persist. They are always set together, so that at no time
	// would the end of the owner delete the table.
	Protected = Owner | Persist
)

// String is the flags in nft, as version 1.1 and later print and take them.
func (f TableFlags) String() string {
	var words []string
	for _, w := range [...]struct {
		flag TableFlags
		word string
	}{{Dormant, "dormant"}, {Owner, "owner"}, {Persist, "persist"}} {
		if f&w.flag != 0 {
			words = append(words, w.word)
		}
	}
	return strings.Join(words, ",")
}

// becomes reports whether the flags of an existing table can be changed to next.
// The kernel allows an orphan to be adopted, and nothing else: an owner releases a
// table only by closing the socket, and a table that was made without flags
// cannot get any (nf_tables_updtable in net/netfilter/nf_tables_api.c).
func (f TableFlags) becomes(next TableFlags) bool {
	return f == next || f == Persist && next == Protected
}
