package health

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nftdp/go-nftdp/nftdp"
	"github.com/nftdp/go-nftdp/nftdp/nftdptest"
)

// scene is a Checker that runs on a node in memory, in a bubble of synctest, where time
// passes when everybody waits. Its backends are those of the tests.
type scene struct {
	*testing.T
	*Checker
	node      *nftdptest.Node
	dataplane *nftdp.Dataplane
	probe     *backends
	port      uint16

	mu     sync.Mutex
	events []string
}

// backends is a Probe: what it finds is as the test says.
type backends struct {
	mu    sync.Mutex
	found map[netip.AddrPort]error // of those that do not work
	hang  map[netip.AddrPort]bool
	calls []time.Time
	count map[netip.AddrPort]int
	most  int // calls at a time
	now   int
}

func newBackends() *backends {
	return &backends{found: map[netip.AddrPort]error{}, hang: map[netip.AddrPort]bool{}, count: map[netip.AddrPort]int{}}
}

func (b *backends) Probe(ctx context.Context, _ Dial, addr netip.AddrPort) error {
	b.mu.Lock()
	b.calls = append(b.calls, time.Now())
	b.count[addr]++
	b.now++
	b.most = max(b.most, b.now)
	hangs, err := b.hang[addr], b.found[addr]
	b.mu.Unlock()
	if hangs {
		<-ctx.Done()
		err = ctx.Err()
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.now--
	return err
}

func (b *backends) fail(err error, addrs ...netip.AddrPort) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, a := range addrs {
		b.found[a] = err
	}
}

func (b *backends) counted(addr netip.AddrPort) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.count[addr]
}

// beginnings returns when the checks began so far, and how many there were at a time.
func (b *backends) beginnings() (calls []time.Time, most int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.calls, b.most
}

var errFailed = errors.New("failed")

// inScene runs a test. Each service is checked every ten seconds unless the test says
// otherwise.
func inScene(t *testing.T, check Check, concurrency int, test func(s *scene)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		s := &scene{T: t, probe: newBackends()}
		s.node = nftdptest.NewNode(netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1"))
		var err error
		if s.dataplane, err = s.node.Open(t.Context(), nftdp.Config{}); err != nil {
			t.Fatal(err)
		}
		check.Probe, check.Interval = s.probe, 10*time.Second
		s.Checker = New(s.dataplane, Options{
			Check:       func(*nftdp.Service) *Check { return &check },
			Concurrency: concurrency,
			Report:      s.report,
		})
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- s.Checker.Run(ctx) }()
		defer func() { // Also if the test has ended early.
			stop()
			if err := <-done; !errors.Is(err, context.Canceled) {
				t.Errorf("Run: %v", err)
			}
			if err := s.dataplane.Close(); err != nil {
				t.Error(err)
			}
		}()
		test(s)
	})
}

func (s *scene) report(e Event) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.events = append(s.events, inWords(e))
}

func (s *scene) reported() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.events
}

func inWords(e Event) string {
	switch {
	case e.Backend.IsValid() && e.Healthy:
		return fmt.Sprintf("%s: %v is healthy", e.Service, e.Backend)
	case e.Backend.IsValid():
		return fmt.Sprintf("%s: %v: %v", e.Service, e.Backend, e.Err)
	case e.Err != nil:
		return fmt.Sprintf("%s: %v", e.Service, e.Err)
	}
	return fmt.Sprintf("%s: panic %v", e.Service, e.Panic)
}

// pass lets the time of a number of checks pass. It is between two of them then.
func (s *scene) pass(checks int) {
	elapse(time.Duration(checks) * 11 * time.Second)
	synctest.Wait()
}

// elapse lets time pass. In the bubble it passes at once.
func elapse(d time.Duration) { <-time.After(d) }

// checked waits until a backend has been checked so many times more.
func (s *scene) checked(addr netip.AddrPort, n int) {
	for want := s.probe.counted(addr) + n; s.probe.counted(addr) < want; synctest.Wait() {
		elapse(100 * time.Millisecond)
	}
	elapse(pause) // Then what was found is set, too.
	synctest.Wait()
}

// used returns the last bytes of the backends that connections to port 80 go to.
func (s *scene) used(frontend string) string {
	s.Helper()
	found := map[string]bool{}
	for range 40 {
		s.port++ // of a new connection
		p := nftdptest.Packet{
			Source: netip.MustParseAddrPort("203.0.113.7:1"), Destination: netip.MustParseAddrPort(frontend),
		}
		if p.Destination.Addr().Is6() {
			p.Source = netip.MustParseAddrPort("[2001:db8::7]:1")
		}
		p.Source = netip.AddrPortFrom(p.Source.Addr(), s.port)
		if to := s.node.Send(p).Destination; to.IsValid() && to != p.Destination {
			octets := to.Addr().AsSlice()
			found[fmt.Sprint(octets[len(octets)-1])] = true
		}
	}
	var all []string
	for b := range found {
		all = append(all, b)
	}
	slices.Sort(all)
	return strings.Join(all, " ")
}

func (s *scene) want(used string) {
	s.Helper()
	if got := s.used("192.0.2.1:80"); got != used {
		s.Errorf("connections go to %q, want %q; events: %q", got, used, s.reported())
	}
}

func at(n int) netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 180, byte(n >> 8), byte(n)}), 8080)
}

func web(n int) nftdp.Service {
	s := nftdp.Service{Name: "web", Frontends: []nftdp.Frontend{{Addr: netip.IPv4Unspecified(), Port: 80}}}
	for i := range n {
		s.Backends = append(s.Backends, nftdp.Backend{Addr: at(i + 1)})
	}
	return s
}

func (s *scene) apply(services ...nftdp.Service) {
	s.Helper()
	if _, err := s.Apply(s.Context(), services); err != nil {
		s.Fatal(err)
	}
}

// TestRiseAndFall: a backend goes after Fall failures in a row and comes back after
// Rise successes; one that flaps in between does neither. A new one goes at once.
func TestRiseAndFall(t *testing.T) {
	inScene(t, Check{Rise: 3, Fall: 2}, 0, func(s *scene) {
		s.probe.fail(errFailed, at(2))
		s.apply(web(3))
		s.want("1 2 3")
		s.pass(1)
		s.want("1 3")
		for range 3 { // One failure each, of two that it takes.
			s.probe.fail(errFailed, at(3))
			s.checked(at(3), 1)
			s.probe.fail(nil, at(3))
			s.checked(at(3), 1)
		}
		s.want("1 3")
		s.probe.fail(errFailed, at(3))
		s.checked(at(3), 2)
		s.want("1")
		for range 3 { // Two successes each, of three that it takes.
			s.probe.fail(nil, at(2))
			s.checked(at(2), 2)
			s.probe.fail(errFailed, at(2))
			s.checked(at(2), 1)
		}
		s.want("1")
		s.probe.fail(nil, at(2))
		s.checked(at(2), 3)
		s.want("1 2")
		s.probe.fail(nil, at(3))
		s.checked(at(3), 3)
		s.want("1 2 3")
		want := []string{
			"web: 10.180.0.2:8080: failed", "web: 10.180.0.3:8080: failed",
			"web: 10.180.0.2:8080 is healthy", "web: 10.180.0.3:8080 is healthy",
		}
		if !slices.Equal(s.reported(), want) {
			s.Errorf("events %q, want %q", s.reported(), want)
		}
	})
}

// TestUpdates: what is found outlasts changes of the service, whoever makes them, and
// what the caller wants of a backend comes first.
func TestUpdates(t *testing.T) {
	inScene(t, Check{}, 0, func(s *scene) {
		s.probe.fail(errFailed, at(1))
		s.apply(web(3))
		s.pass(1)
		s.want("2 3")
		four := web(4)
		four.Backends[2].State = nftdp.StateDraining
		if _, err := s.Update(s.Context(), nftdp.Change{Set: []nftdp.Service{four}}); err != nil {
			s.Fatal(err)
		}
		s.want("2 4")
		s.probe.fail(errFailed, at(3))
		s.pass(3)
		if got := s.Status()[2]; got.Healthy || got.State != nftdp.StateDraining || !errors.Is(got.Err, errFailed) {
			s.Errorf("the draining backend: %+v", got)
		}
		s.apply(web(4))
		s.want("2 4")
		if four.Backends[0].State != nftdp.StateActive {
			s.Error("the caller's service was changed")
		}
		if _, err := s.Update(s.Context(), nftdp.Change{Delete: []string{"web"}}); err != nil {
			s.Fatal(err)
		}
		s.pass(1)
		before, _ := s.probe.beginnings()
		s.pass(2)
		if after, _ := s.probe.beginnings(); s.Stats().Backends != 0 || len(after) != len(before) {
			s.Errorf("after the deletion: %+v, %d more checks", s.Stats(), len(after)-len(before))
		}
		s.apply(web(1)) // It is a new one.
		s.want("1")
	})
}

// TestRefused: a change that is refused leaves everything as it was.
func TestRefused(t *testing.T) {
	inScene(t, Check{}, 0, func(s *scene) {
		s.probe.fail(errFailed, at(1))
		s.apply(web(3))
		s.pass(1)
		bad := web(2)
		bad.Frontends[0].Port = 0
		if _, err := s.Apply(s.Context(), []nftdp.Service{bad}); err == nil {
			s.Error("a service without a port was accepted")
		}
		s.want("2 3")
		s.probe.fail(nil, at(1))
		s.probe.fail(errFailed, at(3))
		s.pass(3)
		s.want("1 2")
	})
}

// TestPanic: with too few healthy backends all are used, of each family by itself.
// Backups that are in reserve do not count, and failed ones are no help.
func TestPanic(t *testing.T) {
	inScene(t, Check{Panic: 0.5}, 0, func(s *scene) {
		svc := web(4)
		svc.Frontends = []nftdp.Frontend{{Port: 80}}
		for i := range 2 {
			svc.Backends = append(svc.Backends, nftdp.Backend{Addr: netip.AddrPortFrom(netip.MustParseAddr(fmt.Sprintf("fd00::%d", i+1)), 8080)})
		}
		for _, n := range []int{7, 8, 9} {
			svc.Backends = append(svc.Backends, nftdp.Backend{Addr: at(n), Backup: true})
		}
		s.apply(svc)
		s.pass(1)
		s.probe.fail(errFailed, at(1), at(2))
		s.pass(3)
		s.want("3 4")
		s.probe.fail(errFailed, at(3))
		s.pass(3)
		s.want("1 2 3 4")
		if got := s.used("[2001:db8::1]:80"); got != "1 2" {
			s.Errorf("IPv6: %q", got)
		}
		s.probe.fail(errFailed, at(4))
		s.pass(3)
		s.want("7 8 9")
		s.probe.fail(errFailed, at(7))
		s.pass(3)
		s.want("8 9")
		s.probe.fail(errFailed, at(8))
		s.pass(3)
		s.want("7 8 9")
		s.probe.fail(errFailed, at(9))
		s.pass(3)
		s.want("1 2 3 4")
		s.probe.fail(nil, at(1), at(2), at(3), at(4))
		s.pass(3)
		s.want("1 2 3 4")
		panics := slices.DeleteFunc(s.reported(), func(e string) bool { return !strings.Contains(e, "panic") })
		if want := []string{"web: panic true", "web: panic false", "web: panic true", "web: panic false"}; !slices.Equal(panics, want) {
			s.Errorf("events %q, want %q", panics, want)
		}
	})
}

// TestAllFail: without a panic threshold, a service without healthy backends has none.
func TestAllFail(t *testing.T) {
	inScene(t, Check{}, 0, func(s *scene) {
		s.apply(web(2))
		s.probe.fail(errFailed, at(1), at(2))
		s.pass(4)
		s.want("")
	})
}

// TestMany: ten thousand backends, of which many hang, are checked by few goroutines,
// evenly over time, and each in its turn.
func TestMany(t *testing.T) {
	const n, concurrency = 10_000, 300
	inScene(t, Check{Timeout: time.Second}, concurrency, func(s *scene) {
		var services []nftdp.Service
		for i := range n / 100 {
			svc := nftdp.Service{Name: fmt.Sprint("web-", i)}
			for j := range 100 {
				svc.Backends = append(svc.Backends, nftdp.Backend{Addr: at(100*i + j)})
			}
			s.probe.hang[at(100*i)], s.probe.hang[at(100*i+7)] = true, true
			services = append(services, svc)
		}
		s.apply(services...)
		s.pass(1)
		for _, b := range s.Status() {
			if b.Healthy == s.probe.hang[b.Backend] {
				s.Fatalf("%+v", b)
			}
		}
		begin := time.Now()
		before, _ := s.probe.beginnings()
		s.pass(10)
		calls, most := s.probe.beginnings()
		calls = calls[len(before):]
		rate := float64(len(calls)) / time.Since(begin).Seconds()
		if math.Abs(rate-n/10) > n/100 {
			s.Errorf("%.0f checks each second, want %d", rate, n/10)
		}
		perSecond := map[int64]int{}
		for _, at := range calls {
			perSecond[at.Unix()]++
		}
		for second, n := range perSecond {
			if n > 1500 {
				s.Errorf("second %d: %d checks", second, n)
			}
		}
		if most > concurrency {
			s.Errorf("%d checks at a time, want at most %d", most, concurrency)
		}
		if got := s.Stats(); got.Healthy != n-n/50 || got.Late > time.Second {
			s.Errorf("%+v", got)
		}
	})
}

// TestOverload: when all backends hang and there are too many, checks are late, and
// Stats says so.
func TestOverload(t *testing.T) {
	inScene(t, Check{Timeout: time.Second}, 10, func(s *scene) {
		for i := range 1000 {
			s.probe.hang[at(i+1)] = true
		}
		s.apply(web(1000))
		s.pass(5)
		_, most := s.probe.beginnings()
		if got := s.Stats(); got.Late < 10*time.Second || got.Running != 10 || most != 10 {
			s.Errorf("%+v, at most %d at a time", got, most)
		}
	})
}

// TestRunAgain: a second Run goes on where the first one ended, and checks that were cut
// short count for nothing.
func TestRunAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		node := nftdptest.NewNode(netip.MustParseAddr("192.0.2.1"))
		d, err := node.Open(t.Context(), nftdp.Config{})
		if err != nil {
			t.Fatal(err)
		}
		probe := newBackends()
		probe.hang[at(1)] = true
		c := New(d, Options{Check: func(*nftdp.Service) *Check { return &Check{Probe: probe, Timeout: 4 * time.Second} }})
		if _, err := c.Apply(t.Context(), []nftdp.Service{web(1)}); err != nil {
			t.Fatal(err)
		}
		for range 3 {
			ctx, stop := context.WithCancel(t.Context())
			go func() {
				for c.Stats().Running == 0 {
					elapse(time.Millisecond)
				}
				if err := c.Run(ctx); err == nil || errors.Is(err, context.Canceled) {
					t.Errorf("a second Run at a time: %v", err)
				}
				stop()
			}()
			if err := c.Run(ctx); !errors.Is(err, context.Canceled) {
				t.Errorf("Run: %v", err)
			}
		}
		if got := c.Stats(); got.Checks != 3 || got.Failures != 0 || got.Healthy != 1 || got.Running != 0 {
			t.Errorf("%+v", got)
		}
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	})
}

// TestTryAgain: states that the dataplane does not set are reported and tried again.
func TestTryAgain(t *testing.T) {
	inScene(t, Check{}, 0, func(s *scene) {
		s.apply(web(2))
		s.pass(1)
		if _, err := s.dataplane.Update(s.Context(), nftdp.Change{Delete: []string{"web"}}); err != nil {
			s.Fatal(err)
		}
		s.probe.fail(errFailed, at(1))
		s.pass(5)
		if n := len(s.reported()); n < 10 || !strings.Contains(s.reported()[n-1], "is not a service that this Dataplane has set") {
			s.Errorf("events: %q", s.reported())
		}
		if _, err := s.dataplane.Update(s.Context(), nftdp.Change{Set: []nftdp.Service{web(2)}}); err != nil {
			s.Fatal(err)
		}
		s.pass(1)
		s.want("2")
	})
}

// TestTargets: a port of the node is checked at its loopback address, for both families,
// and a backend without a port only at Check.Port.
func TestTargets(t *testing.T) {
	inScene(t, Check{}, 0, func(s *scene) {
		proxy := nftdp.Service{
			Name: "proxy", Frontends: []nftdp.Frontend{{Port: 80}},
			Backends: []nftdp.Backend{{NodePort: 8080}, {Addr: at(1)}, {Addr: netip.MustParseAddrPort("[fd00::1]:8080")}},
		}
		media := web(0)
		media.Frontends = []nftdp.Frontend{{Addr: netip.IPv4Unspecified(), Port: 1000, EndPort: 2000}}
		media.Backends = []nftdp.Backend{{Addr: netip.MustParseAddrPort("10.180.0.9:0")}}
		s.probe.fail(errFailed, netip.MustParseAddrPort("127.0.0.1:8080"), netip.MustParseAddrPort("10.180.0.9:0"))
		s.apply(proxy, media)
		s.pass(1)
		want := []string{"proxy: 0.0.0.0:8080: failed"}
		if got := s.reported(); !slices.Equal(got, want) {
			s.Errorf("events %q, want %q", got, want)
		}
		s.want("1")
		if got := s.used("[2001:db8::1]:80"); got != "1" {
			s.Errorf("IPv6: %q", got)
		}
		if got := s.used("192.0.2.1:1500"); got != "9" {
			s.Errorf("a range of ports: %q", got)
		}
	})
	inScene(t, Check{Port: 9000}, 0, func(s *scene) {
		media := web(2)
		media.Frontends[0].EndPort = 2000
		for i := range media.Backends {
			media.Backends[i].Addr = netip.AddrPortFrom(media.Backends[i].Addr.Addr(), 0)
		}
		s.probe.fail(errFailed, netip.AddrPortFrom(at(2).Addr(), 9000))
		s.apply(media)
		s.pass(1)
		s.want("1")
	})
}
