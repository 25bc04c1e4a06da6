package daemon

import (
	"syscall"

	"golang.org/x/sys/unix"
)

// userTimeout sets on a listener, from which accepted connections inherit it, how long sent data may stay
// unacknowledged: a peer whose packets are dropped would else hold its connection for a quarter of an hour.
func userTimeout(_, _ string, c syscall.RawConn) error {
	var err error
	ctlErr := c.Control(func(fd uintptr) {
		err = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(peerTimeout.Milliseconds()))
	})
	if ctlErr != nil {
		return ctlErr
	}
	return err
}
