//go:build linux

package cluster

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	discovery "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Space is the namespace of the objects that tests write.
const Space = metav1.NamespaceDefault

// PutService creates or replaces a service, with its status.
func (c *Control) PutService(ctx context.Context, want *corev1.Service) (*corev1.Service, error) {
	services := c.Client.CoreV1().Services(Space)
	// A service that exists cannot be recognized by creating it: its node ports are
	// refused before its name is.
	got, err := services.Get(ctx, want.Name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		got, err = services.Create(ctx, want, metav1.CreateOptions{})
	} else if err == nil {
		got, err = services.Update(ctx, replacement(got, want), metav1.UpdateOptions{})
	}
	if err != nil || len(want.Status.LoadBalancer.Ingress) == 0 {
		return got, err
	}
	got.Status = want.Status
	return services.UpdateStatus(ctx, got, metav1.UpdateOptions{})
}

// replacement keeps what the API server has allocated, where nothing else is wanted.
func replacement(old, want *corev1.Service) *corev1.Service {
	want = want.DeepCopy()
	want.ResourceVersion = old.ResourceVersion
	if want.Spec.ClusterIP == "" {
		want.Spec.ClusterIP, want.Spec.ClusterIPs = old.Spec.ClusterIP, old.Spec.ClusterIPs
	}
	return want
}

// PutSlice creates or replaces a slice.
func (c *Control) PutSlice(ctx context.Context, want *discovery.EndpointSlice) error {
	slices := c.Client.DiscoveryV1().EndpointSlices(Space)
	_, err := slices.Create(ctx, want, metav1.CreateOptions{})
	if apierrors.IsAlreadyExists(err) {
		_, err = slices.Update(ctx, want, metav1.UpdateOptions{})
	}
	return err
}

// PutNodes creates the objects of a network's nodes.
func (c *Control) PutNodes(ctx context.Context, n *Network) error {
	for _, node := range n.Nodes {
		if _, err := c.Client.CoreV1().Nodes().Create(ctx, node.Object(), metav1.CreateOptions{}); err != nil {
			return err
		}
	}
	return nil
}

// Object is the node as a kubelet would register it.
func (n *Node) Object() *corev1.Node {
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: n.Name, Labels: map[string]string{
		corev1.LabelHostname: n.Name, corev1.LabelTopologyZone: "zone-" + n.Name,
	}}}
	for _, a := range Families() {
		node.Spec.PodCIDRs = append(node.Spec.PodCIDRs, a.PodCIDR(n.Index).String())
		node.Status.Addresses = append(node.Status.Addresses,
			corev1.NodeAddress{Type: corev1.NodeInternalIP, Address: a.Node(n.Index).String()})
	}
	node.Spec.PodCIDR = node.Spec.PodCIDRs[0]
	return node
}

// Slice is an EndpointSlice of a service in one family, without endpoints. Its ports
// have the names of the service's, and all are the pods' port.
func Slice(service *corev1.Service, a Addrs) *discovery.EndpointSlice {
	family := discovery.AddressTypeIPv4
	if a.Client.Is6() {
		family = discovery.AddressTypeIPv6
	}
	s := &discovery.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{
			Name:   strings.ToLower(service.Name + "-" + string(family)),
			Labels: map[string]string{discovery.LabelServiceName: service.Name},
		},
		AddressType: family,
	}
	for _, p := range service.Spec.Ports {
		s.Ports = append(s.Ports, discovery.EndpointPort{
			Name: new(p.Name), Port: new(int32(Port)), Protocol: new(p.Protocol),
		})
	}
	return s
}

// Endpoint is a ready endpoint on a node.
func Endpoint(addr netip.Addr, node string) discovery.Endpoint {
	return discovery.Endpoint{
		Addresses: []string{addr.String()}, NodeName: &node,
		Conditions: discovery.EndpointConditions{Ready: new(true)},
	}
}

// Clear deletes all objects that were written, so that nothing is left for agents to do.
func (c *Control) Clear(ctx context.Context) error {
	return errors.Join(c.clearCIDRs(ctx), c.ClearServices(ctx),
		c.Client.CoreV1().Nodes().DeleteCollection(ctx, metav1.DeleteOptions{}, metav1.ListOptions{}),
		c.Client.EventsV1().Events(Space).DeleteCollection(ctx, metav1.DeleteOptions{}, metav1.ListOptions{}))
}

// ClearServices deletes all services and slices that were written.
func (c *Control) ClearServices(ctx context.Context) error {
	services, err := c.Client.CoreV1().Services(Space).List(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	var group errgroup.Group
	group.SetLimit(writers)
	for _, s := range services.Items {
		if s.Name != "kubernetes" {
			group.Go(func() error {
				return c.Client.CoreV1().Services(Space).Delete(ctx, s.Name, metav1.DeleteOptions{})
			})
		}
	}
	others := metav1.ListOptions{LabelSelector: discovery.LabelServiceName + "!=kubernetes"}
	return errors.Join(group.Wait(),
		c.Client.DiscoveryV1().EndpointSlices(Space).DeleteCollection(ctx, metav1.DeleteOptions{}, others))
}

func (c *Control) clearCIDRs(ctx context.Context) error {
	cidrs := c.Client.NetworkingV1().ServiceCIDRs()
	list, err := cidrs.List(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	for _, cidr := range list.Items {
		if cidr.Name == "kubernetes" {
			continue
		}
		if err := cidrs.Delete(ctx, cidr.Name, metav1.DeleteOptions{}); err != nil {
			return fmt.Errorf("ServiceCIDR %s: %w", cidr.Name, err)
		}
	}
	return nil
}

// DeleteService deletes a service and its slices.
func (c *Control) DeleteService(ctx context.Context, name string) error {
	return errors.Join(
		c.Client.CoreV1().Services(Space).Delete(ctx, name, metav1.DeleteOptions{}),
		c.Client.DiscoveryV1().EndpointSlices(Space).DeleteCollection(ctx, metav1.DeleteOptions{},
			metav1.ListOptions{LabelSelector: discovery.LabelServiceName + "=" + name}))
}
