//go:build linux

package main

import (
	"bytes"
	"strings"
	"testing"

	"github.com/nftdp/go-nftdp/internal/nstest"
)

func TestMain(m *testing.M) { nstest.Main(m) }

// Every scene checks what becomes of its connections.
func TestDemo(t *testing.T) {
	var out bytes.Buffer
	if err := demo(t.Context(), &out); err != nil {
		t.Fatalf("%v\n%s", err, &out)
	}
	if scenes := strings.Count(out.String(), "\n# "); scenes != 10 {
		t.Errorf("%d scenes:\n%s", scenes, &out)
	}
}
