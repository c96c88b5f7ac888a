package health

import (
	"encoding/json"
	"net/http"
	"time"

	v1 "k8s.io/api/core/v1"

	"github.com/nftdp/go-nftdp/nftdp/kube"
)

// ToBeDeletedTaint is the taint of nodes that the cluster autoscaler is about to remove.
const ToBeDeletedTaint = "ToBeDeletedByClusterAutoscaler"

// DefaultTimeout is kube-proxy's: twice its syncPeriod, which is 30 s by default.
const DefaultTimeout = time.Minute

// Proxy answers /healthz and /livez. Its fields do not change while it serves.
type Proxy struct {
	// Timeout is how long a change may wait before the proxy counts as unhealthy; 0
	// means DefaultTimeout.
	Timeout time.Duration
	// Status is usually that of a kube.Controller. If it has not been read completely,
	// the proxy counts as healthy: it is starting.
	Status func() kube.Status
	// Node returns this node's Node, or nil if there is none, which makes /healthz fail.
	Node func() *v1.Node
	// Broken returns since when the rules are known to be wrong for another reason than
	// a change that waits, such as a repair that fails; zero: they are not. It may be
	// nil. It counts like a change that waits since then.
	Broken func() time.Time
	// Answered is called with "/healthz" or "/livez" and the status of each answer, if it
	// is not nil.
	Answered func(path string, code int)
	// Now is the clock; nil means time.Now.
	Now func() time.Time
}

// Health is the body of an answer, in JSON.
type Health struct {
	LastUpdated  time.Time              `json:"lastUpdated"`
	CurrentTime  time.Time              `json:"currentTime"`
	NodeEligible *bool                  `json:"nodeEligible,omitempty"` // of /healthz alone
	Healthy      bool                   `json:"healthy"`
	Status       map[v1.IPFamily]Family `json:"status,omitempty"`
}

// Family is the health of one family. Both are programmed at once, and are alike.
type Family struct {
	LastUpdated time.Time `json:"lastUpdated"`
	Healthy     bool      `json:"healthy"`
}

func (p *Proxy) now() time.Time {
	if p.Now != nil {
		return p.Now()
	}
	return time.Now()
}

// Health returns the health of the proxy, whether or not its node is eligible.
func (p *Proxy) Health() Health {
	s, now, timeout := p.Status(), p.now(), p.Timeout
	if timeout == 0 {
		timeout = DefaultTimeout
	}
	late := func(since time.Time) bool { return !since.IsZero() && now.Sub(since) >= timeout }
	healthy := !late(s.Pending) && (p.Broken == nil || !late(p.Broken()))
	h := Health{LastUpdated: s.Updated, CurrentTime: now, Healthy: healthy, Status: map[v1.IPFamily]Family{}}
	for _, family := range kube.Families() {
		h.Status[family] = Family{LastUpdated: s.Updated, Healthy: healthy}
	}
	return h
}

// NodeEligible reports whether load balancers should choose a node: it exists, and is
// neither being deleted nor about to be removed by the cluster autoscaler.
func NodeEligible(node *v1.Node) bool {
	if node == nil || !node.DeletionTimestamp.IsZero() {
		return false
	}
	for _, t := range node.Spec.Taints {
		if t.Key == ToBeDeletedTaint {
			return false
		}
	}
	return true
}

// Handler serves /healthz and /livez, to all methods.
func (p *Proxy) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/healthz", func(w http.ResponseWriter, _ *http.Request) {
		h, eligible := p.Health(), NodeEligible(p.Node())
		h.NodeEligible = &eligible
		p.answer(w, "/healthz", h, h.Healthy && eligible)
	})
	mux.HandleFunc("/livez", func(w http.ResponseWriter, _ *http.Request) {
		h := p.Health()
		p.answer(w, "/livez", h, h.Healthy)
	})
	return mux
}

// answer writes an answer. lastUpdated is the present time where all is well, as in
// versions of kube-proxy that synchronized without a change.
func (p *Proxy) answer(w http.ResponseWriter, path string, h Health, ok bool) {
	code := http.StatusServiceUnavailable
	if ok {
		code, h.LastUpdated = http.StatusOK, h.CurrentTime
	}
	body, _ := json.Marshal(h) // its times are those of a clock
	if p.Answered != nil {
		p.Answered(path, code)
	}
	write(w, code, body)
}

func write(w http.ResponseWriter, code int, body []byte) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(code)
	_, _ = w.Write(body) // the client may have gone
}
