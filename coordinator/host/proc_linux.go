package host

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// A stat is what /proc/PID/stat tells.
type stat struct {
	state   byte
	ppid    int
	session int
	start   uint64 // ticks since boot
}

func statOf(pid int) (stat, bool) {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return stat{}, false
	}
	i := bytes.LastIndexByte(b, ')') // the name before it may hold anything
	if i < 0 {
		return stat{}, false
	}
	f := strings.Fields(string(b[i+1:]))
	if len(f) < 20 {
		return stat{}, false
	}
	ppid, err1 := strconv.Atoi(f[1])
	session, err2 := strconv.Atoi(f[3])
	start, err3 := strconv.ParseUint(f[19], 10, 64)
	return stat{f[0][0], ppid, session, start}, errors.Join(err1, err2, err3) == nil
}

// lives reports whether pid is still the process that started then, and not a zombie.
func lives(pid int, start uint64) bool {
	s, ok := statOf(pid)
	return ok && pid > 0 && s.start == start && s.state != 'Z' && s.state != 'X'
}

// A handle holds on to one process: a pid that is used again is not it.
type handle struct {
	fd    int
	pid   int
	start uint64
}

// hold returns a handle of the process, or false if it is gone.
func hold(pid int, start uint64) (handle, bool) {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return handle{}, false
	}
	h := handle{fd, pid, start}
	if !lives(pid, start) {
		h.release()
		return handle{}, false
	}
	return h, true
}

func (h handle) signal(sig syscall.Signal) error {
	err := unix.PidfdSendSignal(h.fd, sig, nil, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	return err
}

func (h handle) release() { _ = unix.Close(h.fd) }

// wait returns true once the process has ended, false after d or when ctx ends.
func (h handle) wait(ctx context.Context, d time.Duration) bool {
	deadline := time.Now().Add(d)
	for {
		left := min(time.Until(deadline), 100*time.Millisecond)
		if left <= 0 || ctx.Err() != nil {
			return false
		}
		p := []unix.PollFd{{Fd: int32(h.fd), Events: unix.POLLIN}}
		n, err := unix.Poll(p, int(left.Milliseconds())+1)
		if err == nil && n == 1 {
			reap(h.pid)
			return true
		}
		if err != nil && !errors.Is(err, unix.EINTR) {
			return false
		}
	}
}

// reap takes the status of a child of ours that has ended. Nobody else waits for it.
func reap(pid int) {
	_, _ = unix.Wait4(pid, nil, unix.WNOHANG, nil)
}

// pids lists every process of the host.
func pids() ([]int, error) {
	d, err := os.Open("/proc")
	if err != nil {
		return nil, fmt.Errorf("list processes: %w", err)
	}
	defer d.Close() //nolint:errcheck // read only
	names, err := d.Readdirnames(-1)
	if err != nil {
		return nil, fmt.Errorf("list processes: %w", err)
	}
	var out []int
	for _, n := range names {
		if pid, err := strconv.Atoi(n); err == nil {
			out = append(out, pid)
		}
	}
	return out, nil
}

// childOf returns a child of pid that runs something else than its parent: the command that a sandbox's init started.
func childOf(pid int) (int, uint64, bool) {
	own, err := os.Stat(exe(pid))
	if err != nil {
		return 0, 0, false
	}
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))
	if err != nil {
		return 0, 0, false
	}
	for _, f := range strings.Fields(string(b)) {
		child, err := strconv.Atoi(f)
		if err != nil {
			continue
		}
		s, ok := statOf(child)
		if !ok || s.ppid != pid {
			continue
		}
		if info, err := os.Stat(exe(child)); err == nil && !os.SameFile(info, own) {
			return child, s.start, true
		}
	}
	return 0, 0, false
}

func exe(pid int) string { return "/proc/" + strconv.Itoa(pid) + "/exe" }

// A ref names one process for as long as it runs.
type ref struct {
	pid   int
	start uint64
}

// descendants returns the processes that pid started, and those that they started.
func descendants(pid int) ([]ref, error) {
	all, err := pids()
	if err != nil {
		return nil, err
	}
	children := map[int][]ref{}
	for _, p := range all {
		if s, ok := statOf(p); ok {
			children[s.ppid] = append(children[s.ppid], ref{p, s.start})
		}
	}
	var out []ref
	for queue := []int{pid}; len(queue) > 0; queue = queue[1:] {
		for _, c := range children[queue[0]] {
			out = append(out, c)
			queue = append(queue, c.pid)
		}
	}
	return out, nil
}

// killMarked ends every process that carries the marker of that id, and the others if they still run, but never this
// process or one that it descends from. It looks again until there is none, for they may fork meanwhile.
func killMarked(ctx context.Context, id string, others []ref) error {
	mine := ancestors()
	known := map[ref]bool{}
	for _, r := range others {
		known[r] = true
	}
	for range 100 {
		all, err := pids()
		if err != nil {
			return err
		}
		left := 0
		for _, pid := range all {
			s, ok := statOf(pid)
			if !ok || mine[pid] || s.state == 'Z' || s.state == 'X' || !known[ref{pid, s.start}] && !marked(pid, id) {
				continue
			}
			h, ok := hold(pid, s.start)
			if !ok {
				continue
			}
			left++
			err := h.signal(syscall.SIGKILL)
			if err == nil {
				h.wait(ctx, time.Second)
			}
			h.release()
			if err != nil {
				return fmt.Errorf("end process %d: %w", pid, err)
			}
		}
		if left == 0 {
			return nil
		}
		if err := ctx.Err(); err != nil {
			return err
		}
	}
	return fmt.Errorf("end process %s: it makes new processes faster than they can be ended", id)
}

// marked reports whether the process was started with the marker of that id.
func marked(pid int, id string) bool {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/environ")
	if err != nil {
		return false
	}
	want := []byte(marker + "=" + id)
	for kv := range bytes.SplitSeq(b, []byte{0}) {
		if bytes.Equal(kv, want) {
			return true
		}
	}
	return false
}

// ancestors returns this process and those that it descends from.
func ancestors() map[int]bool {
	mine := map[int]bool{}
	for pid := os.Getpid(); pid > 0 && !mine[pid]; {
		mine[pid] = true
		s, ok := statOf(pid)
		if !ok {
			break
		}
		pid = s.ppid
	}
	return mine
}

// bootID tells one boot of the kernel from another: pids and start times repeat.
func bootID() string {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}

// keepFiles keeps whatever files this process was started with, such as a job with its keys, from those that it starts.
func keepFiles() error {
	if err := unix.CloseRange(3, math.MaxUint32, unix.CLOSE_RANGE_CLOEXEC); err == nil {
		return nil
	}
	names, err := os.ReadDir("/proc/self/fd") // kernels before 5.11
	if err != nil {
		return fmt.Errorf("list open files: %w", err)
	}
	for _, n := range names {
		if fd, err := strconv.Atoi(n.Name()); err == nil && fd > 2 {
			unix.CloseOnExec(fd)
		}
	}
	return nil
}
