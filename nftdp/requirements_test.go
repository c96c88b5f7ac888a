//go:build linux

package nftdp

import (
	"context"
	"errors"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/nftdp/go-nftdp/internal/sysctl"
)

// required returns what Requirements lists for values of the kernel.
func required(ipv4, ipv6, liberal string) []Requirement {
	return []Requirement{
		{Name: "net.ipv4.ip_forward", Want: "1", Have: ipv4},
		{Name: "net.ipv6.conf.all.forwarding", Want: "1", Have: ipv6},
		{Name: "net.netfilter.nf_conntrack_tcp_be_liberal", Want: "1", Have: liberal},
	}
}

func wantRequirements(t *testing.T, want, got []Requirement, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got, cmpopts.IgnoreFields(Requirement{}, "Why"), cmpopts.EquateEmpty()); diff != "" {
		t.Errorf("requirements (-want +got):\n%s", diff)
	}
}

// meetRequirements calls MeetRequirements, but only if it acts on the test's
// node: a mistake must not change the machine that runs the tests.
func (n *node) meetRequirements(t *testing.T, d *Dataplane) ([]Requirement, error) {
	t.Helper()
	const own = "7" // a value that no other namespace has
	before := strings.TrimSpace(n.parameters(t)["ipv4/ip_forward"])
	if err := n.Sysctl("net/ipv4/ip_forward", own); err != nil {
		t.Fatal(err)
	}
	got, err := d.Requirements(t.Context())
	if err != nil || got[0].Have != own {
		t.Fatalf("the Dataplane is in another namespace: %v, error %v", got, err)
	}
	if err := n.Sysctl("net/ipv4/ip_forward", before); err != nil {
		t.Fatal(err)
	}
	return d.MeetRequirements(t.Context())
}

// TestRequirements: Requirements lists parameters and changes nothing.
// MeetRequirements changes these parameters and no others, in this namespace
// and no other. A second call changes nothing.
func TestRequirements(t *testing.T) {
	n, other := newNode(t), newNode(t)
	d := n.open(t, Config{})
	before, elsewhere, ours := n.parameters(t), other.parameters(t), ownForwarding(t)

	apply(t, d, []Service{web("a", 1, 2)})
	got, err := d.Requirements(t.Context())
	wantRequirements(t, required("0", "0", "0"), got, err)
	wantChanged(t, nil, before, n.parameters(t))

	got, err = n.meetRequirements(t, d)
	wantRequirements(t, required("0", "0", "0"), got, err)
	got, err = d.Requirements(t.Context())
	wantRequirements(t, required("1", "1", "1"), got, err)
	// The kernel changes others together with forwarding: inet_forward_change in
	// net/ipv4/devinet.c, addrconf_fixup_forwarding in net/ipv6/addrconf.c.
	wantChanged(t, []string{
		"ipv4/conf/all/accept_redirects",
		"ipv4/conf/all/forwarding", "ipv4/conf/default/forwarding", "ipv4/conf/lo/forwarding",
		"ipv4/ip_forward",
		"ipv6/conf/all/forwarding", "ipv6/conf/default/forwarding", "ipv6/conf/lo/forwarding",
		"netfilter/nf_conntrack_tcp_be_liberal",
	}, before, n.parameters(t))
	wantChanged(t, nil, elsewhere, other.parameters(t))
	wantRequirements(t, ours, ownForwarding(t), nil)

	got, err = n.meetRequirements(t, d)
	wantRequirements(t, nil, got, err)
}

// TestRequirementsOneByOne: a requirement that is met, whatever its value, is
// left alone.
func TestRequirementsOneByOne(t *testing.T) {
	n := newNode(t)
	d := n.open(t, Config{})
	if err := n.Sysctl("net/ipv4/ip_forward", "2"); err != nil {
		t.Fatal(err)
	}
	got, err := n.meetRequirements(t, d)
	wantRequirements(t, required("", "0", "0")[1:], got, err)
	got, err = d.Requirements(t.Context())
	wantRequirements(t, required("2", "1", "1"), got, err)
	for _, r := range got {
		if !r.Met() {
			t.Error("not met:", r)
		}
	}
}

// TestRequirementsOfLocalhost: loopback addresses need no parameter that opens them
// to others.
func TestRequirementsOfLocalhost(t *testing.T) {
	n := newNode(t)
	d := n.open(t, Config{Localhost: true})
	before := n.parameters(t)
	got, err := n.meetRequirements(t, d)
	wantRequirements(t, required("0", "0", "0"), got, err)
	for name, value := range n.parameters(t) {
		if strings.HasSuffix(name, "/route_localnet") && value != before[name] {
			t.Errorf("%s was %q and is %q", name, before[name], value)
		}
	}
}

// TestRequirementsOfCallersNamespace: Open opens the namespace of the calling
// thread, whichever thread calls other methods afterwards.
func TestRequirementsOfCallersNamespace(t *testing.T) {
	n := newNode(t)
	var d *Dataplane
	err := n.Do(func() (err error) { d, err = Config{}.Open(t.Context()); return err })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closeOf(t, d) })
	if err := n.Sysctl("net/ipv6/conf/all/forwarding", "1"); err != nil {
		t.Fatal(err)
	}
	if err := n.Sysctl("net/ipv4/ip_forward", "3"); err != nil { // a value that no other namespace has
		t.Fatal(err)
	}
	got, err := d.Requirements(t.Context())
	wantRequirements(t, required("3", "1", "0"), got, err)
}

func TestRequirementsErrors(t *testing.T) {
	n := newNode(t)
	d, spy := n.spied(t, Config{})
	canceled, cancel := context.WithCancel(t.Context())
	cancel()
	held, release := spy.hold()
	applied := make(chan error, 1)
	go func() { _, err := d.Apply(t.Context(), nil); applied <- err }()
	receive(t, held) // another method is running
	_, err := d.Requirements(canceled)
	if !errors.Is(err, context.Canceled) {
		t.Errorf("error is %v, want the context's", err)
	}
	release()
	if err := receive(t, applied); err != nil {
		t.Error(err)
	}
	closeOf(t, d)
	if _, err := d.MeetRequirements(t.Context()); !errors.Is(err, ErrClosed) {
		t.Errorf("error is %v, want ErrClosed", err)
	}
}

// ownForwarding returns the values in the namespace of the test itself.
func ownForwarding(t *testing.T) []Requirement {
	t.Helper()
	got := requirements()
	for i := range got {
		var err error
		if got[i].Have, err = sysctl.Get(got[i].Name); err != nil {
			t.Fatal(err)
		}
	}
	return got
}

// parameters reads the node's settings of IPv4 and IPv6 and its interfaces.
func (n *node) parameters(t *testing.T) map[string]string {
	t.Helper()
	var out map[string]string
	if err := n.Do(func() error { out = parameters(); return nil }); err != nil {
		t.Fatal(err)
	}
	if len(out) < 50 {
		t.Fatalf("%d parameters, which cannot be all", len(out))
	}
	return out
}

// parameters reads those of the calling thread's namespace.
func parameters() map[string]string {
	const root = "/proc/sys/net/"
	out := map[string]string{}
	read := func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		// A few parameters are write-only, or have no value yet.
		if b, err := os.ReadFile(path); err == nil {
			out[strings.TrimPrefix(path, root)] = string(b)
		}
		return nil
	}
	for _, dir := range []string{"ipv4/conf", "ipv6/conf", "ipv4/ip_forward", "netfilter/nf_conntrack_tcp_be_liberal"} {
		_ = filepath.WalkDir(root+dir, read) // an interface of the host may just disappear
	}
	return out
}

// wantChanged checks that only these parameters differ.
func wantChanged(t *testing.T, want []string, before, after map[string]string) {
	t.Helper()
	changed := maps.Clone(after)
	maps.DeleteFunc(changed, func(name, value string) bool { return before[name] == value })
	if diff := cmp.Diff(want, slices.Sorted(maps.Keys(changed)), cmpopts.EquateEmpty()); diff != "" {
		t.Errorf("parameters changed (-want +got):\n%s", diff)
	}
}
