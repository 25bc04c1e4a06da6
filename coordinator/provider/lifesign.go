package provider

import (
	"fmt"
	"os"
	"os/exec"
	"syscall"
)

// A lifeSign is the process that terraform asks once a second whether the provider still lives (kill with signal 0,
// from the reattach information): where it may not send that signal, it takes the provider for dead and cancels what
// is under way. So where terraform has a user of its own, the sign is a process of that user.
type lifeSign struct {
	pid int
	cmd *exec.Cmd // nil where this process is its own sign
}

// newLifeSign makes the sign for a terraform that runs as uid, 0 for this process's own user. The process has ended at
// once, and nobody waits for it before end: until then its number is taken, it cannot be killed, and it does nothing.
func newLifeSign(uid int) (*lifeSign, error) {
	if uid == 0 || uid == os.Getuid() {
		return &lifeSign{pid: os.Getpid()}, nil
	}
	cmd := exec.Command("/bin/sh", "-c", ":")
	cmd.Dir, cmd.Env = "/", []string{}
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(uid), Groups: []uint32{}},
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start provider's sign of life: %w", err)
	}
	return &lifeSign{pid: cmd.Process.Pid, cmd: cmd}, nil
}

func (s *lifeSign) end() error {
	if s.cmd == nil {
		return nil
	}
	if err := s.cmd.Wait(); err != nil {
		return fmt.Errorf("end provider's sign of life: %w", err)
	}
	return nil
}
