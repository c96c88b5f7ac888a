//go:build linux

package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/nftdp/go-nftdp/nftdp"
	"github.com/nftdp/go-nftdp/nftdp/health"
)

// site is where the client finds everything.
var site = "http://" + publicAddr.String()

// nothingListens: NodeIP:80 is dead, and then it is not.
func (s *story) nothingListens(ctx context.Context) error {
	a := &s.machines[0]
	s.claim("Nobody listens on NodeIP:80. When nftdp has programmed node-a, its ingress answers there, from a pod.")
	if err := s.expectGet(ctx, s.router, a.nodeURL(), refused); err != nil {
		return err
	}
	if err := s.start(ctx, a); err != nil {
		return err
	}
	return s.expectGet(ctx, s.router, a.nodeURL(), healthy)
}

// start starts nftdp on a node.
func (s *story) start(ctx context.Context, m *machine, words ...string) (err error) {
	var plan *nftdp.Plan
	if m.dataplane, plan, err = startNode(ctx, m.Handle(), m.node); err != nil {
		return err
	}
	s.atEnd(m.dataplane.Close)
	return s.expect(m.name+": nftdp starts", fmt.Sprintf("programs %d objects", plan.Len()), words...)
}

// deadNode: pods alone are not enough.
func (s *story) deadNode(ctx context.Context) error {
	b := &s.machines[1]
	s.claim("node-b has no nftdp yet: its pods run, but for Services the node is dead.")
	if err := s.expectGet(ctx, b.host, b.podURL("/healthz"), healthy); err != nil {
		return err
	}
	if err := s.expectGet(ctx, b.host, b.podURL("/app-b"), "502 "); err != nil {
		return err
	}
	return s.expectGet(ctx, s.router, b.nodeURL(), refused)
}

// takenOut: the load balancer finds out by itself.
func (s *story) takenOut(ctx context.Context) (err error) {
	s.claim("A load balancer forwards blindly, until its probes of node-b have failed. It takes node-b out, and requests go on.")
	if s.balancer, err = newBalancer(ctx, s.router.Handle(), s.cert.trust()); err != nil {
		return err
	}
	s.atEnd(s.balancer.Close)
	if err := s.expectRequests(ctx, refused, "ingress-a"); err != nil {
		return err
	}
	s.inBackground(ctx, s.balancer.checker.Run)
	if err := s.awaitProbes(ctx, s.machines[1].addr, nftdp.StateDown, refused); err != nil {
		return err
	}
	return s.expectRequests(ctx, "ingress-a")
}

// broughtBack: nftdp starts on node-b while requests go on.
func (s *story) broughtBack(ctx context.Context) error {
	s.claim("nftdp starts on node-b. The probes succeed, node-b is back, and meanwhile no request fails.")
	err := s.expectNoFailure(ctx, func() error {
		if err := s.start(ctx, &s.machines[1]); err != nil {
			return err
		}
		return s.awaitProbes(ctx, s.machines[1].addr, nftdp.StateActive, healthy)
	})
	if err != nil {
		return err
	}
	return s.expectRequests(ctx, "ingress-a", "ingress-b")
}

// restarted: the rules do not need the process that has made them.
func (s *story) restarted(ctx context.Context) error {
	s.claim("nftdp ends on node-a and starts again. Rules stay, so nobody notices, and there is nothing to program.")
	a := &s.machines[0]
	return s.expectNoFailure(ctx, func() error {
		if err := a.dataplane.Close(); err != nil {
			return err
		}
		if err := s.expectGet(ctx, s.router, a.nodeURL(), healthy); err != nil {
			return err
		}
		return s.start(ctx, a, "programs 0 objects")
	})
}

// awaitProbes waits until both ports of a node are in use, or out of it.
func (s *story) awaitProbes(ctx context.Context, node netip.Addr, want nftdp.State, why string) error {
	for _, p := range ports {
		var got health.Status
		did := fmt.Sprintf("balancer: probe of %v:%d", node, p.nodePort)
		err := await(ctx, did, func() bool {
			got = s.balancer.status(node, p.number)
			return got.State == want
		})
		if err != nil {
			return err
		}
		found := healthy
		if got.Err != nil {
			found = inWords(got.Err)
		}
		if err := s.expect(did, fmt.Sprintf("%s, so port %d is %v", found, p.number, want), why); err != nil {
			return err
		}
	}
	return nil
}

// applications: the ingress leads to the right one.
func (s *story) applications(ctx context.Context) error {
	s.claim("Requests are answered by the right application, wherever it runs.")
	for _, a := range apps {
		if err := s.expectGet(ctx, s.client, site+"/"+a.name, a.name+": hello ", "by http "); err != nil {
			return err
		}
	}
	return nil
}

// encrypted: TLS ends in the ingress.
func (s *story) encrypted(ctx context.Context) error {
	s.claim("TLS passes through: nobody but the ingress has the certificate that the client trusts.")
	return s.expectGet(ctx, s.client, "https://"+publicAddr.String()+"/app-b", "app-b: hello ", "by https ")
}

// clientAddress: preserved, or rewritten.
func (s *story) clientAddress(ctx context.Context) error {
	s.claim("With policy Local the ingress sees the client's own address; with Cluster any ingress may answer, and sees a node's.")
	if err := s.expectClients(ctx, "Local", clientAddr.String()); err != nil {
		return err
	}
	if err := s.setPolicy(ctx, nftdp.PolicyAnyBackend); err != nil {
		return err
	}
	seen := []string{}
	for _, n := range nodes {
		seen = append(seen, n.addr.String(), n.gateway.String())
	}
	slices.Sort(seen)
	if err := s.expectClients(ctx, "Cluster", strings.Join(seen, ", ")); err != nil {
		return err
	}
	return s.setPolicy(ctx, nftdp.PolicyExternalLocalOnly)
}

func (s *story) setPolicy(ctx context.Context, policy nftdp.Policy) error {
	for i := range s.machines {
		m := &s.machines[i]
		if _, err := m.dataplane.Update(ctx, nftdp.Change{Set: ingressServices(m.node, policy)}); err != nil {
			return err
		}
	}
	return nil
}

// expectClients sends requests, and compares the addresses that applications see.
func (s *story) expectClients(ctx context.Context, policy, want string) error {
	seen := map[string]bool{}
	for range requests {
		answer := s.client.get(ctx, site+"/app-a")
		_, rest, _ := strings.Cut(answer, "hello ")
		client, _, ok := strings.Cut(rest, ",")
		if !ok {
			return fmt.Errorf("answer %q", answer)
		}
		seen[client] = true
	}
	got := strings.Join(slices.Sorted(maps.Keys(seen)), ", ")
	if got != want {
		return fmt.Errorf("policy %s: clients %s, want %s", policy, got, want)
	}
	s.saw(fmt.Sprintf("policy %s: the ingress sees", policy), got)
	return nil
}

// sockets: nobody listens on the nodes, while the pods do.
func (s *story) sockets(context.Context) error {
	s.claim("No socket of the node takes part: nobody listens on 80 or 30644 there. In the pods the ingress does.")
	pod := fmt.Sprintf("0.0.0.0:%d, 0.0.0.0:%d", ports[0].podPort, ports[1].podPort)
	for _, m := range s.machines {
		if err := errors.Join(s.expectSockets(m.host, "none"), s.expectSockets(m.ingress, pod)); err != nil {
			return err
		}
	}
	return nil
}

func (s *story) expectSockets(h host, want string) error {
	listening, err := h.Listening("tcp")
	if err != nil {
		return err
	}
	var words []string
	for _, l := range listening {
		words = append(words, l.String())
	}
	slices.Sort(words)
	return s.expect(h.Name+": listening TCP sockets", cmp.Or(strings.Join(words, ", "), "none"), want)
}

// rules: what there is instead.
func (s *story) rules(ctx context.Context) error {
	s.claim("Rules in the kernel take the connections, with the service's name. Those of node-a that mention 30644, in IPv4:")
	rules, err := s.machines[0].dataplane.Ruleset(ctx)
	if err != nil {
		return err
	}
	found, place := "", ""
	_, table, _ := strings.Cut(rules.String(), "table ip ")
	table, _, _ = strings.Cut(table, "\n}")
	for line := range strings.Lines(table) {
		line = strings.TrimSpace(line)
		if name, ok := strings.CutPrefix(line, "map "); ok {
			place = strings.TrimSuffix(name, " {")
		}
		if strings.Contains(line, "30644") {
			found += line
			fmt.Fprintf(s.out, "   %-15s %s\n", place, line)
		}
	}
	if !strings.Contains(found, `comment "ingress/nginx:http" : goto `) {
		return errors.New("no rule has the name")
	}
	return nil
}
