package shell

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"sync"
	"syscall"

	"github.com/creack/pty"
	"golang.org/x/sys/unix"
)

// A Command is what Start starts.
type Command struct {
	Path string
	Args []string // with argv[0]; Path alone if empty
	Env  []string
	Dir  string // the user's home, then /, where the user cannot change to it
	User *User

	Terminal *Size // nil: three pipes instead of a terminal
	// Prepare is called with the terminal before the command starts, e.g. to set its modes; nil: nothing to prepare.
	// It may still change elements of Env.
	Prepare func(tty *os.File) error
	// Merge gives stderr the pipe of stdout. It has no meaning with a terminal.
	Merge bool
}

// A Size is a terminal's, in characters and, where known, in pixels.
type Size struct {
	Cols, Rows, X, Y uint16
}

// An Exit is how a process ended.
type Exit struct {
	Code       int            // exit status; 128 and the signal's number where Signal is set
	Signal     syscall.Signal // 0 unless a signal ended it
	CoreDumped bool
}

// A Process is a started command. Its owner calls Wait exactly once, and closes the files.
type Process struct {
	PID int

	PTY    *os.File // the terminal's master side; nil without one. Reading it fails with EIO when its last user has gone.
	Stdin  *os.File // write end; nil with a terminal
	Stdout *os.File // read end; nil with a terminal
	Stderr *os.File // read end; nil with a terminal or with Merge

	cmd *exec.Cmd

	mu    sync.Mutex
	ended bool // guarded by mu; the pid may belong to somebody else from then on
}

// Start starts c in a session and process group of its own. It outlives this process: nothing ends it but a signal,
// the loss of its terminal or its own will. As root the process gets the user's uid, gid and groups; otherwise the
// user has to be who this process is.
func Start(c Command) (*Process, error) {
	heedHangup()
	cmd, err := c.cmd()
	if err != nil {
		return nil, err
	}
	p := &Process{cmd: cmd}
	if c.Terminal != nil {
		err = p.startTerminal(c)
	} else {
		err = p.startPipes(c)
	}
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", c.Path, err)
	}
	p.PID = cmd.Process.Pid
	return p, nil
}

func (c Command) cmd() (*exec.Cmd, error) {
	if c.User == nil {
		return nil, errors.New("start command: no user")
	}
	cmd := &exec.Cmd{Path: c.Path, Args: c.Args, Dir: c.dir()}
	if len(cmd.Args) == 0 {
		cmd.Args = []string{c.Path}
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	cred, err := c.User.credential()
	if err != nil {
		return nil, err
	}
	cmd.SysProcAttr.Credential = cred
	return cmd, nil
}

// credential is what a child needs to become u: nothing, where this process is u already.
func (u *User) credential() (*syscall.Credential, error) {
	euid, egid := uint32(os.Geteuid()), uint32(os.Getegid())
	switch {
	case u.UID == euid && (u.GID == egid || euid != 0):
		return nil, nil
	case euid != 0:
		return nil, fmt.Errorf("become user %s: only root can", u.Name)
	}
	return &syscall.Credential{Uid: u.UID, Gid: u.GID, Groups: u.Groups}, nil
}

// dir looks with the user's rights, with which the child changes to it.
func (c Command) dir() string {
	found := "/"
	_ = As(c.User, func() error { // where As fails, so does the start
		for _, d := range []string{c.Dir, c.User.Home} {
			if isDir(d) && unix.Faccessat(unix.AT_FDCWD, d, unix.X_OK, unix.AT_EACCESS) == nil {
				found = d
				return nil
			}
		}
		return nil
	})
	return found
}

func (p *Process) startTerminal(c Command) error {
	master, tty, err := pty.Open()
	if err != nil {
		return fmt.Errorf("open terminal: %w", err)
	}
	defer tty.Close()
	if err := prepareTerminal(tty, c); err != nil {
		master.Close()
		return err
	}
	p.cmd.Stdin, p.cmd.Stdout, p.cmd.Stderr = tty, tty, tty
	p.cmd.SysProcAttr.Setctty = true // of descriptor 0
	p.cmd.Env = c.environment()      // after Prepare, which may have filled in the terminal's name
	if err := p.cmd.Start(); err != nil {
		master.Close()
		return err
	}
	p.PTY = master
	return nil
}

// prepareTerminal sets size, modes and owner. Without the owner a user could not open their own terminal by its
// name, as screen and gpg do.
func prepareTerminal(tty *os.File, c Command) error {
	if err := resize(tty, *c.Terminal); err != nil {
		return err
	}
	if os.Geteuid() == 0 && c.User.UID != 0 {
		if err := tty.Chown(int(c.User.UID), -1); err != nil {
			return fmt.Errorf("give terminal to user: %w", err)
		}
	}
	if c.Prepare != nil {
		return c.Prepare(tty)
	}
	return nil
}

func (p *Process) startPipes(c Command) (err error) {
	var theirs, ours []*os.File
	defer func() {
		closeAll(theirs)
		if err != nil {
			closeAll(ours)
		}
	}()
	open := func() (r, w *os.File, err error) {
		if r, w, err = os.Pipe(); err != nil {
			return nil, nil, fmt.Errorf("open pipe: %w", err)
		}
		return r, w, nil
	}
	stdin, ourStdin, err := open()
	if err != nil {
		return err
	}
	theirs, ours = append(theirs, stdin), append(ours, ourStdin)
	ourStdout, stdout, err := open()
	if err != nil {
		return err
	}
	theirs, ours = append(theirs, stdout), append(ours, ourStdout)
	ourStderr, stderr := (*os.File)(nil), stdout
	if !c.Merge {
		if ourStderr, stderr, err = open(); err != nil {
			return err
		}
		theirs, ours = append(theirs, stderr), append(ours, ourStderr)
	}
	// Files rather than writers: exec starts no copiers, and Wait waits for the process alone.
	p.cmd.Stdin, p.cmd.Stdout, p.cmd.Stderr = stdin, stdout, stderr
	p.cmd.Env = c.environment()
	if err := p.cmd.Start(); err != nil {
		return err
	}
	p.Stdin, p.Stdout, p.Stderr = ourStdin, ourStdout, ourStderr
	return nil
}

func closeAll(files []*os.File) {
	for _, f := range files {
		f.Close()
	}
}

// Wait waits for the process itself, not for its output: its children may hold the pipes for longer.
func (p *Process) Wait() Exit {
	err := p.cmd.Wait()
	p.mu.Lock()
	p.ended = true
	p.mu.Unlock()
	if p.cmd.ProcessState == nil { // somebody else reaped it
		return Exit{Code: 255}
	}
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		return Exit{Code: 255}
	}
	status, ok := p.cmd.ProcessState.Sys().(syscall.WaitStatus)
	if !ok {
		return Exit{Code: p.cmd.ProcessState.ExitCode()}
	}
	if status.Signaled() {
		return Exit{Code: 128 + int(status.Signal()), Signal: status.Signal(), CoreDumped: status.CoreDump()}
	}
	return Exit{Code: status.ExitStatus()}
}

// WaitExit waits for the process to exit and does not reap it, so that Signal still reaches what is left of its group.
// Wait has to be called afterwards.
func (p *Process) WaitExit() { waitExit(p.PID) }

// Signal sends sig to the process's group. It fails with os.ErrProcessDone after Wait has returned.
func (p *Process) Signal(sig syscall.Signal) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ended {
		return os.ErrProcessDone
	}
	return syscall.Kill(-p.PID, sig)
}

// Resize sets the terminal's size; the kernel tells the foreground process.
func (p *Process) Resize(s Size) error {
	if p.PTY == nil {
		return errors.New("resize: no terminal")
	}
	return resize(p.PTY, s)
}

func resize(f *os.File, s Size) error {
	err := pty.Setsize(f, &pty.Winsize{Rows: s.Rows, Cols: s.Cols, X: s.X, Y: s.Y})
	if err != nil {
		return fmt.Errorf("set terminal size: %w", err)
	}
	return nil
}

// Close closes the files that are still open. It does not end the process.
func (p *Process) Close() {
	for _, f := range []*os.File{p.PTY, p.Stdin, p.Stdout, p.Stderr} {
		if f != nil {
			f.Close()
		}
	}
}
