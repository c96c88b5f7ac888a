//go:build linux

package main

import (
	"bytes"
	"context"
	"io"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/nftdp/go-nftdp/examples/internal/lab"
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

// leaveToClients is what docs/operations.md has a firewall do on gateways: a segment of
// a backend does not begin a connection.
const leaveToClients = `table inet firewall {
	chain forward {
		type filter hook forward priority filter; policy accept;
		tcp flags != syn / fin,syn,rst,ack ct state new iifname "inside" tcp sport 8080 counter drop
	}
}`

// TestCrash: the first gateway is gone at once, under load, with whatever was under way,
// and all connections go on through the second one.
func TestCrash(t *testing.T) {
	if _, err := exec.LookPath("nft"); err != nil {
		if os.Getenv("CI") != "" {
			t.Fatal(err)
		}
		t.Skip("needs nft:", err)
	}
	l, err := lab.New(io.Discard, 0, 0)
	if err != nil {
		t.Fatal(err)
	}
	g := &gateway{addrs: nstest.IPv4(), Lab: l}
	defer func() {
		if err := g.Close(); err != nil {
			t.Error(err)
		}
	}()
	p, err := g.newPair(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	nft := exec.CommandContext(t.Context(), "nft", "-f", "-")
	nft.Stdin = strings.NewReader(leaveToClients)
	if err := p.Gateways[1].Do(nft.Run); err != nil {
		t.Fatal(err)
	}
	visits, err := p.visits()
	if err != nil {
		t.Fatal(err)
	}
	conns, err := lab.OpenStreams(t.Context(), visits)
	if err != nil {
		t.Fatal(err)
	}
	defer conns.Stop()
	err = lab.InOrder(t.Context(),
		func(ctx context.Context) error { return conns.Wait(ctx, pairLines) },
		p.handOver,
		func(context.Context) error { return p.Crash() },
		func(ctx context.Context) error { return conns.Wait(ctx, pairLines) })
	if err != nil {
		t.Fatal(err)
	}
	n, longest := conns.Stop()
	t.Log(n, "connections go on; no line took longer than", longest)
}
