//go:build linux

package nftdp

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/nftdp/go-nftdp/internal/compile"
	"github.com/nftdp/go-nftdp/internal/nstest"
	"github.com/nftdp/go-nftdp/internal/ruleset"
)

// onLostThread runs a function on a thread that is never used again.
func onLostThread(f func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		f()
	}()
	<-done
}

// loseCapability drops CAP_NET_ADMIN of the calling thread.
func loseCapability() error {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil {
		return err
	}
	data[0].Effective &^= 1 << unix.CAP_NET_ADMIN
	return unix.Capset(&header, &data[0])
}

// TestCapabilityLost: at whatever moment of a change the capability is lost,
// the error says so, no service is half changed, and a process with the
// capability can continue.
func TestCapabilityLost(t *testing.T) {
	held, next := someServices(), append(someServices()[1:], web("d", 4, 2))
	check := betweenStates(mustCompile(t, Config{}, held), mustCompile(t, Config{}, next), Config{})
	knownOrNot(t, held, func(t *testing.T, n *node, open func() *Dataplane) {
		everyCheck(t, func(t *testing.T, ctx *checked, happen *func()) {
			d, lost := open(), false
			*happen = func() {
				lost = true
				if err := loseCapability(); err != nil {
					t.Error(err)
				}
			}
			var err error
			onLostThread(func() { _, err = d.Update(ctx, Change{Set: next[2:], Delete: []string{"a"}}) })
			switch {
			case err == nil: // the last check, after the transaction
				n.wantServices(t, Config{}, next)
			case !lost || !errors.Is(err, fs.ErrPermission) || !strings.Contains(err.Error(), "CAP_NET_ADMIN"):
				t.Errorf("capability lost %t: %v", lost, err)
			}
			if err := check(n.read(t, DefaultTable).rules); err != nil {
				t.Error(err)
			}
			apply(t, d, next)
			n.wantServices(t, Config{}, next)
		})
	})
}

// refuseLargeSends makes sendto on the calling thread fail for more than a
// number of bytes, as it does if the kernel has no memory for a message.
func refuseLargeSends(size uint32, errno syscall.Errno) error {
	const (
		number   = 0        // in struct seccomp_data
		argument = 16 + 2*8 // the third argument
		load     = unix.BPF_LD | unix.BPF_W | unix.BPF_ABS
		allow    = unix.SECCOMP_RET_ALLOW
	)
	low := uint32(argument)
	if binary.NativeEndian.Uint16([]byte{0, 1}) == 1 {
		low += 4
	}
	filter := []unix.SockFilter{
		{Code: load, K: number},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jf: 3, K: unix.SYS_SENDTO},
		{Code: load, K: low},
		{Code: unix.BPF_JMP | unix.BPF_JGT | unix.BPF_K, Jf: 1, K: size},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ERRNO | uint32(errno)},
		{Code: unix.BPF_RET | unix.BPF_K, K: allow},
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return err
	}
	program := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	return unix.Prctl(unix.PR_SET_SECCOMP, unix.SECCOMP_MODE_FILTER, uintptr(unsafe.Pointer(&program)), 0, 0)
}

// TestSendFails: whatever message the kernel refuses, a request or a batch, the
// first or a later one, the error is its errno, no service is half changed, and
// the same Dataplane continues when the kernel accepts messages again.
func TestSendFails(t *testing.T) {
	held, next := someServices(), append(someServices()[1:], web("d", 4, 5))
	check := betweenStates(mustCompile(t, Config{}, held), mustCompile(t, Config{}, next), Config{})
	for _, errno := range []syscall.Errno{unix.ENOBUFS, unix.ENOMEM, unix.EMSGSIZE} {
		for _, size := range []uint32{0, 100, 1000, 2000, 3000} {
			t.Run(fmt.Sprint(unix.ErrnoName(errno), " over ", size), func(t *testing.T) {
				knownOrNot(t, held, func(t *testing.T, n *node, open func() *Dataplane) {
					d := open()
					var err error
					onLostThread(func() {
						if err = refuseLargeSends(size, errno); err == nil {
							_, err = d.Update(t.Context(), Change{Set: next[2:], Delete: []string{"a"}})
						}
					})
					if !errors.Is(err, errno) {
						t.Errorf("%v, want %v", err, errno)
					}
					if err := check(n.read(t, DefaultTable).rules); err != nil {
						t.Error(err)
					}
					updateWith(t, d, Change{Set: next[2:], Delete: []string{"a"}})
					n.wantServices(t, Config{}, next)
				})
			})
		}
	}
}

// flood fills the receive buffers of all netfilter sockets of the namespace
// with messages of these sizes, one size after the other, and then empties that
// of the test's own connection.
func (n *node) flood(t *testing.T, sizes ...int) {
	t.Helper()
	err := n.Do(func() error {
		fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_NETFILTER)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		for _, port := range netfilterPorts(t) {
			for _, size := range sizes {
				if err := fillBuffer(fd, port, size); !errors.Is(err, unix.EAGAIN) {
					return err
				}
			}
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	if _, err := n.conn.Generation(t.Context()); errors.Is(err, ruleset.ErrUnknown) != (len(sizes) > 1) {
		t.Errorf("filled with messages of %v bytes: %v", sizes, err)
	}
	if _, err := n.conn.Tables(t.Context(), DefaultTable); !errors.Is(err, ruleset.ErrUnknown) {
		t.Errorf("a dump, filled with messages of %v bytes: %v", sizes, err)
	}
}

// fillBuffer sends acknowledgements of a size to a socket until its buffer is
// full.
func fillBuffer(fd int, port uint32, size int) error {
	junk := make([]byte, size)
	binary.NativeEndian.PutUint32(junk, uint32(len(junk)))
	binary.NativeEndian.PutUint16(junk[4:], unix.NLMSG_ERROR)
	for {
		if err := unix.Sendto(fd, junk, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Pid: port}); err != nil {
			return err
		}
	}
}

// netfilterPorts returns the ports of the netfilter sockets in the thread's
// namespace.
func netfilterPorts(t *testing.T) (ports []uint32) {
	t.Helper()
	text, err := os.ReadFile("/proc/thread-self/net/netlink")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		var socket string
		var protocol int
		var port uint32
		if _, err := fmt.Sscan(line, &socket, &protocol, &port); err == nil && protocol == unix.NETLINK_NETFILTER && port != 0 {
			ports = append(ports, port)
		}
	}
	return ports
}

// TestAnswersLost: at whatever moment there is no room for the kernel's
// answers, or for dumps alone, so that the outcome of a request is unknown,
// every method finds out the outcome and succeeds. The messages that fill the
// buffers do not come from the kernel and are ignored.
func TestAnswersLost(t *testing.T) {
	const large, smallest = 32 << 10, unix.NLMSG_HDRLEN + 4
	held, next := someServices(), append(someServices()[1:], web("d", 4, 2))
	update := Change{Set: next[2:], Delete: []string{"a"}}
	for name, sizes := range map[string][]int{"answers": {large, smallest}, "dumps": {large}} {
		t.Run(name, func(t *testing.T) {
			knownOrNot(t, held, func(t *testing.T, n *node, open func() *Dataplane) {
				everyCheck(t, func(t *testing.T, ctx *checked, happen *func()) {
					d := open()
					*happen = func() { n.flood(t, sizes...) }
					if _, err := d.Update(ctx, update); err != nil {
						t.Error(err)
					}
					n.wantServices(t, Config{}, next)
				})
				everyCheck(t, func(t *testing.T, ctx *checked, happen *func()) {
					d := open()
					*happen = func() { n.flood(t, sizes...) }
					if got, err := d.Inspect(ctx); err != nil || len(got) != len(held) {
						t.Errorf("%d services, error %v", len(got), err)
					}
				})
			})
		})
	}
}

// TestFullSet: another process fills a map. The kernel refuses the next change,
// which then repairs that, too.
func TestFullSet(t *testing.T) {
	a, b := web("a", 1, 1), web("b", 2, 2)
	n := newNode(t)
	d := n.open(t, Config{})
	for range 2 {
		apply(t, d, []Service{a})
		n.fill(t, "frontends")
		updateWith(t, d, Change{Set: []Service{b}})
		n.wantServices(t, Config{}, []Service{a, b})
	}
}

// fill adds elements to a map of the IPv4 table until it is full.
func (n *node) fill(t *testing.T, name string) {
	t.Helper()
	set := n.read(t, DefaultTable).rules.Table(ruleset.IPv4).Set(name)
	elements := make([]ruleset.Element, int(set.Size)-len(set.Elements))
	for i := range elements {
		key := ruleset.Tuple{}.Addr(numbered("172.16.0.0", i)).Proto(compile.TCP).Port(1)
		elements[i] = ruleset.Element{Key: key, Verdict: ruleset.Verdict{Kind: ruleset.Drop}}
	}
	change := ruleset.Change{Verb: ruleset.Add, Family: ruleset.IPv4, Table: DefaultTable, Set: set, Elements: elements}
	n.change(t, change)
	change.Elements = []ruleset.Element{{
		Key: ruleset.Tuple{}.Addr(addr("172.31.0.1")).Proto(compile.TCP).Port(1), Verdict: ruleset.Verdict{Kind: ruleset.Drop},
	}}
	if _, err := n.conn.Commit(t.Context(), n.generation(t), []ruleset.Change{change}); !errors.Is(err, unix.ENFILE) {
		t.Fatalf("the map is not full: %v", err)
	}
}

// TestNamespaceGone: a Dataplane keeps its namespace alive, and everything
// works in it, even if nothing else refers to the namespace any more.
func TestNamespaceGone(t *testing.T) {
	ns, err := nstest.New("going")
	if err != nil {
		t.Fatal(err)
	}
	d, err := Config{}.OpenIn(t.Context(), ns.Handle())
	if err != nil {
		t.Fatal(err)
	}
	defer closeOf(t, d)
	apply(t, d, someServices())
	closeOf(t, ns)
	updateWith(t, d, Change{Set: []Service{udp(web("d", 4, 2))}, Delete: []string{"a"}})
	if _, err := d.Flows(t.Context(), "d"); err != nil {
		t.Error(err)
	}
	if _, err := d.Cut(t.Context(), "d"); err != nil {
		t.Error(err)
	}
	held, err := d.Ruleset(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	want := mustCompile(t, Config{}, append(someServices()[1:], udp(web("d", 4, 2))))
	if plan := held.PlanTo(want); !plan.Empty() {
		t.Errorf("changes are left:\n%v", plan)
	}
	if err := d.Remove(t.Context()); err != nil {
		t.Error(err)
	}
}
