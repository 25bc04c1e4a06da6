package shell

import "runtime"

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
