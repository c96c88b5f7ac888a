// Package cluster runs a real Kubernetes control plane and service proxies in network
// namespaces, for tests and measurements: etcd and kube-apiserver, kube-proxy, kubectl
// and this repository's agent, built from source, and networks of nodes and pods
// without a kubelet, controllers or containers. A pod is a namespace with a server.
//
// Nothing listens outside the namespaces, and all processes end with the one that
// started them. It needs etcd (Debian's etcd-server) and nft, which kube-proxy calls.
package cluster
