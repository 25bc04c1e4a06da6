package daemon

import "syscall"

// undumpable does nothing: the system keeps other processes of the same user out.
func undumpable() {}

// self returns the path by which this program, whose path is exe, is started again.
func self(exe string) string { return exe }

// withParent asks for nothing: a child is not told here that its parent has ended.
func withParent() *syscall.SysProcAttr { return nil }
