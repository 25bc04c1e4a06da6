package runner

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"berth/coordinator/terraform"
)

// A job's directory:
//
//	lock           flock, held by the runner for its life
//	begun          a mark: the runner may have touched something
//	cancel         a mark: the job is to be canceled
//	archive.tar    of an import: the template
//	log.jsonl      raw log: terraform's output and the runner's own lines, both appended
//	state.last     the last good state, by rename; at first the one that the build begins with
//	state.first    its digest
//	runner.pid     pid and kernel start time
//	terraform.pid  the same of the terraform that runs
//	runner.log     what the runner itself prints
//	reserve        of a build: space that is given back when the disk is full
//	terraform.rc   terraform's configuration
//	module/        the version's module, copied; terraform works in it and keeps its state there
//	data           link to what init fetched for the version
//	home/, tmp/    terraform's
//	plan           the plan that was judged
//	result.json    how it ended, by rename
//
// Where terraform has a uid of its own, only module/, home/ and tmp/ are its.
type dir struct{ root string }

const (
	lockFile     = "lock"
	begunFile    = "begun"
	cancelFile   = "cancel"
	archiveFile  = "archive.tar"
	logFile      = "log.jsonl"
	lastState    = "state.last"
	firstState   = "state.first"
	runnerPID    = "runner.pid"
	terraformPID = "terraform.pid"
	runnerLog    = "runner.log"
	configFile   = "terraform.rc"
	moduleDir    = "module"
	dataLink     = terraform.DataDir
	homeDir      = "home"
	tmpDir       = "tmp"
	planFile     = "plan"
	resultFile   = "result.json"
	reserveFile  = "reserve"
)

var errHeld = errors.New("lock is held")

func (d dir) path(name string) string { return filepath.Join(d.root, name) }

func (d dir) has(name string) bool {
	_, err := os.Lstat(d.path(name))
	return err == nil
}

// lock takes the directory's lock, on the file f where it is given. It fails with errHeld where another has it.
func (d dir) lock(f *os.File) (*os.File, error) {
	if f == nil {
		var err error
		f, err = os.OpenFile(d.path(lockFile), os.O_RDWR|os.O_CREATE, 0o600)
		if err != nil {
			return nil, fmt.Errorf("open lock: %w", err)
		}
	}
	for {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		switch {
		case err == nil:
			return f, nil
		case errors.Is(err, unix.EINTR):
			continue
		case errors.Is(err, unix.EWOULDBLOCK):
			return nil, errors.Join(errHeld, f.Close())
		default:
			return nil, errors.Join(fmt.Errorf("take lock: %w", err), f.Close())
		}
	}
}

// mark makes an empty file; one that is there is fine.
func (d dir) mark(name string) error {
	f, err := os.OpenFile(d.path(name), os.O_WRONLY|os.O_CREATE, 0o600)
	if err != nil {
		return fmt.Errorf("mark %s: %w", name, err)
	}
	return f.Close()
}

// write replaces a file by rename; durable makes it last through a loss of power.
func (d dir) write(name string, data []byte, durable bool) error {
	tmp := d.path("." + name + ".new")
	f, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	_, err = f.Write(data)
	if err == nil && durable {
		err = f.Sync()
	}
	if err := errors.Join(err, f.Close()); err != nil {
		_ = os.Remove(tmp) // half of it takes space that may be wanted badly
		return fmt.Errorf("write %s: %w", name, err)
	}
	if err := os.Rename(tmp, d.path(name)); err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	return nil
}

func (d dir) writeJSON(name string, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode %s: %w", name, err)
	}
	return d.write(name, b, true)
}

// read reads a file of at most limit bytes. It does not follow a link, and takes nothing but a plain file: some names
// are terraform's to write.
func (d dir) read(name string, limit int64) ([]byte, error) {
	f, err := os.OpenFile(d.path(name), os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close() // read only
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() || info.Size() > limit {
		return nil, fmt.Errorf("read %s: not a plain file of at most %d bytes", name, limit)
	}
	return io.ReadAll(io.LimitReader(f, limit))
}

// state returns the last good state; nil for none.
func (d dir) state() ([]byte, error) {
	b, err := d.read(lastState, terraform.MaxState)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return b, err
}

// keepState makes data the last good state if it is one: it parses, and it follows the one before.
func (d dir) keepState(data []byte, durable bool) (kept bool, err error) {
	next, err := terraform.ParseState(data)
	if err != nil {
		return false, nil // cut off in mid-write, or not terraform's; the next look finds better
	}
	old, err := d.state()
	if err != nil {
		return false, err
	}
	if string(old) == string(data) && !durable {
		return false, nil
	}
	if len(old) > 0 {
		last, err := terraform.ParseState(old)
		if err == nil && (last.Lineage != next.Lineage || last.Serial > next.Serial) {
			return false, nil
		}
	}
	return true, d.write(lastState, data, durable)
}

// salvage keeps what terraform left, once it has ended: its state, and the one that it could not put there.
func (d dir) salvage() error {
	var errs []error
	for _, name := range []string{terraform.StateFile, terraform.ErroredState} {
		data, err := d.read(filepath.Join(moduleDir, name), terraform.MaxState)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err == nil {
			_, err = d.keepState(data, true)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// writePID writes down a process by pid and kernel start time, which together name it for ever.
func (d dir) writePID(name string, pid int) error {
	return d.write(name, fmt.Appendf(nil, "%d %d\n", pid, startTime(pid)), false)
}

// readPID returns a process that was written down, and whether it lives.
func (d dir) readPID(name string) (p process, lives bool) {
	b, err := d.read(name, 64)
	if err != nil {
		return process{}, false
	}
	pid, start, _ := strings.Cut(strings.TrimSpace(string(b)), " ")
	p.pid, err = strconv.Atoi(pid)
	if err != nil || p.pid <= 1 {
		return process{}, false
	}
	p.start, err = strconv.ParseUint(start, 10, 64)
	if err != nil {
		return process{}, false
	}
	return p, p.lives()
}

// A process is named by pid and kernel start time.
type process struct {
	pid   int
	start uint64
}

func (p process) lives() bool { return p.start != 0 && startTime(p.pid) == p.start }

// signal sends a signal to the process, and to none that has taken its number since.
func (p process) signal(s os.Signal) {
	h, err := os.FindProcess(p.pid) // a handle: what it names does not change any more
	if err != nil {
		return
	}
	defer func() { _ = h.Release() }() // nothing to lose
	if p.lives() {
		_ = h.Signal(s) // fails only if it has ended
	}
}
