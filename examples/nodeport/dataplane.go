//go:build linux

package main

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/nftdp/go-nftdp/nftdp"
)

// start opens a dataplane in the node, starts the servers in the lab and draws
// the network.
func (n *node) start(ctx context.Context) (err error) {
	if n.dataplane, err = (nftdp.Config{}).OpenIn(ctx, n.Node.Handle()); err != nil {
		return err
	}
	n.AtEnd(n.dataplane.Close)
	for _, s := range n.services {
		for _, b := range s.Backends {
			if err := n.Serve(s.Protocol.String(), b.Addr); err != nil {
				return err
			}
		}
	}
	var pods []string
	for i, ns := range n.Backends {
		pods = append(pods, fmt.Sprintf("%s %v", ns.Name, n.addrs.Backend(i)))
	}
	n.Draw(fmt.Sprintf("client %v ── node %v", n.addrs.Client, n.addrs.Node), pods...)
	return nil
}

// apply programs the services.
func (n *node) apply(ctx context.Context) error {
	n.Heading("Services")
	begin := time.Now()
	plan, err := n.dataplane.Apply(ctx, n.services)
	took := time.Since(begin)
	if err != nil {
		return err
	}
	for _, s := range n.services {
		n.Printf("%s: %s -> %s\n", s.Name, frontendsOf(s), n.backendsOf(s))
	}
	n.Printf("programmed in one transaction of %d objects in %v\n", plan.Len(), round(took))
	return nil
}

// showCounters prints what the kernel counted.
func (n *node) showCounters(ctx context.Context) error {
	services, err := n.dataplane.Inspect(ctx)
	if err != nil {
		return err
	}
	n.Heading("Connections as the kernel counted them")
	return n.Table(func(w io.Writer) error {
		fmt.Fprintln(w, "SERVICE\tFRONTEND\t\tCOUNT\tBACKENDS")
		for _, s := range services {
			for _, f := range s.Frontends {
				fmt.Fprintf(w, "%s\t%s\t%v\t%d\t%s\n", s.Name, frontendWords(f.Addr, f.Port), s.Protocol,
					f.Counter.Connections, n.countsOf(f))
			}
		}
		return nil
	})
}

// showRules prints what the kernel holds, as nft would list it. The built-in
// service uses one family; the other's table is the same without elements.
func (n *node) showRules(ctx context.Context) error {
	rules, err := n.dataplane.Ruleset(ctx)
	if err != nil {
		return err
	}
	text := rules.String()
	if n.family != "" {
		text = tableOf(text, n.family)
	}
	n.Heading("The rules")
	n.Printf("%s", text)
	return nil
}

// tableOf cuts the table of one family out of a ruleset's text.
func tableOf(text, family string) string {
	const end = "\n}\n"
	_, table, _ := strings.Cut(text, "table "+family+" ")
	table, _, _ = strings.Cut(table, end)
	return "table " + family + " " + table + end
}

// round keeps two or three digits.
func round(d time.Duration) time.Duration {
	if d < 10*time.Millisecond {
		return d.Round(10 * time.Microsecond)
	}
	return d.Round(time.Millisecond)
}
