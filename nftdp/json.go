package nftdp

import (
	"encoding/json"
	"strings"

	"github.com/nftdp/go-nftdp/internal/ruleset"
)

// step is the change of one object, as Plan has it in JSON.
type step struct {
	Verb    string `json:"verb"`
	Family  string `json:"family"`
	Table   string `json:"table"`
	Kind    string `json:"kind"`
	Name    string `json:"name,omitempty"`
	Command string `json:"command"`
}

func stepOf(c *ruleset.Change, command string) step {
	words := strings.SplitN(command, " ", 3)
	s := step{Verb: words[0], Family: c.Family.String(), Table: c.Table, Kind: words[1], Command: command}
	switch {
	case c.Object != nil:
		s.Kind, s.Name = c.Object.Kind.String(), c.Object.Name
	case c.Set != nil:
		s.Name = c.Set.Name
	case c.Chain != nil:
		s.Name = c.Chain.Name
	}
	return s
}

// steps are never nil, which JSON would have as null.
func (p *Plan) steps() []step {
	all := []step{}
	if p == nil {
		return all
	}
	for i := range p.changes {
		c := &p.changes[i]
		for command := range strings.SplitSeq(c.String(), "\n") {
			all = append(all, stepOf(c, command))
		}
	}
	return all
}

// MarshalJSON returns an object with the list "changes" of one object for each
// that is changed, as Len counts them, in the order of String. Its fields are
// the verb ("add", "delete" or "flush"), the family ("ip" or "ip6"), the table,
// the kind ("table", "chain", "rule", "set", "map", "element", or that of an object
// that others have added: "counter", "ct helper" and so on), the name (of
// the chain, set, map or object, or of the one that the rule or element is in) and the
// command, a line of String. A Plan cannot be read back from it.
func (p Plan) MarshalJSON() ([]byte, error) {
	return json.Marshal(struct {
		Changes []step `json:"changes"`
	}{p.steps()})
}

// MarshalJSON returns an object with the fields of which there are any: service,
// change, and error for the text of Err.
func (e ApplyError) MarshalJSON() ([]byte, error) {
	out := struct {
		Service string `json:"service,omitempty"`
		Change  string `json:"change,omitempty"`
		Error   string `json:"error,omitempty"`
	}{Service: e.Service, Change: e.Change}
	if e.Err != nil {
		out.Error = e.Err.Error()
	}
	return json.Marshal(out)
}
