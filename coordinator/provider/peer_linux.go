package provider

import (
	"net"

	"golang.org/x/sys/unix"
)

// peerOf returns who connected.
func peerOf(c net.Conn) (p peer, err error) {
	err = control(c, func(fd int) error {
		cred, err := unix.GetsockoptUcred(fd, unix.SOL_SOCKET, unix.SO_PEERCRED)
		if err == nil {
			p = peer{pid: int(cred.Pid), uid: int(cred.Uid)}
		}
		return err
	})
	return p, err
}
