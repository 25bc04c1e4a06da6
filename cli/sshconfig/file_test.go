package sshconfig

import (
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

func write(t *testing.T, path, data string, mode fs.FileMode) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(data), mode); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, mode); err != nil {
		t.Fatal(err)
	}
}

func content(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestInstall(t *testing.T) {
	for _, tt := range []struct {
		name, before, after string // LINE stands for our line
		back                string // after Remove; before if empty
	}{
		{name: "none", before: "", after: "LINE\n"},
		{name: "some", before: "Host *\n\tUser me\n", after: "LINE\nHost *\n\tUser me\n"},
		{name: "no line break at the end", before: "Host *", after: "LINE\nHost *"},
		{name: "there already", before: "LINE\nHost *\n", after: "LINE\nHost *\n", back: "Host *\n"},
		{name: "there after a comment", before: "# mine\n\nLINE\nHost *\n", after: "# mine\n\nLINE\nHost *\n", back: "# mine\n\nHost *\n"},
		{name: "there after a setting", before: "HostKeyAlgorithms x\nLINE\n", after: "HostKeyAlgorithms x\nLINE\n", back: "HostKeyAlgorithms x\n"},
		{name: "where only some read it", before: "Host x\n\tLINE\n", after: "LINE\nHost x\n", back: "Host x\n"},
		{name: "behind a match", before: "match all\nLINE\n", after: "LINE\nmatch all\n", back: "match all\n"},
		{name: "twice", before: "Host=x\nLINE\nLINE\n", after: "LINE\nHost=x\n", back: "Host=x\n"},
		{name: "commented out", before: "#LINE\n", after: "LINE\n#LINE\n"},
		{name: "of Windows", before: "Host *\r\n\tUser me\r\n", after: "LINE\r\nHost *\r\n\tUser me\r\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			user, own := filepath.Join(dir, ".ssh", "config"), filepath.Join(dir, "my berth", "ssh_config")
			line := `Include "` + own + `"`
			if tt.back == "" {
				tt.back = tt.before
			}
			fill := func(s string) string { return strings.ReplaceAll(s, "LINE", line) }
			if tt.before != "" {
				write(t, user, fill(tt.before), 0o644)
			}
			changed, err := Install(user, own, []byte("Host *.berth\n\tUser berth-was-here\n"))
			if err != nil {
				t.Fatal(err)
			}
			if got, want := content(t, user), fill(tt.after); got != want {
				t.Errorf("got  %q\nwant %q", got, want)
			}
			if changed != (tt.before != tt.after) {
				t.Errorf("changed is %v", changed)
			}
			if again, err := Install(user, own, []byte("Host *.berth\n\tUser berth-was-here\n")); again || err != nil {
				t.Errorf("a second time: changed %v, %v", again, err)
			}
			// OpenSSH reads it, for every host.
			if tt.name != "of Windows" && !strings.Contains(tt.before, " x\n") {
				out, err := exec.Command("ssh", "-G", "-F", user, "dev.berth").CombinedOutput()
				if err != nil || !strings.Contains(string(out), "user berth-was-here\n") {
					t.Errorf("ssh does not read our file: %v\n%s", err, out)
				}
			}
			if _, err := Remove(user, own); err != nil {
				t.Fatal(err)
			}
			if got, want := content(t, user), fill(tt.back); got != want {
				t.Errorf("removed: got %q, want %q", got, want)
			}
			if _, err := os.Stat(own); err == nil {
				t.Error("our file is still there")
			}
		})
	}
}

func TestMode(t *testing.T) {
	dir := t.TempDir()
	own := filepath.Join(dir, "berth", "ssh_config")
	mode := func(path string) fs.FileMode {
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		return info.Mode().Perm()
	}
	fresh := filepath.Join(dir, "fresh", ".ssh", "config")
	if _, err := Install(fresh, own, nil); err != nil {
		t.Fatal(err)
	}
	if mode(fresh) != 0o600 || mode(filepath.Dir(fresh)) != 0o700 || mode(own) != 0o600 {
		t.Errorf("new files have %v, %v, %v", mode(fresh), mode(filepath.Dir(fresh)), mode(own))
	}
	for _, m := range []fs.FileMode{0o600, 0o640, 0o644} {
		user := filepath.Join(dir, m.String(), "config")
		write(t, user, "Host *\n", m)
		if _, err := Install(user, own, nil); err != nil || mode(user) != m {
			t.Errorf("%v became %v, %v", m, mode(user), err)
		}
	}
}

func TestLinks(t *testing.T) {
	dir := t.TempDir()
	own, real, user := filepath.Join(dir, "b", "ssh_config"), filepath.Join(dir, "dotfiles", "ssh_config"), filepath.Join(dir, ".ssh", "config")
	write(t, real, "Host *\n", 0o600)
	write(t, filepath.Join(dir, ".ssh", "x"), "", 0o600)
	middle := filepath.Join(dir, "middle")
	for link, to := range map[string]string{middle: "dotfiles/ssh_config", user: "../middle"} {
		if err := os.Symlink(to, link); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := Install(user, own, nil); err != nil {
		t.Fatal(err)
	}
	if to, err := os.Readlink(user); err != nil || to != "../middle" {
		t.Errorf("the link became %q, %v", to, err)
	}
	if got := content(t, real); got != "Include "+own+"\nHost *\n" {
		t.Errorf("the file behind it holds %q", got)
	}
	// A link to nothing: the file is made where it points.
	if err := os.Remove(real); err != nil {
		t.Fatal(err)
	}
	if _, err := Install(user, own, nil); err != nil || content(t, real) != "Include "+own+"\n" {
		t.Errorf("a link to nothing: %v", err)
	}
	loop := filepath.Join(dir, "loop")
	if err := os.Symlink("loop", loop); err != nil {
		t.Fatal(err)
	}
	if _, err := Install(loop, own, nil); err == nil {
		t.Error("a link to itself is followed")
	}
}

func TestRefused(t *testing.T) {
	dir := t.TempDir()
	own := filepath.Join(dir, "b", "ssh_config")
	file := filepath.Join(dir, "file")
	write(t, file, "x", 0o600)
	big := filepath.Join(dir, "big")
	write(t, big, strings.Repeat("#", maxUserConfig+1), 0o600)
	for _, tt := range []struct{ name, user, own string }{
		{"a directory that is a file", filepath.Join(file, "config"), own},
		{"a file that is a directory", dir, own},
		{"a file of many megabytes", big, own},
		{"a wildcard", filepath.Join(dir, "c"), filepath.Join(dir, "a*b", "ssh_config")},
		{"a token", filepath.Join(dir, "c"), filepath.Join(dir, "a%h", "ssh_config")},
		{"a line break", filepath.Join(dir, "c"), filepath.Join(dir, "a\nb", "ssh_config")},
		{"a relative path", filepath.Join(dir, "c"), "ssh_config"},
	} {
		if _, err := Install(tt.user, tt.own, nil); err == nil {
			t.Errorf("%s: no error", tt.name)
		} else if strings.Contains(err.Error(), ".berth-") {
			t.Errorf("%s: names the temporary file: %v", tt.name, err)
		}
	}
	if content(t, file) != "x" {
		t.Error("a file was changed")
	}
}

// TestReadOnly needs a user whom modes bind.
func TestReadOnly(t *testing.T) {
	if os.Getuid() == 0 {
		t.Skip("root writes everywhere")
	}
	dir := t.TempDir()
	user := filepath.Join(dir, ".ssh", "config")
	write(t, user, "Host *\n", 0o600)
	if err := os.Chmod(filepath.Dir(user), 0o500); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.Chmod(filepath.Dir(user), 0o700) })
	_, err := Install(user, filepath.Join(dir, "b", "ssh_config"), nil)
	if err == nil || !strings.HasSuffix(err.Error(), "config: permission denied") {
		t.Errorf("%v", err)
	}
	if content(t, user) != "Host *\n" {
		t.Error("the file was changed")
	}
}

// TestAtomic reads while others write: every reader sees a whole file.
func TestAtomic(t *testing.T) {
	path := filepath.Join(t.TempDir(), "config")
	long := strings.Repeat("a", 1<<20)
	if err := WriteFile(path, []byte(long), 0o600); err != nil {
		t.Fatal(err)
	}
	var g sync.WaitGroup
	for range 2 {
		g.Go(func() {
			for range 20 {
				if err := WriteFile(path, []byte(long), 0o600); err != nil {
					t.Error(err)
				}
			}
		})
	}
	for range 100 {
		if b, err := os.ReadFile(path); err != nil || len(b) != len(long) {
			t.Fatalf("read %d bytes, %v", len(b), err)
		}
	}
	g.Wait()
	left, err := os.ReadDir(filepath.Dir(path))
	if err != nil || len(left) != 1 {
		t.Errorf("%d files are left, %v", len(left), err)
	}
}
