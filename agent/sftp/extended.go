package sftp

import (
	"errors"
	"io"
	"math"
	"os"
	"os/user"
	"strings"

	"golang.org/x/sys/unix"
)

// An extension is an extended request (OpenSSH's PROTOCOL, section 4). One of command and query is set.
type extension struct {
	name, version string
	command       command
	query         query
}

// extensions are those that are served, in the order of OpenSSH's sftp-server. What is here is told to the client.
var extensions = []extension{
	{"posix-rename@openssh.com", "1", (*server).posixRename, nil},
	{"statvfs@openssh.com", "2", nil, (*server).statvfs},
	{"fstatvfs@openssh.com", "2", nil, (*server).fstatvfs},
	{"hardlink@openssh.com", "1", (*server).hardlink, nil},
	{"fsync@openssh.com", "1", (*server).fsync, nil},
	{"lsetstat@openssh.com", "1", (*server).lsetstat, nil},
	{"limits@openssh.com", "1", nil, (*server).limits},
	{"expand-path@openssh.com", "1", nil, (*server).expandPath},
	{"copy-data", "1", (*server).copyData, nil},
	{"home-directory", "1", nil, (*server).homeDirectory},
	{"users-groups-by-id@openssh.com", "1", nil, (*server).usersGroups},
}

// advertised is extensions; their functions refer to the server, which refers to it.
var advertised []extension

func init() { advertised = extensions }

func (s *server) extended(id uint32, p *packet) {
	name := p.string()
	for _, e := range extensions {
		switch {
		case e.name != name:
		case e.query != nil:
			s.query(id, p, e.query)
			return
		default:
			s.status(id, e.command(s, p))
			return
		}
	}
	s.status(id, errUnsupported)
}

func (s *server) posixRename(p *packet) error {
	from, to := p.path(), p.path()
	if p.bad {
		return errBadMessage
	}
	return unix.Rename(from, to)
}

func (s *server) hardlink(p *packet) error {
	from, to := p.path(), p.path()
	if p.bad {
		return errBadMessage
	}
	return unix.Link(from, to)
}

func (s *server) fsync(p *packet) error {
	h, err := s.fileOf(p)
	if err != nil {
		return err
	}
	return unix.Fsync(int(h.file.Fd()))
}

// lsetstat is setstat that does not follow a link. A link has no size, and on most systems no mode.
func (s *server) lsetstat(p *packet) error {
	path, a := p.path(), p.attrs()
	if p.bad {
		return errBadMessage
	}
	return setter{
		withoutSizes: true,
		mode: func(m uint32) error {
			var st unix.Stat_t
			if err := unix.Lstat(path, &st); err != nil {
				return err
			}
			if st.Mode&unix.S_IFMT == unix.S_IFLNK {
				return unix.EOPNOTSUPP
			}
			return unix.Chmod(path, m)
		},
		times: func(ts []unix.Timespec) error {
			return unix.UtimesNanoAt(unix.AT_FDCWD, path, ts, unix.AT_SYMLINK_NOFOLLOW)
		},
		owner: func(uid, gid int) error { return unix.Lchown(path, uid, gid) },
	}.set(a)
}

func (s *server) limits(id uint32, p *packet) error {
	s.begin(typeExtendedReply, id)
	s.putUint64(maxPacket)
	s.putUint64(maxData)
	s.putUint64(maxData)
	s.putUint64(uint64(handleLimit()))
	s.end()
	return nil
}

func (s *server) statvfs(id uint32, p *packet) error {
	path := p.path()
	if p.bad {
		return errBadMessage
	}
	var st unix.Statfs_t
	if err := unix.Statfs(path, &st); err != nil {
		return err
	}
	s.putStatvfs(id, &st)
	return nil
}

func (s *server) fstatvfs(id uint32, p *packet) error {
	_, h, err := s.handleOf(p)
	if err != nil {
		return err
	}
	var st unix.Statfs_t
	if err := unix.Fstatfs(int(h.file.Fd()), &st); err != nil {
		return err
	}
	s.putStatvfs(id, &st)
	return nil
}

func (s *server) putStatvfs(id uint32, st *unix.Statfs_t) {
	v := statvfsOf(st)
	s.begin(typeExtendedReply, id)
	for _, n := range []uint64{
		v.blockSize, v.fragmentSize, st.Blocks, st.Bfree, st.Bavail, st.Files, st.Ffree, st.Ffree, v.id, v.flags, v.nameMax,
	} {
		s.putUint64(n)
	}
	s.end()
}

// A statvfs is what systems name differently. Flags: 1 read-only, 2 no set-user-id.
type statvfs struct {
	blockSize, fragmentSize, id, flags, nameMax uint64
}

// expandPath is realpath that knows ~ and ~user.
func (s *server) expandPath(id uint32, p *packet) error {
	path := p.path()
	if p.bad {
		return errBadMessage
	}
	if rest, ok := strings.CutPrefix(path, "~"); ok {
		name, below, _ := strings.Cut(rest, "/")
		home, err := homeOf(name)
		if err != nil {
			return err
		}
		path = home + "/" + below
	}
	return s.putReal(id, path)
}

func (s *server) homeDirectory(id uint32, p *packet) error {
	name := p.string()
	if p.bad {
		return errBadMessage
	}
	home, err := homeOf(name)
	if err != nil {
		return err
	}
	return s.putReal(id, home)
}

// homeOf returns a user's home; that of no name is the home of whom this process runs for.
func homeOf(name string) (string, error) {
	if home := os.Getenv("HOME"); home != "" && (name == "" || name == os.Getenv("USER")) {
		return home, nil
	}
	lookUp := func() (*user.User, error) { return user.Lookup(name) }
	if name == "" {
		lookUp = user.Current
	}
	u, err := lookUp()
	if err != nil || u.HomeDir == "" {
		return "", errors.New("no such user")
	}
	return u.HomeDir, nil
}

// usersGroups answers with the names of uids and gids, in their order; one that is not known is empty.
//
//	string uids (uint32 each) | string gids -> string names (string each) | string names
func (s *server) usersGroups(id uint32, p *packet) error {
	uids, gids := &packet{b: p.bytes()}, &packet{b: p.bytes()}
	if p.bad || len(uids.b)%4 != 0 || len(gids.b)%4 != 0 || len(uids.b)+len(gids.b) > 4*1024 {
		return errBadMessage
	}
	s.begin(typeExtendedReply, id)
	for _, list := range []struct {
		ids  *packet
		name func(uint32) string
	}{{uids, s.names.user}, {gids, s.names.group}} {
		at := len(s.answers)
		s.putUint32(0)
		for len(list.ids.b) > 0 {
			s.putString(list.name(list.ids.uint32()))
			if len(s.answers)-s.began > maxPacket {
				return errBadMessage
			}
		}
		n := len(s.answers) - at - 4
		s.answers[at], s.answers[at+1], s.answers[at+2], s.answers[at+3] = byte(n>>24), byte(n>>16), byte(n>>8), byte(n)
	}
	s.end()
	return nil
}

// sameFile says whether two open files are one, by whatever names.
func sameFile(a, b *os.File) (bool, error) {
	fa, err := a.Stat()
	if err != nil {
		return false, err
	}
	fb, err := b.Stat()
	if err != nil {
		return false, err
	}
	return os.SameFile(fa, fb), nil
}

// copyData copies between two open files. A length of 0 means up to the end.
func (s *server) copyData(p *packet) error {
	from, err := s.fileOf(p)
	if err != nil {
		return err
	}
	offset, length := p.uint64(), p.uint64()
	to, err := s.fileOf(p)
	if err != nil {
		return err
	}
	target := p.uint64()
	if p.bad {
		return errBadMessage
	}
	same, err := sameFile(from.file, to.file)
	switch {
	case err != nil:
		return err
	case same: // as sftp-server; it could go on for ever
		return errors.New("source and target are one file")
	case offset > math.MaxInt64 || target > math.MaxInt64:
		return unix.EINVAL
	}
	left := uint64(math.MaxUint64)
	if length > 0 {
		left = length
	}
	buf := make([]byte, 64<<10)
	for left > 0 {
		n, err := readAt(from.file, buf[:min(left, uint64(len(buf)))], int64(offset))
		if err != nil {
			return err
		}
		if n == 0 {
			if length > 0 {
				return io.EOF // less than was asked for
			}
			return nil
		}
		if err := writeAt(to, buf[:n], int64(target)); err != nil {
			return err
		}
		offset, target, left = offset+uint64(n), target+uint64(n), left-uint64(n)
		if offset > math.MaxInt64 || target > math.MaxInt64 {
			return unix.EFBIG
		}
	}
	return nil
}
