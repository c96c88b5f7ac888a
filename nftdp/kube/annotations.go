package kube

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"

	v1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	"github.com/nftdp/go-nftdp/nftdp"
)

// Annotations of a Service, for what Kubernetes has no fields.
const (
	// AnnotationNodeIPPorts opens ports of every node, where nothing listens:
	// "80:http,443:https" takes port 80 of the node to the Service's port http. The
	// second part is a port's name or number; without it, it is the first part.
	AnnotationNodeIPPorts = annotationPrefix + "node-ip-ports"
	// AnnotationNodePortAllow lists the prefixes of clients that may connect to node
	// ports, and to those of AnnotationNodeIPPorts: "192.0.2.0/24,2001:db8::/32".
	AnnotationNodePortAllow = annotationPrefix + "node-port-allow"
	// AnnotationScheduler is a word of nftdp.Scheduler: "maglev".
	AnnotationScheduler = annotationPrefix + "scheduler"
	// AnnotationCutStale breaks TCP connections to endpoints that are removed, if it
	// is "true".
	AnnotationCutStale = annotationPrefix + "cut-stale"
)

// Annotations of an EndpointSlice, for all its endpoints.
const (
	// AnnotationWeight is the share of new connections, 1 to 65535.
	AnnotationWeight = annotationPrefix + "weight"
	// AnnotationBackup keeps the endpoints in reserve, if it is "true".
	AnnotationBackup = annotationPrefix + "backup"
)

const annotationPrefix = "nftdp.github.io/"

// annotations are those of a Service.
type annotations struct {
	nodeIPPorts   []nodeIPPort
	nodePortAllow []netip.Prefix
	scheduler     nftdp.Scheduler
	cutStale      bool
}

// nodeIPPort is a port of the node that leads to a port of the Service.
type nodeIPPort struct {
	port uint16
	to   string // its name or number
}

func (n nodeIPPort) leadsTo(p *v1.ServicePort) bool {
	return n.to == p.Name && n.to != "" || n.to == strconv.Itoa(int(p.Port))
}

// readAnnotations reads those of the Service. What it cannot read is a problem, and
// without effect.
func (t *translation) readAnnotations() (out annotations) {
	bad := func(key, use string) {
		t.problem("InvalidAnnotation", "annotation %s: %q: use %s", key, t.svc.Annotations[key], use)
	}
	for _, item := range listOf(t.svc.Annotations[AnnotationNodeIPPorts]) {
		from, to, found := strings.Cut(item, ":")
		n, err := strconv.ParseUint(from, 10, 16)
		if !found {
			to = from
		}
		if err != nil || n == 0 || to == "" {
			bad(AnnotationNodeIPPorts, `ports such as "80:http,443:https"`)
			continue
		}
		node := nodeIPPort{uint16(n), to}
		if !slices.ContainsFunc(t.svc.Spec.Ports, func(p v1.ServicePort) bool { return node.leadsTo(&p) }) {
			bad(AnnotationNodeIPPorts, "the name or number of a port that the Service has")
			continue
		}
		out.nodeIPPorts = append(out.nodeIPPorts, node)
	}
	for _, item := range listOf(t.svc.Annotations[AnnotationNodePortAllow]) {
		p, ok := parsePrefix(item)
		if !ok {
			bad(AnnotationNodePortAllow, `prefixes such as "192.0.2.0/24", without which nobody may connect`)
			p = nobody(netip.IPv4Unspecified())[0] // a typing error must not open the port
		}
		out.nodePortAllow = append(out.nodePortAllow, p)
	}
	if text := t.svc.Annotations[AnnotationScheduler]; text != "" {
		if err := out.scheduler.UnmarshalText([]byte(text)); err != nil {
			bad(AnnotationScheduler, "a scheduler: random, round-robin, source-hash, maglev or source-port-hash")
		}
	}
	switch t.svc.Annotations[AnnotationCutStale] {
	case "", "false":
	case "true":
		out.cutStale = true
	default:
		bad(AnnotationCutStale, "true or false")
	}
	return out
}

// sliceAnnotations reads those of an EndpointSlice.
func (t *translation) sliceAnnotations(s *discoveryv1.EndpointSlice) (weight uint16, backup bool) {
	bad := func(key, use string) {
		t.problem("InvalidAnnotation", "EndpointSlice %s: annotation %s: %q: use %s", s.Name, key, s.Annotations[key], use)
	}
	if text := s.Annotations[AnnotationWeight]; text != "" {
		n, err := strconv.ParseUint(text, 10, 16)
		if err != nil || n == 0 {
			bad(AnnotationWeight, "1 to 65535")
		}
		weight = uint16(n)
	}
	switch s.Annotations[AnnotationBackup] {
	case "", "false":
	case "true":
		backup = true
	default:
		bad(AnnotationBackup, "true or false")
	}
	return weight, backup
}

func listOf(text string) (out []string) {
	for item := range strings.SplitSeq(text, ",") {
		if item = strings.TrimSpace(item); item != "" {
			out = append(out, item)
		}
	}
	return out
}
