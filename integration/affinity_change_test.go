//go:build linux

package integration

import (
	"context"
	"net/netip"
	"slices"
	"sync"
	"testing"

	"github.com/nftdp/go-nftdp/internal/nstest"
	"github.com/nftdp/go-nftdp/nftdp"
)

// rememberedChange is a change of a service, or of the configuration by a new
// process, under clients that are remembered.
type rememberedChange struct {
	name         string
	before, next nftdp.Service
	config       *nftdp.Config // of the new process; nil: no new process
	outside      packet        // of a client outside, after the change
	inside       packet        // of a pod
}

// rememberedChanges has the service before with one backend, so that every client is
// remembered for it.
func rememberedChanges() []rememberedChange {
	service := func(policy nftdp.Policy, frontends []nftdp.Frontend, backends ...nftdp.Backend) nftdp.Service {
		return nftdp.Service{Name: "web", Affinity: anHour, Frontends: withPolicy(policy, frontends), Backends: backends}
	}
	both := func() []nftdp.Frontend { return append(on(external, 80), nodeWide(80)...) }
	local := func(places ...place) []nftdp.Backend { return isLocal(to(places...)) }
	remote := func(backends []nftdp.Backend) []nftdp.Backend {
		backends = slices.Clone(backends)
		for i := range backends {
			backends[i].Local = false
		}
		return backends
	}
	claimedLocal := func(backends []nftdp.Backend) []nftdp.Backend {
		for i := range backends {
			backends[i].Local = true
		}
		return backends
	}
	state := func(state nftdp.State, backends []nftdp.Backend) []nftdp.Backend {
		for i := range backends {
			backends[i].State = state
		}
		return backends
	}
	backup := func(backends []nftdp.Backend) []nftdp.Backend {
		for i := range backends {
			backends[i].Backup = true
		}
		return backends
	}
	const anyBackend, externalLocal = nftdp.PolicyAnyBackend, nftdp.PolicyExternalLocalOnly
	return []rememberedChange{
		{
			name:    "the policy",
			before:  service(anyBackend, both(), local("R1")...),
			next:    service(externalLocal, both(), local("R1", "L1")...),
			outside: packet{want: "L1", source: "C"}, inside: packet{want: "R1"},
		},
		{
			name:    "a backend is no longer local",
			before:  service(externalLocal, both(), claimedLocal(to("R1"))...),
			next:    service(externalLocal, both(), append(remote(to("R1")), local("L1")...)...),
			outside: packet{want: "L1", source: "C"}, inside: packet{want: "R1"},
		},
		{
			name:    "no backend is local any more",
			before:  service(externalLocal, both(), claimedLocal(to("R1"))...),
			next:    service(externalLocal, both(), remote(to("R1"))...),
			outside: packet{want: "silence"}, inside: packet{want: "R1"},
		},
		{
			name:    "no backend is local any more, rejecting",
			before:  service(externalLocal, withNoBackend(nftdp.ActionReject, both()), claimedLocal(to("R1"))...),
			next:    service(externalLocal, withNoBackend(nftdp.ActionReject, both()), remote(to("R1"))...),
			outside: packet{want: "refused"}, inside: packet{want: "R1"},
		},
		{
			name:    "a backup takes over",
			before:  service(externalLocal, both(), local("L1")...),
			next:    service(externalLocal, both(), append(state(nftdp.StateDraining, local("L1")), backup(local("L2"))...)...),
			outside: packet{want: "L2", source: "C"}, inside: packet{want: "L2"},
		},
		{
			name:    "the list of clients",
			before:  service(anyBackend, both(), local("R1")...),
			next:    service(anyBackend, withAllow(podNets(), both()), local("R1")...),
			outside: packet{want: "silence"}, inside: packet{want: "R1"},
		},
		{
			name:    "the list of clients and back",
			before:  service(anyBackend, both(), local("R1")...),
			next:    service(anyBackend, withDeny(podNets(), both()), local("R1", "L1")...),
			outside: packet{want: "R1"}, inside: packet{want: "silence"},
		},
		{
			name:    "who is internal",
			before:  service(externalLocal, both(), local("R1")...),
			next:    service(externalLocal, both(), local("R1", "L1")...),
			config:  &nftdp.Config{},
			outside: packet{want: "L1", source: "C"}, inside: packet{want: "L1"},
		},
	}
}

// TestAffinityOfThisClient: whatever changes, from then on each client goes where the
// rules lead this client now, however often it tries meanwhile.
func TestAffinityOfThisClient(t *testing.T) {
	t.Parallel()
	for _, c := range rememberedChanges() {
		for _, by := range []string{"apply", "update", "restart"} {
			if c.config != nil && by != "restart" {
				continue
			}
			t.Run(c.name+"/"+by, func(t *testing.T) {
				t.Parallel()
				testAffinityOfThisClient(t, &c, by)
			})
		}
	}
}

func testAffinityOfThisClient(t *testing.T, c *rememberedChange, by string) {
	t.Helper()
	w := newCaseWorld(t, nftdp.Config{Internal: podNets()})
	w.apply(t, c.before)
	stop := w.retryAllTheTime(t)
	for _, a := range nstest.Families() {
		for _, to := range []func(nstest.Addrs) netip.Addr{external, nodeAddr} {
			for _, from := range []place{"C", "C2", "L2"} {
				w.sendOne(t, a, packet{from: from, to: to, port: 80, want: "silence"})
			}
		}
	}
	switch by {
	case "update":
		w.update(t, nftdp.Change{Set: []nftdp.Service{c.next}})
	case "restart":
		config := nftdp.Config{Internal: podNets()}
		if c.config != nil {
			config = *c.config
		}
		closeOrFail(t, w.dataplane)
		w.open(t, config)
		fallthrough
	default:
		w.apply(t, c.next)
	}
	check := func() {
		t.Helper()
		for _, a := range nstest.Families() {
			for _, to := range []func(nstest.Addrs) netip.Addr{external, nodeAddr} {
				for _, from := range []place{"C", "C2", "L2"} {
					p := c.outside
					if from == "L2" {
						p = c.inside
					}
					if p.from, p.to, p.port = from, to, 80; p.source == "C" {
						p.source = from
					}
					w.send(t, a, p)
				}
			}
		}
	}
	check()
	stop()
	check()
	if left, err := w.dataplane.Plan(t.Context(), []nftdp.Service{c.next}); err != nil || !left.Empty() {
		t.Errorf("changes are left: %v, %v", left, err)
	}
}

// retryAllTheTime makes one connection after the other from outside and from a pod.
func (w *caseWorld) retryAllTheTime(t *testing.T) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	var clients sync.WaitGroup
	for _, a := range nstest.Families() {
		for _, to := range []netip.Addr{a.External, a.Node} {
			for _, from := range []place{"C", "L2"} {
				clients.Go(func() {
					for ctx.Err() == nil {
						attempt(w.namespace(from), "tcp", netip.AddrPortFrom(to, 80), silence/10)
					}
				})
			}
		}
	}
	return func() {
		cancel()
		clients.Wait()
	}
}
