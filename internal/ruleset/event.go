package ruleset

// Event is one object of a transaction that somebody has committed.
type Event struct {
	Verb     Verb // Add or Delete
	Kind     Kind
	Family   Family
	Table    string
	Name     string    // of the chain or set, of KindChain, KindRule and KindSet
	Set      string    // of KindElement
	Elements []Element // of KindElement
	Object   Object    // of KindObject
	Opaque   bool      // Elements are not known: they are of an unknown set, or have no form here
	Process  Process   // of KindEnd
}

// Kind is what kind of object an Event is about.
type Kind uint8

// The kinds of objects.
const (
	KindOther Kind = iota // unknown ones
	KindTable
	KindChain
	KindRule
	KindSet
	KindElement
	KindObject
	KindEnd // the end of the transaction
)

// Process committed a transaction, as the kernel names it: by the thread.
type Process struct {
	PID  int    // of the thread, in the initial PID namespace
	Name string // of at most 15 bytes, such as "nft"
}
