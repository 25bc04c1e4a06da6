package sshd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/sys/unix"

	"berth/agent"
	"berth/agent/shell"
)

const (
	// terminalIdle is how long a terminal, whose first process has ended, has to be silent to count as drained: a
	// process in the background may hold it for ever.
	terminalIdle = 100 * time.Millisecond
	// terminalRest is the most that is read from it then; the kernel holds no more.
	terminalRest = 1 << 20
	// exitGrace is how long a command, whose output has ended, has to end as well before EOF is sent: most do at once,
	// and how they ended comes before EOF then.
	exitGrace = 100 * time.Millisecond
)

// A running is a session's process.
type running struct {
	*shell.Process
	master   *os.File        // the terminal, readable with deadlines; nil without one
	children *sync.WaitGroup // of the server
	exited   chan struct{}
	exit     shell.Exit // valid once exited is closed
}

// start starts what the client asked for.
func (s *session) start(what start) (*running, error) {
	s.mu.Lock()
	var tty *terminal
	if s.tty != nil {
		t := *s.tty
		tty = &t
	}
	s.mu.Unlock()
	if what.kind == "subsystem" {
		tty = nil // bytes of a protocol do not pass a terminal
	}
	cfg := s.conn.srv.cfg
	env := s.environment(tty)
	if s.x11 != nil && what.kind != "subsystem" {
		if err := s.x11.authorize(s.ctx, cfg.User, env); err != nil {
			s.tell("berth: X11 forwarding will not work: " + err.Error() + "\n")
		}
	}
	cmd := shell.Command{Env: env, User: cfg.User, Dir: s.conn.manifest.Agent.Dir, Path: cfg.User.Shell}
	base := filepath.Base(cfg.User.Shell)
	switch what.kind {
	case "shell":
		cmd.Args = []string{"-" + base} // the mark of a login shell
	case "exec":
		cmd.Args = []string{base, "-c", withSCP(what.command, cmd.Env, s.conn.srv.exe)}
	default:
		cmd.Path, cmd.Args, cmd.Dir = cfg.Exe, []string{"berth-agent", "sftp"}, cfg.User.Home
	}
	if tty != nil {
		cmd.Terminal = &tty.size
		// The terminal's name is known once it is open; its place in the environment is kept until then.
		cmd.Env = append(cmd.Env, "SSH_TTY=")
		place := &cmd.Env[len(cmd.Env)-1]
		cmd.Prepare = func(f *os.File) error {
			*place = "SSH_TTY=" + f.Name()
			return setModes(f, tty.modes)
		}
	}
	p, err := shell.Start(cmd)
	if err != nil {
		return nil, err
	}
	return s.conn.srv.watch(p)
}

// watch awaits the process's end, for as long as that takes.
func (s *Server) watch(p *shell.Process) (*running, error) {
	r := &running{Process: p, children: &s.children, exited: make(chan struct{})}
	var err error
	if p.PTY != nil {
		r.master, err = pollable(p.PTY)
		p.PTY.Close()
	}
	s.children.Go(func() {
		r.exit = p.Wait()
		close(r.exited)
	})
	return r, err
}

// pollable returns a copy of a terminal's master side that honours deadlines and whose Close ends a Read. The one
// that pty.Open returns is in blocking mode: closing it during a Read would not hang up.
func pollable(f *os.File) (*os.File, error) {
	var fd int
	err := control(f, func(old int) (err error) {
		if fd, err = unix.FcntlInt(uintptr(old), unix.F_DUPFD_CLOEXEC, 0); err != nil {
			return err
		}
		return unix.SetNonblock(fd, true)
	})
	if err != nil {
		return nil, fmt.Errorf("prepare terminal: %w", err)
	}
	return os.NewFile(uintptr(fd), f.Name()), nil
}

func (r *running) resize(s shell.Size) error {
	if r.master == nil {
		return errors.New("resize: no terminal")
	}
	return control(r.master, func(fd int) error {
		return unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, &unix.Winsize{Row: s.Rows, Col: s.Cols, Xpixel: s.X, Ypixel: s.Y})
	})
}

func (r *running) sendBreak() error {
	if r.master == nil {
		return errors.New("break: no terminal")
	}
	return control(r.master, breakTerminal)
}

// endOutput makes the process's further output fail: a pipe breaks, a terminal hangs up.
func (r *running) endOutput() {
	if r.master != nil {
		r.master.Close()
		return
	}
	r.Stdout.Close()
}

// joinPipes copies between a command without a terminal and its channel, until the command has ended and its output
// is delivered, or the client has gone. What the command's children still write is waited for, as sshd does; what
// nobody reads of stdin is not. It calls endOutput where the command runs on once its output is delivered.
func (r *running) joinPipes(ctx context.Context, ch ssh.Channel, endOutput func(), openSSH bool) shell.Exit {
	var output sync.WaitGroup
	output.Go(func() { copyOutput(ch, r.Stdout) })
	output.Go(func() { copyOutput(ch.Stderr(), r.Stderr) })
	// Like the process, its input may outlive the client: what was sent is read as slowly as it is read.
	r.children.Go(func() {
		defer r.Stdin.Close()
		if _, err := agent.Copy(&growing{File: r.Stdin}, ch); err != nil && openSSH && ctx.Err() == nil {
			// The command reads no more: OpenSSH's client then stops reading its own stdin.
			_, _ = ch.SendRequest("eow@openssh.com", false, nil)
		}
	})
	done := make(chan struct{})
	go func() {
		defer close(done)
		output.Wait()
		grace := time.NewTimer(exitGrace)
		defer grace.Stop()
		select {
		case <-r.exited:
			return
		case <-grace.C:
		}
		endOutput()
		<-r.exited
	}()
	select {
	case <-done:
		r.Stdin.Close()
		return r.exit
	case <-ctx.Done():
	}
	// The client has gone: the command sees the end of its input, after what had been sent, and a broken pipe should it
	// write. It is not killed.
	r.Stdout.Close()
	r.Stderr.Close()
	output.Wait()
	return shell.Exit{Code: 255} // nobody is there to read it
}

// copyOutput copies a process's output until its end. When the client reads no more, the pipe is broken.
func copyOutput(dst io.Writer, src *os.File) {
	defer src.Close()
	_, _ = agent.Copy(dst, &growing{File: src})
}

// A growing pipe is made larger once much has passed through it: fewer switches between the process and this one.
type growing struct {
	*os.File
	moved int // -1: it was made larger
}

const (
	growAfter = 1 << 20
	bulkPipe  = 256 << 10
)

func (g *growing) Read(b []byte) (int, error) {
	n, err := g.File.Read(b)
	g.count(n)
	return n, err
}

func (g *growing) Write(b []byte) (int, error) {
	n, err := g.File.Write(b)
	g.count(n)
	return n, err
}

func (g *growing) count(n int) {
	if g.moved < 0 {
		return
	}
	if g.moved += max(0, n); g.moved > growAfter {
		g.moved = -1
		_ = control(g.File, func(fd int) error { return growPipe(fd, bulkPipe) }) // a user has only so much
	}
}

// joinTerminal copies between a terminal and its channel until the terminal's first process has ended and its output
// is delivered, or the client has gone. Closing the master side lets the kernel hang up the terminal's session.
func (r *running) joinTerminal(ctx context.Context, ch ssh.Channel) shell.Exit {
	defer r.master.Close()
	go func() {
		// The end of input says nothing to a terminal; sshd does not type ^D for it either.
		_, _ = agent.Copy(r.master, ch)
	}()
	output := make(chan struct{})
	go func() {
		defer close(output)
		r.copyTerminal(ch)
	}()
	// A process may let go of its terminal and live on, so the end of output alone ends nothing.
	exit := shell.Exit{Code: 255} // where nobody is there to read it
	select {
	case <-r.exited:
		exit = r.exit
		_ = r.master.SetReadDeadline(time.Now().Add(terminalIdle))
		select {
		case <-output:
		case <-ctx.Done():
		}
	case <-ctx.Done():
	}
	r.master.Close()
	<-output
	return exit
}

// copyTerminal copies a terminal's output until its last user has closed it, or, once the first process has ended,
// until it is silent.
func (r *running) copyTerminal(ch io.Writer) {
	buf := make([]byte, 8<<10) // the kernel gives no more than 4 KiB at once
	for rest := 0; rest < terminalRest; {
		n, err := r.master.Read(buf)
		if n > 0 {
			if _, werr := ch.Write(buf[:n]); werr != nil {
				return
			}
		}
		if err != nil { // EIO: closed by its last user
			return
		}
		select {
		case <-r.exited:
			rest += n
			_ = r.master.SetReadDeadline(time.Now().Add(terminalIdle))
		default:
		}
	}
}
