package nftdp

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/nftdp/go-nftdp/internal/engine"
)

// Severity says how much a Finding matters.
type Severity uint8

// The severities.
const (
	// SeverityNotice: it is as configured, or nothing is known to be wrong, but it
	// explains what some clients see.
	SeverityNotice Severity = iota
	// SeverityWarning: some packets are lost, or some clients get no answer, or
	// they will.
	SeverityWarning
	// SeverityError: no client, or none from outside, gets an answer.
	SeverityError
)

func (s Severity) word() word { return word{"severity", "notice warning error", uint8(s)} }

// String returns "notice", "warning" or "error".
func (s Severity) String() string { return s.word().String() }

// MarshalText returns the word of String.
func (s Severity) MarshalText() ([]byte, error) { return s.word().marshal() }

// UnmarshalText reads a word of String.
func (s *Severity) UnmarshalText(text []byte) error { return s.word().unmarshal(text, (*uint8)(s)) }

// Finding is something on the node that keeps packets from services, or may do so.
type Finding struct {
	Severity Severity `json:"severity"`
	Code     Code     `json:"code"`
	// Subject is what the finding is about: a kernel parameter, an interface, a chain
	// of others, a backend, a service. Two findings differ in their code or subject.
	Subject string `json:"subject"`
	// Evidence says what was seen, and what follows from it.
	Evidence string `json:"evidence"`
	// Remedy says what to do, and Command does it, if one command can.
	Remedy  string `json:"remedy"`
	Command string `json:"command,omitempty"`
	// Set has the kernel parameters that Fix sets. If it is empty, Fix cannot help.
	Set []Parameter `json:"set,omitempty"`
}

// Parameter is a kernel parameter with a value.
type Parameter struct {
	Name  string `json:"name"` // as for sysctl(8): "net.ipv4.ip_forward"
	Value string `json:"value"`
}

// Fixable reports whether Fix can help.
func (f Finding) Fixable() bool { return len(f.Set) > 0 }

// String returns the finding in one line.
func (f Finding) String() string {
	out := fmt.Sprintf("%v %s: %s: %s. %s", f.Severity, f.Code, f.Subject, f.Evidence, f.Remedy)
	if f.Command != "" {
		out += ": " + f.Command
	}
	return out
}

// Doctor looks for what keeps packets from services on this node: forwarding and other
// kernel parameters, firewalls and translations of others, sockets, routes,
// neighbours, and services that cannot work. It returns the findings, the most severe
// ones first; on a healthy node there are none. What each code means is in
// docs/codes.md.
//
// It changes nothing, but the kernel loads the modules that services need. Next hops
// whose link-layer address is not known are asked for it, at most 512 of them, as the
// kernel would for a packet; if one does not answer, that takes three seconds. No other
// method waits for it, unless this Dataplane has to read first what the tables hold.
//
// Of rules of others it reports what concerns every client that can come in through
// any interface, as far as it understands the rules: a firewall that lets some
// clients through is not reported. It tries at most 4096 backends and 4096 frontends.
// Use Trace for what happens to a certain packet.
//
// If the process is in another namespace than the Dataplane and lacks CAP_SYS_ADMIN,
// the error matches fs.ErrPermission.
func (d *Dataplane) Doctor(ctx context.Context) ([]Finding, error) {
	n, services, err := d.engine.Examine(ctx)
	if err != nil {
		return nil, err
	}
	x := &examination{Node: n, cfg: *d.cfg.Load(), services: services, findings: []Finding{}}
	x.look()
	return x.findings, nil
}

// look looks for everything.
func (x *examination) look() {
	x.prepare()
	for _, look := range []func(*examination){
		(*examination).kernel, (*examination).drift,
		(*examination).forwarding, (*examination).tcpLiberal, (*examination).rpFilter, (*examination).routeLocalnet,
		(*examination).conntrack, (*examination).bridges, (*examination).legacy,
		(*examination).firewalls, (*examination).translations, (*examination).rewrites,
		(*examination).emptyPools, (*examination).nodeAddrs, (*examination).sockets, (*examination).ephemeral,
		(*examination).twice, (*examination).routes, (*examination).loops,
	} {
		look(x)
	}
	slices.SortFunc(x.findings, func(a, b Finding) int {
		return cmp.Or(cmp.Compare(b.Severity, a.Severity), cmp.Compare(a.Code, b.Code), cmp.Compare(a.Subject, b.Subject), cmp.Compare(a.Evidence, b.Evidence))
	})
}

// Fix does what a finding of Doctor asks for, if it is Fixable: it sets kernel
// parameters of the namespace. It changes nothing else, and Close does not restore the
// former values. What to think of before is in docs/doctor.md; the comment of
// MeetRequirements says what forwarding means.
//
// A finding that is not Fixable is an error that repeats its remedy. Other errors are
// those of MeetRequirements.
func (d *Dataplane) Fix(ctx context.Context, f Finding) error {
	if !f.Fixable() {
		return fmt.Errorf("%s: %s cannot be fixed by a kernel parameter: %s", f.Code, f.Subject, f.Remedy)
	}
	return d.engine.Sysctls(ctx, func(s engine.Sysctls) error {
		for _, p := range f.Set {
			if !strings.HasPrefix(p.Name, "net.") {
				return fmt.Errorf("%s: %s is not a parameter of the namespace", f.Code, p.Name)
			}
			if err := s.SetSysctl(ctx, p.Name, p.Value); err != nil {
				return err
			}
		}
		return nil
	})
}

// found adds a finding. With parameters to set, they are its command.
func (x *examination) found(f Finding) {
	if f.Command == "" && len(f.Set) > 0 {
		words := []string{"sysctl", "-w"}
		for _, p := range f.Set {
			words = append(words, quoted(p.Name+"="+p.Value))
		}
		f.Command = strings.Join(words, " ")
	}
	x.findings = append(x.findings, f)
}

// quoted quotes a word for a shell, if it has to be.
func quoted(s string) string {
	if strings.ContainsAny(s, " \t'\"$&;|<>*?()") {
		return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
	}
	return s
}

// some lists a few of many names.
func some(names []string) string {
	const few = 3
	slices.Sort(names)
	names = slices.Compact(names)
	if len(names) > few {
		return fmt.Sprintf("%s and %d more", strings.Join(names[:few], ", "), len(names)-few)
	}
	return strings.Join(names, ", ")
}
