//go:build linux

package nfnl

import (
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/nftdp/go-nftdp/internal/ruleset"
)

// backendMessages are n elements of a map of backends, in messages of the
// size that the kernel dumps.
func backendMessages(n int) (s *ruleset.Set, msgs [][]byte) {
	s = &ruleset.Set{
		Name:    "s",
		Key:     []ruleset.Type{ruleset.Addr, ruleset.Proto, ruleset.Port, ruleset.Slot},
		Data:    []ruleset.Type{ruleset.Addr, ruleset.Port},
		Counter: true,
	}
	const perMessage = 120
	var list [][]byte
	for i := range uint32(n) {
		key := valueOf(append([]byte{10, byte(i >> 24), byte(i >> 16), byte(i >> 8), tcp, 0, 0, 0, 0, 80, 0, 0}, host(i%10)...)...)
		data := valueOf(10, byte(i>>16), byte(i>>8), byte(i), 0x1f, 0x90, 0, 0)
		list = append(list, element(attr(unix.NFTA_SET_ELEM_KEY, key), attr(unix.NFTA_SET_ELEM_DATA, data),
			attr(unix.NFTA_SET_ELEM_EXPR, counterAttrs(uint64(i), 60))))
		if len(list) == perMessage || i == uint32(n)-1 {
			msgs = append(msgs, elementsMessage(list...))
			list = nil
		}
	}
	return s, msgs
}

// TestDecodeElementsAllocations limits what a process allocates when it reads a map
// of backends: the two names in each message and the decoder, but nothing for an
// element.
func TestDecodeElementsAllocations(t *testing.T) {
	s, msgs := backendMessages(120)
	n := 0
	allocs := testing.AllocsPerRun(100, func() {
		for _, m := range msgs {
			if err := DecodeElements(m, s, ruleset.IPv4, func(e ruleset.Element) { n += e.Key.Len() }); err != nil {
				t.Fatal(err)
			}
		}
	})
	if allocs > 4 || n == 0 {
		t.Errorf("%v allocations for a message of 120 elements", allocs)
	}
}

// TestDecodeElementsStrings: consecutive elements share equal strings.
func TestDecodeElementsStrings(t *testing.T) {
	s := &ruleset.Set{Name: "s", Key: []ruleset.Type{ruleset.Addr}, Verdict: true}
	one := element(attr(unix.NFTA_SET_ELEM_KEY, valueOf(netip.MustParseAddr("10.0.0.1").AsSlice()...)),
		attr(unix.NFTA_SET_ELEM_DATA, attr(unix.NFTA_DATA_VERDICT,
			attr(unix.NFTA_VERDICT_CODE, num(0xfffffffc)), attr(unix.NFTA_VERDICT_CHAIN, zstr("random-3")))),
		attr(unix.NFTA_SET_ELEM_USERDATA, []byte{0, 4, 'w', 'e', 'b', 0}))
	few, many := elementsMessage(one), elementsMessage(one, one, one, one, one, one, one, one)
	allocs := func(m []byte) float64 {
		return testing.AllocsPerRun(100, func() {
			err := DecodeElements(m, s, ruleset.IPv4, func(e ruleset.Element) {
				if e.Opaque || e.Comment != "web" || e.Verdict != goTo("random-3") {
					t.Fatal(e)
				}
			})
			if err != nil {
				t.Fatal(err)
			}
		})
	}
	if f, m := allocs(few), allocs(many); f != m {
		t.Errorf("%v allocations for one element, %v for eight", f, m)
	}
}

// BenchmarkDecodeElements decodes as many backends as 20,000 services with
// about ten each have.
func BenchmarkDecodeElements(b *testing.B) {
	const n = 220_000
	s, msgs := backendMessages(n)
	elements := make([]ruleset.Element, 0, n)
	b.ReportAllocs()
	for b.Loop() {
		elements = elements[:0]
		for _, m := range msgs {
			if err := DecodeElements(m, s, ruleset.IPv4, func(e ruleset.Element) { elements = append(elements, e) }); err != nil {
				b.Fatal(err)
			}
		}
	}
	if len(elements) != n || elements[n-1].Opaque {
		b.Fatal(len(elements))
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/n, "ns/element")
}
