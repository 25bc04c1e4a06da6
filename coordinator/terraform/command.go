package terraform

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// A Command is one run of terraform, in a process group of its own. It has no pipe to anybody: its output goes to a
// file, so that it outlives whoever reads, and its input is empty.
type Command struct {
	Path   string
	Args   []string
	Dir    string
	Env    []string
	Stdout *os.File
	Stderr *os.File
	UID    int                 // run as this user and group; 0: as this process
	Grace  time.Duration       // between the interrupt and the end of the whole process group
	Began  func(pid int) error // called once terraform is started
}

// Run runs the command until it has ended, and then ends what is left of its process group. When ctx ends, terraform
// is interrupted, once, which lets it finish in order and save its state; only after the grace the whole group is
// killed. It returns the exit status, -1 after a signal.
func (c *Command) Run(ctx context.Context) (int, error) {
	cmd := exec.Command(c.Path, c.Args...)
	cmd.Dir, cmd.Env, cmd.Stdout, cmd.Stderr = c.Dir, c.Env, c.Stdout, c.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if c.UID != 0 {
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: uint32(c.UID), Gid: uint32(c.UID), Groups: []uint32{}}
	}
	if err := cmd.Start(); err != nil {
		return -1, fmt.Errorf("start terraform: %w", err)
	}
	var began error
	if c.Began != nil {
		if began = c.Began(cmd.Process.Pid); began != nil {
			KillGroup(cmd.Process.Pid)
		}
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		awaitExit(cmd.Process.Pid)
	}()
	c.supervise(ctx, cmd.Process, ended)
	// The leader is a zombie still, so its number names this group and no other.
	KillGroup(cmd.Process.Pid)
	err := cmd.Wait()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		return -1, errors.Join(began, fmt.Errorf("wait for terraform: %w", err))
	}
	return cmd.ProcessState.ExitCode(), began
}

// supervise returns when ended is closed; if ctx ends before, it makes that happen.
func (c *Command) supervise(ctx context.Context, p *os.Process, ended <-chan struct{}) {
	select {
	case <-ended:
		return
	case <-ctx.Done():
	}
	_ = p.Signal(os.Interrupt) // fails only if it has ended
	grace := time.NewTimer(c.Grace)
	defer grace.Stop()
	select {
	case <-ended:
		return
	case <-grace.C:
	}
	KillGroup(p.Pid)
	<-ended
}

// KillGroup kills every process of a process group. The caller knows that the group is still the one it means.
func KillGroup(pgid int) {
	if pgid > 1 {
		_ = unix.Kill(-pgid, unix.SIGKILL) // fails only if nobody is left
	}
}
