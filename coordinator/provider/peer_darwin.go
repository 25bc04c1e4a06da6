package provider

import (
	"net"

	"golang.org/x/sys/unix"
)

// peerOf returns who connected.
func peerOf(c net.Conn) (p peer, err error) {
	err = control(c, func(fd int) error {
		cred, err := unix.GetsockoptXucred(fd, unix.SOL_LOCAL, unix.LOCAL_PEERCRED)
		if err != nil {
			return err
		}
		pid, err := unix.GetsockoptInt(fd, unix.SOL_LOCAL, unix.LOCAL_PEERPID)
		p = peer{pid: pid, uid: int(cred.Uid)}
		return err
	})
	return p, err
}
