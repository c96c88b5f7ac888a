package kube_test

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/nftdp/go-nftdp/nftdp"
	"github.com/nftdp/go-nftdp/nftdp/kube"
)

func annotate(pairs ...string) func(*world) {
	return func(w *world) {
		w.services[0].Annotations = map[string]string{}
		for i := 0; i < len(pairs); i += 2 {
			w.services[0].Annotations[pairs[i]] = pairs[i+1]
		}
	}
}

// Port 443 of every node leads to a Service, by name, number or the same number.
func TestAnnotationNodeIPPorts(t *testing.T) {
	for _, text := range []string{"443:http", "443:80", " 443:http , 80:80"} {
		newWorld(annotate(kube.AnnotationNodeIPPorts, text)).want(t, "outside nodeHTTPS: 1,2 masqueraded", "outside nodePort: 1,2 masqueraded")
	}
	newWorld(annotate(kube.AnnotationNodeIPPorts, "443:http"), spec(externalLocal)).want(t, "outside nodeHTTPS: 1")
	newWorld(annotate(kube.AnnotationNodeIPPorts, "443")).want(t, "outside nodeHTTPS: passes") // the Service has no port 443
}

// Node ports for listed clients only; a list of one family closes the other.
func TestAnnotationNodePortAllow(t *testing.T) {
	newWorld(annotate(kube.AnnotationNodePortAllow, "203.0.113.0/24,2001:db8:113::/64", kube.AnnotationNodeIPPorts, "443:http")).want(t,
		"outside nodePort: 1,2 masqueraded", "outside nodeHTTPS: 1,2 masqueraded", "pod nodePort: dropped", "pod externalIP: 1,2 masqueraded")
	newWorld(annotate(kube.AnnotationNodePortAllow, "198.18.0.0/15")).want(t, "outside nodePort: dropped", "outside loadBalancer: 1,2 masqueraded")
	newWorld(annotate(kube.AnnotationNodePortAllow, "203.0.113.0/2x")).want(t, "outside nodePort: dropped")
}

// Weights and reserve come from the EndpointSlice, scheduler and CutStale from the
// Service.
func TestAnnotationsOfBackends(t *testing.T) {
	w := newWorld(annotate(kube.AnnotationScheduler, "maglev", kube.AnnotationCutStale, "true"), func(w *world) {
		w.slices[0].Annotations = map[string]string{kube.AnnotationWeight: "3"}
		w.slices = append(w.slices, slice4("3", pod(3, "there")))
		w.slices[2].Annotations = map[string]string{kube.AnnotationBackup: "true"}
	})
	_, services, problems := w.translate(t)
	s := services[0]
	if len(problems) > 0 || s.Scheduler != nftdp.SchedulerMaglev || !s.CutStale {
		t.Errorf("%v, %v", s, problems)
	}
	weights := map[string]string{}
	for _, b := range s.Backends {
		weights[b.Addr.Addr().String()] = fmt.Sprint(b.Weight, b.Backup)
	}
	want := map[string]string{
		"10.180.0.1": "3 false", "10.180.0.2": "3 false", "10.180.0.3": "0 true", "fd00:10:180::1": "0 false", "fd00:10:180::2": "0 false",
	}
	if !maps.Equal(weights, want) {
		t.Errorf("%v, want %v", weights, want)
	}
	w.program(t)
}

// What an annotation says wrongly is without effect, and reported with what is right.
func TestWrongAnnotations(t *testing.T) {
	for key, texts := range map[string][]string{
		kube.AnnotationNodeIPPorts:   {"0:http", "65536:http", "http", "443:", "-1", "443:https", "443"},
		kube.AnnotationNodePortAllow: {"everybody", "10.0.0.0/33"},
		kube.AnnotationScheduler:     {"fastest"},
		kube.AnnotationCutStale:      {"yes", "1"},
	} {
		for _, text := range texts {
			w := newWorld(annotate(key, text))
			_, _, problems := w.translate(t)
			if len(problems) != 1 || problems[0].Reason != "InvalidAnnotation" || !strings.Contains(problems[0].Message, key) {
				t.Errorf("%s %q: %v", key, text, problems)
			}
			w.want(t, "pod clusterIP: 1,2")
		}
	}
	for key, text := range map[string]string{kube.AnnotationWeight: "0", kube.AnnotationBackup: "maybe"} {
		w := newWorld(func(w *world) { w.slices[0].Annotations = map[string]string{key: text} })
		if _, _, problems := w.translate(t); !slices.ContainsFunc(problems, func(p kube.Problem) bool { return strings.Contains(p.Message, key) }) {
			t.Errorf("%s %q: %v", key, text, problems)
		}
		w.want(t, "pod clusterIP: 1,2")
	}
}
