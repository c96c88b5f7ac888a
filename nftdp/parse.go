package nftdp

import (
	"bytes"
	"cmp"
	"encoding"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// ParseServices reads a JSON list of services, such as a file of them, and
// validates them as Config.Validate does. It is stricter than json.Unmarshal:
// fields that are unknown or in another case, fields that occur twice, and null
// are refused, so that nothing in the list is silently without effect.
//
// It reports all problems at once: the error joins a *FieldError with its line
// for each. A service that has fields which cannot be read is not validated. If
// the text as a whole is not JSON, that is the only problem.
//
// A caller converts YAML to JSON, best with YAMLToJSONStrict of
// sigs.k8s.io/yaml, since YAMLToJSON drops fields that occur twice. The JSON that
// both write is one line, so that every problem is in line 1.
func ParseServices(data []byte) ([]Service, error) {
	l := newLoader(data)
	if services := l.services(); len(l.found) == 0 {
		return services, nil
	}
	return nil, joinProblems(l.found)
}

// ParseConfig reads a Config from a JSON object, as strictly as ParseServices reads
// services, and validates it. It reports all problems at once: the error joins a
// *FieldError with its line for each. A Config that has fields which cannot be read is
// not validated.
func ParseConfig(data []byte) (Config, error) {
	l := newLoader(data)
	var c Config
	if l.wellFormed() {
		l.lines = map[string]int{}
		l.value(reflect.ValueOf(&c).Elem())
	}
	if len(l.found) == 0 {
		l.found = c.problems()
		for _, p := range l.found {
			p.Line = l.lineOf(p.Field)
		}
	}
	if len(l.found) > 0 {
		return Config{}, joinProblems(l.found)
	}
	return c, nil
}

// loader reads services and collects what is wrong with them.
type loader struct {
	data  []byte
	json  *json.Decoder
	err   error // of json
	at    int   // the end of the last token
	line  int   // its line
	path  []byte
	lines map[string]int // of the values of the present service, by their paths
	names map[reflect.Type][]string
	found []*FieldError
}

func newLoader(data []byte) *loader {
	l := &loader{
		data: data, json: json.NewDecoder(bytes.NewReader(data)), line: 1,
		names: map[reflect.Type][]string{},
	}
	l.json.UseNumber()
	return l
}

func (l *loader) add(reason string) {
	l.found = append(l.found, &FieldError{Field: string(l.path), Reason: reason, Line: l.line})
}

// advance moves on to the line of an offset.
func (l *loader) advance(to int) {
	l.line += bytes.Count(l.data[l.at:to], []byte("\n"))
	l.at = to
}

// token reads the next token. After an error there are none.
func (l *loader) token() json.Token {
	token, err := l.json.Token()
	l.err = cmp.Or(l.err, err)
	l.advance(int(l.json.InputOffset()))
	return token
}

// more reports whether the present object or list goes on.
func (l *loader) more() bool { return l.err == nil && l.json.More() }

// wellFormed reports whether the text is JSON. Everything else that is wrong with
// a text that is not may be a consequence of that.
func (l *loader) wellFormed() bool {
	if at := invalidUTF8(l.data); at >= 0 {
		l.advance(at)
		l.add(fmt.Sprintf("byte %#02x is not UTF-8", l.data[at]))
	} else if e, ok := errors.AsType[*json.SyntaxError](json.Unmarshal(l.data, new(json.RawMessage))); ok {
		l.advance(max(0, int(e.Offset)-1)) // the offset is behind the wrong byte
		l.add(e.Error())
	}
	return len(l.found) == 0
}

// invalidUTF8 is the offset of the first byte that is not UTF-8, or -1.
func invalidUTF8(data []byte) int {
	for at := 0; at < len(data); {
		r, size := utf8.DecodeRune(data[at:])
		if r == utf8.RuneError && size <= 1 {
			return at
		}
		at += size
	}
	return -1
}

func (l *loader) services() []Service {
	services := []Service{} // json.Marshal writes null for nil
	if !l.wellFormed() {
		return nil
	}
	if first := l.token(); first != json.Delim('[') {
		l.add(shown(first) + " is not a list of services")
		return nil
	}
	taken, names := newClaims(0), map[string]int{}
	for i := 0; l.more(); i++ {
		services = append(services, Service{})
		s := &services[i]
		if l.service(i, s) {
			for _, p := range taken.admitOne(i, s, names) {
				p.Line = l.lineOf(p.Field)
				l.found = append(l.found, p)
			}
		}
	}
	l.token()
	if l.err != nil {
		l.add(l.err.Error())
	}
	return services
}

// service reads the i-th service and reports whether all of it fits.
func (l *loader) service(i int, s *Service) bool {
	l.lines = map[string]int{} // clearing one that was large would take as long each time
	before := len(l.found)
	l.value(reflect.ValueOf(s).Elem())
	for _, p := range l.found[before:] {
		p.Service = s.label(i) // the name may stand behind the problem
	}
	return len(l.found) == before
}

// lineOf is the line of a field, or of what would contain it.
func (l *loader) lineOf(field string) int {
	for {
		if line, ok := l.lines[field]; ok {
			return line
		}
		field = field[:max(0, strings.LastIndexAny(field, ".["))]
	}
}

// value reads the next value into v, or reports that it does not fit.
func (l *loader) value(v reflect.Value) {
	token := l.token()
	l.lines[string(l.path)] = l.line
	_, text := reflect.TypeAssert[encoding.TextUnmarshaler](v.Addr())
	switch {
	case token == json.Delim('{') && v.Kind() == reflect.Struct && !text:
		l.object(v)
	case token == json.Delim('[') && v.Kind() == reflect.Slice:
		l.list(v)
	case !set(v, token):
		l.add(fmt.Sprintf("%s is not %s", shown(token), wanted(v)))
		l.skip(token)
	}
}

func (l *loader) list(v reflect.Value) {
	outside := len(l.path)
	for i := 0; l.more(); i++ {
		v.Grow(1)
		v.SetLen(i + 1)
		l.path = fmt.Appendf(l.path, "[%d]", i)
		l.value(v.Index(i))
		l.path = l.path[:outside]
	}
	l.token()
}

func (l *loader) object(v reflect.Value) {
	outside := len(l.path)
	known := l.fields(v.Type())
	seen := make([]bool, len(known))
	for l.more() {
		name, _ := l.token().(string)
		l.enter(name)
		switch i := slices.Index(known, name); {
		case i < 0:
			l.add("is unknown: " + advice(name, known))
			l.skip(l.token())
		case seen[i]:
			l.add("occurs twice: remove one")
			l.skip(l.token())
		default:
			seen[i] = true
			l.value(v.Field(i))
		}
		l.path = l.path[:outside]
	}
	l.token()
}

// enter extends the path by the name of a field.
func (l *loader) enter(name string) {
	if len(l.path) > 0 {
		l.path = append(l.path, '.')
	}
	if strings.ContainsFunc(name, func(r rune) bool { return !isLetter(r) }) {
		name = strconv.Quote(name)
	}
	l.path = append(l.path, name...)
}

// fields are the names in JSON of a struct's fields.
func (l *loader) fields(t reflect.Type) []string {
	names, ok := l.names[t]
	if !ok {
		for field := range t.Fields() {
			name, _, _ := strings.Cut(field.Tag.Get("json"), ",")
			names = append(names, name)
		}
		l.names[t] = names
	}
	return names
}

// skip skips the rest of a value.
func (l *loader) skip(first json.Token) {
	for depth := nesting(first); depth > 0 && l.err == nil; {
		depth += nesting(l.token())
	}
}

func nesting(token json.Token) int {
	switch token {
	case json.Delim('{'), json.Delim('['):
		return 1
	case json.Delim('}'), json.Delim(']'):
		return -1
	}
	return 0
}

// set sets v to a single value, if that fits.
func set(v reflect.Value, token json.Token) bool {
	into, text := reflect.TypeAssert[encoding.TextUnmarshaler](v.Addr())
	switch x := token.(type) {
	case string:
		if text {
			return into.UnmarshalText([]byte(x)) == nil
		}
		if v.Kind() == reflect.String {
			v.SetString(x)
			return true
		}
	case bool:
		if v.Kind() == reflect.Bool {
			v.SetBool(x)
			return true
		}
	case json.Number:
		if n, err := strconv.ParseUint(string(x), 10, 64); err == nil && v.CanUint() && !text && !v.OverflowUint(n) {
			v.SetUint(n)
			return true
		}
	}
	return false
}

// shown is a value as it stands in the text.
func shown(token json.Token) string {
	switch x := token.(type) {
	case nil:
		return "null"
	case string:
		return strconv.Quote(x)
	case json.Delim:
		return map[json.Delim]string{'{': "{...}", '[': "[...]"}[x]
	}
	return fmt.Sprint(token)
}

// wanted says what fits into v.
func wanted(v reflect.Value) string {
	switch x := v.Interface().(type) {
	case interface{ word() word }:
		return x.word().choice()
	case Duration:
		return `a duration, as in "10m"`
	case netip.Addr:
		return `an IP address, as in "10.0.0.1"`
	case netip.AddrPort:
		return `an ip:port, as in "10.0.0.1:8080" or "[fd00::1]:8080"`
	case netip.Prefix:
		return `an address and a length, as in "10.0.0.0/8"`
	case string:
		return "text in quotes"
	case bool:
		return "true or false"
	}
	switch v.Kind() {
	case reflect.Struct:
		return "an object"
	case reflect.Slice:
		return "a list"
	default:
		return fmt.Sprintf("a whole number from 0 to %d", uint64(1)<<v.Type().Bits()-1)
	}
}
