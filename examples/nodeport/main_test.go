//go:build linux

package main

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nftdp/go-nftdp/internal/nstest"
)

func TestMain(m *testing.M) { nstest.Main(m) }

func TestDemo(t *testing.T) {
	tests := []struct {
		name string
		options
		want []string // in this order
	}{
		{"IPv4", options{}, []string{"\nnone\n", " 192.168.0.2:30644 ", "start backend-3", " connections, 0 failed\n", "table ip nftdp"}},
		{"IPv6", options{ipv6: true}, []string{"\nnone\n", " [fd00:192:168::2]:30644 ", "start backend-3", " connections, 0 failed\n", "table ip6 nftdp"}},
		{"file", options{file: "services.json"}, []string{"\nnone\n", "udp  backend-2 ", "refused 3", "timed out 3", "table ip nftdp"}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			var out bytes.Buffer
			if err := demo(t.Context(), &out, test.options); err != nil {
				t.Fatalf("%v\n%s", err, out.String())
			}
			rest := out.String()
			for _, want := range test.want {
				var found bool
				if _, rest, found = strings.Cut(rest, want); !found {
					t.Fatalf("no %q, or not in its place:\n%s", want, out.String())
				}
			}
		})
	}
}

// cancelAt is a writer that cancels a context when it sees some words.
type cancelAt struct {
	words  string
	cancel context.CancelFunc
}

func (c cancelAt) Write(b []byte) (int, error) {
	if bytes.Contains(b, []byte(c.words)) {
		c.cancel()
	}
	return len(b), nil
}

func TestCancel(t *testing.T) {
	for _, words := range []string{"# Services", "none", "# A rolling restart"} {
		t.Run(words, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			if err := demo(ctx, cancelAt{words, cancel}, options{}); !errors.Is(err, context.Canceled) {
				t.Errorf("after cancellation: %v", err)
			}
		})
	}
}

func TestBadFile(t *testing.T) {
	tests := []struct {
		name, text string
		want       []string
	}{
		{"syntax", "[{\n\"name\": \"a\",\n}]", []string{"line 3: "}},
		{"more text", "[] []", []string{"line 1: "}},
		{"no array", `{"name": "a"}`, []string{"not a list of services"}},
		{"unknown fields", `[{"title": "a"},` + "\n" + `{"name": "b", "backends": [{"adr": "::1"}]}]`, []string{`line 1: service "services[0]": title`, `line 2: service "b": backends[0].adr`}},
		{"types", `[{"name": "a", "protocol": "http"},` + "\n" + `{"name": "b", "frontends": [{"port": 70000}]}]`, []string{`line 1: service "a": protocol`, `"http"`, `line 2: service "b": frontends[0].port`, "70000"}},
		{"values", `[{"name": "a", "frontends": [{"port": 0}]}, {"name": "a"}]`, []string{`frontends[0].port`, `name`}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "services.json")
			if err := os.WriteFile(file, []byte(test.text), 0o600); err != nil {
				t.Fatal(err)
			}
			_, err := readServices(file)
			if err == nil {
				t.Fatal("no error")
			}
			for _, want := range append(test.want, file) {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("no %q in %q", want, err)
				}
			}
		})
	}
}
