package runner

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// startTime returns the kernel's start time of a process that lives, in clock ticks since boot; 0 for none and for
// one that has ended and was not waited for.
func startTime(pid int) uint64 {
	start, _, _ := stat(pid)
	return start
}

// stat returns a living process's start time, process group and session.
func stat(pid int) (start uint64, group, session int) {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return 0, 0, 0
	}
	// The second field is the program's name in parentheses and may hold anything.
	i := bytes.LastIndexByte(b, ')')
	f := strings.Fields(string(b[i+1:]))
	if i < 0 || len(f) < 20 || f[0] == "Z" || f[0] == "X" {
		return 0, 0, 0
	}
	group, errGroup := strconv.Atoi(f[2])
	session, errSession := strconv.Atoi(f[3])
	start, errStart := strconv.ParseUint(f[19], 10, 64)
	if errors.Join(errGroup, errSession, errStart) != nil {
		return 0, 0, 0
	}
	return start, group, session
}

// strays returns what lives of a process group whose leader is gone. The session and the time are asked for as well,
// so that a group that has got the same number since is left alone.
func strays(leader process, session int) []process {
	dirs, err := os.ReadDir("/proc")
	if err != nil {
		return nil
	}
	var found []process
	for _, d := range dirs {
		pid, err := strconv.Atoi(d.Name())
		if err != nil {
			continue
		}
		if t, g, s := stat(pid); t >= leader.start && t != 0 && g == leader.pid && s == session {
			found = append(found, process{pid, t})
		}
	}
	return found
}

// undumpable keeps this process's memory from others of the same user.
func undumpable() error {
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("protect memory: %w", err)
	}
	return nil
}

// dieWithParent has this thread's process killed when its parent ends; it lasts through exec.
func dieWithParent() error {
	return unix.Prctl(unix.PR_SET_PDEATHSIG, uintptr(unix.SIGKILL), 0, 0, 0)
}

// anonymous returns a file that has no name anywhere and lies in memory.
func anonymous(name string) (*os.File, error) {
	fd, err := unix.MemfdCreate(name, unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("make unnamed file: %w", err)
	}
	return os.NewFile(uintptr(fd), name), nil
}

// An exitWatch tells when a process ends, without being its parent.
type exitWatch struct{ fd int }

func watchExit(p process) *exitWatch {
	fd, err := unix.PidfdOpen(p.pid, 0)
	if err != nil || !p.lives() {
		if err == nil {
			_ = unix.Close(fd) // a fresh descriptor
		}
		return nil
	}
	return &exitWatch{fd}
}

// wait waits for the end, at most for d, and reports whether it has come.
func (w *exitWatch) wait(d time.Duration) bool {
	n, err := unix.Poll([]unix.PollFd{{Fd: int32(w.fd), Events: unix.POLLIN}}, int(d/time.Millisecond))
	return n > 0 && (err == nil || !errors.Is(err, unix.EINTR))
}

func (w *exitWatch) close() { _ = unix.Close(w.fd) } // a pidfd

// terraformIn returns a terraform that works in a module's copy, for a runner that was killed before it had written
// the pid down.
func terraformIn(module string) (process, bool) {
	dirs, err := filepath.Glob("/proc/[0-9]*/cwd")
	if err != nil {
		return process{}, false
	}
	for _, link := range dirs {
		if cwd, err := os.Readlink(link); err != nil || cwd != module {
			continue
		}
		comm, err := os.ReadFile(filepath.Join(filepath.Dir(link), "comm"))
		if name := strings.TrimSpace(string(comm)); err != nil || name != "terraform" && name != "tofu" {
			continue
		}
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(link)))
		if t := startTime(pid); err == nil && t != 0 {
			return process{pid, t}, true
		}
	}
	return process{}, false
}

// syncAll makes everything on the file system of path durable.
func syncAll(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close() // read only
	return unix.Syncfs(int(f.Fd()))
}
