package host

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// readable are the directories of the host that a sandbox sees, read-only. Some are links on many systems.
var readable = []string{"/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/opt", "/nix", "/gnu"}

// sysfs are the parts of /sys that tools read to learn about processors and devices.
var sysfs = []string{"/sys/block", "/sys/bus", "/sys/class", "/sys/dev", "/sys/devices"}

// args returns bubblewrap's arguments. Their order matters: what comes later lies on top. Descriptor 3 takes the
// status, 4 and up are s.files.
func (s *sandbox) args() []string {
	a := []string{
		"--unshare-user", "--unshare-pid", "--unshare-ipc", "--unshare-uts", "--unshare-cgroup-try",
		"--new-session", "--info-fd", "3", "--hostname", s.hostname,
	}
	for _, dir := range readable {
		a = append(a, hostDir(dir)...)
	}
	a = append(a, "--ro-bind", "/etc", "/etc")
	for _, path := range secrets("/etc", 2) {
		a = append(a, mask(path)...)
	}
	a = append(a, "--proc", "/proc", "--dev", "/dev")
	for _, dir := range sysfs {
		a = append(a, "--ro-bind-try", dir, dir)
	}
	a = append(a,
		"--perms", "1777", "--tmpfs", "/tmp", "--perms", "1777", "--tmpfs", "/var/tmp",
		"--symlink", "/run", "/var/run", "--symlink", "/run/lock", "/var/lock",
		"--perms", "0755", "--tmpfs", "/run", "--perms", "1777", "--dir", "/run/lock", "--perms", "0700", "--dir", insideRuntime,
	)
	a = append(a, resolver()...)
	a = append(a, s.hide()...)
	for i, f := range s.files {
		a = append(a, "--perms", f.mode, "--ro-bind-data", strconv.Itoa(4+i), f.path)
	}
	a = append(a, "--ro-bind", s.command, insideAgent)
	dir := "/"
	if s.home != "" {
		dir = "/home/" + s.user
		a = append(a, "--bind", s.home, dir)
	}
	if s.coder != "" {
		a = append(a, "--ro-bind", s.coder, insideCoder)
	}
	return append(a, "--remount-ro", "/", "--chdir", dir, "--", insideAgent)
}

// hostDir binds a directory of the host, or makes the same link.
func hostDir(dir string) []string {
	info, err := os.Lstat(dir)
	if err != nil {
		return nil
	}
	if info.Mode()&fs.ModeSymlink != 0 {
		to, err := os.Readlink(dir)
		if err != nil {
			return nil
		}
		return []string{"--symlink", to, dir}
	}
	return []string{"--ro-bind", dir, dir}
}

// secrets returns what lies at most depth directories below dir and not everybody on the host may read. An ordinary
// user's coordinator may have groups that could.
func secrets(dir string, depth int) []string {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil
	}
	var out []string
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		info, err := e.Info()
		switch {
		case err != nil:
		case e.IsDir() && info.Mode().Perm()&0o005 != 0o005, info.Mode().IsRegular() && info.Mode().Perm()&0o004 == 0:
			out = append(out, path)
		case e.IsDir() && depth > 0:
			out = append(out, secrets(path, depth-1)...)
		}
	}
	return out
}

// mask lays something empty over path.
func mask(path string) []string {
	if info, err := os.Lstat(path); err == nil && info.IsDir() {
		return []string{"--perms", "0555", "--tmpfs", path, "--remount-ro", path}
	}
	return []string{"--ro-bind", "/dev/null", path}
}

// hide masks the private directories that lie below one that the sandbox sees.
func (s *sandbox) hide() []string {
	var a []string
	for _, dir := range s.hidden {
		dir, err := filepath.EvalSymlinks(dir)
		if err != nil {
			continue
		}
		for _, seen := range append([]string{"/etc"}, readable...) {
			if strings.HasPrefix(dir, seen+"/") {
				a = append(a, mask(dir)...)
				break
			}
		}
	}
	return a
}

// resolver binds what /etc/resolv.conf points to where that is outside of /etc. The directory is bound where it is a
// resolver's own, because the file is replaced whenever the network changes.
func resolver() []string {
	path, err := filepath.EvalSymlinks("/etc/resolv.conf")
	if err != nil || strings.HasPrefix(path, "/etc/") {
		return nil
	}
	switch dir := filepath.Dir(path); dir {
	case "/run/systemd/resolve", "/run/NetworkManager", "/run/resolvconf":
		return []string{"--ro-bind", dir, dir}
	}
	return []string{"--ro-bind", path, path}
}

// accounts returns a passwd and a group file in which uid is the owner, with a home of that name.
func accounts(name, fullName string, uid, gid int) []file {
	gecos := strings.Map(func(r rune) rune {
		if r == ':' || r == ',' || r < ' ' || r == 0x7f {
			return -1
		}
		return r
	}, fullName)
	passwd := fmt.Sprintf("%s:x:%d:%d:%s:/home/%s:%s\n", name, uid, gid, gecos, name, anyShell())
	group := fmt.Sprintf("%s:x:%d:\n", name, gid)
	if name != "root" {
		passwd += "root:x:0:0:root:/root:/usr/sbin/nologin\n"
		group += "root:x:0:\n"
	}
	if name != "nobody" {
		passwd += "nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n"
	}
	if name != "nogroup" {
		group += "nogroup:x:65534:\n"
	}
	return []file{{"/etc/passwd", "0644", []byte(passwd)}, {"/etc/group", "0644", []byte(group)}}
}
