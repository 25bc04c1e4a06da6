//go:build !linux

package hub

import (
	"net"
	"time"
)

// tuneSocket does nothing where the kernel has no such options; the heartbeat's timeout is there as well.
func tuneSocket(net.Conn, time.Duration) {}
