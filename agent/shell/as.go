package shell

import (
	"fmt"
	"os"
	"runtime"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// As calls f with u's rights where this process is root and u is not, else plainly. Every system call that f makes
// itself is made as u, so that a link planted in u's home leads a privileged agent nowhere that u could not go. f
// must not hand work to other goroutines, and must not use what waits in Go's poller before it reaches the kernel.
func As(u *User, f func() error) error {
	cred, err := u.credential()
	if err != nil {
		return err
	}
	if cred == nil {
		return f()
	}
	done := make(chan error, 1)
	go func() {
		// The thread has other rights than its siblings from here on. It is never unlocked, so that it ends with
		// this goroutine.
		runtime.LockOSThread()
		if err := become(u); err != nil {
			done <- err
			return
		}
		done <- f()
	}()
	return <-done
}

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
