//go:build !linux

package terraform

import (
	"time"

	"golang.org/x/sys/unix"
)

// awaitExit returns when the child has ended, and leaves it to be waited for: until then its number, and its process
// group's, names it and no other.
func awaitExit(pid int) {
	const zombie = 5 // SZOMB
	for {
		k, err := unix.SysctlKinfoProc("kern.proc.pid", pid)
		if err != nil || int(k.Proc.P_pid) != pid || k.Proc.P_stat == zombie {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
}
