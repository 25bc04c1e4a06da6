package shell

import (
	"errors"

	"golang.org/x/sys/unix"
)

// waitExit returns once the child has exited, without reaping it.
func waitExit(pid int) {
	for {
		err := unix.Waitid(unix.P_PID, pid, nil, unix.WEXITED|unix.WNOWAIT, nil)
		if !errors.Is(err, unix.EINTR) {
			return
		}
	}
}
