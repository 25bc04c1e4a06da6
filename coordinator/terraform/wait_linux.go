package terraform

import (
	"errors"

	"golang.org/x/sys/unix"
)

// awaitExit returns when the child has ended, and leaves it to be waited for: until then its number, and its process
// group's, names it and no other.
func awaitExit(pid int) {
	for {
		err := unix.Waitid(unix.P_PID, pid, nil, unix.WEXITED|unix.WNOWAIT, nil)
		if !errors.Is(err, unix.EINTR) {
			return
		}
	}
}
