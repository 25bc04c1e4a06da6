package runner

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"berth/coordinator"
	"berth/coordinator/terraform"
)

// ErrNeverBegan says that a job's runner has not begun, so that Begin may be called (again).
var ErrNeverBegan = coordinator.ErrNeverBegan

// Config configures a Supervisor.
type Config struct {
	Dir      string // of the jobs' directories
	Exe      string // berthd
	Archives string // of the templates' archives; archives beside Dir if empty
	Logger   *slog.Logger
	// Grace is how long a terraform whose runner died may take to end in order; coordinator.DefaultCancelLimit if zero.
	Grace time.Duration
}

// A Supervisor starts runners and follows them. Several may look at one directory, also of several coordinators.
type Supervisor struct {
	config Config

	mu       sync.Mutex
	children map[string]*exec.Cmd // guarded by mu; by job, those to be waited for
}

// New returns a supervisor.
func New(c Config) *Supervisor {
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Archives == "" {
		c.Archives = filepath.Join(filepath.Dir(c.Dir), "archives")
	}
	if c.Grace <= 0 {
		c.Grace = coordinator.DefaultCancelLimit
	}
	return &Supervisor{config: c, children: map[string]*exec.Cmd{}}
}

var idRE = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$`)

// dir returns a job's directory. An id is checked, for it becomes part of a path.
func (s *Supervisor) dir(id string) (dir, error) {
	if !idRE.MatchString(id) {
		return dir{}, fmt.Errorf("job id %q is not valid", coordinator.Clip(id, 80))
	}
	root, err := filepath.Abs(filepath.Join(s.config.Dir, id))
	if err != nil {
		return dir{}, err
	}
	return dir{root}, nil
}

// Begin starts the runner of a job, with the state that the build begins with; empty for none. Where the job has begun
// already, by whomever, it does nothing: Follow tells how it ends.
func (s *Supervisor) Begin(job coordinator.Job, state coordinator.Secret) error {
	d, err := s.dir(job.ID)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(d.root, 0o700); err != nil {
		return fmt.Errorf("make job directory: %w", err)
	}
	// The lock is taken here and handed down, so that there is no moment at which the job has begun and nobody holds
	// it; and so that the state is never laid under a runner that lives.
	lock, err := d.lock(nil)
	if errors.Is(err, errHeld) {
		return nil
	}
	if err != nil {
		return err
	}
	defer lock.Close() // the runner has its own
	if d.has(begunFile) || d.has(resultFile) {
		return nil
	}
	if err := s.prepare(d, job, state); err != nil {
		return err
	}
	cmd, err := s.start(d, job, lock)
	if err != nil {
		return err
	}
	s.mu.Lock()
	s.children[job.ID] = cmd
	s.mu.Unlock()
	return d.mark(begunFile)
}

// prepare lays down what the runner begins with.
func (s *Supervisor) prepare(d dir, job coordinator.Job, state coordinator.Secret) error {
	if job.Import {
		if err := s.lendArchive(job.Archive, d.path(archiveFile)); err != nil {
			return err
		}
	}
	if state == "" {
		return nil
	}
	if _, err := terraform.ParseState([]byte(state)); err != nil {
		return err
	}
	return errors.Join(
		d.write(firstState, []byte(digest([]byte(state))), false),
		d.write(lastState, []byte(state), true),
	)
}

// lendArchive gives the job the template's archive under a name of its own.
func (s *Supervisor) lendArchive(sha, to string) error {
	if err := os.Remove(to); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("lend archive: %w", err)
	}
	from, err := terraform.Archives{Dir: s.config.Archives}.Open(sha)
	if err != nil {
		return err
	}
	defer from.Close() // read only
	f, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return fmt.Errorf("lend archive: %w", err)
	}
	_, err = io.Copy(f, from)
	if err := errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("lend archive: %w", err)
	}
	return nil
}

// start starts the runner in a session of its own, with files only.
func (s *Supervisor) start(d dir, job coordinator.Job, lock *os.File) (*exec.Cmd, error) {
	jobFile, err := anonymous("berth-job")
	if err != nil {
		return nil, err
	}
	defer jobFile.Close() // the runner has its own
	if err := json.NewEncoder(jobFile).Encode(job); err != nil {
		return nil, fmt.Errorf("hand down job: %w", err)
	}
	out, err := os.OpenFile(d.path(runnerLog), os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open runner's log: %w", err)
	}
	defer out.Close() // the runner has its own
	cmd := exec.Command(s.config.Exe, "build", d.root)
	cmd.Dir = d.root
	cmd.Env = environment()
	cmd.Stdout, cmd.Stderr = out, out
	cmd.ExtraFiles = []*os.File{jobFile, lock}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start runner: %w", err)
	}
	return cmd, nil
}

// environment is the runner's own: what terraform may have, and where this user is at home.
func environment() []string {
	env := terraform.Passed()
	for _, kv := range os.Environ() {
		name, _, _ := strings.Cut(kv, "=")
		if slices.Contains([]string{"HOME", "USER", "LOGNAME", "SHELL", "TMPDIR", "XDG_RUNTIME_DIR"}, name) {
			env = append(env, kv)
		}
	}
	return env
}

// Cancel asks for the end of a job: one interrupt to the runner, which passes it on to terraform. It returns at once;
// Follow tells how the job ends. A job that has ended, or never began, is left as it is.
func (s *Supervisor) Cancel(id string) error {
	d, err := s.dir(id)
	if err != nil {
		return err
	}
	if _, err := os.Stat(d.root); errors.Is(err, fs.ErrNotExist) {
		return ErrNeverBegan
	}
	// The mark comes first: a runner that is not ready for signals yet finds it.
	if err := d.mark(cancelFile); err != nil {
		return err
	}
	if p, ok := d.readPID(runnerPID); ok {
		p.signal(os.Interrupt)
	}
	return nil
}

// Wipe removes a job's directory. It is called after everything in it is committed; it fails while a runner holds it.
func (s *Supervisor) Wipe(id string) error {
	d, err := s.dir(id)
	if err != nil {
		return err
	}
	if _, err := os.Stat(d.root); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	lock, err := d.lock(nil)
	if err != nil {
		return fmt.Errorf("wipe job: %w", err)
	}
	defer lock.Close() // its file is gone
	if err := os.RemoveAll(d.root); err != nil {
		return fmt.Errorf("wipe job: %w", err)
	}
	return nil
}

// Jobs returns the ids of the jobs that have a directory.
func (s *Supervisor) Jobs() ([]string, error) {
	entries, err := os.ReadDir(s.config.Dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("list jobs: %w", err)
	}
	var ids []string
	for _, e := range entries {
		if e.IsDir() && idRE.MatchString(e.Name()) {
			ids = append(ids, e.Name())
		}
	}
	return ids, nil
}

// child takes the job's runner out of those that are to be waited for.
func (s *Supervisor) child(id string) *exec.Cmd {
	s.mu.Lock()
	defer s.mu.Unlock()
	cmd := s.children[id]
	delete(s.children, id)
	return cmd
}

// childPID returns the pid of a runner that this supervisor started and has not waited for.
func (s *Supervisor) childPID(id string) (int, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if cmd := s.children[id]; cmd != nil {
		return cmd.Process.Pid, true
	}
	return 0, false
}

func digest(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}
