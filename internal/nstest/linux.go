//go:build linux

package nstest

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// LinuxBefore reports whether the kernel is older than a version of Linux. A
// test then expects the error that names what is missing. The library itself
// probes for features, not for versions.
func LinuxBefore(major, minor int) bool {
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		return false
	}
	var runs [2]int
	_, _ = fmt.Sscanf(unix.ByteSliceToString(name.Release[:]), "%d.%d", &runs[0], &runs[1])
	return runs[0] < major || runs[0] == major && runs[1] < minor
}
