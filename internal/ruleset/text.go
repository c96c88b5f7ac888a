package ruleset

import (
	"bytes"
	"cmp"
	"fmt"
	"math/bits"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// String is the ruleset as nft text, canonical: sets, chains and elements are
// sorted, one element per line. `nft -f` loads it. Counters that stand at zero
// are left out, since nft starts them there.
func (r *Ruleset) String() string {
	var b strings.Builder
	for i, t := range r.Tables {
		if i > 0 {
			b.WriteByte('\n')
		}
		t.write(&b)
	}
	return b.String()
}

func (t *Table) write(b *strings.Builder) {
	fmt.Fprintf(b, "table %s %s {\n", t.Family, t.Name)
	begin := b.Len()
	gap := func() {
		if b.Len() > begin {
			b.WriteByte('\n')
		}
	}
	if t.Flags != 0 {
		fmt.Fprintf(b, "\tflags %s\n", t.Flags)
	}
	if t.Comment != "" {
		fmt.Fprintf(b, "\tcomment %s\n", commentText(t.Comment))
	}
	for _, o := range t.Objects {
		fmt.Fprintf(b, "\t# of others: %s %s\n", o.Kind, nameText(o.Name))
	}
	for _, o := range t.Opaque {
		fmt.Fprintf(b, "\t# not understood: %q\n", o)
	}
	for _, s := range slices.SortedFunc(slices.Values(t.Sets), func(x, y *Set) int { return cmp.Compare(x.Name, y.Name) }) {
		gap()
		s.write(b, t.Family)
	}
	for _, c := range slices.SortedFunc(slices.Values(t.Chains), compareChains) {
		gap()
		c.write(b, t.Family)
	}
	b.WriteString("}\n")
}

// compareChains sorts regular chains before base chains, then by name, so that
// a chain usually precedes those that lead to it.
func compareChains(x, y *Chain) int {
	if (x.Hook == nil) != (y.Hook == nil) {
		if x.Hook == nil {
			return -1
		}
		return 1
	}
	return cmp.Or(cmp.Compare(len(x.Name), len(y.Name)), cmp.Compare(x.Name, y.Name))
}

func (s *Set) kind() string {
	if s.Verdict || len(s.Data) > 0 {
		return "map"
	}
	return "set"
}

func (s *Set) write(b *strings.Builder, f Family) {
	fmt.Fprintf(b, "\t%s %s {\n", s.kind(), nameText(s.Name))
	for _, line := range s.declaration(f) {
		fmt.Fprintf(b, "\t\t%s\n", line)
	}
	if len(s.Elements) > 0 {
		b.WriteString("\t\telements = {\n")
		var line []byte
		for _, e := range s.sorted() {
			line = append(line[:0], "\t\t\t"...)
			line = e.append(line, f, s)
			line = append(line, ",\n"...)
			b.Write(line)
		}
		b.WriteString("\t\t}\n")
	}
	b.WriteString("\t}\n")
}

// declaration returns the lines between the braces, without the elements.
func (s *Set) declaration(f Family) []string {
	word, typed := "type", Type.name
	if slices.Contains(s.Key, Slot) { // a bare integer has no width, so nft accepts it in a typeof only
		word, typed = "typeof", Type.sample
	}
	decl := word + " " + join(s.Key, " . ", f, typed)
	switch {
	case s.Verdict:
		decl += " : verdict"
	case len(s.Data) > 0:
		decl += " : " + join(s.Data, " . ", f, typed)
	}
	lines := []string{decl}
	if s.Size > 0 {
		lines = append(lines, "size "+strconv.FormatUint(uint64(s.Size), 10))
	}
	switch {
	case s.Interval:
		lines = append(lines, "flags interval")
	case s.Dynamic:
		lines = append(lines, "flags dynamic,timeout")
	}
	if s.Counter {
		lines = append(lines, "counter")
	}
	for _, what := range []string{s.Opaque, s.Note} {
		if what != "" {
			lines = append(lines, fmt.Sprintf("# not understood: %q", what))
		}
	}
	return lines
}

// join joins the texts of a list.
func join[T any](list []T, separator string, f Family, text func(T, Family) string) string {
	words := make([]string, len(list))
	for i, x := range list {
		words[i] = text(x, f)
	}
	return strings.Join(words, separator)
}

func (s *Set) sorted() []*Element {
	list := make([]*Element, len(s.Elements))
	for i := range s.Elements {
		list[i] = &s.Elements[i]
	}
	slices.SortFunc(list, func(x, y *Element) int { return x.Key.Compare(&y.Key) })
	return list
}

// append appends the element as nft writes it inside the braces.
func (e *Element) append(b []byte, f Family, s *Set) []byte {
	if p, ok := e.Prefix(f, s); ok {
		b = append(b, prefixText(p)...)
	} else {
		b = e.Key.append(b, f, s.Key, &e.End)
	}
	if e.Packets > 0 || e.Bytes > 0 {
		b = fmt.Appendf(b, " counter packets %d bytes %d", e.Packets, e.Bytes)
	}
	if e.Comment != "" {
		b = append(b, " comment "...)
		b = append(b, commentText(e.Comment)...)
	}
	if e.Opaque {
		b = append(b, " /* not understood */"...)
	}
	switch {
	case s.Verdict:
		b = append(b, " : "...)
		b = append(b, e.Verdict.text(f)...)
	case len(s.Data) > 0:
		b = append(b, " : "...)
		b = e.Data.append(b, f, s.Data, nil)
	}
	return b
}

// Prefix is the interval as a prefix of addresses, if it is one.
func (e *Element) Prefix(f Family, s *Set) (p netip.Prefix, ok bool) {
	if n := f.AddrLen(); !s.Interval || len(s.Key) != 1 || s.Key[0] != Addr || e.Key.Len() != n || e.End.Len() != n {
		return p, false
	}
	first, last := e.Key.AddrAt(0, f), e.End.AddrAt(0, f)
	length := 0
	for i, b := range e.Key.Bytes() {
		common := bits.LeadingZeros8(b ^ e.End.Bytes()[i])
		if length += common; common < 8 {
			break
		}
	}
	p = netip.PrefixFrom(first, length)
	return p, p.Masked() == p && LastAddr(p) == last
}

// LastAddr is the highest address of a prefix.
func LastAddr(p netip.Prefix) netip.Addr {
	b := p.Addr().AsSlice()
	for i := p.Bits(); i < len(b)*8; i++ {
		b[i/8] |= 0x80 >> (i % 8)
	}
	a, _ := netip.AddrFromSlice(b)
	return a
}

// append appends the tuple's fields, up to the first for which the tuple is too
// short. Fields that differ in end are ranges.
func (t *Tuple) append(b []byte, f Family, types []Type, end *Tuple) []byte {
	at := 0
	for i, typ := range types {
		next := at + typ.Len(f)
		if next > t.Len() {
			return append(b, "..."...)
		}
		if i > 0 {
			b = append(b, " . "...)
		}
		b = t.appendField(b, f, typ, at)
		if end != nil && end.Len() >= next && !bytes.Equal(t.b[at:next], end.b[at:next]) {
			b = append(b, '-')
			b = end.appendField(b, f, typ, at)
		}
		at = next
	}
	return b
}

func (t *Tuple) appendField(b []byte, f Family, typ Type, at int) []byte {
	switch typ {
	case Addr:
		return t.AddrAt(at, f).AppendTo(b)
	case Proto:
		return append(b, ProtoName(t.ProtoAt(at))...)
	case Port:
		return strconv.AppendUint(b, uint64(t.PortAt(at)), 10)
	case Slot:
		return strconv.AppendUint(b, uint64(t.SlotAt(at)), 10)
	}
	return b
}

// ProtoName is nft's name of an IP protocol, or its number.
func ProtoName[T uint8 | uint32](p T) string {
	switch p {
	case 6:
		return "tcp"
	case 17:
		return "udp"
	case 132:
		return "sctp"
	}
	return strconv.FormatUint(uint64(p), 10)
}

func (c *Chain) write(b *strings.Builder, f Family) {
	fmt.Fprintf(b, "\tchain %s {\n", nameText(c.Name))
	if c.Hook != nil {
		fmt.Fprintf(b, "\t\t%s\n", c.Hook)
	}
	if c.Opaque != "" {
		fmt.Fprintf(b, "\t\t# not understood: %q\n", c.Opaque)
	}
	for _, r := range c.Rules {
		fmt.Fprintf(b, "\t\t%s\n", r.Text(f))
	}
	b.WriteString("\t}\n")
}

// String is the hook's declaration in a chain.
func (h *Hook) String() string {
	kind := "nat"
	if h.Filter {
		kind = "filter"
	}
	return fmt.Sprintf("type %s hook %s priority %d; policy accept;", kind, h.Num, h.Priority)
}

// String is nft's name of the hook.
func (n HookNum) String() string {
	names := [...]string{"prerouting", "input", "forward", "output", "postrouting", "ingress", "egress"}
	if int(n) < len(names) {
		return names[n]
	}
	return fmt.Sprintf("hook-%d", uint32(n))
}
