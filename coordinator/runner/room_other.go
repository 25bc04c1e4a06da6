//go:build !linux

package runner

import "os"

// allocate would give a file this much of the disk; here nothing is held back, and builds end a little later than on
// Linux where the disk is full.
func allocate(*os.File, int64, bool) error { return nil }
