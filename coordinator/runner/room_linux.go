package runner

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// allocate gives a file this much of the disk, with ahead beyond its end. Where the file system cannot, nothing is
// allocated.
func allocate(f *os.File, size int64, ahead bool) error {
	mode := uint32(0)
	if ahead {
		mode = unix.FALLOC_FL_KEEP_SIZE
	}
	for {
		err := unix.Fallocate(int(f.Fd()), mode, 0, size)
		switch {
		case errors.Is(err, unix.EINTR):
		case errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.ENOSYS):
			return nil
		default:
			return err
		}
	}
}
