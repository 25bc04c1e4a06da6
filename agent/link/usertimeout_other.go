//go:build !linux

package link

import "syscall"

// setUserTimeout does nothing: this system has no such option, and the heartbeat finds a peer that has vanished.
func setUserTimeout(_, _ string, _ syscall.RawConn) error { return nil }
