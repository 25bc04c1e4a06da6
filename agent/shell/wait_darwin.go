package shell

import (
	"errors"

	"golang.org/x/sys/unix"
)

// waitExit returns once the child has exited, without reaping it.
func waitExit(pid int) {
	kq, err := unix.Kqueue()
	if err != nil {
		return
	}
	defer unix.Close(kq) // it holds nothing
	change := []unix.Kevent_t{{}}
	unix.SetKevent(&change[0], pid, unix.EVFILT_PROC, unix.EV_ADD|unix.EV_ONESHOT)
	change[0].Fflags = unix.NOTE_EXIT
	events := make([]unix.Kevent_t, 1)
	for {
		_, err := unix.Kevent(kq, change, events, nil) // fails with ESRCH for a process that has exited
		if !errors.Is(err, unix.EINTR) {
			return
		}
	}
}
