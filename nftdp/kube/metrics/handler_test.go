package metrics

import (
	"net/http"
	"net/http/httptest"
	"strconv"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// TestProcessStart: both formats come with the header that kube-proxy sends.
func TestProcessStart(t *testing.T) {
	before := time.Now().Unix()
	h := Handler(prometheus.NewRegistry())
	after := time.Now().Unix()
	for _, accept := range []string{"text/plain", "application/openmetrics-text"} {
		w, r := httptest.NewRecorder(), httptest.NewRequest(http.MethodGet, "/metrics", nil)
		r.Header.Set("Accept", accept)
		h.ServeHTTP(w, r)
		got := w.Header().Get("Process-Start-Time-Unix")
		if at, err := strconv.ParseInt(got, 10, 64); err != nil || at < before || at > after {
			t.Errorf("%s: %q, want %d to %d", accept, got, before, after)
		}
	}
}
