//go:build !linux

package daemon

import "syscall"

// userTimeout does nothing where the kernel has no such option; keep-alives find a dead peer there.
func userTimeout(_, _ string, _ syscall.RawConn) error { return nil }
