// Package sftp serves the SSH File Transfer Protocol, version 3 (draft-ietf-secsh-filexfer-02), over one stream, the way
// OpenSSH's sftp-server does: with its extensions (OpenSSH's PROTOCOL, section 4), its file modes, its meaning of rename
// and its answers to errors, which clients have come to rely on.
//
// It runs as whom its process runs as and sees all that they may see. Requests are carried out one after another, so
// that their order is that of their answers. It keeps nothing but open handles.
package sftp

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// A packet is
//
//	uint32 length | byte type | uint32 id | body
//
// where the length counts what follows it, and INIT and VERSION have a version in place of the id.
const (
	maxPacket  = 256 << 10        // of either side's, as OpenSSH's
	maxData    = maxPacket - 1024 // of one read or write
	maxHandles = 4096
	flushAt    = 128 << 10 // bytes of answers that wait while requests are at hand
	version    = 3
)

// Types of packets.
const (
	typeInit          = 1
	typeVersion       = 2
	typeOpen          = 3
	typeClose         = 4
	typeRead          = 5
	typeWrite         = 6
	typeLstat         = 7
	typeFstat         = 8
	typeSetstat       = 9
	typeFsetstat      = 10
	typeOpendir       = 11
	typeReaddir       = 12
	typeRemove        = 13
	typeMkdir         = 14
	typeRmdir         = 15
	typeRealpath      = 16
	typeStat          = 17
	typeRename        = 18
	typeReadlink      = 19
	typeSymlink       = 20
	typeStatus        = 101
	typeHandle        = 102
	typeData          = 103
	typeName          = 104
	typeAttrs         = 105
	typeExtended      = 200
	typeExtendedReply = 201
)

// A server serves one client.
type server struct {
	in  *bufio.Reader
	out io.Writer

	answers []byte // that wait to be written
	began   int    // where the one that is being made begins
	ready   bool   // INIT has come

	handles    map[uint32]*handle
	lastHandle uint32
	names      names
}

// A handle is an open file or directory.
type handle struct {
	file   *os.File
	path   string
	dir    bool
	append bool
	listed bool // of a directory: reading has begun
}

// Serve answers what comes on r, on w, until r ends, which is success. It fails where the client does not keep to the
// protocol, or where w does.
func Serve(r io.Reader, w io.Writer) error {
	s := &server{in: bufio.NewReaderSize(r, 4+maxPacket), out: w, handles: make(map[uint32]*handle)}
	defer s.closeAll()
	for {
		body, err := s.next()
		if errors.Is(err, io.EOF) {
			return s.flush()
		}
		if err == nil {
			err = s.handle(body)
		}
		if err != nil {
			return errors.Join(fmt.Errorf("serve sftp: %w", err), s.flush())
		}
		if _, err := s.in.Discard(4 + len(body)); err != nil {
			return fmt.Errorf("serve sftp: %w", err)
		}
	}
}

// next returns the next packet without its length; it is valid until the next read. Answers are written before it
// waits.
func (s *server) next() ([]byte, error) {
	if s.in.Buffered() < 4 || len(s.answers) > flushAt {
		if err := s.flush(); err != nil {
			return nil, err
		}
	}
	head, err := s.in.Peek(4)
	if err != nil {
		return nil, err
	}
	n := int(binary.BigEndian.Uint32(head))
	if n < 5 || n > maxPacket {
		return nil, fmt.Errorf("a packet of %d bytes", uint32(n))
	}
	if s.in.Buffered() < 4+n {
		if err := s.flush(); err != nil {
			return nil, err
		}
	}
	b, err := s.in.Peek(4 + n)
	if err != nil {
		return nil, err
	}
	return b[4:], nil
}

func (s *server) flush() error {
	if len(s.answers) == 0 {
		return nil
	}
	_, err := s.out.Write(s.answers)
	s.answers = s.answers[:0]
	return err
}

// handle carries out one request.
func (s *server) handle(body []byte) error {
	kind, p := body[0], &packet{b: body[1:]}
	if kind == typeInit {
		s.begin(typeVersion, version)
		for _, e := range advertised {
			s.putString(e.name)
			s.putString(e.version)
		}
		s.end()
		s.ready = true
		return nil
	}
	if !s.ready {
		return errors.New("a request before INIT")
	}
	id := p.uint32()
	if kind == typeExtended {
		s.extended(id, p)
		return nil
	}
	if query := queries[kind]; query != nil {
		s.query(id, p, query)
		return nil
	}
	if command := commands[kind]; command != nil {
		s.status(id, command(s, p))
		return nil
	}
	s.status(id, errUnsupported)
	return nil
}

// A command is a request whose answer is a status. A query makes its own answer, unless it fails.
type (
	command func(*server, *packet) error
	query   func(*server, uint32, *packet) error
)

var commands = map[byte]command{
	typeClose:    (*server).close,
	typeWrite:    (*server).write,
	typeSetstat:  (*server).setstat,
	typeFsetstat: (*server).fsetstat,
	typeRemove:   (*server).remove,
	typeMkdir:    (*server).mkdir,
	typeRmdir:    (*server).rmdir,
	typeRename:   (*server).rename,
	typeSymlink:  (*server).symlink,
}

var queries = map[byte]query{
	typeOpen:     (*server).open,
	typeRead:     (*server).read,
	typeLstat:    (*server).lstat,
	typeStat:     (*server).stat,
	typeFstat:    (*server).fstat,
	typeOpendir:  (*server).opendir,
	typeReaddir:  (*server).readdir,
	typeRealpath: (*server).realpath,
	typeReadlink: (*server).readlink,
}

func (s *server) query(id uint32, p *packet, q query) {
	before := len(s.answers)
	if err := q(s, id, p); err != nil {
		s.answers = s.answers[:before]
		s.status(id, err)
	}
}

// --- answers --------------------------------------------------------------------------------------------------------

// begin begins an answer; end gives it its length.
func (s *server) begin(kind byte, id uint32) {
	s.began = len(s.answers)
	s.answers = append(s.answers, 0, 0, 0, 0, kind)
	s.putUint32(id)
}

func (s *server) end() {
	binary.BigEndian.PutUint32(s.answers[s.began:], uint32(len(s.answers)-s.began-4))
}

func (s *server) putUint32(n uint32) { s.answers = binary.BigEndian.AppendUint32(s.answers, n) }
func (s *server) putUint64(n uint64) { s.answers = binary.BigEndian.AppendUint64(s.answers, n) }

func (s *server) putString(v string) {
	s.putUint32(uint32(len(v)))
	s.answers = append(s.answers, v...)
}

// putName answers with one name.
func (s *server) putName(id uint32, name string) {
	s.begin(typeName, id)
	s.putUint32(1)
	s.putString(name)
	s.putString(name)
	s.putUint32(0) // no attributes
	s.end()
}

// Codes of a status.
const (
	codeOK          = 0
	codeEOF         = 1
	codeNoSuchFile  = 2
	codeDenied      = 3
	codeFailure     = 4
	codeBadMessage  = 5
	codeUnsupported = 8
)

var (
	errBadMessage  = errors.New("malformed request")
	errUnsupported = errors.New("operation unsupported")
	errHandle      = errors.New("no such handle")
)

func (s *server) status(id uint32, err error) {
	code, text := codeOf(err)
	s.begin(typeStatus, id)
	s.putUint32(code)
	s.putString(text)
	s.putString("") // language
	s.end()
}

// codeOf returns the code that OpenSSH answers to an error, and what to say.
func codeOf(err error) (code uint32, text string) {
	var errno syscall.Errno
	switch {
	case err == nil:
		return codeOK, "Success"
	case errors.Is(err, io.EOF):
		return codeEOF, "End of file"
	case errors.Is(err, errUnsupported):
		return codeUnsupported, "Operation unsupported"
	case errors.Is(err, errBadMessage):
		return codeBadMessage, "Bad message"
	case !errors.As(err, &errno):
		return codeFailure, "Failure: " + err.Error()
	}
	switch errno {
	case unix.ENOENT, unix.ENOTDIR, unix.EBADF, unix.ELOOP:
		return codeNoSuchFile, "No such file"
	case unix.EPERM, unix.EACCES, unix.EFAULT:
		return codeDenied, "Permission denied"
	case unix.ENAMETOOLONG, unix.EINVAL:
		return codeBadMessage, "Bad message"
	case unix.ENOSYS:
		return codeUnsupported, "Operation unsupported"
	default:
		return codeFailure, "Failure: " + errno.Error()
	}
}

// --- handles --------------------------------------------------------------------------------------------------------

func (s *server) putHandle(id uint32, h *handle) error {
	if len(s.handles) >= handleLimit() {
		return errors.Join(unix.EMFILE, h.file.Close())
	}
	s.lastHandle++ // never used twice: a late request must not meet another file
	s.handles[s.lastHandle] = h
	s.begin(typeHandle, id)
	s.putString(strconv.FormatUint(uint64(s.lastHandle), 16))
	s.end()
	return nil
}

// handleLimit leaves some descriptors for what a request needs besides.
func handleLimit() int {
	var l unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &l); err != nil || l.Cur > maxHandles+16 {
		return maxHandles
	}
	return max(1, int(l.Cur)-16)
}

func (s *server) handleOf(p *packet) (uint32, *handle, error) {
	name := p.string()
	if p.bad {
		return 0, nil, errBadMessage
	}
	n, err := strconv.ParseUint(name, 16, 32)
	if h := s.handles[uint32(n)]; err == nil && h != nil {
		return uint32(n), h, nil
	}
	return 0, nil, errHandle
}

// fileOf returns the file of a handle that is not a directory.
func (s *server) fileOf(p *packet) (*handle, error) {
	_, h, err := s.handleOf(p)
	if err == nil && h.dir {
		return nil, errHandle
	}
	return h, err
}

func (s *server) close(p *packet) error {
	n, h, err := s.handleOf(p)
	if errors.Is(err, errHandle) {
		return unix.EBADF
	}
	if err != nil {
		return err
	}
	delete(s.handles, n)
	return h.file.Close()
}

func (s *server) closeAll() {
	for _, h := range s.handles {
		_ = h.file.Close() // the client has gone
	}
}
