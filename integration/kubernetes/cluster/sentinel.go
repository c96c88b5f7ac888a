//go:build linux

package cluster

import (
	"context"
	"fmt"
	"net/netip"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// PutSentinel changes a service that leads to the first pod of the first node, so that
// it answers on another port, and its slices. It returns where. A proxy that serves it
// has seen all services and slices that were written before.
func (c *Control) PutSentinel(ctx context.Context, n int) ([]netip.AddrPort, error) {
	port := int32(10000 + n%10000)
	s, err := c.PutService(ctx, &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: "sentinel"},
		Spec: corev1.ServiceSpec{
			IPFamilyPolicy: new(corev1.IPFamilyPolicyRequireDualStack),
			Ports:          []corev1.ServicePort{{Name: fmt.Sprintf("change-%d", n), Port: port, Protocol: corev1.ProtocolTCP}},
		},
	})
	if err != nil {
		return nil, fmt.Errorf("sentinel: %w", err)
	}
	var addrs []netip.AddrPort
	for i, a := range Families() {
		slice := Slice(s, a)
		slice.Endpoints = append(slice.Endpoints, Endpoint(a.Pod(0, 0), "node-a"))
		if err := c.PutSlice(ctx, slice); err != nil {
			return nil, fmt.Errorf("sentinel: %w", err)
		}
		addrs = append(addrs, netip.AddrPortFrom(netip.MustParseAddr(s.Spec.ClusterIPs[i]), uint16(port)))
	}
	return addrs, nil
}
