package startup

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"berth/agent"
	"berth/agent/shell"
)

var errLimit = errors.New("the step's limit")

const (
	limitGrace  = 3 * time.Second        // between TERM and KILL at the limit
	stopGrace   = 500 * time.Millisecond // the same where the agent ends
	outputGrace = 250 * time.Millisecond // for output after the process has ended
	maxShebang  = 256                    // what the kernel reads of one
)

// configure runs the image's hook.
func (r *Runner) configure(ctx context.Context, j *job) outcome {
	path := filepath.Join(r.CoderDir, "configure")
	switch fi, err := os.Stat(path); {
	case errors.Is(err, os.ErrNotExist) || errors.Is(err, syscall.ENOTDIR):
		return skipped("there is no %s", path)
	case err != nil:
		return failed("%s", oneLine(err))
	case !fi.Mode().IsRegular():
		return failed("%s is not a file", path)
	}
	return r.runFile(ctx, j, path, r.who.User.Home)
}

// runFile runs a hook as the user in dir, as its shebang says. Where it is not executable, or lies where nothing may be
// executed, its interpreter runs it; without a shebang that is sh.
func (r *Runner) runFile(ctx context.Context, j *job, path, dir string) outcome {
	if r.who.Refuse != "" {
		return skipped("%s", r.who.Refuse)
	}
	var executable bool
	var interpreter []string
	err := shell.As(r.who.User, func() (err error) {
		executable, interpreter, err = inspect(path)
		return err
	})
	if err != nil {
		return failed("%s", oneLine(err))
	}
	c := shell.Command{Path: path, Args: []string{path}, Env: r.Env(), Dir: dir, User: r.who.User, Merge: true}
	interpreted := c
	interpreted.Path, interpreted.Args = interpreter[0], append(interpreter, path)
	if !executable {
		c = interpreted
	}
	p, err := shell.Start(c)
	if executable && (errors.Is(err, syscall.ENOEXEC) || errors.Is(err, syscall.EACCES)) {
		p, err = shell.Start(interpreted)
	}
	if errors.Is(err, os.ErrNotExist) {
		return failed("cannot run %s: its interpreter %s is not there", path, interpreter[0])
	}
	if err != nil {
		return failed("%s", oneLine(err))
	}
	return r.follow(ctx, j, p, path)
}

// inspect returns whether a file may be executed, and the interpreter that its shebang names, with its argument.
func inspect(path string) (executable bool, interpreter []string, err error) {
	f, err := os.Open(path)
	if err != nil {
		return false, nil, err
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return false, nil, err
	}
	head := make([]byte, maxShebang)
	n, err := io.ReadFull(f, head)
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		return false, nil, err
	}
	return fi.Mode().Perm()&0o111 != 0, shebang(head[:n]), nil
}

// shebang reads "#!interpreter [argument]" as the kernel does: all that follows the interpreter is one argument.
func shebang(head []byte) []string {
	line, ok := bytes.CutPrefix(head, []byte("#!"))
	line, _, _ = bytes.Cut(line, []byte("\n"))
	text := strings.Trim(string(line), " \t\r")
	if !ok || !strings.HasPrefix(text, "/") {
		return []string{"/bin/sh"}
	}
	name, arg, found := strings.Cut(strings.ReplaceAll(text, "\t", " "), " ")
	if !found {
		return []string{name}
	}
	return []string{name, strings.TrimSpace(arg)}
}

// run runs a command of the agent's own for a step.
func (r *Runner) run(ctx context.Context, j *job, env []string, dir string, args ...string) outcome {
	path, err := lookPath(args[0], shell.Value(env, "PATH"))
	if err != nil {
		return failed("%s", oneLine(err))
	}
	p, err := shell.Start(shell.Command{Path: path, Args: args, Env: env, Dir: dir, User: r.who.User, Merge: true})
	if err != nil {
		return failed("%s", oneLine(err))
	}
	return r.follow(ctx, j, p, strings.Join(args[:min(2, len(args))], " "))
}

// lookPath finds a command in the user's PATH, which is not the agent's.
func lookPath(name, path string) (string, error) {
	for _, dir := range filepath.SplitList(path) {
		file := filepath.Join(dir, name)
		if fi, err := os.Stat(file); err == nil && fi.Mode().IsRegular() && fi.Mode().Perm()&0o111 != 0 {
			return file, nil
		}
	}
	return "", fmt.Errorf("%s is not installed", name)
}

// follow logs a process's output and waits for its end, which it brings about itself when ctx ends: its whole group
// is asked to end, then killed.
func (r *Runner) follow(ctx context.Context, j *job, p *shell.Process, name string) outcome {
	p.Stdin.Close()
	r.hook(p.PID)
	defer r.hook(0)
	read := make(chan error, 1)
	go func() { read <- j.read(p.Stdout) }()
	exited := make(chan struct{})
	go func() {
		defer close(exited)
		p.WaitExit()
	}()
	ended := false // by us
	select {
	case <-exited:
	case <-ctx.Done():
		select {
		case <-exited:
		default:
			ended = true
			r.endGroup(ctx, p, exited)
		}
	}
	exit := p.Wait()
	// A daemon that the hook left behind may keep the pipe: the step does not wait for it, and its output is read on,
	// so that it does not die of a closed pipe.
	_ = p.Stdout.SetReadDeadline(time.Now().Add(outputGrace))
	if err := <-read; errors.Is(err, os.ErrDeadlineExceeded) {
		_ = p.Stdout.SetReadDeadline(time.Time{})
		r.drain(p.Stdout)
	} else {
		p.Stdout.Close()
	}
	switch {
	case exit.Signal != 0:
		return outcome{agent.OutcomeFailed, exit.Code, fmt.Sprintf("%s was ended by signal %d (%s)", name, exit.Signal, exit.Signal)}
	case exit.Code != 0:
		return outcome{agent.OutcomeFailed, exit.Code, fmt.Sprintf("%s exited with %d", name, exit.Code)}
	case ended: // it may exit with 0 when it is asked to end, and has not done its work for all that
		return failed("%s was ended", name)
	}
	return ok
}

func (r *Runner) endGroup(ctx context.Context, p *shell.Process, exited <-chan struct{}) {
	grace := stopGrace
	if errors.Is(context.Cause(ctx), errLimit) {
		grace = limitGrace
	}
	_ = p.Signal(syscall.SIGTERM)
	timer := time.NewTimer(grace)
	defer timer.Stop()
	select {
	case <-exited:
	case <-timer.C:
	}
	_ = p.Signal(syscall.SIGKILL) // the leader is not reaped yet, so the group is still ours
	<-exited
}

// drain reads what is left of a hook's output until its last writer has gone, or Run ends.
func (r *Runner) drain(f *os.File) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.left = append(r.left, f)
	r.drains.Go(func() {
		_, _ = io.Copy(io.Discard, f)
		f.Close()
	})
}

// stopDrains is called at the end of Run.
func (r *Runner) stopDrains() {
	r.mu.Lock()
	for _, f := range r.left {
		f.Close()
	}
	r.mu.Unlock()
	r.drains.Wait()
}
