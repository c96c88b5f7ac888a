//go:build linux

package main

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// requests is how many are sent where chance decides.
const requests = 100

// tally counts answers: by the ingress that the request came through, or by the failure.
type tally map[string]int

// add counts an answer. That of an application ends with the ingress.
func (t tally) add(answer string) {
	if _, ingress, ok := strings.Cut(answer, " through "); ok {
		answer = ingress
	}
	t[answer]++
}

func (t tally) String() string {
	var words []string
	for _, k := range slices.Sorted(maps.Keys(t)) {
		words = append(words, fmt.Sprintf("%s %d", k, t[k]))
	}
	return strings.Join(words, ", ")
}

// total is how many there were, and how many of them failed.
func (t tally) total() (sent, failed int) {
	for k, n := range t {
		sent += n
		if !strings.HasPrefix(k, "ingress-") {
			failed += n
		}
	}
	return sent, failed
}

// request is one of many, which an application answers through some ingress.
func (s *story) request(ctx context.Context, t tally) { t.add(s.client.get(ctx, site+"/app-a")) }

// expectRequests sends some requests. It is an error if they are not distributed over
// the words, and if others fail.
func (s *story) expectRequests(ctx context.Context, words ...string) error {
	t := tally{}
	for range requests {
		s.request(ctx, t)
	}
	did := fmt.Sprintf("client: %d × GET %s/app-a", requests, site)
	if err := s.expect(did, t.String(), words...); err != nil {
		return err
	}
	if len(t) != len(words) {
		return fmt.Errorf("%s: %v, want %q", did, t, words)
	}
	return nil
}

// expectNoFailure sends requests while something is done. None may fail.
func (s *story) expectNoFailure(ctx context.Context, do func() error) error {
	t := tally{}
	done, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		for {
			s.request(ctx, t)
			select {
			case <-done:
				return
			default:
			}
		}
	}()
	err := do()
	close(done)
	<-ended
	if err != nil {
		return err
	}
	sent, failed := t.total()
	if failed > 0 {
		return fmt.Errorf("meanwhile: %v", t)
	}
	s.saw("client: requests meanwhile", fmt.Sprintf("%d, %d failed", sent, failed))
	return nil
}
