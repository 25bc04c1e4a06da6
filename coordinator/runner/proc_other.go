//go:build !linux

package runner

import (
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// startTime returns the start time of a process that lives, in microseconds; 0 for none.
func startTime(pid int) uint64 {
	k, err := unix.SysctlKinfoProc("kern.proc.pid", pid)
	const zombie = 5 // SZOMB
	if err != nil || int(k.Proc.P_pid) != pid || k.Proc.P_stat == zombie {
		return 0
	}
	t := k.Proc.P_starttime
	return uint64(t.Sec)*1e6 + uint64(t.Usec)
}

// undumpable does nothing: other processes of the same user are kept out by the system here.
func undumpable() error { return nil }

// dieWithParent does nothing: there is no such thing here.
func dieWithParent() error { return nil }

// anonymous returns a file that has no name any more.
func anonymous(name string) (*os.File, error) {
	f, err := os.CreateTemp("", name+"-")
	if err != nil {
		return nil, fmt.Errorf("make unnamed file: %w", err)
	}
	return f, os.Remove(f.Name())
}

// An exitWatch does not exist here: the lock is looked at instead.
type exitWatch struct{}

func watchExit(process) *exitWatch { return nil }

func (w *exitWatch) wait(d time.Duration) bool { return false }

func (w *exitWatch) close() {}

func strays(process, int) []process { return nil }

func terraformIn(string) (process, bool) { return process{}, false }

func syncAll(string) error { return nil }
