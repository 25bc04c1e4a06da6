package provider

import (
	"net"

	"golang.org/x/sys/unix"
)

// peerOf returns the process that connected, as the kernel says.
func peerOf(c net.Conn) (pid int, err error) {
	err = control(c, func(fd int) error {
		cred, err := unix.GetsockoptUcred(fd, unix.SOL_SOCKET, unix.SO_PEERCRED)
		if err == nil {
			pid = int(cred.Pid)
		}
		return err
	})
	return pid, err
}
