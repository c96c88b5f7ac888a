//go:build linux

package main

import (
	"context"
	_ "embed" // of picture.txt
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"syscall"
	"time"
)

// patience bounds whatever has to succeed. Most takes a millisecond.
const patience = 30 * time.Second

// story is the cloud, and what is said about it: numbered claims, and below each what
// was done and what was observed.
type story struct {
	*cloud
	out      io.Writer
	claims   int
	balancer *balancer // nil until there is one
}

//go:embed picture.txt
var picture string

// draw draws the cloud.
func (s *story) draw() { fmt.Fprintf(s.out, "%s\nThe ingress is %s.\n", picture, s.server) }

// claim begins a step by what it shows.
func (s *story) claim(text string) {
	s.claims++
	fmt.Fprintf(s.out, "\n%d. %s\n\n", s.claims, text)
}

// saw says what was done, and what was observed.
func (s *story) saw(did, observed string) { fmt.Fprintf(s.out, "   %-46s %s\n", did, observed) }

// expect is saw, and an error unless what was observed has some words in it.
func (s *story) expect(did, observed string, words ...string) error {
	s.saw(did, observed)
	for _, w := range words {
		if !strings.Contains(observed, w) {
			return fmt.Errorf("%s: %q, want %q", did, observed, w)
		}
	}
	return nil
}

// Answers that are no page of an application.
const (
	healthy = "healthy"
	refused = "connection refused"
)

// get sends a request by a connection of its own, and returns the answer, or in a few
// words why there is none.
func (h host) get(ctx context.Context, url string) string {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err.Error()
	}
	response, err := h.http.Do(request)
	if err != nil {
		return inWords(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	switch {
	case err != nil:
		return err.Error()
	case response.StatusCode != http.StatusOK:
		return response.Status
	}
	return strings.TrimSpace(string(body))
}

// inWords is why there is no answer.
func inWords(err error) string {
	if errors.Is(err, syscall.ECONNREFUSED) {
		return refused
	}
	return err.Error()
}

// expectGet is get as a step of the story.
func (s *story) expectGet(ctx context.Context, from host, url string, words ...string) error {
	return s.expect(fmt.Sprintf("%s: GET %s", from.Name, url), from.get(ctx, url), words...)
}

// podURL is where the node's ingress listens, in its pod, and nodeURL where the probes
// find it, on the node.
func (m *machine) podURL(path string) string {
	return fmt.Sprintf("http://%v:%d%s", m.node.ingress, ports[0].podPort, path)
}

func (m *machine) nodeURL() string { return fmt.Sprintf("http://%v/healthz", m.addr) }

// await waits for a condition, or returns what it has waited for in vain.
func await(ctx context.Context, what string, holds func() bool) error {
	ctx, cancel := context.WithTimeoutCause(ctx, patience, fmt.Errorf("%s: not within %v", what, patience))
	defer cancel()
	poll := time.NewTicker(2 * time.Millisecond)
	defer poll.Stop()
	for !holds() {
		select {
		case <-poll.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return nil
}
