package shell

import (
	"fmt"
	"os"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// become gives the calling thread, and it alone, u's effective ids and groups. The system calls are raw, for Go's
// own wrappers change all threads.
func become(u *User) error {
	groups := u.Groups
	if len(groups) == 0 {
		groups = []uint32{u.GID}
	}
	const keep = ^uintptr(0)
	fail := func(call string, errno syscall.Errno) error {
		return fmt.Errorf("become user %s: %w", u.Name, os.NewSyscallError(call, errno))
	}
	_, _, errno := unix.RawSyscall(unix.SYS_SETGROUPS, uintptr(len(groups)), uintptr(unsafe.Pointer(&groups[0])), 0)
	if errno != 0 {
		return fail("setgroups", errno)
	}
	if _, _, errno := unix.RawSyscall(unix.SYS_SETRESGID, keep, uintptr(u.GID), keep); errno != 0 {
		return fail("setresgid", errno)
	}
	if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, keep, uintptr(u.UID), keep); errno != 0 {
		return fail("setresuid", errno)
	}
	return nil
}
