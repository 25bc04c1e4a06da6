package host

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"berth/agent"
	"berth/coordinator"
)

// startLimit is how long a sandbox may take until the agent runs in it.
const startLimit = 10 * time.Second

// A sandbox is one bubblewrap to be started.
type sandbox struct {
	bwrap    string
	uid, gid int
	drop     bool // from root to uid, before bubblewrap starts
	user     string
	home     string // directory to bind at /home/<user>; empty: none
	coder    string // directory to bind at /coder; empty: none
	command  string // program to bind at insideAgent
	hidden   []string
	hostname string
	files    []file
	env      []string
	log      *os.File
}

// A file is content that appears inside without lying on a disk.
type file struct {
	path string
	mode string // octal
	data []byte
}

// ProbeBubblewrap returns the path of a bubblewrap that works on this host, by running a command in just such a
// sandbox as processes get; or "". Being installed says little: namespaces may be forbidden.
func ProbeBubblewrap(ctx context.Context) string {
	path, err := exec.LookPath("bwrap")
	if err != nil {
		return ""
	}
	if path, err = filepath.Abs(path); err != nil {
		return ""
	}
	if path, err = filepath.EvalSymlinks(path); err != nil {
		return ""
	}
	truth, err := exec.LookPath("true")
	if err != nil {
		return ""
	}
	s := sandbox{bwrap: path, uid: os.Geteuid(), gid: os.Getegid(), user: "probe", command: truth, hostname: "probe", files: accounts("probe", "", 1, 1), env: []string{"PATH=" + defaultPath}}
	if os.Geteuid() == 0 {
		s.drop, s.uid, s.gid = true, coordinator.HostUIDBase, coordinator.HostUIDBase
	}
	ctx, cancel := context.WithTimeout(ctx, startLimit)
	defer cancel()
	cmd, status, err := s.start()
	if err != nil {
		return ""
	}
	defer status.Close() //nolint:errcheck // read only
	stop := context.AfterFunc(ctx, func() { _ = cmd.Process.Kill() })
	defer stop()
	if err := cmd.Wait(); err != nil {
		return ""
	}
	return path
}

// startIsolated runs the agent in a sandbox of bubblewrap, and fills in p's pids.
func (h *Host) startIsolated(ctx context.Context, p *Process, s Spec) error {
	uid, gid := os.Geteuid(), os.Getegid()
	if h.root {
		if h.grant.UID < coordinator.HostUIDBase { // never one that means somebody on this host
			return coordinator.Errorf(coordinator.CodeInternal, "the owner has no uid for processes on this host")
		}
		uid, gid = h.grant.UID, h.grant.UID
	}
	if err := h.ownHome(s.Home, uid); err != nil {
		return err
	}
	log, err := h.openLog(p.ID)
	if err != nil {
		return err
	}
	defer log.Close() //nolint:errcheck // the process has its own
	homeDir := "/home/" + h.ws.Owner
	own := map[string]string{
		"HOME": homeDir, "USER": h.ws.Owner, "LOGNAME": h.ws.Owner,
		agent.EnvTokenFile: insideToken, agent.EnvRuntimeDir: insideRuntime,
	}
	files := append(accounts(h.ws.Owner, h.ws.OwnerFullName, uid, gid), file{insideToken, "0600", []byte(string(s.Token) + "\n")})
	if hosts, err := os.ReadFile("/etc/hosts"); err == nil {
		files = append(files, file{"/etc/hosts", "0644", append(hosts, "\n127.0.1.1 "+h.ws.Name+"\n"...)})
	}
	box := sandbox{
		bwrap: h.grant.Bubblewrap, uid: uid, gid: gid, drop: h.root, user: h.ws.Owner, hostname: h.ws.Name,
		home: h.homeDir(s.Home), coder: s.CoderDir, command: h.grant.Agent, hidden: h.private(),
		files: files, env: environ(s, map[string]string{"SHELL": anyShell()}, own), log: log,
	}
	cmd, status, err := box.start()
	if err != nil {
		return coordinator.Errorf(coordinator.CodeFailed, "the sandbox could not be started: %w", err)
	}
	defer status.Close() //nolint:errcheck // read only
	err = p.find(ctx, status)
	if err != nil {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		return coordinator.Errorf(coordinator.CodeFailed, "the agent did not start in its sandbox%s", h.said(p.ID)).WithCause(err)
	}
	return cmd.Process.Release()
}

// said returns the last line of a process's log as a part of a message.
func (h *Host) said(id string) string {
	b, err := logTail(h.processLog(id), 1<<10)
	lines := strings.Split(strings.TrimSpace(string(b)), "\n")
	if last := lines[len(lines)-1]; err == nil && last != "" {
		return ": " + coordinator.Clip(strings.ToValidUTF8(last, "?"), 300)
	}
	return ""
}

// private returns the directories that no sandbox may see, wherever they lie.
func (h *Host) private() []string {
	dirs := []string{filepath.Dir(h.grant.Homes), filepath.Dir(h.grant.Run)}
	if home, err := os.UserHomeDir(); err == nil {
		dirs = append(dirs, home)
	}
	return dirs
}

// find waits until the agent runs in the sandbox, and fills in the pids of both it and the namespace's init.
// Bubblewrap itself forks: its outer process is of no use for signals.
func (p *Process) find(ctx context.Context, status *os.File) error {
	deadline := time.Now().Add(startLimit)
	if err := status.SetReadDeadline(deadline); err != nil {
		return fmt.Errorf("read sandbox status: %w", err)
	}
	var info struct {
		Child int `json:"child-pid"`
	}
	if err := json.NewDecoder(io.LimitReader(status, 4<<10)).Decode(&info); err != nil {
		return fmt.Errorf("read sandbox status: %w", err)
	}
	st, ok := statOf(info.Child)
	if !ok {
		return fmt.Errorf("look at sandbox: it has ended")
	}
	init, ok := hold(info.Child, st.start)
	if !ok {
		return fmt.Errorf("look at sandbox: it has ended")
	}
	defer init.release()
	p.Init, p.InitStart = info.Child, st.start
	for time.Now().Before(deadline) {
		if p.PID, p.StartTime, ok = childOf(p.Init); ok {
			return nil
		}
		if init.wait(ctx, 2*time.Millisecond) {
			return fmt.Errorf("look at sandbox: it has ended")
		}
		if err := ctx.Err(); err != nil {
			return err
		}
	}
	return fmt.Errorf("look at sandbox: no agent after %v", startLimit)
}

// start starts bubblewrap. The pipe that it returns gets bubblewrap's word on the pid of the sandbox's init.
func (s *sandbox) start() (cmd *exec.Cmd, status *os.File, err error) {
	status, w, err := os.Pipe()
	if err != nil {
		return nil, nil, fmt.Errorf("make pipe: %w", err)
	}
	defer func() {
		_ = w.Close()
		if err != nil {
			_ = status.Close()
		}
	}()
	extra := []*os.File{w}
	for _, f := range s.files {
		m, err := memfile(f.data)
		if err != nil {
			return nil, nil, err
		}
		defer m.Close() //nolint:errcheck // memory
		extra = append(extra, m)
	}
	command := func() *exec.Cmd {
		c := exec.Command(s.bwrap, s.args()...)
		c.Dir, c.Env, c.ExtraFiles = "/", s.env, extra
		if s.log != nil {
			c.Stdout, c.Stderr = s.log, s.log
		}
		c.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
		if s.drop {
			c.SysProcAttr.Credential = &syscall.Credential{Uid: uint32(s.uid), Gid: uint32(s.gid)}
		}
		return c
	}
	if !s.drop {
		cmd = command()
		return cmd, status, cmd.Start()
	}
	// The directories to bind lie where only root gets to, and bubblewrap does not run as root.
	err = staged(func() error {
		if err := s.stage(); err != nil {
			return err
		}
		cmd = command()
		return cmd.Start()
	})
	return cmd, status, err
}

// staging is where root lays out what bubblewrap binds, in a mount namespace of its own.
const staging = "/tmp"

// staged calls f on a thread with a mount namespace of its own. What f starts inherits that namespace; the thread
// ends with the call, and nobody else sees its mounts.
func staged(f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // and never unlocked: the runtime ends the thread with the goroutine
		if err := unix.Unshare(unix.CLONE_NEWNS | unix.CLONE_FS); err != nil {
			done <- fmt.Errorf("make mount namespace: %w", err)
			return
		}
		if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SLAVE, ""); err != nil {
			done <- fmt.Errorf("make mount namespace: %w", err)
			return
		}
		done <- f()
	}()
	return <-done
}

// stage binds what the sandbox is made from below a fresh tmpfs, and makes s name it there.
func (s *sandbox) stage() error {
	sources := []*string{&s.home, &s.coder, &s.command}
	fds := make([]int, len(sources))
	for i, src := range sources { // before the tmpfs, which may hide them
		fds[i] = -1
		if *src == "" {
			continue
		}
		fd, err := unix.Open(*src, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		if err != nil {
			return fmt.Errorf("open %s: %w", *src, err)
		}
		defer func() { _ = unix.Close(fd) }()
		fds[i] = fd
	}
	if err := unix.Mount("berth", staging, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=0755,size=64k"); err != nil {
		return fmt.Errorf("mount staging: %w", err)
	}
	for i, src := range sources {
		if fds[i] < 0 {
			continue
		}
		at := filepath.Join(staging, strconv.Itoa(i))
		var st unix.Stat_t
		if err := unix.Fstat(fds[i], &st); err != nil {
			return fmt.Errorf("look at %s: %w", *src, err)
		}
		var err error
		if st.Mode&unix.S_IFMT == unix.S_IFDIR {
			err = os.Mkdir(at, 0o755)
		} else {
			err = os.WriteFile(at, nil, 0o644)
		}
		if err != nil {
			return fmt.Errorf("stage %s: %w", *src, err)
		}
		fd := "/proc/thread-self/fd/" + strconv.Itoa(fds[i])
		if err := unix.Mount(fd, at, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("bind %s: %w", *src, err)
		}
		*src = at
	}
	return nil
}

// memfile returns data as a file that lies in memory.
func memfile(data []byte) (*os.File, error) {
	fd, err := unix.MemfdCreate("berth", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("make memory file: %w", err)
	}
	f := os.NewFile(uintptr(fd), "berth")
	_, err = f.Write(data)
	if err == nil {
		_, err = f.Seek(0, io.SeekStart)
	}
	if err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("fill memory file: %w", err)
	}
	return f, nil
}
