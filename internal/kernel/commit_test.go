//go:build linux

package kernel

import (
	"context"
	"errors"
	"math"
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/nftdp/go-nftdp/internal/nstest"
	"github.com/nftdp/go-nftdp/internal/ruleset"
)

// TestCommitAndRead: a committed ruleset is read back unchanged, including counters
// and sizes, and the generation grows by one.
func TestCommitAndRead(t *testing.T) {
	c := dial(t, nstest.NewTestNamespace(t))
	want := compiled(300)
	for _, table := range want.Tables {
		for _, s := range table.Sets {
			for i := range s.Elements {
				if s.Counter {
					s.Elements[i].Packets, s.Elements[i].Bytes = uint64(i), 60*uint64(i)
				}
			}
		}
	}
	before, generation := read(t, c)
	if len(before.Tables) > 0 {
		t.Fatalf("the namespace is not empty:\n%s", before)
	}
	if got := load(t, c, want); got != generation+1 {
		t.Errorf("generation %d, want %d", got, generation+1)
	}
	got, after := read(t, c)
	wantRuleset(t, want, got)
	if after != generation+1 {
		t.Errorf("generation %d after reading, want %d", after, generation+1)
	}
	if after, err := c.Commit(t.Context(), after, nil); err != nil || after != generation+1 {
		t.Errorf("without changes: generation %d, error %v", after, err)
	}
}

// TestCommitReplacesAndRemoves: the changes that Diff returns can be committed: sets
// and tables are replaced, and chains and rules of others removed.
func TestCommitReplacesAndRemoves(t *testing.T) {
	c := dial(t, nstest.NewTestNamespace(t))
	small := compiled(2)
	small.Table(ruleset.IPv4).Set("backends").Size = 4
	small.Table(ruleset.IPv6).Set("frontends").Size = 4
	foreign := compiled(300)
	foreign.Table(ruleset.IPv4).Chain("services").Rules = append(foreign.Table(ruleset.IPv4).Chain("services").Rules,
		ruleset.Rule{ruleset.Verdict{Kind: ruleset.Jump, Chain: "foreign"}})
	foreign.Table(ruleset.IPv4).Chains = append(foreign.Table(ruleset.IPv4).Chains,
		&ruleset.Chain{Name: "foreign", Rules: []ruleset.Rule{{ruleset.Verdict{Kind: ruleset.Accept}}}})
	otherSchema := compiled(10)
	otherSchema.Table(ruleset.IPv6).Comment = "other"
	for _, step := range []struct {
		name string
		next *ruleset.Ruleset
	}{
		{"small sets", small},
		{"sets grow", compiled(300)},
		{"foreign chain", foreign},
		{"foreign chain removed", compiled(300)},
		{"fewer services", compiled(3)},
		{"another schema", otherSchema},
		{"our schema", compiled(10)},
		{"one family", &ruleset.Ruleset{Tables: compiled(10).Tables[:1]}},
		{"nothing", &ruleset.Ruleset{}},
	} {
		current, generation := read(t, c)
		if _, err := c.Commit(t.Context(), generation, ruleset.Diff(current, step.next).Changes()); err != nil {
			t.Fatalf("%s: %v", step.name, err)
		}
		got, _ := read(t, c)
		if left := ruleset.Diff(got, step.next).Changes(); len(left) > 0 {
			t.Fatalf("%s: %d changes are left, the first is %s", step.name, len(left), &left[0])
		}
	}
}

// TestCommitStale: a commit for another generation is not applied.
func TestCommitStale(t *testing.T) {
	c := dial(t, nstest.NewTestNamespace(t))
	generation := load(t, c, compiled(3))
	changes := ruleset.Diff(compiled(3), compiled(4)).Changes()
	for _, wrong := range []uint32{generation - 1, generation + 1, generation + 1000} {
		if _, err := c.Commit(t.Context(), wrong, changes); !errors.Is(err, ruleset.ErrStale) {
			t.Errorf("for generation %d of %d: %v", wrong, generation, err)
		}
	}
	got, after := read(t, c)
	wantRuleset(t, compiled(3), got)
	if after != generation {
		t.Errorf("generation %d, want %d", after, generation)
	}
	if _, err := c.Commit(t.Context(), generation, changes); err != nil {
		t.Errorf("the next commit: %v", err)
	}
}

// TestCommitOfAnother: commits of others change the generation, too.
func TestCommitOfAnother(t *testing.T) {
	ns := nstest.NewTestNamespace(t)
	ours, other := dial(t, ns), dial(t, ns)
	generation := load(t, ours, compiled(1))
	foreign := ruleset.Ruleset{Tables: []*ruleset.Table{{Family: ruleset.IPv4, Name: "foreign"}}}
	load(t, other, &foreign)
	if _, err := ours.Commit(t.Context(), generation, ruleset.Diff(compiled(1), compiled(2)).Changes()); !errors.Is(err, ruleset.ErrStale) {
		t.Errorf("after a change of another: %v", err)
	}
}

// setOfPorts returns a table with a set of the first n ports.
func setOfPorts(n int, size uint32) *ruleset.Ruleset {
	s := &ruleset.Set{Name: "ports", Key: []ruleset.Type{ruleset.Proto, ruleset.Port}, Size: size, Elements: ports(0, n)}
	return &ruleset.Ruleset{Tables: []*ruleset.Table{{Family: ruleset.IPv4, Name: "t", Sets: []*ruleset.Set{s}}}}
}

func ports(first, n int) []ruleset.Element {
	out := make([]ruleset.Element, n)
	for i := range out {
		out[i].Key = ruleset.Tuple{}.Proto(17).Port(uint16(first + i))
	}
	return out
}

// TestRefusedElement: among thousands of elements in several messages, the refused
// element is found, whatever the errno, and nothing of the batch is applied.
func TestRefusedElement(t *testing.T) {
	c := dial(t, nstest.NewTestNamespace(t))
	const present, more = 100, 9000
	held := setOfPorts(present, 0)
	generation := load(t, c, held)
	set := held.Tables[0].Set("ports")
	for _, at := range []int{0, 1, 2047, 2048, 4711, more - 2, more - 1} {
		for _, test := range []struct {
			verb  ruleset.Verb
			errno unix.Errno
			bad   ruleset.Element
			want  string
		}{
			{ruleset.Add, unix.EEXIST, ports(7, 1)[0], "add element ip t ports { udp . 7 }"},
			{ruleset.Delete, unix.ENOENT, ports(60000, 1)[0], "delete element ip t ports { udp . 60000 }"},
		} {
			elements := ports(present, more)
			first := ruleset.Change{Verb: ruleset.Add, Family: ruleset.IPv4, Table: "t", Set: set, Elements: elements}
			changes := []ruleset.Change{first}
			if test.verb == ruleset.Delete {
				second := first
				second.Verb, second.Elements = ruleset.Delete, ports(present, more)
				changes = append(changes, second)
			}
			last := &changes[len(changes)-1]
			last.Elements[at] = test.bad
			_, err := c.Commit(t.Context(), generation, changes)
			var refused *ruleset.RefusedError
			if !errors.As(err, &refused) || !errors.Is(err, test.errno) {
				t.Fatalf("%s at %d: %v, want %v", test.verb, at, err, test.errno)
			}
			if refused.Element != at || refused.Change != last || refused.Command() != test.want {
				t.Errorf("%s at %d: element %d, command %q", test.verb, at, refused.Element, refused.Command())
			}
		}
	}
	got, after := read(t, c)
	wantRuleset(t, held, got)
	if after != generation {
		t.Errorf("the generation moved from %d to %d", generation, after)
	}
}

// TestRefusedFull: the element for which a full set has no room is named.
func TestRefusedFull(t *testing.T) {
	c := dial(t, nstest.NewTestNamespace(t))
	generation := load(t, c, setOfPorts(4, 8))
	changes := []ruleset.Change{{
		Verb: ruleset.Add, Family: ruleset.IPv4, Table: "t",
		Set: setOfPorts(0, 8).Tables[0].Set("ports"), Elements: ports(4, 5),
	}}
	_, err := c.Commit(t.Context(), generation, changes)
	var refused *ruleset.RefusedError
	if !errors.As(err, &refused) || !errors.Is(err, unix.ENFILE) || refused.Command() != "add element ip t ports { udp . 8 }" {
		t.Errorf("%v, want ENFILE for port 8", err)
	}
}

// TestRefusedOther: refused changes other than of elements are named, too.
func TestRefusedOther(t *testing.T) {
	c := dial(t, nstest.NewTestNamespace(t))
	generation := load(t, c, setOfPorts(1, 0))
	in := func(change ruleset.Change) ruleset.Change {
		change.Family, change.Table = ruleset.IPv4, "t"
		return change
	}
	chain := &ruleset.Chain{Name: "c"}
	base := &ruleset.Chain{Name: "b", Hook: &ruleset.Hook{Num: ruleset.Forward, Priority: -100}}
	interval := &ruleset.Set{Name: "i", Key: []ruleset.Type{ruleset.Addr}, Interval: true}
	overlapping := []ruleset.Element{span("10.0.0.0", "10.0.0.9"), span("10.0.0.5", "10.0.0.20")}
	for _, test := range []struct {
		name    string
		changes []ruleset.Change
		errno   unix.Errno
		want    string
	}{
		{
			"a table that exists",
			[]ruleset.Change{in(ruleset.Change{Verb: ruleset.Add})},
			unix.EEXIST, "add table ip t",
		},
		{
			"a chain that does not exist",
			[]ruleset.Change{in(ruleset.Change{Verb: ruleset.Delete, Chain: chain})},
			unix.ENOENT, "delete chain ip t c",
		},
		{
			"a nat chain at a hook without nat",
			[]ruleset.Change{in(ruleset.Change{Verb: ruleset.Add, Chain: base})},
			unix.EOPNOTSUPP, "add chain ip t b { type nat hook forward priority -100; policy accept; }",
		},
		{
			"a rule with an unknown set",
			[]ruleset.Change{
				in(ruleset.Change{Verb: ruleset.Add, Chain: chain}),
				in(ruleset.Change{Verb: ruleset.Add, Chain: chain, Rule: ruleset.Rule{
					ruleset.Lookup{Key: []ruleset.Operand{{Field: ruleset.Dport}}, Set: "unknown"},
				}}),
			},
			unix.ENOENT, "add rule ip t c th dport @unknown",
		},
		{
			"overlapping intervals",
			[]ruleset.Change{
				in(ruleset.Change{Verb: ruleset.Add, Set: interval}),
				in(ruleset.Change{Verb: ruleset.Add, Set: interval, Elements: overlapping}),
			},
			unix.EEXIST, "add 2 elements of ip t i",
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, err := c.Commit(t.Context(), generation, test.changes)
			var refused *ruleset.RefusedError
			if !errors.As(err, &refused) || !errors.Is(err, test.errno) || refused.Command() != test.want {
				t.Errorf("%v, want %v for %q", err, test.errno, test.want)
			}
		})
	}
}

func span(first, last string) ruleset.Element {
	return ruleset.Element{
		Key: ruleset.Tuple{}.Addr(netip.MustParseAddr(first)), End: ruleset.Tuple{}.Addr(netip.MustParseAddr(last)),
	}
}

// TestFirstRefusalCounts: the first error is returned. The kernel continues after
// it, and later errors often follow from the first one.
func TestFirstRefusalCounts(t *testing.T) {
	c := dial(t, nstest.NewTestNamespace(t))
	generation := load(t, c, setOfPorts(1, 0))
	var changes []ruleset.Change
	for i := range 3000 {
		changes = append(changes, ruleset.Change{
			Verb: ruleset.Delete, Family: ruleset.IPv4, Table: "t",
			Set: setOfPorts(0, 0).Tables[0].Set("ports"), Elements: ports(100+i, 1),
		})
	}
	_, err := c.Commit(t.Context(), generation, changes)
	var refused *ruleset.RefusedError
	if !errors.As(err, &refused) || refused.Command() != "delete element ip t ports { udp . 100 }" {
		t.Errorf("%v, want the refusal of port 100", err)
	}
	if _, err := c.Commit(t.Context(), generation, ruleset.Diff(setOfPorts(1, 0), setOfPorts(2, 0)).Changes()); err != nil {
		t.Errorf("the next commit, after the rest of the answers: %v", err)
	}
}

// TestCommitUnencodable: a batch that cannot be encoded is not sent at all.
func TestCommitUnencodable(t *testing.T) {
	c := dial(t, nstest.NewTestNamespace(t))
	generation := load(t, c, setOfPorts(1, 0))
	changes := ruleset.Diff(setOfPorts(1, 0), setOfPorts(3, 0)).Changes()
	changes[0].Elements[1].Opaque = true
	if _, err := c.Commit(t.Context(), generation, changes); err == nil {
		t.Error("no error")
	}
	got, _ := read(t, c)
	wantRuleset(t, setOfPorts(1, 0), got)
}

// TestCommitCancelled: nothing is sent with a context that has ended.
func TestCommitCancelled(t *testing.T) {
	c := dial(t, nstest.NewTestNamespace(t))
	generation := load(t, c, setOfPorts(1, 0))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := c.Commit(ctx, generation, ruleset.Diff(setOfPorts(1, 0), setOfPorts(2, 0)).Changes()); !errors.Is(err, context.Canceled) {
		t.Errorf("commit: %v", err)
	}
	if _, err := c.Generation(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("generation: %v", err)
	}
	if _, _, err := readWhole(ctx, c, "t"); !errors.Is(err, context.Canceled) {
		t.Errorf("read: %v", err)
	}
	got, after := read(t, c)
	wantRuleset(t, setOfPorts(1, 0), got)
	if after != generation {
		t.Errorf("the generation moved from %d to %d", generation, after)
	}
}

// TestNamespaceHandle: a connection stays in its namespace after the handle is
// closed. Without a handle it is in the namespace of the thread.
func TestNamespaceHandle(t *testing.T) {
	ns, err := nstest.New("closed")
	if err != nil {
		t.Fatal(err)
	}
	c := dial(t, ns)
	var here *Conn
	if err := ns.Do(func() (err error) { here, err = Dial(Here); return err }); err != nil {
		t.Fatal(err)
	}
	defer here.Close()
	if err := ns.Close(); err != nil {
		t.Fatal(err)
	}
	load(t, c, compiled(3))
	got, _ := read(t, here)
	wantRuleset(t, compiled(3), got)
}

func TestDialErrors(t *testing.T) {
	if _, err := Dial(math.MaxInt32); err == nil {
		t.Error("a closed file descriptor is accepted as a namespace")
	}
	c, err := Dial(int(nstest.NewTestNamespace(t).Handle()))
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Generation(t.Context()); err == nil {
		t.Error("a closed connection answers")
	}
}

// TestRepeatedElement: to add an element of some sets again makes no difference,
// and disturbs no other change of the batch.
func TestRepeatedElement(t *testing.T) {
	c := dial(t, nstest.NewTestNamespace(t))
	held := setOfPorts(3, 0)
	held.Tables[0].Sets[0].Repeatable = true
	load(t, c, held)
	set := held.Tables[0].Sets[0]
	changes := ruleset.Change{Family: ruleset.IPv4, Table: "t"}.OfElements(ruleset.Add, set, ports(1, 4), nil)
	if _, err := c.Commit(t.Context(), 0, changes); err != nil {
		t.Fatal(err)
	}
	got, _ := read(t, c)
	wantRuleset(t, ruleset.Apply(held, changes), got)
}

// TestForgedReply: messages of another process to our socket do not count as the
// kernel's.
func TestForgedReply(t *testing.T) {
	ns := nstest.NewTestNamespace(t)
	c := dial(t, ns)
	generation := load(t, c, setOfPorts(1, 0))
	err := nstest.Forge(ns, unix.NETLINK_NETFILTER, c.Port(), unix.NLMSG_ERROR, c.socket.NextSeq(0), 4)
	if err != nil {
		t.Fatal(err)
	}
	changes := ruleset.Diff(setOfPorts(0, 0), setOfPorts(1, 0)).Changes() // port 0 exists
	if _, err := c.Commit(t.Context(), generation, changes); !errors.Is(err, unix.EEXIST) {
		t.Errorf("%v, want the kernel's answer", err)
	}
}

// TestMaxBatch: the send buffer grows with the batch, up to a limit that the error
// names.
func TestMaxBatch(t *testing.T) {
	c := dial(t, nstest.NewTestNamespace(t))
	const large = 64 << 20
	limit, err := c.MaxBatch(large)
	if err != nil {
		t.Fatal(err)
	}
	if again, err := c.MaxBatch(1); err != nil || again != limit {
		t.Errorf("the limit was %d and is %d, error %v", limit, again, err)
	}
	if limit >= large {
		return // with CAP_NET_ADMIN in the initial user namespace there is no limit
	}
	const least = 8 // an element has more bytes
	changes := []ruleset.Change{{
		Verb: ruleset.Add, Family: ruleset.IPv4, Table: "t",
		Set: setOfPorts(0, 0).Tables[0].Set("ports"), Elements: make([]ruleset.Element, limit/least),
	}}
	_, err = c.Commit(t.Context(), 1, changes)
	var big *ruleset.TooBigError
	if !errors.As(err, &big) || !errors.Is(err, unix.EMSGSIZE) || big.Limit != limit || big.Size <= limit {
		t.Errorf("%v, want an error that names the limit of %d bytes", err, limit)
	}
}

// TestRepliesLost: if there is no room for the kernel's answers, the outcome is
// unknown. The connection continues to work.
func TestRepliesLost(t *testing.T) {
	c := dial(t, nstest.NewTestNamespace(t))
	generation := load(t, c, setOfPorts(1, 0))
	if err := c.socket.Conn().SetReadBuffer(1); err != nil { // the kernel has a minimum
		t.Fatal(err)
	}
	var changes []ruleset.Change
	for i := range 3000 {
		changes = append(changes, ruleset.Change{
			Verb: ruleset.Delete, Family: ruleset.IPv4, Table: "t",
			Set: setOfPorts(0, 0).Tables[0].Set("ports"), Elements: ports(100+i, 1),
		})
	}
	if _, err := c.Commit(t.Context(), generation, changes); !errors.Is(err, ruleset.ErrUnknown) {
		t.Errorf("%v, want ruleset.ErrUnknown", err)
	}
	if err := c.socket.Conn().SetReadBuffer(recvBuffer); err != nil {
		t.Fatal(err)
	}
	got, after := read(t, c)
	wantRuleset(t, setOfPorts(1, 0), got)
	if _, err := c.Commit(t.Context(), after, ruleset.Diff(got, setOfPorts(2, 0)).Changes()); err != nil {
		t.Error(err)
	}
}
