//go:build linux

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/nftdp/go-nftdp/nftdp"
)

// The rules themselves say what is published. Files in StateDir say it once more, for
// the agent, which has to know what a firewall has flushed. There is one for each
// attachment. The directory belongs on a file system that a restart of the node
// empties, like /run: the rules do not survive it either.

// locked runs a change of the rules and of the files. Plugins do not wait for each
// other, but for the agent, which makes the rules what the files say, and it for them.
// Tables of an older version are replaced first.
func (c *config) locked(ctx context.Context, change func(*nftdp.Dataplane) error) error {
	d, err := c.Dataplane.Open(ctx)
	if err != nil {
		return err
	}
	err = c.with(syscall.LOCK_SH, func() error { return change(d) })
	if errors.Is(err, nftdp.ErrOutdated) {
		if err = c.restore(ctx, d, nil); err == nil {
			err = c.with(syscall.LOCK_SH, func() error { return change(d) })
		}
	}
	return errors.Join(err, d.Close())
}

// with runs a function while the directory of the files is locked.
func (c *config) with(how int, do func() error) error {
	if err := os.MkdirAll(c.StateDir, 0o700); err != nil {
		return err
	}
	dir, err := os.Open(c.StateDir)
	if err != nil {
		return err
	}
	defer dir.Close() // It unlocks, too.
	for {
		err = syscall.Flock(int(dir.Fd()), how)
		if !errors.Is(err, syscall.EINTR) {
			break
		}
	}
	if err != nil {
		return fmt.Errorf("lock %s: %w", c.StateDir, err)
	}
	return do()
}

const suffix = ".json"

// file returns the name of an attachment's file. A prefix has a slash at its end, and
// an interface's name has no colon.
func (c *config) file(prefix string) string {
	return filepath.Join(c.StateDir, strings.ReplaceAll(strings.TrimSuffix(prefix, "/"), "/", ":")+suffix)
}

// remember writes what is published for an attachment.
func (c *config) remember(a attachment, services []nftdp.Service) error {
	text, err := json.Marshal(services)
	if err != nil {
		return err
	}
	file := c.file(a.prefix())
	if err := os.WriteFile(file+".new", text, 0o600); err != nil {
		return err
	}
	return os.Rename(file+".new", file)
}

// forget deletes the files of some attachments.
func (c *config) forget(which func(prefix string) bool) error {
	return c.files(func(prefix, file string) error {
		if !which(prefix) {
			return nil
		}
		if err := os.Remove(file); !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return nil // Another run has deleted it.
	})
}

// remembered returns everything that is published.
func (c *config) remembered() (all []nftdp.Service, err error) {
	err = c.files(func(_, file string) error {
		text, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		services, err := nftdp.ParseServices(text)
		if err != nil {
			return fmt.Errorf("%s: %w", file, err)
		}
		all = append(all, services...)
		return nil
	})
	return all, err
}

// files calls each with every file and the prefix of its attachment.
func (c *config) files(each func(prefix, file string) error) error {
	list, err := os.ReadDir(c.StateDir)
	if err != nil {
		return err
	}
	for _, f := range list {
		name, ok := strings.CutSuffix(f.Name(), suffix)
		if !ok {
			continue
		}
		prefix := strings.ReplaceAll(name, ":", "/") + "/"
		if err := each(prefix, filepath.Join(c.StateDir, f.Name())); err != nil {
			return err
		}
	}
	return nil
}
