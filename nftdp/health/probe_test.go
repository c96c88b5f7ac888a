package health

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"time"
)

// probe runs a check of a server, or of an address of the loopback interface.
func probe(t *testing.T, p Probe, address string) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	return p.Probe(ctx, new(net.Dialer).DialContext, netip.MustParseAddrPort(address))
}

// wantProbe fails unless the error has some words, or is nil if there are none.
func wantProbe(t *testing.T, name string, err error, words string) {
	t.Helper()
	if (err == nil) != (words == "") || err != nil && !strings.Contains(err.Error(), words) {
		t.Errorf("%s: error %v, want %q", name, err, words)
	}
}

func listen(t *testing.T) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l
}

func TestTCP(t *testing.T) {
	l := listen(t)
	wantProbe(t, "listening", probe(t, TCP{}, l.Addr().String()), "")
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	wantProbe(t, "closed", probe(t, TCP{}, l.Addr().String()), "refused")
}

func TestHTTP(t *testing.T) {
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.URL.Path == "/moved":
			http.Redirect(w, r, "/broken", http.StatusFound)
		case r.URL.Path == "/broken":
			http.Error(w, "no", http.StatusServiceUnavailable)
		case r.URL.Path == "/hang":
			<-r.Context().Done()
		case r.URL.Query().Get("host") != "" && r.URL.Query().Get("host") != r.Host:
			http.Error(w, r.Host, http.StatusNotFound)
		}
	})
	plain, secure := httptest.NewServer(handler), httptest.NewTLSServer(handler)
	defer plain.Close()
	defer secure.Close()
	trusted := secure.Client().Transport.(*http.Transport).TLSClientConfig
	for _, test := range []struct {
		name   string
		server *httptest.Server
		probe  HTTP
		want   string
	}{
		{"root", plain, HTTP{}, ""},
		{"broken", plain, HTTP{Path: "/broken"}, "503"},
		{"expected", plain, HTTP{Path: "/broken", Status: []int{503}}, ""},
		{"not expected", plain, HTTP{Status: []int{204}}, "200"},
		{"redirect", plain, HTTP{Path: "/moved"}, ""},
		{"host", plain, HTTP{Path: "/?host=web.example", Host: "web.example"}, ""},
		{"no host", plain, HTTP{Path: "/?host=web.example"}, "404"},
		{"TLS", secure, HTTP{TLS: trusted}, ""},
		{"name in the certificate", secure, HTTP{TLS: trusted, Host: "example.com"}, ""},
		{"another name", secure, HTTP{TLS: trusted, Host: "web.invalid"}, "web.invalid"},
		{"untrusted", secure, HTTP{TLS: &tls.Config{RootCAs: x509.NewCertPool()}}, "unknown authority"},
		{"plain on TLS", secure, HTTP{}, "400"},
		{"TLS on plain", plain, HTTP{TLS: trusted}, "does not look like a TLS handshake"},
	} {
		wantProbe(t, test.name, probe(t, test.probe, test.server.Listener.Addr().String()), test.want)
	}
	for name, p := range map[string]Probe{"HTTP": HTTP{Path: "/hang"}, "gRPC": GRPC{}} {
		silent := listen(t)
		address := silent.Addr().String()
		if name == "HTTP" {
			address = plain.Listener.Addr().String()
		}
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		if err := p.Probe(ctx, new(net.Dialer).DialContext, netip.MustParseAddrPort(address)); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%s: a server that hangs: %v", name, err)
		}
	}
}

// healthService answers as a gRPC server does: with the status that the name asks for.
func healthService(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil || r.URL.Path != "/grpc.health.v1.Health/Check" || r.Header.Get("Te") != "trailers" || r.ProtoMajor != 2 || len(body) < 7 {
		http.Error(w, "bad request", http.StatusBadRequest)
		return
	}
	w.Header().Set("Content-Type", "application/grpc+proto")
	answers := map[string][]byte{"": {8, 1}, "down": {8, 2}, "unknown": {}, "long": {8, 1, 8, 1}, "later": {8, 3}}
	message, ok := answers[string(body[7:])]
	if !ok { // A server sends its trailers only.
		w.Header().Set("Grpc-Status", "5")
		w.Header().Set("Grpc-Message", "unknown service")
		return
	}
	w.Header().Set("Trailer", "Grpc-Status")
	_, _ = w.Write(append(binary.BigEndian.AppendUint32([]byte{0}, uint32(len(message))), message...))
	w.Header().Set("Grpc-Status", "0")
}

func TestGRPC(t *testing.T) {
	plain, secure := httptest.NewUnstartedServer(http.HandlerFunc(healthService)), httptest.NewUnstartedServer(http.HandlerFunc(healthService))
	plain.Config.Protocols = new(http.Protocols)
	plain.Config.Protocols.SetUnencryptedHTTP2(true)
	plain.Start()
	secure.EnableHTTP2 = true
	secure.StartTLS()
	web := httptest.NewServer(http.NotFoundHandler())
	for _, s := range []*httptest.Server{plain, secure, web} {
		defer s.Close()
	}
	trusted := secure.Client().Transport.(*http.Transport).TLSClientConfig
	for _, test := range []struct {
		name   string
		server *httptest.Server
		probe  GRPC
		want   string
	}{
		{"serving", plain, GRPC{}, ""},
		{"not serving", plain, GRPC{Service: "down"}, "NOT_SERVING"},
		{"unknown", plain, GRPC{Service: "unknown"}, "UNKNOWN"},
		{"service unknown", plain, GRPC{Service: "later"}, "SERVICE_UNKNOWN"},
		{"another message", plain, GRPC{Service: "long"}, "is not a HealthCheckResponse"},
		{"no such service", plain, GRPC{Service: "nobody"}, "gRPC status 5: unknown service"},
		{"TLS", secure, GRPC{TLS: trusted}, ""},
		{"TLS, not serving", secure, GRPC{TLS: trusted, Service: "down"}, "NOT_SERVING"},
		{"not gRPC", web, GRPC{}, ""},
	} {
		err := probe(t, test.probe, test.server.Listener.Addr().String())
		if test.server == web {
			if err == nil {
				t.Error("a web server without HTTP/2 is healthy")
			}
			continue
		}
		wantProbe(t, test.name, err, test.want)
	}
}

// FuzzServing: no answer of a server makes the reader panic.
func FuzzServing(f *testing.F) {
	f.Add([]byte{0, 0, 0, 0, 2, 8, 1})
	f.Add([]byte{0, 0, 0, 0, 0})
	f.Fuzz(func(_ *testing.T, body []byte) { _ = serving(body) })
}
