//go:build unix

package sshconfig

import (
	"io/fs"
	"os"
	"syscall"
)

// keepOwner gives f the owner that the file had, where that is allowed: root may edit another user's file.
func keepOwner(f *os.File, was fs.FileInfo) {
	if st, ok := was.Sys().(*syscall.Stat_t); ok && os.Geteuid() == 0 {
		_ = f.Chown(int(st.Uid), int(st.Gid)) // the file is right otherwise
	}
}
