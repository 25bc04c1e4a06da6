package link

import (
	"syscall"

	"golang.org/x/sys/unix"
)

// unsentMax is how many bytes the kernel takes that it cannot send yet: what waits there waits before a keystroke of
// another stream.
const unsentMax = 32 << 10

// tuneSocket makes the kernel give up a connection whose peer has vanished without a word, where the default is a
// quarter of an hour, and keeps its queue short.
func tuneSocket(_, _ string, c syscall.RawConn) error {
	return c.Control(func(fd uintptr) {
		// Not every kernel-like sandbox knows the options; the link works without them.
		_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(userTimeout.Milliseconds()))
		_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_NOTSENT_LOWAT, unsentMax)
	})
}
