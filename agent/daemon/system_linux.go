package daemon

import (
	"syscall"

	"golang.org/x/sys/unix"
)

// undumpable keeps the user's other processes and core dumps from the keys and tokens that this process holds.
func undumpable() { _ = unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0) }

// self returns the path by which this very program is started again, also after it was replaced on the disk.
func self(string) string { return "/proc/self/exe" }

// withParent has a child told to end when this process does.
func withParent() *syscall.SysProcAttr { return &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM} }
