package ruleset

import "fmt"

// Object is a stateful object or a flowtable. Services never compile to one: it
// is something that others have put into a table. The zero Kind is a flowtable.
type Object struct {
	Kind ObjectKind
	Name string
}

// ObjectKind is the type of an object, numbered as NFT_OBJECT_* in
// linux/netfilter/nf_tables.h, or 0 for a flowtable, which is no object there.
type ObjectKind uint32

// Flowtable is the kind of flowtables.
const Flowtable ObjectKind = 0

// String is the kind in nft, or a number if nft has no word for it.
func (k ObjectKind) String() string {
	words := [...]string{
		Flowtable: "flowtable", 1: "counter", 2: "quota", 3: "ct helper", 4: "limit", 5: "", 6: "tunnel",
		7: "ct timeout", 8: "secmark", 9: "ct expectation", 10: "synproxy",
	}
	if int64(k) < int64(len(words)) && words[k] != "" {
		return words[k]
	}
	return fmt.Sprintf("object-%d", uint32(k))
}
