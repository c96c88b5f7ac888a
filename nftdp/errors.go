package nftdp

import (
	"errors"
	"fmt"
)

// What callers branch on, with errors.Is. Lack of CAP_NET_ADMIN matches
// fs.ErrPermission; every kernel error matches its syscall.Errno.
var (
	// ErrNotSupported: the kernel lacks what is needed; the text names it.
	ErrNotSupported = errors.New("not supported by this kernel")
	// ErrNotOwned: a table of that name exists, but not one that this
	// version of the package, or an older one, made. It was left as it is.
	ErrNotOwned = errors.New("table belongs to somebody else")
	// ErrProtected: another Dataplane owns the tables (see Config.Protect).
	// They can be read, but nothing was changed. It comes with EPERM, as the
	// kernel would say, and so matches fs.ErrPermission, too.
	ErrProtected = errors.New("table is protected by another Dataplane")
	// ErrOutdated: the tables were made by an older version of this package,
	// whose layout this one does not read. Apply replaces them.
	ErrOutdated = errors.New("table was made by an older version")
	// ErrConflict: others changed the namespace's rules again and again
	// while we tried to commit. Nothing was changed; try again.
	ErrConflict = errors.New("rules kept changing")
	// ErrClosed: the Dataplane was closed.
	ErrClosed = errors.New("dataplane is closed")
)

// FieldError is one problem of a service or of the configuration. Validation
// returns all problems at once, joined as by errors.Join.
type FieldError struct {
	Service string // its name, or "services[2]" if it has none; empty: the Config
	Field   string // as in JSON: "frontends[0].port"
	Reason  string
}

// Error names service, field and reason.
func (e *FieldError) Error() string {
	if e.Service == "" {
		return fmt.Sprintf("config: %s: %s", e.Field, e.Reason)
	}
	return fmt.Sprintf("service %q: %s: %s", e.Service, e.Field, e.Reason)
}

// ApplyError is a change that the kernel refused. As a batch is atomic,
// nothing of it was applied.
type ApplyError struct {
	Service string // the service it was for; empty: part of the fixed ruleset
	Change  string // the refused command in nft words
	Err     error  // a syscall.Errno
}

// Error names the refused command and the kernel's reason.
func (e *ApplyError) Error() string {
	if e.Service == "" {
		return fmt.Sprintf("kernel refused %q: %v", e.Change, e.Err)
	}
	return fmt.Sprintf("service %q: kernel refused %q: %v", e.Service, e.Change, e.Err)
}

// Unwrap gives the errno.
func (e *ApplyError) Unwrap() error { return e.Err }
