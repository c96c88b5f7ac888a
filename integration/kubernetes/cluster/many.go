//go:build linux

package cluster

import (
	"context"
	"fmt"
	"net/netip"

	corev1 "k8s.io/api/core/v1"
	discovery "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"golang.org/x/sync/errgroup"
)

// writers write objects at the same time. The API server takes no more on two cores.
const writers = 16

// Many is the name of one of the services that PutMany writes.
func Many(i int) string { return fmt.Sprintf("many-%d", i) }

var manyPort = corev1.ServicePort{Name: "web", Port: 80, Protocol: corev1.ProtocolTCP}

// PutMany writes n services named by Many, of IPv4 and with a port 80, and a slice for
// each with endpoints that the function returns. It returns their addresses.
func (c *Control) PutMany(ctx context.Context, n int, endpoints func(a Addrs, i int) []discovery.Endpoint) ([]netip.AddrPort, error) {
	addrs := make([]netip.AddrPort, n)
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(writers)
	for i := range n {
		group.Go(func() error {
			s, err := c.Client.CoreV1().Services(Space).Create(ctx, &corev1.Service{
				ObjectMeta: metav1.ObjectMeta{Name: Many(i)},
				Spec:       corev1.ServiceSpec{Ports: []corev1.ServicePort{manyPort}},
			}, metav1.CreateOptions{})
			if err != nil {
				return err
			}
			slice := Slice(s, V4)
			slice.Endpoints = endpoints(V4, i)
			addrs[i] = netip.AddrPortFrom(netip.MustParseAddr(s.Spec.ClusterIP), 80)
			return c.PutSlice(ctx, slice)
		})
	}
	return addrs, group.Wait()
}

// MoveMany replaces the endpoints of one of the services that PutMany has written.
func (c *Control) MoveMany(ctx context.Context, i int, endpoints []discovery.Endpoint) error {
	service := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: Many(i)}}
	service.Spec.Ports = []corev1.ServicePort{manyPort}
	slice := Slice(service, V4)
	slice.Endpoints = endpoints
	_, err := c.Client.DiscoveryV1().EndpointSlices(Space).Update(ctx, slice, metav1.UpdateOptions{})
	return err
}
