package sftp

import (
	"strconv"

	"golang.org/x/sys/unix"
)

// renameNew renames and does not replace. It fails with ENOSYS or EINVAL where the system cannot.
func renameNew(from, to string) error {
	return unix.Renameat2(unix.AT_FDCWD, from, unix.AT_FDCWD, to, unix.RENAME_NOREPLACE)
}

// setTimes goes by the descriptor, whatever its path names by now.
func setTimes(h *handle, ts []unix.Timespec) error {
	return unix.UtimesNanoAt(unix.AT_FDCWD, "/proc/self/fd/"+strconv.Itoa(int(h.file.Fd())), ts, 0)
}

func statvfsOf(st *unix.Statfs_t) statvfs {
	v := statvfs{
		blockSize: uint64(st.Bsize), fragmentSize: uint64(st.Frsize), nameMax: uint64(st.Namelen),
		id: uint64(uint32(st.Fsid.Val[0])) | uint64(uint32(st.Fsid.Val[1]))<<32,
	}
	if v.fragmentSize == 0 {
		v.fragmentSize = v.blockSize
	}
	if st.Flags&unix.ST_RDONLY != 0 {
		v.flags |= 1
	}
	if st.Flags&unix.ST_NOSUID != 0 {
		v.flags |= 2
	}
	return v
}
