package provider

import (
	"net"

	"golang.org/x/sys/unix"
)

// peerOf returns the process that connected, as the kernel says.
func peerOf(c net.Conn) (pid int, err error) {
	err = control(c, func(fd int) error {
		var err error
		pid, err = unix.GetsockoptInt(fd, unix.SOL_LOCAL, unix.LOCAL_PEERPID)
		return err
	})
	return pid, err
}
