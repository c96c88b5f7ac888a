//go:build linux

package main

import (
	"context"
	"errors"
	"net/netip"

	"github.com/vishvananda/netns"

	"github.com/nftdp/go-nftdp/nftdp"
)

// This is all that a node needs: a Dataplane, and the services.

// startNode programs the services of the cluster on a node. The rules stay when
// the Dataplane is closed.
func startNode(ctx context.Context, ns netns.NsHandle, self node) (*nftdp.Dataplane, *nftdp.Plan, error) {
	// The network brings the replies to pods back through the node by itself.
	config := nftdp.Config{Internal: []netip.Prefix{podNet}}
	dataplane, err := config.OpenIn(ctx, ns)
	if err != nil {
		return nil, nil, err
	}
	plan, err := dataplane.Apply(ctx, append(ingressServices(self, nftdp.PolicyExternalLocalOnly), appServices()...))
	if err != nil {
		return nil, nil, errors.Join(err, dataplane.Close())
	}
	return dataplane, plan, nil
}

// ingressServices lead from ports of the node to the pods of the ingress. They
// are the same on each node, but for which pods are its own: by
// PolicyExternalLocalOnly, Kubernetes' externalTrafficPolicy: Local, clients
// outside get those alone, and are seen by them with their own address.
func ingressServices(self node, policy nftdp.Policy) (all []nftdp.Service) {
	for _, p := range ports {
		s := nftdp.Service{
			Name: "ingress/nginx:" + p.name,
			Frontends: []nftdp.Frontend{
				{Port: p.number, Policy: policy},   // on every address of the node
				{Port: p.nodePort, Policy: policy}, // the same for the load balancer's probe
			},
		}
		for _, n := range nodes {
			s.Backends = append(s.Backends, nftdp.Backend{
				Addr: netip.AddrPortFrom(n.ingress, p.podPort), Local: n.name == self.name,
			})
		}
		all = append(all, s)
	}
	return all
}

// appServices lead from a ClusterIP to an application: it is where nginx finds it.
func appServices() (all []nftdp.Service) {
	for _, a := range apps {
		all = append(all, nftdp.Service{
			Name:      "shop/" + a.name,
			Frontends: []nftdp.Frontend{{Addr: a.clusterIP, Port: 80}},
			Backends:  []nftdp.Backend{{Addr: netip.AddrPortFrom(a.pod, appPort)}},
		})
	}
	return all
}
