package sftp

import (
	"errors"
	"io"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// How a file is to be opened.
const (
	openRead   = 1
	openWrite  = 2
	openAppend = 4
	openCreate = 8
	openTrunc  = 16
	openExcl   = 32
)

func (s *server) open(id uint32, p *packet) error {
	path, how, a := p.path(), p.uint32(), p.attrs()
	if p.bad {
		return errBadMessage
	}
	flags := unix.O_RDONLY
	switch how & (openRead | openWrite) {
	case openRead | openWrite:
		flags = unix.O_RDWR
	case openWrite:
		flags = unix.O_WRONLY
	}
	for bit, flag := range map[uint32]int{openAppend: unix.O_APPEND, openCreate: unix.O_CREAT, openTrunc: unix.O_TRUNC, openExcl: unix.O_EXCL} {
		if how&bit != 0 {
			flags |= flag
		}
	}
	// The umask applies, as to what a shell makes.
	fd, err := retry(func() (int, error) { return unix.Open(path, flags|unix.O_CLOEXEC|unix.O_NOCTTY, a.perm(0o666)) })
	if err != nil {
		return err
	}
	return s.putHandle(id, &handle{file: os.NewFile(uintptr(fd), path), path: path, append: how&openAppend != 0})
}

// retry calls f again where a signal interrupted it.
func retry[T any](f func() (T, error)) (T, error) {
	for {
		if v, err := f(); !errors.Is(err, unix.EINTR) {
			return v, err
		}
	}
}

func (s *server) read(id uint32, p *packet) error {
	h, err := s.fileOf(p)
	if err != nil {
		return err
	}
	offset, length := p.uint64(), p.uint32()
	if p.bad {
		return errBadMessage
	}
	if offset > math.MaxInt64 {
		return unix.EINVAL
	}
	length = min(length, maxData)
	s.begin(typeData, id)
	s.putUint32(0)
	at := len(s.answers)
	s.answers = slices.Grow(s.answers, int(length))[:at+int(length)]
	n, err := readAt(h.file, s.answers[at:], int64(offset))
	if n == 0 && err == nil && length > 0 {
		err = io.EOF
	}
	if err != nil && n == 0 {
		return err
	}
	s.answers = s.answers[:at+n]
	s.answers[at-4], s.answers[at-3], s.answers[at-2], s.answers[at-1] = byte(n>>24), byte(n>>16), byte(n>>8), byte(n)
	s.end()
	return nil
}

// readAt reads once. What cannot be positioned, such as a FIFO, is read on.
func readAt(f *os.File, b []byte, offset int64) (int, error) {
	fd := int(f.Fd())
	n, err := retry(func() (int, error) { return unix.Pread(fd, b, offset) })
	if errors.Is(err, unix.ESPIPE) {
		n, err = retry(func() (int, error) { return unix.Read(fd, b) })
	}
	return max(0, n), err
}

func (s *server) write(p *packet) error {
	h, err := s.fileOf(p)
	if err != nil {
		return err
	}
	offset, data := p.uint64(), p.bytes()
	if p.bad {
		return errBadMessage
	}
	if offset > math.MaxInt64 {
		return unix.EINVAL
	}
	return writeAt(h, data, int64(offset))
}

// writeAt writes all of b; to a file that is open for appending, at its end.
func writeAt(h *handle, b []byte, offset int64) error {
	fd, plain := int(h.file.Fd()), h.append
	for len(b) > 0 {
		n, err := retry(func() (int, error) {
			if plain {
				return unix.Write(fd, b)
			}
			return unix.Pwrite(fd, b, offset)
		})
		switch {
		case errors.Is(err, unix.ESPIPE) && !plain:
			plain = true
			continue
		case err != nil:
			return err
		case n <= 0:
			return io.ErrShortWrite
		}
		b, offset = b[n:], offset+int64(n)
	}
	return nil
}

// --- attributes -----------------------------------------------------------------------------------------------------

func (s *server) stat(id uint32, p *packet) error  { return s.statPath(id, p, unix.Stat) }
func (s *server) lstat(id uint32, p *packet) error { return s.statPath(id, p, unix.Lstat) }

func (s *server) statPath(id uint32, p *packet, stat func(string, *unix.Stat_t) error) error {
	path := p.path()
	if p.bad {
		return errBadMessage
	}
	var st unix.Stat_t
	if err := stat(path, &st); err != nil {
		return err
	}
	s.putStat(id, &st)
	return nil
}

func (s *server) fstat(id uint32, p *packet) error {
	_, h, err := s.handleOf(p)
	if err != nil {
		return err
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(h.file.Fd()), &st); err != nil {
		return err
	}
	s.putStat(id, &st)
	return nil
}

func (s *server) putStat(id uint32, st *unix.Stat_t) {
	s.begin(typeAttrs, id)
	s.putAttrs(attrsOf(st))
	s.end()
}

// attrsOf is what the protocol can say of a file; its times end in 2106.
func attrsOf(st *unix.Stat_t) attrs {
	clip := func(sec int64) uint32 { return uint32(max(0, min(sec, math.MaxUint32))) }
	return attrs{
		size: uint64(max(0, st.Size)), uid: st.Uid, gid: st.Gid, mode: uint32(st.Mode),
		atime: clip(int64(st.Atim.Sec)), mtime: clip(int64(st.Mtim.Sec)),
	}
}

func times(a attrs) []unix.Timespec {
	return []unix.Timespec{unix.NsecToTimespec(int64(a.atime) * 1e9), unix.NsecToTimespec(int64(a.mtime) * 1e9)}
}

// A setter sets one kind of attribute each.
type setter struct {
	size         func(int64) error
	mode         func(uint32) error
	times        func([]unix.Timespec) error
	owner        func(uid, gid int) error
	withoutSizes bool
}

// set sets what a holds, and returns the last error, as sftp-server does: the others are tried all the same.
func (t setter) set(a attrs) error {
	var last error
	try := func(flag uint32, f func() error) {
		if a.flags&flag == 0 {
			return
		}
		if err := f(); err != nil {
			last = err
		}
	}
	if a.size > math.MaxInt64 || t.withoutSizes && a.flags&attrSize != 0 {
		return unix.EINVAL
	}
	try(attrSize, func() error { return t.size(int64(a.size)) })
	try(attrMode, func() error { return t.mode(a.mode & 0o7777) })
	try(attrTimes, func() error { return t.times(times(a)) })
	try(attrOwner, func() error { return t.owner(int(int32(a.uid)), int(int32(a.gid))) })
	return last
}

func (s *server) setstat(p *packet) error {
	path, a := p.path(), p.attrs()
	if p.bad {
		return errBadMessage
	}
	return setter{
		size:  func(n int64) error { return unix.Truncate(path, n) },
		mode:  func(m uint32) error { return unix.Chmod(path, m) },
		times: func(ts []unix.Timespec) error { return unix.UtimesNanoAt(unix.AT_FDCWD, path, ts, 0) },
		owner: func(uid, gid int) error { return unix.Chown(path, uid, gid) },
	}.set(a)
}

func (s *server) fsetstat(p *packet) error {
	_, h, err := s.handleOf(p)
	if err != nil {
		return err
	}
	a := p.attrs()
	if p.bad {
		return errBadMessage
	}
	fd := int(h.file.Fd())
	return setter{
		size:  func(n int64) error { return unix.Ftruncate(fd, n) },
		mode:  func(m uint32) error { return unix.Fchmod(fd, m) },
		times: func(ts []unix.Timespec) error { return setTimes(h, ts) },
		owner: func(uid, gid int) error { return unix.Fchown(fd, uid, gid) },
	}.set(a)
}

// --- directories and names ------------------------------------------------------------------------------------------

const listedAtOnce = 100 // names in one answer, as sftp-server

func (s *server) opendir(id uint32, p *packet) error {
	path := p.path()
	if p.bad {
		return errBadMessage
	}
	fd, err := retry(func() (int, error) {
		return unix.Open(path, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	})
	if err != nil {
		return err
	}
	return s.putHandle(id, &handle{file: os.NewFile(uintptr(fd), path), path: path, dir: true})
}

func (s *server) readdir(id uint32, p *packet) error {
	_, h, err := s.handleOf(p)
	if err != nil {
		return err
	}
	if !h.dir {
		return errHandle
	}
	names, err := h.file.Readdirnames(listedAtOnce)
	if err != nil && len(names) == 0 && (h.listed || !errors.Is(err, io.EOF)) {
		return err
	}
	if !h.listed { // Go leaves these two out
		h.listed = true
		names = append([]string{".", ".."}, names...)
	}
	s.begin(typeName, id)
	at := len(s.answers)
	s.putUint32(0)
	count := 0
	for _, name := range names {
		var st unix.Stat_t
		if err := unix.Fstatat(int(h.file.Fd()), name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			continue // it has gone in between
		}
		s.putString(name)
		s.putString(s.names.long(name, &st))
		s.putAttrs(attrsOf(&st))
		count++
	}
	s.answers[at+3] = byte(count) // at most listedAtOnce+2
	s.end()
	return nil
}

func (s *server) remove(p *packet) error {
	path := p.path()
	if p.bad {
		return errBadMessage
	}
	return unix.Unlink(path)
}

func (s *server) mkdir(p *packet) error {
	path, a := p.path(), p.attrs()
	if p.bad {
		return errBadMessage
	}
	return unix.Mkdir(path, a.perm(0o777))
}

func (s *server) rmdir(p *packet) error {
	path := p.path()
	if p.bad {
		return errBadMessage
	}
	return unix.Rmdir(path)
}

// rename does not replace what is there: version 3 leaves that to the extension.
func (s *server) rename(p *packet) error {
	from, to := p.path(), p.path()
	if p.bad {
		return errBadMessage
	}
	err := renameNew(from, to)
	if !errors.Is(err, unix.ENOSYS) && !errors.Is(err, unix.EINVAL) {
		return err
	}
	var st unix.Stat_t
	if err := unix.Lstat(to, &st); err == nil {
		return unix.EEXIST
	}
	return unix.Rename(from, to)
}

func (s *server) symlink(p *packet) error {
	target, link := p.string(), p.path() // the order of OpenSSH, which is not the draft's
	if p.bad || strings.ContainsRune(target, 0) {
		return errBadMessage
	}
	return unix.Symlink(target, link)
}

func (s *server) readlink(id uint32, p *packet) error {
	path := p.path()
	if p.bad {
		return errBadMessage
	}
	b := make([]byte, unix.PathMax)
	n, err := unix.Readlink(path, b)
	if err != nil {
		return err
	}
	s.putName(id, string(b[:n]))
	return nil
}

func (s *server) realpath(id uint32, p *packet) error {
	path := p.path()
	if p.bad {
		return errBadMessage
	}
	return s.putReal(id, path)
}

func (s *server) putReal(id uint32, path string) error {
	path, err := realPath(path, 8)
	if err != nil {
		return err
	}
	s.putName(id, path)
	return nil
}

// realPath resolves links. What the last part names need not be there.
func realPath(path string, links int) (string, error) {
	if !filepath.IsAbs(path) {
		wd, err := os.Getwd()
		if err != nil {
			return "", err
		}
		path = wd + "/" + path
	}
	real, err := filepath.EvalSymlinks(path)
	if err == nil || !errors.Is(err, unix.ENOENT) {
		return real, err
	}
	dir, last := filepath.Split(strings.TrimRight(path, "/"))
	if dir, err = filepath.EvalSymlinks(dir); err != nil {
		return "", err
	}
	path = filepath.Join(dir, last)
	if target, err := os.Readlink(path); err == nil && links > 0 { // a link to what is not there
		if !filepath.IsAbs(target) {
			target = dir + "/" + target
		}
		return realPath(target, links-1)
	}
	return path, nil
}
