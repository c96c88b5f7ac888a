//go:build linux

package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"net/netip"
	"strings"
	"time"

	"github.com/nftdp/go-nftdp/nftdp"
)

// showNetwork draws the topology.
func (l *lab) showNetwork(context.Context) error {
	a := l.addrs
	trunk := fmt.Sprintf("client %v ── node %v ──", a.Client, a.Node)
	for i, ns := range l.Backends {
		branch := "┬"
		if i > 0 {
			trunk, branch = strings.Repeat(" ", len([]rune(trunk))), "├"
		}
		if i == len(l.Backends)-1 {
			branch = "└"
		}
		fmt.Fprintf(l.out, "%s%s── %s %v\n", trunk, branch, ns.Name, a.Backend(i))
	}
	return nil
}

// apply programs the services.
func (l *lab) apply(ctx context.Context) error {
	l.heading("Services")
	begin := time.Now()
	plan, err := l.dataplane.Apply(ctx, l.services)
	took := time.Since(begin)
	if err != nil {
		return err
	}
	for _, s := range l.services {
		fmt.Fprintf(l.out, "%s: %s -> %s\n", s.Name, frontendsOf(s), l.backendsOf(s))
	}
	fmt.Fprintf(l.out, "programmed in one transaction of %d objects in %v\n", plan.Len(), round(took))
	return nil
}

func frontendsOf(s nftdp.Service) string {
	var words []string
	for _, f := range s.Frontends {
		words = append(words, frontendWords(f.Addr, f.Port))
	}
	return cmp.Or(strings.Join(words, ", "), "no frontend")
}

func frontendWords(a netip.Addr, port uint16) string {
	switch a {
	case netip.Addr{}:
		return fmt.Sprintf("any node address:%d", port)
	case netip.IPv4Unspecified():
		return fmt.Sprintf("any node IPv4:%d", port)
	case netip.IPv6Unspecified():
		return fmt.Sprintf("any node IPv6:%d", port)
	}
	return netip.AddrPortFrom(a, port).String()
}

func (l *lab) backendsOf(s nftdp.Service) string {
	var words []string
	for _, b := range s.Backends {
		text := l.nameOf(b.Addr)
		if b.State != nftdp.StateActive {
			text += " (" + b.State.String() + ")"
		}
		words = append(words, text)
	}
	return cmp.Or(strings.Join(words, ", "), "no backend")
}

// nameOf is a backend's name and port, or its address if it is not in the lab.
func (l *lab) nameOf(a netip.AddrPort) string {
	if name := l.names[a.Addr().Unmap()]; name != "" {
		return fmt.Sprintf("%s:%d", name, a.Port())
	}
	return a.String()
}

// showCounters prints what the kernel counted.
func (l *lab) showCounters(ctx context.Context) error {
	services, err := l.dataplane.Inspect(ctx)
	if err != nil {
		return err
	}
	l.heading("Connections as the kernel counted them")
	return l.table(func(w io.Writer) {
		fmt.Fprintln(w, "SERVICE\tFRONTEND\t\tCOUNT\tBACKENDS")
		for _, s := range services {
			for _, f := range s.Frontends {
				fmt.Fprintf(w, "%s\t%s\t%v\t%d\t%s\n", s.Name, frontendWords(f.Addr, f.Port), s.Protocol,
					f.Counter.Connections, l.countsOf(f))
			}
		}
	})
}

func (l *lab) countsOf(f nftdp.FrontendStatus) string {
	if f.NoBackend != nil {
		return "none: " + f.NoBackend.String()
	}
	var words []string
	for _, b := range f.Backends {
		words = append(words, fmt.Sprintf("%s %d", l.nameOf(b.Addr), b.Counter.Connections))
	}
	return strings.Join(words, ", ")
}

// showRules prints what the kernel holds, as nft would list it. The built-in
// service uses one family; the other's table is the same without elements.
func (l *lab) showRules(ctx context.Context) error {
	rules, err := l.dataplane.Ruleset(ctx)
	if err != nil {
		return err
	}
	text := rules.String()
	if l.family != "" {
		text = tableOf(text, l.family)
	}
	l.heading("The rules")
	_, err = fmt.Fprint(l.out, text)
	return err
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
