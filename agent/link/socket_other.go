//go:build !linux

package link

import "syscall"

// tuneSocket does nothing: this system has no such options, and the heartbeat finds a peer that has vanished.
func tuneSocket(_, _ string, _ syscall.RawConn) error { return nil }
