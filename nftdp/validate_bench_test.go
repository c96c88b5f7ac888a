package nftdp

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/nftdp/go-nftdp/internal/compile"
)

// TestValidServicesAllocateNothing: the validation of a valid service allocates
// no memory.
func TestValidServicesAllocateNothing(t *testing.T) {
	s := manyServices(1)[0]
	for i := range 22 {
		s.Backends = append(s.Backends, back(fmt.Sprintf("10.200.0.%d:80", i)))
	}
	allocs := testing.AllocsPerRun(100, func() {
		if s.problems(0) != nil || s.conflicts(0, nobody) != nil {
			t.Fatal("the service is not valid")
		}
	})
	if allocs != 0 {
		t.Errorf("%v allocations, want none", allocs)
	}
}

// nobody owns no frontend.
func nobody(compile.Key, uint16) (string, bool) { return "", false }

// manyServices returns n valid services with two frontends and ten backends
// each.
func manyServices(n int) []Service {
	services := make([]Service, n)
	for i := range services {
		hi, lo := byte(i>>8), byte(i)
		s := Service{
			Name: fmt.Sprintf("default/service-%d:http", i),
			Frontends: []Frontend{
				{Addr: netip.AddrFrom4([4]byte{172, 30, hi, lo}), Port: 80},
				{Port: uint16(i + 1)},
			},
		}
		for j := range 10 {
			addr := netip.AddrFrom4([4]byte{10, byte(j), hi, lo})
			s.Backends = append(s.Backends, Backend{Addr: netip.AddrPortFrom(addr, 8080)})
		}
		services[i] = s
	}
	return services
}

func BenchmarkServiceProblems(b *testing.B) {
	for _, n := range []int{10, 32, 33, 65535} {
		s := manyServices(1)[0]
		s.Backends = manyBackends(n)
		b.Run(fmt.Sprintf("backends=%d", n), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if found := s.problems(0); found != nil {
					b.Fatal(found[0])
				}
			}
		})
	}
}

func BenchmarkClaims(b *testing.B) {
	s := manyServices(1)[0]
	b.ReportAllocs()
	for b.Loop() {
		if found := newClaims(2).admit([]Service{s}); found != nil {
			b.Fatal(found[0])
		}
	}
}

func BenchmarkValidate(b *testing.B) {
	for _, n := range []int{100, 1000, 10_000, 50_000} {
		services := manyServices(n)
		b.Run(fmt.Sprintf("services=%d", n), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if err := (Config{}).Validate(services); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(n), "ns/service")
		})
	}
}
