package nftdp

import (
	"fmt"
	"strings"

	"github.com/nftdp/go-nftdp/internal/engine"
)

// These errors are matched by errors.Is. A lack of CAP_NET_ADMIN matches
// fs.ErrPermission, and every error of the kernel matches its syscall.Errno.
var (
	// ErrNotSupported: the kernel lacks what the error's text names.
	ErrNotSupported = engine.ErrNotSupported
	// ErrNotOwned: a table of that name exists that neither this version of
	// the package nor an older one has made. It was not changed.
	ErrNotOwned = engine.ErrNotOwned
	// ErrProtected: another Dataplane owns the tables (see Config.Protect).
	// They can be read, but were not changed. The error also matches EPERM and
	// fs.ErrPermission.
	ErrProtected = engine.ErrProtected
	// ErrOutdated: the tables were made by an older version of this package
	// and have a layout that this version cannot read. Apply replaces them.
	ErrOutdated = engine.ErrOutdated
	// ErrOtherConfig: the tables have owners (see Config.Owner), or have none,
	// unlike this Dataplane's, or those who share them have another Config.
	// Nothing was changed. TakeOver changes the tables.
	ErrOtherConfig = engine.ErrOtherConfig
	// ErrConflict: others changed the namespace's rules again and again
	// while we tried to commit. Nothing was changed; try again.
	ErrConflict = engine.ErrConflict
	// ErrClosed: the Dataplane was closed.
	ErrClosed = engine.ErrClosed
	// ErrMissed: the kernel reported more packets than the socket could hold, so
	// that Trace did not see everything.
	ErrMissed = engine.ErrMissed
)

// FieldError is one problem of a service or of the configuration. Validation and
// ParseServices return all problems at once, joined as by errors.Join. A list without
// the services that they name is valid: a program that must not let one bad service
// keep the others back leaves those out.
type FieldError struct {
	// Service is the service's name, or "services[2]" if it has none. It is
	// empty if the problem is one of the Config, or of the text as a whole.
	Service string `json:"service,omitempty"`
	// Field is the field as in JSON: "frontends[0].port". It is empty if the
	// problem is one of the service, or of the text, as a whole.
	Field  string `json:"field,omitempty"`
	Reason string `json:"reason"`
	// Line is the line in the text that ParseServices has read, from 1 on. It
	// is 0 for what does not come from a text.
	Line int `json:"line,omitempty"`
}

// Error names the line, the service and the field, as far as there are any, and
// the reason.
func (e *FieldError) Error() string {
	var words []string
	if e.Line > 0 {
		words = append(words, fmt.Sprintf("line %d", e.Line))
	}
	if e.Service != "" {
		words = append(words, fmt.Sprintf("service %q", e.Service))
	} else if e.Field != "" {
		words = append(words, "config")
	}
	if e.Field != "" {
		words = append(words, e.Field)
	}
	return strings.Join(append(words, e.Reason), ": ")
}

// ApplyError is a change that the kernel refused. The transaction that it belongs
// to was not applied.
type ApplyError struct {
	Service string // the service it was for; empty if it is not for a single service
	Change  string // the refused command, in nft's words
	Err     error  // a syscall.Errno
}

// Error names the refused command and the kernel's reason.
func (e *ApplyError) Error() string {
	if e.Service == "" {
		return fmt.Sprintf("kernel refused %q: %v", e.Change, e.Err)
	}
	return fmt.Sprintf("service %q: kernel refused %q: %v", e.Service, e.Change, e.Err)
}

// Unwrap returns Err.
func (e *ApplyError) Unwrap() error { return e.Err }
