//go:build !linux

package hub

import (
	"net"
	"time"
)

// setUserTimeout does nothing where the kernel has no such option; the heartbeat's timeout is there as well.
func setUserTimeout(net.Conn, time.Duration) {}
