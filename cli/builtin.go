package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/crypto/ssh"
	"golang.org/x/term"

	"berth/coordinator"
)

// exitSSH is what ssh exits with where the connection, and not the command, is at fault.
const exitSSH = 255

// builtin enters a workspace where there is no ssh program: a shell on a terminal, or a command.
func (a *app) builtin(ctx context.Context, name string, more []string) error {
	if len(more) > 0 && more[0] == "--" {
		more = more[1:]
	} else if len(more) > 0 && strings.HasPrefix(more[0], "-") {
		return coordinator.Errorf(coordinator.CodeInvalid, "%s is an option of ssh, and there is no ssh on this machine", coordinator.Clip(more[0], 40)).
			WithHint("install OpenSSH's client; or only name a command: berth ssh " + name + " -- COMMAND; for ports there is berth port-forward")
	}
	p, err := a.passage(ctx, name)
	if err != nil {
		return err
	}
	c, err := p.open(ctx, false)
	if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { _ = c.Close() })
	defer stop()
	ctx, cancel := context.WithCancel(ctx)
	held := make(chan struct{})
	go func() {
		defer close(held)
		hold(ctx, c)
	}()
	defer func() {
		cancel()
		<-held
	}()
	err = a.session(c, strings.Join(more, " "))
	var exit *ssh.ExitError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &exit) && exit.Signal() == "":
		return exitCode(exit.ExitStatus())
	case errors.As(err, &exit):
		a.complain(&coordinator.Error{Msg: "the command was ended by signal " + exit.Signal()})
	case ctx.Err() != nil:
		return exitCode(exitInterrupt)
	default:
		a.complain(&coordinator.Error{Msg: "the connection to " + p.target.String() + " was lost", Hint: "connect again"})
	}
	return exitCode(exitSSH)
}

// session runs a command, or a shell if there is none, with our own streams.
func (a *app) session(c *ssh.Client, command string) error {
	s, err := c.NewSession()
	if err != nil {
		return fmt.Errorf("open session: %w", err)
	}
	defer func() { _ = s.Close() }() // it has ended
	s.Stdin, s.Stdout, s.Stderr = onlyReader{a.in}, onlyWriter{a.out}, onlyWriter{a.err}
	if command != "" {
		return s.Run(command)
	}
	if in, terminal := fd(a.in); terminal {
		restore, err := a.terminal(s, in)
		if err != nil {
			return err
		}
		defer restore()
	}
	if err := s.Shell(); err != nil {
		return fmt.Errorf("start shell: %w", err)
	}
	return s.Wait()
}

// terminal gives the session a terminal like ours, which it hands over to it until restore is called.
func (a *app) terminal(s *ssh.Session, in int) (restore func(), err error) {
	size := func() (rows, cols int) {
		for _, f := range []any{a.out, a.in} {
			if n, ok := fd(f); ok {
				if cols, rows, err := term.GetSize(n); err == nil {
					return rows, cols
				}
			}
		}
		return 24, 80
	}
	name := a.env("TERM")
	if name == "" {
		name = "xterm-256color"
	}
	rows, cols := size()
	if err := s.RequestPty(name, rows, cols, ssh.TerminalModes{}); err != nil {
		return nil, fmt.Errorf("ask for a terminal: %w", err)
	}
	state, err := term.MakeRaw(in)
	if err != nil {
		return nil, fmt.Errorf("set the terminal up: %w", err)
	}
	resized, stopResized := windowChanges()
	done := make(chan struct{})
	go func() {
		defer close(done)
		for range resized {
			if r, c := size(); r != rows || c != cols {
				rows, cols = r, c
				_ = s.WindowChange(rows, cols) // a session that has ended needs no size
			}
		}
	}()
	return func() {
		stopResized()
		<-done
		if err := term.Restore(in, state); err != nil {
			fmt.Fprintln(os.Stderr, "berth: the terminal could not be set back; reset does it")
		}
	}, nil
}
