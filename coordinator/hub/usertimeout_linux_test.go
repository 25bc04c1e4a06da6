package hub

import (
	"crypto/tls"
	"net"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestUserTimeout(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	ok(t, err)
	defer l.Close()
	c, err := net.Dial("tcp", l.Addr().String())
	ok(t, err)
	defer c.Close()
	setUserTimeout(tls.Client(c, &tls.Config{}), 7*time.Second)
	raw, err := c.(*net.TCPConn).SyscallConn()
	ok(t, err)
	var got int
	ok(t, raw.Control(func(fd uintptr) { got, err = unix.GetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT) }))
	if err != nil || got != 7000 {
		t.Errorf("the timeout is %d ms, %v", got, err)
	}
	a, b := net.Pipe() // what is no TCP is left alone
	setUserTimeout(a, time.Second)
	a.Close()
	b.Close()
}
