// Package health answers whether a node's service proxy works, exactly as kube-proxy
// does: Proxy serves /healthz and /livez, and Services the health check ports of
// Services of type LoadBalancer with externalTrafficPolicy Local, by which load
// balancers choose nodes.
//
//	proxy := &health.Proxy{Timeout: time.Minute, Status: controller.Status, Node: node}
//	http.Handle("/healthz", proxy.Handler())
//
// What kube-proxy answers was read in pkg/proxy/healthcheck of Kubernetes 1.37.
package health
