//go:build linux

package kubernetes_test

import (
	"cmp"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nftdp/go-nftdp/integration/kubernetes/cluster"
)

var (
	worlds = flag.Int("worlds", 25, "how many random worlds TestDifferential compares")
	first  = flag.Int("first", 0, "the number of the first of them")
	seed   = flag.Uint64("seed", 0, "what they are made of; 0 is a new one")
	other  = flag.String("with", string(cluster.Agent), "what is compared with kube-proxy")
)

// differential is two networks with the same names and addresses, and one control
// plane: kube-proxy on the first node of one, the agent on that of the other. The
// second nodes have pods only.
type differential struct {
	t     *testing.T
	sides []*world
	flags []string // with which both proxies run
	syncs int

	mu    sync.Mutex
	tally map[string]int // kinds of connections by protocol and outcome

	sctp sync.Map // a mutex for each client and address
}

// allFlags are those with which the proxies run, in turn for some worlds each.
var allFlags = [][]string{
	nil,
	{"--masquerade-all"},
	{"--detect-local-mode=NodeCIDR", "--nodeport-addresses=0.0.0.0/0,::/0"},
	{"--detect-local-mode=InterfaceNamePrefix", "--pod-interface-name-prefix=pod"},
}

// worldsWithFlags is how many worlds have the same flags.
const worldsWithFlags = 6

// TestDifferential writes random services, slices and labels of the node, and compares
// what becomes of the same connections through kube-proxy and through the agent.
func TestDifferential(t *testing.T) {
	d := newDifferential(t)
	if *seed == 0 {
		*seed = rand.Uint64()
	}
	t.Logf("-seed %d", *seed)
	for n := *first; n < *first+*worlds; n++ {
		t.Run(fmt.Sprint(n), func(t *testing.T) { d.world(t, n) })
	}
	t.Logf("kinds of connections: %v", d.tally)
}

func newDifferential(t *testing.T) *differential {
	t.Helper()
	d := &differential{t: t, tally: map[string]int{}}
	d.sides = append(d.sides, newWorld(t, 2, 2))
	network, err := control.NewNetwork(2, 2)
	if err != nil {
		t.Fatal(err)
	}
	agent := &world{Network: network, t: t, proxies: map[*cluster.Node]*cluster.Process{}}
	t.Cleanup(agent.close)
	d.sides = append(d.sides, agent)
	for i, proxy := range []cluster.Proxy{cluster.KubeProxy, cluster.Proxy(*other)} {
		w := d.sides[i]
		if err := w.Balance(w.Nodes[0]); err != nil {
			t.Fatal(err)
		}
		w.start(w.Nodes[0], proxy)
		w.sync()
	}
	d.putZones(t)
	return d
}

// setFlags makes both proxies run with flags. They start without a zone: kube-proxy loses
// the one that the Node has at first, if it learns of it before it has registered who
// wants to know (NodeTopologyConfig).
func (d *differential) setFlags(t *testing.T, flags []string) {
	t.Helper()
	if slices.Equal(flags, d.flags) {
		return
	}
	d.flags = flags
	d.label(t, "")
	for i, proxy := range []cluster.Proxy{cluster.KubeProxy, cluster.Proxy(*other)} {
		node := d.sides[i].Nodes[0]
		d.sides[i].stop(node)
		d.sides[i].start(node, proxy, flags...)
	}
	d.sync(t)
}

// allZones are the zones that a node may be in, beside none.
var allZones = []string{"zone-0", "zone-1", "zone-2"}

func (d *differential) world(t *testing.T, n int) {
	t.Helper()
	d.setFlags(t, allFlags[n/worldsWithFlags%len(allFlags)])
	r := &random{Rand: rand.New(rand.NewPCG(*seed, uint64(n))), nodePort: 30000, zones: allZones}
	d.setZone(t, pick(r, append(allZones, "", "zone-0", "zone-0")...))
	services := r.services(n)
	group, ctx := errgroup.WithContext(t.Context())
	for i := range services {
		group.Go(func() error {
			got, err := control.PutService(ctx, services[i].service)
			for _, slice := range services[i].slices {
				err = errors.Join(err, control.PutSlice(ctx, slice))
			}
			services[i].service = got
			return err
		})
	}
	if err := group.Wait(); err != nil {
		t.Fatal(err)
	}
	d.sync(t)
	d.compareAll(t, services)
	services = d.resolve(t, services)
	for _, s := range services {
		d.sides[0].deleteService(t, s.service.Name)
	}
}

// resolve deletes services with a shared address, the oldest first, as long as there are
// several, and compares the others each time. It returns what is left.
func (d *differential) resolve(t *testing.T, services []randomService) []randomService {
	t.Helper()
	for {
		all := sharers(services)
		if len(all) < 2 {
			return services
		}
		d.sides[0].deleteService(t, all[0].service.Name)
		services = slices.DeleteFunc(services, func(s randomService) bool { return s.service == all[0].service })
		d.sync(t)
		d.compareAll(t, all[1:])
	}
}

// sharers are the services with a shared address, the oldest first. That is the one which
// the agent serves there.
func sharers(services []randomService) []randomService {
	out := slices.DeleteFunc(slices.Clone(services), func(s randomService) bool { return !s.shared.IsValid() })
	slices.SortFunc(out, func(a, b randomService) int {
		return cmp.Or(a.service.CreationTimestamp.Compare(b.service.CreationTimestamp.Time), strings.Compare(a.service.Name, b.service.Name))
	})
	return out
}

// sync waits until both proxies have programmed what was written.
func (d *differential) sync(t *testing.T) {
	t.Helper()
	d.syncs++
	addrs, err := control.PutSentinel(t.Context(), 1000+d.syncs)
	if err != nil {
		t.Fatal(err)
	}
	for _, w := range d.sides {
		for _, addr := range addrs {
			w.becomes("pod-a0", "tcp", addr, "pod-a0 from node-a")
		}
		// What conntrack remembers of the world before is not compared.
		err := w.Nodes[0].Do(func() error { return netlink.ConntrackTableFlush(netlink.ConntrackTable) })
		if err != nil {
			t.Fatal(err)
		}
	}
}

// putZones writes a service with an endpoint in each zone, which shows what zone a
// proxy takes its node to be in.
func (d *differential) putZones(t *testing.T) {
	t.Helper()
	s, err := control.PutService(t.Context(), &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: "zones"},
		Spec: corev1.ServiceSpec{
			ClusterIP: zonesAddr.Addr().String(),
			Ports:     []corev1.ServicePort{{Name: "tcp", Port: 80, Protocol: corev1.ProtocolTCP}},
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	slice := cluster.Slice(s, cluster.V4)
	for i, pod := range zonePods {
		e := d.sides[0].endpoint(cluster.V4, pod)
		e.Hints = hintZone(allZones[i])
		slice.Endpoints = append(slice.Endpoints, e)
	}
	if err := control.PutSlice(t.Context(), slice); err != nil {
		t.Fatal(err)
	}
}

var (
	zonePods  = []string{"pod-a0", "pod-a1", "pod-b0"}
	zonesAddr = netip.MustParseAddrPort("10.96.0.20:80")
)

// setZone changes the node's label and waits until both proxies know.
func (d *differential) setZone(t *testing.T, zone string) {
	t.Helper()
	d.label(t, zone)
	want := slices.Clone(zonePods)
	if i := slices.Index(allZones, zone); i >= 0 {
		want = zonePods[i : i+1]
	}
	for _, w := range d.sides {
		w.eventually(w.proxies[w.Nodes[0]].Name+" knows the zone "+zone, func() error { return w.meets(want) })
	}
}

// label changes the node's zone.
func (d *differential) label(t *testing.T, zone string) {
	t.Helper()
	nodes := control.Client.CoreV1().Nodes()
	node, err := nodes.Get(t.Context(), "node-a", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	node.Labels[corev1.LabelTopologyZone] = zone
	if zone == "" {
		delete(node.Labels, corev1.LabelTopologyZone)
	}
	if _, err := nodes.Update(t.Context(), node, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
}

// meets wants some connections from the node to the service of putZones to meet each
// of the pods and no other.
func (w *world) meets(want []string) error {
	var met []string
	for range 16 {
		pod, _, _ := strings.Cut(w.probe(w.Nodes[0].Namespace, "tcp", zonesAddr, silent), " ")
		if !slices.Contains(met, pod) {
			met = append(met, pod)
		}
	}
	slices.Sort(met)
	if !slices.Equal(met, want) {
		return fmt.Errorf("met %v, want %v", met, want)
	}
	return nil
}

// compareAll makes the same connections on both sides, all at once.
func (d *differential) compareAll(t *testing.T, services []randomService) {
	t.Helper()
	var comparisons errgroup.Group
	comparisons.SetLimit(96) // Most wait for the end of a silence.
	for _, s := range services {
		for _, p := range probesOf(s.service) {
			if all := claimants(services, p); len(all) > 1 {
				if all[0].service != s.service {
					continue // What is there is compared as what the oldest has.
				}
				p.instead = s.own
			}
			comparisons.Go(func() error {
				got := d.compare(p)
				d.mu.Lock()
				defer d.mu.Unlock()
				d.tally[p.protocol+" "+got[0].kind()]++
				if p.instead.IsValid() {
					d.tally["shared "+got[0].kind()]++
				}
				if got[0].String() == got[1].String() {
					return nil
				}
				if reason := deliberate(s, p, got[0], got[1]); reason != "" {
					t.Logf("%v: kube-proxy: %v; %s: %v: %s", p, got[0], *other, got[1], reason)
					return nil
				}
				t.Errorf("%v: kube-proxy: %v; %s: %v\n%s", p, got[0], *other, got[1], describe(s))
				return nil
			})
		}
	}
	_ = comparisons.Wait() // All return nil.
}

func describe(s randomService) string {
	s.service.ManagedFields = nil
	b, _ := json.Marshal(struct{ Labels, Annotations, Spec, Status any }{s.service.Labels, s.service.Annotations, s.service.Spec, s.service.Status})
	for _, slice := range s.slices {
		part, _ := json.Marshal(struct{ AddressType, Labels, Endpoints, Ports any }{slice.AddressType, slice.Labels, slice.Endpoints, slice.Ports})
		b = append(append(b, '\n'), part...)
	}
	return string(b)
}

// probe is a kind of connection: who connects, in which protocol, and where to.
type probe struct {
	from, protocol string
	to             netip.AddrPort
	kind           string // "cluster", "external", "lb", "node" or "unused"
	affine         bool
	// instead is the address on kube-proxy's side, if it is another one. At an address that
	// several services have, kube-proxy serves one of them by chance; the agent has to
	// serve the oldest as kube-proxy serves it at an address of its own.
	instead netip.Addr
}

func (p probe) String() string {
	kind := p.kind
	if p.instead.IsValid() {
		kind += fmt.Sprintf(", by kube-proxy at %v", p.instead)
	}
	return fmt.Sprintf("%s %s → %v (%s)", p.from, p.protocol, p.to, kind)
}

// ofKubeProxy is the connection on kube-proxy's side.
func (p probe) ofKubeProxy() probe {
	if p.instead.IsValid() {
		p.to = netip.AddrPortFrom(p.instead, p.to.Port())
	}
	return p
}

// claimants are the services that share the address, port and protocol of a connection,
// the oldest first.
func claimants(services []randomService, p probe) []randomService {
	return slices.DeleteFunc(sharers(services), func(s randomService) bool {
		return s.shared != p.to.Addr() || !slices.ContainsFunc(s.service.Spec.Ports, func(port corev1.ServicePort) bool {
			return port.Port == int32(p.to.Port()) && strings.EqualFold(string(port.Protocol), p.protocol)
		})
	})
}

// probesOf are all connections to a service that make a difference.
func probesOf(s *corev1.Service) []probe {
	var out []probe
	add := func(kind, addr string, port int32, protocol corev1.Protocol) {
		to, err := netip.ParseAddr(addr)
		if err != nil || port == 0 {
			return
		}
		for _, from := range []string{"pod-a0", "node-a", "client"} {
			out = append(out, probe{
				from: from, protocol: strings.ToLower(string(protocol)), to: netip.AddrPortFrom(to, uint16(port)), kind: kind,
				affine: s.Spec.SessionAffinity == corev1.ServiceAffinityClientIP,
			})
		}
	}
	for _, p := range s.Spec.Ports {
		for _, addr := range s.Spec.ClusterIPs {
			add("cluster", addr, p.Port, p.Protocol)
		}
		for _, addr := range s.Spec.ExternalIPs {
			add("external", addr, p.Port, p.Protocol)
		}
		for _, ingress := range s.Status.LoadBalancer.Ingress {
			add("lb", ingress.IP, p.Port, p.Protocol)
		}
		for _, a := range cluster.Families() {
			add("node", a.Node(0).String(), p.NodePort, p.Protocol)
		}
	}
	for _, addr := range append(slices.Clone(s.Spec.ClusterIPs), s.Spec.ExternalIPs...) {
		add("unused", addr, 7, corev1.ProtocolTCP)
	}
	return out
}

// outcomes is a set of what became of connections.
type outcomes []string

func (o outcomes) String() string { return strings.Join(o, ", ") }

// kind is what became of connections, without whom they met.
func (o outcomes) kind() string {
	if len(o) == 1 && (o[0] == silence || o[0] == refused) {
		return o[0]
	}
	return "answered"
}

func (o outcomes) with(s string) outcomes {
	if slices.Contains(o, s) {
		return o
	}
	o = append(slices.Clone(o), s)
	slices.Sort(o)
	return o
}

// compare repeats a connection on both sides at least some times, and then until both
// have had the same outcomes, or for very long.
func (d *differential) compare(p probe) (got [2]outcomes) {
	if p.protocol == "sctp" {
		// Its sockets are raw ones, without ports: all between two addresses would see
		// the rejection of one.
		value, _ := d.sctp.LoadOrStore(p.from+" "+p.ofKubeProxy().to.Addr().String(), new(sync.Mutex))
		if alone, ok := value.(*sync.Mutex); ok {
			alone.Lock()
			defer alone.Unlock()
		}
	}
	const atLeast, atMost = 6, 60
	for i := range atMost {
		wait := silent
		if i >= atLeast {
			wait = 2 * time.Second // Something may only have been slow.
		}
		var both sync.WaitGroup
		for side, p := range []probe{p.ofKubeProxy(), p} {
			both.Go(func() { got[side] = got[side].with(p.outcome(d.sides[side], wait)) })
		}
		both.Wait()
		if i == atLeast {
			got = [2]outcomes{got[0].settled(got[1]), got[1].settled(got[0])}
		}
		same := got[0].String() == got[1].String()
		if same && (i+1 >= atLeast || i > 0 && got[0].String() == silence) {
			return got
		}
		if p.hopeless(got) && i > atLeast+2 {
			return got
		}
	}
	return got
}

// settled is o without what the first tries may have had by chance: slow answers, and
// rejections that the other side has never made. A proxy may serve the sentinel a moment
// before the last of the other services, since its cache of objects is ahead of its notices.
func (o outcomes) settled(other outcomes) outcomes {
	if !slices.Contains(other, refused) {
		o = o.without(refused)
	}
	return o.without(silence)
}

// hopeless reports whether one side answers and the other one never does.
func (p probe) hopeless(got [2]outcomes) bool {
	never := func(o outcomes) bool { return len(o) == 1 && (o[0] == silence || o[0] == refused) }
	return never(got[0]) || never(got[1])
}

func (o outcomes) without(s string) outcomes {
	return slices.DeleteFunc(slices.Clone(o), func(have string) bool { return have == s })
}

// outcome is that of one connection. With affinity the sides have chosen on their own.
func (p probe) outcome(w *world, wait time.Duration) string {
	got := w.probe(w.from(p.from), p.protocol, p.to, wait)
	if got == forbidden {
		got = silence // A datagram of the node itself: dropped or rejected look the same.
	}
	if _, source, ok := strings.Cut(got, " from "); ok && p.affine {
		got = "an endpoint from " + source
		if p.from == "pod-a0" {
			got = "an endpoint" // Itself, perhaps, and then masqueraded.
		}
	}
	if p.from == "node-a" && p.protocol != "tcp" && got == refused {
		got = silence
	}
	return got
}
