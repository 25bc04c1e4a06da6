package sftp

import "golang.org/x/sys/unix"

func renameNew(from, to string) error { return unix.RenamexNp(from, to, unix.RENAME_EXCL) }

func setTimes(h *handle, ts []unix.Timespec) error {
	tv := make([]unix.Timeval, len(ts))
	for i, t := range ts {
		tv[i] = unix.NsecToTimeval(t.Nano())
	}
	return unix.Futimes(int(h.file.Fd()), tv)
}

func statvfsOf(st *unix.Statfs_t) statvfs {
	v := statvfs{blockSize: uint64(st.Iosize), fragmentSize: uint64(st.Bsize), nameMax: unix.NAME_MAX}
	if st.Flags&unix.MNT_RDONLY != 0 {
		v.flags |= 1
	}
	if st.Flags&unix.MNT_NOSUID != 0 {
		v.flags |= 2
	}
	return v
}
