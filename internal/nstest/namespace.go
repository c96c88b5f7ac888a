//go:build linux

package nstest

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// Namespace is a network namespace, held by file descriptor. The kernel deletes
// it, with everything in it, once it is closed and no socket in it is open.
type Namespace struct {
	Name   string // for error messages only
	handle netns.NsHandle
	links  *netlink.Handle
}

// New creates a network namespace with its loopback interface up.
func New(name string) (*Namespace, error) {
	n := &Namespace{Name: name}
	var err error
	if n.handle, err = create(); err != nil {
		return nil, fmt.Errorf("create network namespace %s: %w", name, err)
	}
	if err := n.init(); err != nil {
		return nil, errors.Join(err, n.Close())
	}
	return n, nil
}

// Handle returns the namespace's file descriptor, which is valid until Close.
func (n *Namespace) Handle() netns.NsHandle { return n.handle }

// Links returns a handle to configure links, addresses and routes of the
// namespace.
func (n *Namespace) Links() *netlink.Handle { return n.links }

// Close closes the namespace.
func (n *Namespace) Close() error {
	if n.links != nil {
		n.links.Close()
	}
	return n.handle.Close()
}

// Do runs a function on a thread inside the namespace and returns its error.
// Sockets that the function opens stay in the namespace, wherever they are
// used later. It must not start goroutines: they would run outside.
func (n *Namespace) Do(fn func() error) error {
	return onFreshThread(func() error {
		return enterAndReturn(func() error { return netns.Set(n.handle) }, fn)
	})
}

// Sysctl sets a kernel parameter of the namespace, with a path as in
// "net/ipv4/ip_forward".
func (n *Namespace) Sysctl(path, value string) error {
	return n.Do(func() error {
		if err := os.WriteFile(filepath.Join("/proc/sys", path), []byte(value), 0o644); err != nil {
			return fmt.Errorf("%s: set %s: %w", n.Name, path, err)
		}
		return nil
	})
}

// errUnfinished is the result of a function that ended its goroutine, as
// t.FailNow does, instead of returning.
var errUnfinished = errors.New("function did not return")

// onFreshThread runs a function on a locked thread. The function returns with the
// thread in its former namespace, or with errThreadSpoilt.
func onFreshThread(fn func() error) error {
	result := make(chan error, 1)
	go func() {
		err := errUnfinished
		defer func() { result <- err }()
		runtime.LockOSThread()
		err = fn()
		// A locked thread ends with its goroutine. It must not be used again
		// in the wrong namespace.
		if !errors.Is(err, errThreadSpoilt) {
			runtime.UnlockOSThread()
		}
	}()
	return <-result
}

// errThreadSpoilt says that the thread is still in another namespace.
var errThreadSpoilt = errors.New("thread stays in the wrong namespace")

// create makes a namespace; the thread stays in its own.
func create() (netns.NsHandle, error) {
	handle := netns.None()
	err := onFreshThread(func() error {
		return enterAndReturn(
			func() error { return unix.Unshare(unix.CLONE_NEWNET) },
			func() (err error) { handle, err = netns.Get(); return err })
	})
	return handle, err
}

// enterAndReturn enters a namespace, runs a function and goes back.
func enterAndReturn(enter, fn func() error) (err error) {
	home, err := netns.Get()
	if err != nil {
		return err
	}
	defer home.Close()
	if err := enter(); err != nil {
		return err
	}
	defer func() {
		if back := netns.Set(home); back != nil {
			err = errors.Join(err, errThreadSpoilt, back)
		}
	}()
	return fn()
}

// init brings the loopback interface up and makes the settings the same on every
// host: a new namespace inherits some IPv4 settings of the host.
func (n *Namespace) init() error {
	err := n.Do(func() (err error) {
		n.links, err = netlink.NewHandle(unix.NETLINK_ROUTE, unix.NETLINK_NETFILTER)
		return err
	})
	if err != nil {
		return fmt.Errorf("%s: netlink socket: %w", n.Name, err)
	}
	for setting := range strings.FieldsSeq(settings) {
		path, value, _ := strings.Cut(setting, "=")
		if err := n.Sysctl(path, value); err != nil {
			return err
		}
	}
	lo, err := n.links.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("%s: loopback: %w", n.Name, err)
	}
	return n.links.LinkSetUp(lo)
}

// settings of every namespace. Without duplicate address detection, link-local
// addresses are usable at once. Without rate limits every rejected packet is
// answered, even the seventh within a second. Without redirects, the node does
// not redirect the client to itself for packets that it sends back.
const settings = `
net/ipv4/ip_forward=0
net/ipv4/conf/all/rp_filter=0
net/ipv4/conf/default/rp_filter=0
net/ipv4/conf/all/send_redirects=0
net/ipv4/conf/default/send_redirects=0
net/ipv4/icmp_ratelimit=0
net/ipv6/conf/all/disable_ipv6=0
net/ipv6/conf/default/disable_ipv6=0
net/ipv6/conf/all/forwarding=0
net/ipv6/conf/default/accept_dad=0
net/ipv6/conf/default/accept_ra=0
net/ipv6/conf/default/accept_redirects=0
net/ipv6/icmp/ratelimit=0
`
