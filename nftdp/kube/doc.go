// Package kube turns what a Kubernetes API server has, Services, EndpointSlices, the
// Node and ServiceCIDRs, into services of package nftdp, and keeps a node right while
// these objects change. It means by each field what kube-proxy means, but for what
// integration/kubernetes/README.md lists. Packages health and metrics serve what
// kube-proxy serves, in its formats.
//
// The translation is pure: Options.Services turns one Service with its EndpointSlices
// into services of package nftdp, one for each of its ports, and Options.Config turns
// the Node and the ServiceCIDRs into a configuration. A Controller follows the API
// server by shared informers of client-go, and programs a Dataplane at a cost that
// follows what has changed. A Service that the Dataplane refuses, for example since a
// program that shares its tables has the address, hinders no other one: it is a Problem,
// and is tried again.
//
// The core of nftdp does not import this package, which is a module of its own.
package kube
