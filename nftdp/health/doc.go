// Package health checks the backends of services and takes those out that do not work.
//
// A Checker stands in front of a Dataplane: services are set by its Apply and Update,
// which fill in the states of the backends, and Run checks them and sets their states
// (nftdp.Dataplane.SetState). A backend that is StateActive in a service is active
// while it is healthy, else StateDown; backends in other states keep them.
//
//	checker := health.New(dataplane, health.Options{
//		Check: func(s *nftdp.Service) *health.Check { return &health.Check{Probe: health.HTTP{Path: "/healthz"}} },
//	})
//	_, err := checker.Apply(ctx, services)
//	…
//	err = checker.Run(ctx)
//
// Probes are TCP, HTTP and GRPC, or the caller's own. They connect from the network
// namespace of the process, or with OpenNamespace from another one.
//
// A backend is down after Check.Fall failures in a row, and up after Check.Rise
// successes. A new one is used at once, but a single failure takes it out. When too few
// are healthy, rather the checks are wrong, or the few would be overrun: below
// Check.Panic all are used.
//
// Everything runs in Run, which takes no goroutine for a backend, but one for each
// check under way, of which there are Options.Concurrency at most.
package health
