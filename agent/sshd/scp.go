package sshd

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// The remote side of the old scp protocol, for images that have no scp. Each side sends one byte for each step: 0 for
// yes, 1 and a line for a failure of one file, 2 and a line for the end.
//
//	C0644 5 name\n  five bytes  \0     a file
//	D0755 0 name\n  ...  E\n           a folder
//	T<mtime> 0 <atime> 0\n             times of what comes next, with -p

const maxSCPLine = 8 << 10

// An scp is one run of scp -t or scp -f.
type scp struct {
	r         *bufio.Reader
	w         *bufio.Writer
	recursive bool
	preserve  bool
	folder    bool // -d: the target has to be a directory
	failed    bool // a file failed; the others went on
}

// withSCP makes a command "scp ..." use this agent's scp where the image has none. The shell still parses it.
func withSCP(command string, env []string, exe string) string {
	args, ok := strings.CutPrefix(command, "scp ")
	if !ok || lookPath(env, "scp") {
		return command
	}
	return "'" + strings.ReplaceAll(exe, "'", `'\''`) + "' scp " + args
}

// runSCP runs scp with its remote arguments: -t TARGET or -f SOURCE..., with -r, -p, -d, -v, -q.
func runSCP(args []string, rw io.ReadWriter) error {
	s := &scp{r: bufio.NewReader(rw), w: bufio.NewWriter(rw)}
	var mode byte
	for len(args) > 0 && len(args[0]) > 1 && args[0][0] == '-' {
		if args[0] == "--" {
			args = args[1:]
			break
		}
		for _, o := range []byte(args[0][1:]) {
			switch o {
			case 't', 'f':
				mode = o
			case 'r':
				s.recursive = true
			case 'p':
				s.preserve = true
			case 'd':
				s.folder = true
			case 'v', 'q':
			default:
				return fmt.Errorf("scp: unknown option -%c", o)
			}
		}
		args = args[1:]
	}
	var err error
	switch {
	case mode == 't' && len(args) == 1:
		err = s.sink(args[0])
	case mode == 'f' && len(args) > 0:
		err = s.source(args)
	default:
		return errors.New("scp: this side needs -t TARGET, or -f and sources")
	}
	if err == nil && s.failed {
		err = errors.New("scp: not everything was copied")
	}
	return errors.Join(err, s.w.Flush())
}

func (s *scp) ok() error {
	return errors.Join(s.w.WriteByte(0), s.w.Flush())
}

// warn tells the other side that one file failed.
func (s *scp) warn(err error) error {
	s.failed = true
	_, werr := fmt.Fprintf(s.w, "\x01scp: %s\n", strings.ReplaceAll(err.Error(), "\n", " "))
	return errors.Join(werr, s.w.Flush())
}

// line reads the rest of a line.
func (s *scp) line() (string, error) {
	var line []byte
	for {
		b, err := s.r.ReadByte()
		switch {
		case err != nil:
			return "", fmt.Errorf("scp: %w", err)
		case b == '\n':
			return string(line), nil
		case len(line) >= maxSCPLine:
			return "", errors.New("scp: line too long")
		}
		line = append(line, b)
	}
}

// reply reads the other side's answer. An answer of 1 skips what it is about.
func (s *scp) reply() (skip bool, err error) {
	b, err := s.r.ReadByte()
	if err != nil {
		return false, fmt.Errorf("scp: %w", err)
	}
	if b == 0 {
		return false, nil
	}
	text, err := s.line()
	switch {
	case err != nil:
		return false, err
	case b == 1:
		s.failed = true
		return true, nil
	default:
		return false, fmt.Errorf("scp: the other side: %s", text)
	}
}

// source sends files and, with -r, folders.
func (s *scp) source(paths []string) error {
	if _, err := s.reply(); err != nil {
		return err
	}
	for _, p := range paths {
		if err := s.send(p); err != nil {
			return err
		}
	}
	return nil
}

func (s *scp) send(path string) error {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0) // a FIFO does not wait for its writer
	if err != nil {
		return s.warn(err)
	}
	defer f.Close()
	fi, err := f.Stat()
	switch {
	case err != nil:
		return s.warn(err)
	case fi.IsDir() && !s.recursive:
		return s.warn(fmt.Errorf("%s: not a regular file", path))
	case !fi.IsDir() && !fi.Mode().IsRegular():
		return s.warn(fmt.Errorf("%s: not a regular file", path))
	}
	if s.preserve {
		t := fi.ModTime().Unix()
		if skip, err := s.command(fmt.Sprintf("T%d 0 %d 0", t, t)); err != nil || skip {
			return err
		}
	}
	if fi.IsDir() {
		return s.sendFolder(f, fi, path)
	}
	if skip, err := s.command(fmt.Sprintf("C%04o %d %s", unixMode(fi), fi.Size(), fi.Name())); err != nil || skip {
		return err
	}
	return s.sendBytes(f, fi.Size())
}

// sendBytes sends exactly the size that was announced; a file that shrank is filled up and reported.
func (s *scp) sendBytes(f io.Reader, size int64) error {
	n, readErr := io.CopyN(s.w, f, size)
	if _, err := io.CopyN(s.w, zeros{}, size-n); err != nil {
		return fmt.Errorf("scp: %w", err)
	}
	if readErr != nil {
		if err := s.warn(readErr); err != nil {
			return err
		}
	} else if err := s.ok(); err != nil {
		return err
	}
	_, err := s.reply()
	return err
}

type zeros struct{}

func (zeros) Read(b []byte) (int, error) {
	clear(b)
	return len(b), nil
}

func (s *scp) sendFolder(f *os.File, fi os.FileInfo, path string) error {
	if skip, err := s.command(fmt.Sprintf("D%04o 0 %s", unixMode(fi), fi.Name())); err != nil || skip {
		return err
	}
	names, err := f.Readdirnames(-1)
	if err != nil {
		if err := s.warn(err); err != nil {
			return err
		}
	}
	for _, n := range names {
		if err := s.send(filepath.Join(path, n)); err != nil {
			return err
		}
	}
	_, err = s.command("E")
	return err
}

func (s *scp) command(line string) (skip bool, err error) {
	if strings.Count(line, "\n") > 0 {
		return true, s.warn(errors.New("a file name with a newline"))
	}
	if _, err := s.w.WriteString(line + "\n"); err != nil {
		return false, err
	}
	if err := s.w.Flush(); err != nil {
		return false, err
	}
	return s.reply()
}

func unixMode(fi os.FileInfo) uint32 {
	m := uint32(fi.Mode().Perm())
	if fi.Mode()&os.ModeSetuid != 0 {
		m |= 0o4000
	}
	if fi.Mode()&os.ModeSetgid != 0 {
		m |= 0o2000
	}
	return m
}

// sink receives into target: a directory, or the name of the one file or folder that comes.
func (s *scp) sink(target string) error {
	fi, err := os.Stat(target)
	isDir := err == nil && fi.IsDir()
	if s.folder && !isDir {
		return errors.Join(s.warn(fmt.Errorf("%s: not a directory", target)), errors.New("scp: no such directory"))
	}
	if err := s.ok(); err != nil {
		return err
	}
	return s.receive(target, isDir)
}

// receive handles the commands of one folder.
func (s *scp) receive(target string, isDir bool) error {
	var mtime time.Time
	for {
		b, err := s.r.ReadByte()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("scp: %w", err)
		}
		line, err := s.line()
		if err != nil {
			return err
		}
		switch b {
		case 1:
			s.failed = true
		case 2:
			return fmt.Errorf("scp: the other side: %s", line)
		case 'E':
			return s.ok()
		case 'T':
			if mtime, err = parseTimes(line); err != nil {
				return err
			}
			err = s.ok()
		case 'C', 'D':
			err = s.receiveOne(b, line, target, isDir, mtime)
			mtime = time.Time{}
		default:
			err = fmt.Errorf("scp: unknown command %q", b)
		}
		if err != nil {
			return err
		}
	}
}

func parseTimes(line string) (time.Time, error) {
	f := strings.Fields(line)
	if len(f) != 4 {
		return time.Time{}, errors.New("scp: malformed times")
	}
	t, err := strconv.ParseInt(f[0], 10, 64)
	if err != nil {
		return time.Time{}, errors.New("scp: malformed times")
	}
	return time.Unix(t, 0), nil
}

// receiveOne receives a file or a folder that is announced as "0644 5 name".
func (s *scp) receiveOne(kind byte, line, target string, isDir bool, mtime time.Time) error {
	f := strings.SplitN(line, " ", 3)
	if len(f) != 3 {
		return errors.New("scp: malformed command")
	}
	perm, err1 := strconv.ParseUint(f[0], 8, 32)
	size, err2 := strconv.ParseInt(f[1], 10, 64)
	name := f[2]
	if err1 != nil || err2 != nil || size < 0 {
		return errors.New("scp: malformed command")
	}
	// A name with a slash would leave the target.
	if name == "" || name == "." || name == ".." || strings.ContainsAny(name, "/\x00") {
		return fmt.Errorf("scp: unexpected file name %q", name)
	}
	path := target
	if isDir {
		path = filepath.Join(target, name)
	}
	if kind == 'D' {
		return s.receiveFolder(path, os.FileMode(perm&0o777), mtime)
	}
	return s.receiveFile(path, os.FileMode(perm&0o777), size, mtime)
}

func (s *scp) receiveFolder(path string, perm os.FileMode, mtime time.Time) error {
	if !s.recursive {
		return errors.New("scp: a folder without -r")
	}
	if err := os.Mkdir(path, perm|0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return s.warn(err)
	}
	if err := s.ok(); err != nil {
		return err
	}
	if err := s.receive(path, true); err != nil {
		return err
	}
	return s.settle(path, perm, mtime)
}

// settle sets mode and times where -p asks for them.
func (s *scp) settle(path string, perm os.FileMode, mtime time.Time) error {
	if !s.preserve {
		return nil
	}
	err := os.Chmod(path, perm)
	if !mtime.IsZero() {
		err = errors.Join(err, os.Chtimes(path, mtime, mtime))
	}
	if err != nil {
		s.failed = true
	}
	return nil
}

func (s *scp) receiveFile(path string, perm os.FileMode, size int64, mtime time.Time) error {
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE, perm)
	if err != nil {
		return s.warn(err)
	}
	if err := s.ok(); err != nil {
		file.Close()
		return err
	}
	content := &io.LimitedReader{R: s.r, N: size}
	_, writeErr := io.Copy(file, content)
	// What could not be written is read all the same: the next command comes after it.
	if _, err := io.Copy(io.Discard, content); err != nil || content.N > 0 {
		file.Close()
		return fmt.Errorf("scp: %s: %w", path, io.ErrUnexpectedEOF)
	}
	if fi, err := file.Stat(); err == nil && fi.Mode().IsRegular() {
		writeErr = errors.Join(writeErr, file.Truncate(size))
	}
	writeErr = errors.Join(writeErr, file.Close())
	if _, err := s.reply(); err != nil {
		return err
	}
	if writeErr != nil {
		return s.warn(writeErr)
	}
	if err := s.settle(path, perm, mtime); err != nil {
		return err
	}
	return s.ok()
}
