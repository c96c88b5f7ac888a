package health

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"strings"
)

// GRPC finds that a backend works if its health service (grpc.health.v1.Health) answers
// SERVING.
type GRPC struct {
	// Service is the name that is asked for; empty is the server as a whole.
	Service string
	// TLS is nil for a server without TLS. If its ServerName is empty, that is the
	// backend's address.
	TLS *tls.Config
}

// Probe calls the method Check. It exchanges two small messages over HTTP/2, which the
// standard library speaks, too. So whoever imports this package does not need gRPC.
func (g GRPC) Probe(ctx context.Context, dial Dial, backend netip.AddrPort) error {
	url := scheme(g.TLS) + "://" + backend.String() + "/grpc.health.v1.Health/Check"
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(frame(g.Service)))
	if err != nil {
		return err
	}
	request.Header = http.Header{"Content-Type": {"application/grpc"}, "Te": {"trailers"}, "User-Agent": {"nftdp-health"}}
	transport := once(dial, g.TLS, "")
	transport.DisableKeepAlives = false // HTTP/2 has no header to close a connection.
	transport.Protocols = new(http.Protocols)
	transport.Protocols.SetHTTP2(g.TLS != nil)
	transport.Protocols.SetUnencryptedHTTP2(g.TLS == nil)
	defer transport.CloseIdleConnections()
	response, err := transport.RoundTrip(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	return answer(response)
}

// A message has a header: whether it is compressed, and its length.
const headerLen = 5

// frame returns a HealthCheckRequest. Its only field, number 1, is a string.
func frame(service string) []byte {
	const field1 = 1<<3 | 2
	message := []byte{field1}
	message = append(binary.AppendUvarint(message, uint64(len(service))), service...)
	return append(binary.BigEndian.AppendUint32([]byte{0}, uint32(len(message))), message...)
}

// answer returns nil if a HealthCheckResponse says SERVING.
func answer(r *http.Response) error {
	if kind := r.Header.Get("Content-Type"); r.StatusCode != http.StatusOK || !strings.HasPrefix(kind, "application/grpc") {
		return fmt.Errorf("not a gRPC server: status %s, content type %q", r.Status, kind)
	}
	const most = 4 << 10
	body, err := io.ReadAll(io.LimitReader(r.Body, most))
	if err != nil {
		return err
	}
	// Without a message, the trailers are in the header.
	status, text := r.Trailer.Get("Grpc-Status"), r.Trailer.Get("Grpc-Message")
	if status == "" {
		status, text = r.Header.Get("Grpc-Status"), r.Header.Get("Grpc-Message")
	}
	if status != "0" {
		return fmt.Errorf("gRPC status %s: %s", status, text)
	}
	return serving(body)
}

// serving reads the framed message, whose field 1 is an enumeration.
func serving(body []byte) error {
	const (
		field1 = 1 << 3
		yes    = 1
	)
	if len(body) < headerLen || body[0] != 0 || int(binary.BigEndian.Uint32(body[1:])) != len(body)-headerLen {
		return errors.New("gRPC: not one message that is not compressed")
	}
	message := body[headerLen:]
	if len(message) == 0 {
		return errors.New("health status UNKNOWN") // 0 is left out.
	}
	status, n := binary.Uvarint(message[1:])
	if message[0] != field1 || n != len(message)-1 {
		return fmt.Errorf("gRPC: message % x is not a HealthCheckResponse", message)
	}
	if status != yes {
		names := map[uint64]string{0: "UNKNOWN", 2: "NOT_SERVING", 3: "SERVICE_UNKNOWN"}
		return fmt.Errorf("health status %d %s", status, names[status])
	}
	return nil
}
