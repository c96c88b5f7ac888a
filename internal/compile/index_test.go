package compile

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"

	"github.com/nftdp/go-nftdp/internal/ruleset"
)

var (
	here = addr("10.9.0.1")
	node = netip.IPv4Unspecified()
)

func single(a netip.Addr, port uint16) Key { return Key{Addr: a, Port: port, Proto: TCP} }

func ranged(a netip.Addr, first uint16) Key {
	return Key{Addr: a, Port: first, Proto: TCP, Ranged: true}
}

// someIndex returns an index of single ports and ranges, added out of order.
func someIndex() *Index {
	x := NewIndex(0)
	x.Add(ranged(here, 300), 399, "third")
	x.Add(ranged(here, 100), 199, "first")
	x.Add(single(here, 80), 0, "single")
	x.Add(single(here, 150), 0, "within")
	x.Add(ranged(here, 200), 200, "second")
	x.Add(ranged(here, 65000), 65535, "last")
	x.Add(single(node, 80), 0, "node-wide")
	x.Add(ranged(node, 100), 120, "node-wide range")
	return x
}

// TestIndexMatch: a packet matches the frontend of its port, else the range that
// includes the port.
func TestIndexMatch(t *testing.T) {
	x := someIndex()
	for _, c := range []struct {
		k    Key
		want string // the owner
	}{
		{single(here, 80), "single"},
		{single(here, 99), ""},
		{single(here, 100), "first"},
		{single(here, 149), "first"},
		{single(here, 150), "within"},
		{single(here, 199), "first"},
		{single(here, 200), "second"},
		{single(here, 201), ""},
		{single(here, 299), ""},
		{single(here, 399), "third"},
		{single(here, 64999), ""},
		{single(here, 65535), "last"},
		{single(node, 80), "node-wide"},
		{single(node, 120), "node-wide range"},
		{single(node, 121), ""},
		{single(addr("10.9.0.2"), 100), ""},
		{Key{Addr: here, Port: 100, Proto: UDP}, ""},
		{Key{Addr: here, Port: 80, Proto: UDP}, ""},
	} {
		k, ok := x.Match(c.k)
		owner, has := x.Owner(k)
		if ok != (c.want != "") || has != ok || owner != c.want {
			t.Errorf("%v matches %v of %q, %t, want %q", c.k, k, owner, ok, c.want)
		}
		if ok && (k.Addr != c.k.Addr || k.Proto != c.k.Proto || k.Port > c.k.Port) {
			t.Errorf("%v matches %v", c.k, k)
		}
	}
	keys := slices.Collect(x.Keys)
	if len(keys) != 8 || !slices.Contains(keys, ranged(here, 200)) || !slices.Contains(keys, single(node, 80)) {
		t.Errorf("keys %v", keys)
	}
}

// TestIndexConflict: a port collides with the same port, and a range with any
// range that has a port in common. A single port does not collide with a range.
func TestIndexConflict(t *testing.T) {
	x := someIndex()
	for _, c := range []struct {
		k       Key
		last    uint16
		ignored string
		want    string
	}{
		{single(here, 80), 0, "", "single"},
		{single(here, 80), 0, "single", ""},
		{single(here, 80), 0, "first second", "single"},
		{single(here, 100), 0, "", ""},
		{single(here, 81), 0, "", ""},
		{ranged(here, 80), 90, "", ""},
		{ranged(here, 80), 99, "", ""},
		{ranged(here, 80), 100, "", "first"},
		{ranged(here, 1), 65535, "", "first"},
		{ranged(here, 1), 65535, "first", "second"},
		{ranged(here, 1), 65535, "first second", "third"},
		{ranged(here, 1), 65535, "first second third last", ""},
		{ranged(here, 120), 130, "", "first"},
		{ranged(here, 120), 200, "first", "second"},
		{ranged(here, 120), 199, "first", ""},
		{ranged(here, 199), 199, "", "first"},
		{ranged(here, 200), 250, "", "second"},
		{ranged(here, 201), 299, "", ""},
		{ranged(here, 201), 300, "", "third"},
		{ranged(here, 399), 65535, "third", "last"},
		{ranged(here, 400), 64999, "", ""},
		{ranged(here, 65535), 65535, "", "last"},
		{ranged(addr("10.9.0.2"), 1), 65535, "", ""},
		{ranged(node, 121), 65535, "", ""},
		{Key{Addr: here, Port: 1, Proto: UDP, Ranged: true}, 65535, "", ""},
	} {
		ignored := map[string]bool{}
		for name := range strings.FieldsSeq(c.ignored) {
			ignored[name] = true
		}
		got, ok := x.Conflict(c.k, c.last, ignored)
		if got != c.want && ok || ok != (c.want != "") {
			t.Errorf("%v to %d, without %q: %q, %t, want %q", c.k, c.last, c.ignored, got, ok, c.want)
		}
	}
}

// TestIndexOfManyRanges: each of thousands of ranges is found by its first and
// last port, and removing some leaves the others.
func TestIndexOfManyRanges(t *testing.T) {
	const n, width = 6000, 10
	x := NewIndex(n)
	services := make([]*Service, n)
	for i := range services {
		first := uint16(1 + i*7919%n*width) // in another order than that of their ports
		services[i] = &Service{Name: fmt.Sprint(first), Proto: TCP, Frontends: []*Frontend{{Addr: here, Port: first, End: first + width - 2}}}
		x.add(services[i], services[i].Name)
	}
	check := func(exists func(i int) bool) {
		t.Helper()
		for i, s := range services {
			f := s.Frontends[0]
			for _, port := range []uint16{f.Port, f.End} {
				if k, ok := x.Match(single(here, port)); ok != exists(i) || ok && k != s.Key(f) {
					t.Errorf("port %d matches %v, %t", port, k, ok)
				}
				if owner, ok := x.Conflict(ranged(here, port), port, nil); ok != exists(i) || ok && owner != s.Name {
					t.Errorf("port %d collides with %q, %t", port, owner, ok)
				}
			}
			if k, ok := x.Match(single(here, f.End+1)); ok {
				t.Errorf("port %d between ranges matches %v", f.End+1, k)
			}
		}
	}
	check(func(int) bool { return true })
	for i := range n / 2 {
		x.remove(services[2*i])
	}
	check(func(i int) bool { return i%2 > 0 })
	for i := range n / 2 {
		x.remove(services[2*i+1])
	}
	if len(x.owner)+len(x.ranges) > 0 {
		t.Errorf("%d keys and %d places are left", len(x.owner), len(x.ranges))
	}
}

// TestIndexContradiction: of two services with the same frontends, the first one
// keeps them, even when the other is removed.
func TestIndexContradiction(t *testing.T) {
	service := func(name string) *Service {
		return &Service{Name: name, Proto: TCP, Frontends: []*Frontend{{Addr: here, Port: 80}, {Addr: here, Port: 100, End: 199}}}
	}
	a, b := service("a"), service("b")
	b.Frontends[1].Port = 150
	x := NewIndex(0)
	x.add(a, a.Name)
	x.add(b, b.Name)
	x.remove(b)
	for _, port := range []uint16{80, 100, 150, 199} {
		k, _ := x.Match(single(here, port))
		if owner, _ := x.Owner(k); owner != "a" {
			t.Errorf("port %d matches %q", port, owner)
		}
	}
}

// FuzzIndex: whatever is added and removed, the index returns the same as a
// search through a list.
func FuzzIndex(f *testing.F) {
	addRandom(f, 200)
	f.Fuzz(func(t *testing.T, data []byte) {
		d := &dice{data}
		x := NewIndex(0)
		var list []*Service
		for len(d.bytes) > 0 {
			if d.roll(3) == 0 && len(list) > 0 {
				i := d.roll(len(list))
				x.remove(list[i])
				list = slices.Delete(list, i, i+1)
				continue
			}
			s := &Service{Name: fmt.Sprint(len(d.bytes)), Proto: one(d, []uint8{TCP, UDP}), Frontends: []*Frontend{
				{Addr: one(d, []netip.Addr{here, node}), Port: uint16(1 + d.roll(60))},
			}}
			front := s.Frontends[0]
			if d.roll(3) > 0 {
				front.End = front.Port + uint16(d.roll(8))
			}
			ignored := map[string]bool{}
			for _, o := range list {
				ignored[o.Name] = d.roll(4) == 0
			}
			want := colliding(list, s, ignored)
			if got, ok := x.Conflict(s.Key(front), front.End, ignored); ok != (len(want) > 0) || ok && !slices.Contains(want, got) {
				t.Fatalf("%+v collides with %q, %t, want one of %q", s, got, ok, want)
			}
			if len(colliding(list, s, nil)) == 0 {
				x.Add(s.Key(front), front.End, s.Name)
				list = append(list, s)
			}
			k := Key{Addr: front.Addr, Port: front.Port, Proto: s.Proto}
			got, ok := x.Match(k)
			if want, found := match(list, k); ok != found || ok && got != want {
				t.Fatalf("%v matches %v, %t, want %v, %t", k, got, ok, want, found)
			}
		}
	})
}

// colliding names the services of a list whose frontend collides with that of s.
func colliding(list []*Service, s *Service, ignored map[string]bool) (names []string) {
	f := s.Frontends[0]
	for _, o := range list {
		g := o.Frontends[0]
		overlap := g.Port == f.Port
		if f.End > 0 {
			overlap = g.Port <= f.End && f.Port <= g.End
		}
		if !ignored[o.Name] && o.Proto == s.Proto && g.Addr == f.Addr && (g.End > 0) == (f.End > 0) && overlap {
			names = append(names, o.Name)
		}
	}
	return names
}

func match(list []*Service, k Key) (found Key, ok bool) {
	for _, s := range list {
		f := s.Frontends[0]
		if s.Proto != k.Proto || f.Addr != k.Addr {
			continue
		}
		if f.End == 0 && f.Port == k.Port {
			return s.Key(f), true
		}
		if f.Port <= k.Port && k.Port <= f.End {
			found, ok = s.Key(f), true
		}
	}
	return found, ok
}

// TestConflicts: services that are set or removed do not conflict with
// themselves, and every frontend in conflict is named.
func TestConflicts(t *testing.T) {
	service := func(name string, fronts ...*Frontend) *Service {
		return &Service{Name: name, Proto: TCP, Frontends: fronts}
	}
	port := func(p uint16) *Frontend { return &Frontend{Addr: here, Port: p} }
	span := func(first, last uint16) *Frontend { return &Frontend{Addr: here, Port: first, End: last} }
	held := []*Service{service("a", port(80), port(81)), service("b", span(100, 199)), service("c", port(90))}
	for _, c := range []struct {
		name   string
		set    []*Service
		remove []string
		want   []string // service, port, owner
	}{
		{"none", []*Service{service("d", port(82), span(200, 299))}, nil, nil},
		{"a port", []*Service{service("d", port(80))}, nil, []string{"d 80 a"}},
		{
			"all of them",
			[]*Service{service("d", port(80), port(85), span(150, 160)), service("e", port(90))},
			nil,
			[]string{"d 80 a", "d 150 b", "e 90 c"},
		},
		{"its own", []*Service{service("a", port(80), port(82)), service("b", span(150, 250))}, nil, nil},
		{"frontends of removed services", []*Service{service("d", port(80), span(1, 65535))}, []string{"a", "b"}, nil},
		{"beside a removed service", []*Service{service("d", port(80), port(90))}, []string{"a"}, []string{"d 90 c"}},
		{"exchanged", []*Service{service("a", port(90)), service("c", port(80))}, nil, nil},
		{"another protocol", []*Service{{Name: "d", Proto: UDP, Frontends: []*Frontend{port(80)}}}, nil, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			state := New(Config{Table: "t"}, held)
			var got []string
			for _, x := range state.Conflicts(c.set, c.remove) {
				got = append(got, fmt.Sprint(x.Service.Name, " ", x.Frontend.Port, " ", x.Owner))
			}
			if diff := gocmp.Diff(c.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			if len(got) > 0 {
				return
			}
			state.Stage(c.set, c.remove).Commit()
			fresh := New(state.cfg, state.Services())
			if diff := gocmp.Diff(fresh.Index(), state.Index(), exactIndex()); diff != "" {
				t.Errorf("after the change, the index is not that of a new state (-want +got):\n%s", diff)
			}
			for _, s := range c.set {
				for i := range s.Frontends {
					if owner, ok := state.Index().Owner(s.Key(s.Frontends[i])); !ok || owner != s.Name {
						t.Errorf("%v belongs to %q, want %q", s.Key(s.Frontends[i]), owner, s.Name)
					}
				}
			}
		})
	}
}

func exactIndex() gocmp.Option {
	return gocmp.Options{
		gocmp.AllowUnexported(Index{}, portRange{}),
		gocmp.Comparer(func(x, y netip.Addr) bool { return x == y }),
	}
}

// TestNodeWideKeys: node-wide frontends of the two families do not collide.
func TestNodeWideKeys(t *testing.T) {
	x := NewIndex(0)
	for _, f := range ruleset.Families {
		x.Add(single(f.Unspecified(), 80), 0, f.String())
	}
	for _, f := range ruleset.Families {
		if owner, ok := x.Owner(single(f.Unspecified(), 80)); !ok || owner != f.String() {
			t.Errorf("%s belongs to %q, %t", f, owner, ok)
		}
	}
}
