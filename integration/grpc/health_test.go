// Package grpc tests the health checks of package health with a server of gRPC. It is a
// module of its own, so that the library does not need gRPC's.
package grpc

import (
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	grpchealth "google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"

	"github.com/nftdp/go-nftdp/nftdp/health"
)

// serve starts a server with a health service, and returns it with the address.
func serve(t *testing.T, options ...grpc.ServerOption) (*grpchealth.Server, netip.AddrPort) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server, service := grpc.NewServer(options...), grpchealth.NewServer()
	grpc_health_v1.RegisterHealthServer(server, service)
	done := make(chan error)
	go func() { done <- server.Serve(l) }()
	t.Cleanup(func() {
		server.Stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return service, netip.MustParseAddrPort(l.Addr().String())
}

func check(t *testing.T, p health.GRPC, at netip.AddrPort, want string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	err := p.Probe(ctx, new(net.Dialer).DialContext, at)
	if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
		t.Errorf("%q: error %v, want %q", p.Service, err, want)
	}
}

// TestServer: what the server says of itself and of its services is what is found.
func TestServer(t *testing.T) {
	authority := httptest.NewTLSServer(http.NotFoundHandler())
	defer authority.Close()
	secure := credentials.NewTLS(&tls.Config{Certificates: authority.TLS.Certificates})
	trusted := authority.Client().Transport.(*http.Transport).TLSClientConfig
	for name, test := range map[string]struct {
		options []grpc.ServerOption
		tls     *tls.Config
	}{"plain": {}, "TLS": {[]grpc.ServerOption{grpc.Creds(secure)}, trusted}} {
		t.Run(name, func(t *testing.T) {
			service, at := serve(t, test.options...)
			web := health.GRPC{Service: "web", TLS: test.tls}
			check(t, health.GRPC{TLS: test.tls}, at, "")
			check(t, web, at, "gRPC status 5")
			service.SetServingStatus("web", grpc_health_v1.HealthCheckResponse_SERVING)
			check(t, web, at, "")
			service.SetServingStatus("web", grpc_health_v1.HealthCheckResponse_NOT_SERVING)
			check(t, web, at, "NOT_SERVING")
			service.SetServingStatus("web", grpc_health_v1.HealthCheckResponse_UNKNOWN)
			check(t, web, at, "UNKNOWN")
			service.Resume()
			check(t, web, at, "")
			service.Shutdown()
			check(t, web, at, "NOT_SERVING")
		})
	}
}
