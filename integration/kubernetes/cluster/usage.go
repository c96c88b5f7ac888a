//go:build linux

package cluster

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// Usage is what a process has used.
type Usage struct {
	CPU    time.Duration // since its start, with children that have ended: kube-proxy calls nft
	Memory int64         // resident bytes
}

// userHz is the unit of times in /proc: it is 100 on all architectures that Go knows.
const userHz = 100

// Usage reads what the process has used.
func (p *Process) Usage() (Usage, error) {
	dir := filepath.Join("/proc", strconv.Itoa(p.PID()))
	stat, err := os.ReadFile(filepath.Join(dir, "stat"))
	statm, err2 := os.ReadFile(filepath.Join(dir, "statm"))
	if err := errors.Join(err, err2); err != nil {
		return Usage{}, err
	}
	// The name, in parentheses, may have blanks; utime, stime, cutime and
	// cstime are the fields 14 to 17.
	_, rest, _ := strings.Cut(string(stat), ") ")
	fields, pages := strings.Fields(rest), strings.Fields(string(statm))
	if len(fields) < 15 || len(pages) < 2 {
		return Usage{}, fmt.Errorf("process %d: unknown format of /proc", p.PID())
	}
	var ticks time.Duration
	for _, field := range fields[11:15] {
		n, err := strconv.Atoi(field)
		if err != nil {
			return Usage{}, fmt.Errorf("process %d: %w", p.PID(), err)
		}
		ticks += time.Duration(n)
	}
	resident, err := strconv.ParseInt(pages[1], 10, 64)
	return Usage{CPU: ticks * (time.Second / userHz), Memory: resident * int64(os.Getpagesize())}, err
}
