package hub

import (
	"crypto/tls"
	"net"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestSocket(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	ok(t, err)
	defer l.Close()
	c, err := net.Dial("tcp", l.Addr().String())
	ok(t, err)
	defer c.Close()
	tuneSocket(tls.Client(c, &tls.Config{}), 7*time.Second)
	raw, err := c.(*net.TCPConn).SyscallConn()
	ok(t, err)
	var got int
	ok(t, raw.Control(func(fd uintptr) { got, err = unix.GetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT) }))
	if err != nil || got != 7000 {
		t.Errorf("the timeout is %d ms, %v", got, err)
	}
	ok(t, raw.Control(func(fd uintptr) { got, err = unix.GetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_NOTSENT_LOWAT) }))
	if err != nil || got != unsentMax {
		t.Errorf("the kernel takes %d bytes that it cannot send, %v", got, err)
	}
	a, b := net.Pipe() // what is no TCP is left alone
	tuneSocket(a, time.Second)
	a.Close()
	b.Close()
}
