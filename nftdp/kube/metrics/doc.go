// Package metrics has the metrics of a node's service proxy under the names that
// kube-proxy gives them, so that its dashboards and alerts work. Beside them, package
// nftdp/metrics has those of the Dataplane, such as the connections of services.
//
// Both families are programmed by one transaction: metrics with the label ip_family
// have the same values for both, where kube-proxy synchronizes twice.
//
// Handler serves the metrics of a registry as kube-proxy does:
//
//	http.Handle("/metrics", metrics.Handler(registry))
//
// What kube-proxy means by each was read in pkg/proxy/metrics of Kubernetes 1.37.
// docs/kubernetes-metrics.md lists all, and those that are left out.
package metrics
