package ruleset

import "time"

// Entry is an element of a dynamic set. Packets make and renew entries, and
// time takes them away: they are state, and no part of a ruleset.
type Entry struct {
	Key, Data [][]byte      // field by field, without padding, all numbers big-endian; Data is that of a map
	Timeout   time.Duration // how long it lasts if it is not renewed; 0: for ever
	Expires   time.Duration // what is left of that; 0: all of it
}

// EntryChange adds entries to a set or deletes them.
type EntryChange struct {
	Verb    Verb
	Family  Family
	Table   string
	Set     *Set
	Entries []Entry
}
