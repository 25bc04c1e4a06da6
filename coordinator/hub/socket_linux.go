package hub

import (
	"crypto/tls"
	"net"
	"time"

	"golang.org/x/sys/unix"
)

// unsentMax is how many bytes the kernel takes that it cannot send yet: what waits there waits before a keystroke of
// another stream.
const unsentMax = 32 << 10

// tuneSocket has the kernel give up a connection whose peer acknowledges nothing for d: a half-open link is noticed by
// the next write instead of after a quarter of an hour. And it keeps the kernel's queue short.
func tuneSocket(c net.Conn, d time.Duration) {
	if t, ok := c.(*tls.Conn); ok {
		c = t.NetConn()
	}
	t, ok := c.(*net.TCPConn)
	if !ok {
		return
	}
	raw, err := t.SyscallConn()
	if err != nil {
		return
	}
	_ = raw.Control(func(fd uintptr) { // best effort: the heartbeat's timeout is there as well
		_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_NOTSENT_LOWAT, unsentMax)
		_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(d.Milliseconds()))
	})
}
