//go:build linux

package integration

import (
	"bytes"
	"encoding/json"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nftdp/go-nftdp/internal/compile"
	"github.com/nftdp/go-nftdp/internal/nstest"
	"github.com/nftdp/go-nftdp/nftdp"
)

// recorded are the batches that older versions sent for the same services (see
// TestSchemaRecorded in nftdp).
type recorded struct {
	Config   nftdp.Config    `json:"config"`
	Services []nftdp.Service `json:"services"`
	batches  map[string][]byte
}

func readRecorded(t *testing.T) *recorded {
	t.Helper()
	const dir = "../nftdp/testdata/schemas"
	text, err := os.ReadFile(filepath.Join(dir, "services.json"))
	if err != nil {
		t.Fatal(err)
	}
	r := &recorded{batches: map[string][]byte{}}
	if err := json.Unmarshal(text, r); err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob(filepath.Join(dir, "*.batch"))
	if err != nil || len(files) == 0 {
		t.Fatal("no batches:", err)
	}
	for _, file := range files {
		batch, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		// The layout of this version takes the place of an older one, too.
		current := []byte(compile.Schema + "\x00")
		r.batches[filepath.Base(file)] = bytes.ReplaceAll(batch, current, append(current[:len(current)-2:len(current)-2], "0\x00"...))
	}
	return r
}

// TestUpgrade: the tables of an older version are replaced under traffic.
// Established connections and UDP flows go on, new connections never fail, and
// nothing of the old tables is left.
func TestUpgrade(t *testing.T) {
	t.Parallel()
	r, can := readRecorded(t), protects(t)
	for name, batch := range r.batches {
		for _, protect := range []bool{false, true} {
			if protect && !can {
				continue
			}
			for _, addrs := range [][]netip.Prefix{nil, nodePrefixes()} {
				t.Run(name, func(t *testing.T) {
					t.Parallel()
					config := r.Config
					config.Protect, config.NodeAddrs = protect, addrs
					testUpgrade(t, r, config, batch)
				})
			}
		}
	}
}

func testUpgrade(t *testing.T, r *recorded, config nftdp.Config, batch []byte) {
	t.Helper()
	w := newWorld(t, config, 3)
	if err := nstest.Replay(w.Node, batch); err != nil {
		t.Fatal(err)
	}
	var conns []*nstest.Conn
	var flows []*udpClient
	var servers []string
	for _, a := range nstest.Families() {
		for _, dst := range r.tcp(a) {
			conns = append(conns, connect(t, 6, w.Client, dst)...)
		}
		for _, dst := range []netip.AddrPort{netip.AddrPortFrom(a.Node, 30053), netip.AddrPortFrom(a.ClusterIP, 53)} {
			c := dialUDP(t, w.Client, dst)
			flows, servers = append(flows, c), append(servers, c.try(t, askTimeout))
		}
	}
	if _, err := w.dataplane.Update(t.Context(), nftdp.Change{Delete: []string{"web"}}); !errors.Is(err, nftdp.ErrOutdated) {
		t.Errorf("update: %v, want %v", err, nftdp.ErrOutdated)
	}

	underLoad(t, w, r, func() { w.apply(t, r.Services...) })
	wantAlive(t, conns)
	for i, c := range flows {
		c.want(t, servers[i])
	}
	if plan := w.apply(t, r.Services...); !plan.Empty() {
		t.Errorf("the plan after the upgrade is not empty:\n%v", plan)
	}
	wantRefused(t, w.Client, "tcp", netip.AddrPortFrom(nstest.IPv4().Node, 30090))
}

// tcp are frontends with each of the schedulers.
func (r *recorded) tcp(a nstest.Addrs) []netip.AddrPort {
	return []netip.AddrPort{
		netip.AddrPortFrom(a.Node, 30644),
		netip.AddrPortFrom(a.External, 80),
		netip.AddrPortFrom(a.Node, 30645),
		netip.AddrPortFrom(a.ClusterIP, 82),
		netip.AddrPortFrom(a.ClusterIP, 83),
	}
}

// underLoad calls do while clients connect all the time, each of them at least
// some times before it and after it.
func underLoad(t *testing.T, w *world, r *recorded, do func()) {
	t.Helper()
	const some = 20
	var before, clients sync.WaitGroup
	done := make(chan struct{})
	var total atomic.Int64
	for _, a := range nstest.Families() {
		for _, dst := range r.tcp(a) {
			before.Add(1)
			clients.Go(func() {
				atWork := sync.OnceFunc(before.Done)
				defer atWork()
				for n, left := 0, some; left > 0; n++ {
					if n == some {
						atWork()
					}
					select {
					case <-done:
						left--
					default:
					}
					if got := attempt(w.Client, "tcp", dst, askTimeout); !slices.Contains(backendNames(3), got) {
						t.Errorf("connection %d to %v: %s", n, dst, got)
						return
					}
					total.Add(1)
				}
			})
		}
	}
	// The clients also end if do ends the test.
	defer func() {
		close(done)
		clients.Wait()
		t.Logf("%d connections", total.Load())
	}()
	before.Wait()
	do()
}

// replacements is the number of times that tables are replaced under load.
const replacements = 50

// TestReplacedUnderLoad: Protect is turned on and off, for which tables have to be
// replaced, while clients connect all the time. No connection fails. Without the
// second base chains of replaceTable, in internal/ruleset, about one connection
// fails in seventy replacements.
func TestReplacedUnderLoad(t *testing.T) {
	t.Parallel()
	if !protects(t) {
		return
	}
	r := readRecorded(t)
	config := r.Config
	w := newWorld(t, config, 3)
	w.apply(t, r.Services...)
	underLoad(t, w, r, func() {
		for range replacements {
			closeOrFail(t, w.dataplane)
			config.Protect = !config.Protect
			w.open(t, config)
			if plan := applyReleased(t, w.dataplane, r.Services); plan.Empty() {
				t.Error("the tables are not replaced")
			}
		}
	})
}

// applyReleased applies services as soon as the kernel has closed the socket of the
// former owner of the tables. A process that another test starts shares our sockets
// until it executes its program.
func applyReleased(t *testing.T, d *nftdp.Dataplane, services []nftdp.Service) *nftdp.Plan {
	t.Helper()
	for deadline := time.Now().Add(askTimeout); ; {
		plan, err := d.Apply(t.Context(), services)
		if err == nil {
			return plan
		}
		if !errors.Is(err, nftdp.ErrProtected) || time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
}
