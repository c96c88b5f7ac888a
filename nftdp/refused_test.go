//go:build linux

package nftdp

import (
	"errors"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/nftdp/go-nftdp/internal/ruleset"
)

// TestRefused: the error that a caller gets for a change that the kernel
// refused.
func TestRefused(t *testing.T) {
	n := newNode(t)
	d, spy := n.spied(t, Config{})
	web := []Service{{Name: "web", Frontends: fronts("10.96.0.1:80")}}
	chain := &ruleset.Chain{Name: "c"}
	add := func(c ruleset.Change) *ruleset.Change {
		c.Verb, c.Family, c.Table = ruleset.Add, ruleset.IPv4, "t"
		return &c
	}
	key := ruleset.Tuple{}.Addr(addr("10.96.0.1")).Proto(6).Port(80)
	elements := func(set string, key ruleset.Tuple) *ruleset.Change {
		s := mustCompile(t, Config{}, nil).rules.Tables[0].Set(set)
		return add(ruleset.Change{Set: s, Elements: []ruleset.Element{{Key: key}}})
	}
	for _, c := range []struct {
		name      string
		err       ruleset.RefusedError
		service   string
		supported bool
	}{
		{"an element of a service", ruleset.RefusedError{Change: elements("masq", key), Errno: unix.ENFILE}, "web", true},
		{"an unknown element", ruleset.RefusedError{Change: elements("masq", key), Element: -1, Errno: unix.ENFILE}, "", true},
		{"an element that services share", ruleset.RefusedError{Change: elements("hairpin", key), Errno: unix.ENFILE}, "", true},
		{"an element of the skeleton", ruleset.RefusedError{Change: elements("protocols", key.Prefix(4)), Errno: unix.ENFILE}, "", true},
		{"the batch", ruleset.RefusedError{Element: -1, Errno: unix.ENOMEM}, "", true},
		{
			"a rule that the kernel has no expression for",
			ruleset.RefusedError{Change: add(ruleset.Change{Chain: chain, Rule: ruleset.Rule{ruleset.Masquerade{}}}), Element: -1, Errno: unix.ENOENT},
			"", false,
		},
		{
			"a chain of a type that the kernel has not",
			ruleset.RefusedError{Change: add(ruleset.Change{Chain: chain}), Element: -1, Errno: unix.EOPNOTSUPP},
			"", false,
		},
		{
			"flags that Linux 5.12 to 6.8 do not know",
			ruleset.RefusedError{Change: add(ruleset.Change{Flags: ruleset.Protected}), Element: -1, Errno: unix.EOPNOTSUPP},
			"", false,
		},
		{
			"flags that Linux 5.10 does not know",
			ruleset.RefusedError{Change: add(ruleset.Change{Flags: ruleset.Protected}), Element: -1, Errno: unix.EINVAL},
			"", false,
		},
		{
			"a table without flags",
			ruleset.RefusedError{Change: add(ruleset.Change{}), Element: -1, Errno: unix.EINVAL},
			"", true,
		},
		{
			"a chain that is not there",
			ruleset.RefusedError{Change: &ruleset.Change{Verb: ruleset.Delete, Chain: chain}, Element: -1, Errno: unix.ENOENT},
			"", true,
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			spy.fails = &c.err
			_, err := d.Apply(t.Context(), web)
			var got *ApplyError
			if !errors.As(err, &got) || got.Service != c.service || got.Change != c.err.Command() {
				t.Errorf("%#v, want service %q", err, c.service)
			}
			if !errors.Is(err, c.err.Errno) || errors.Is(err, ErrNotSupported) == c.supported {
				t.Errorf("%v: not supported should be %t", err, !c.supported)
			}
		})
	}
	spy.fails = syscall.EBADF
	if _, err := d.Apply(t.Context(), web); !errors.Is(err, syscall.EBADF) {
		t.Errorf("another error becomes %v", err)
	}
}
