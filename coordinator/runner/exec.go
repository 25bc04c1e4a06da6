package runner

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// execFlag makes the program a step between terraform-exec, which offers neither, and terraform: it tells its pid,
// which terraform keeps, and gives up root.
const execFlag = "-exec"

// execAs is the program "berthd build -exec UID PIPE TERRAFORM ARGS...".
func execAs(args []string) int {
	if len(args) < 3 {
		fmt.Fprintln(os.Stderr, "usage: berthd build -exec UID PIPE TERRAFORM ARGS...")
		return 2
	}
	if err := becomeTerraform(args[0], args[1], args[2:]); err != nil {
		fmt.Fprintln(os.Stderr, "berthd build:", err)
	}
	return 1
}

func becomeTerraform(uid, pipe string, argv []string) error {
	id, err := strconv.Atoi(uid)
	if err != nil {
		return fmt.Errorf("read uid: %w", err)
	}
	f, err := os.OpenFile(pipe, os.O_WRONLY, 0)
	if err != nil {
		return fmt.Errorf("open pipe: %w", err)
	}
	if _, err := fmt.Fprintln(f, os.Getpid()); err != nil {
		return fmt.Errorf("tell pid: %w", err)
	}
	if err := f.Close(); err != nil {
		return fmt.Errorf("tell pid: %w", err)
	}
	if id != 0 {
		if err := dropTo(id); err != nil {
			return err
		}
	}
	// terraform-exec had asked for the end with its parent; that is lost between threads and with the user.
	runtime.LockOSThread()
	if err := dieWithParent(); err != nil {
		return fmt.Errorf("follow parent: %w", err)
	}
	if err := syscall.Exec(argv[0], argv, os.Environ()); err != nil {
		return fmt.Errorf("start terraform: %w", err)
	}
	return nil
}

func dropTo(uid int) error {
	if err := syscall.Setgroups(nil); err != nil {
		return fmt.Errorf("drop groups: %w", err)
	}
	if err := syscall.Setgid(uid); err != nil {
		return fmt.Errorf("drop group: %w", err)
	}
	if err := syscall.Setuid(uid); err != nil {
		return fmt.Errorf("drop user: %w", err)
	}
	return nil
}

// A shim is the program that terraform-exec starts in place of terraform.
type shim struct {
	path string
	pids *os.File
}

// newShim writes the shim into the job's directory. Each pid that is told goes to told.
func (r *run) newShim() (*shim, error) {
	exe, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("find own program: %w", err)
	}
	pipe := r.dir.path("pids")
	if err := unix.Mkfifo(pipe, 0o600); err != nil && !os.IsExist(err) {
		return nil, fmt.Errorf("make pipe: %w", err)
	}
	// Opened for writing as well, it has no end before it is closed here.
	pids, err := os.OpenFile(pipe, os.O_RDWR, 0)
	if err != nil {
		return nil, fmt.Errorf("open pipe: %w", err)
	}
	s := &shim{path: filepath.Join(r.dir.root, "terraform"), pids: pids}
	// terraform-exec asks for the version before each command; the coordinator asked terraform at its start.
	version, err := json.Marshal(map[string]string{"terraform_version": r.job.Terraform.Version})
	if err != nil {
		pids.Close() // nothing was written
		return nil, fmt.Errorf("write shim: %w", err)
	}
	script := fmt.Sprintf("#!/bin/sh\n[ \"$1\" != version ] || exec echo %s\nexec %s build %s %d %s %s \"$@\"\n",
		quote(string(version)), quote(exe), execFlag, r.job.Host.BuildUID, quote(pipe), quote(r.job.Terraform.Path))
	if err := os.WriteFile(s.path, []byte(script), 0o700); err != nil {
		pids.Close() // nothing was written
		return nil, fmt.Errorf("write shim: %w", err)
	}
	return s, nil
}

// read calls told for every pid until the shim is closed.
func (s *shim) read(told func(pid int)) {
	buf := make([]byte, 256)
	for {
		n, err := s.pids.Read(buf)
		if err != nil {
			return
		}
		for _, f := range strings.Fields(string(buf[:n])) { // a write of this size is not split
			if pid, err := strconv.Atoi(f); err == nil && pid > 1 {
				told(pid)
			}
		}
	}
}

func (s *shim) close() { s.pids.Close() } // ends read

func quote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }
