package ide

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// proc makes a /proc of processes of this user.
func proc(t *testing.T, list map[int]struct {
	parent int
	args   []string
},
) Scanner {
	t.Helper()
	dir := t.TempDir()
	write := func(path, text string) {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, path)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, path), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("stat", "cpu 1 2\nbtime 1000000\n")
	for pid, p := range list {
		write(fmt.Sprintf("%d/stat", pid), fmt.Sprintf("%d (a) b (c) S %d 1 1 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 %d 1000 10 1", pid, p.parent, pid*100))
		write(fmt.Sprintf("%d/cmdline", pid), strings.Join(p.args, "\x00")+"\x00")
	}
	return Scanner{Proc: dir, UID: uint32(os.Getuid()), Self: 5}
}

func TestScan(t *testing.T) {
	type p = struct {
		parent int
		args   []string
	}
	s := proc(t, map[int]p{
		1:  {0, []string{"/sbin/init"}},
		5:  {1, []string{"/run/berth-agent"}},
		10: {1, []string{"/home/a/.vscode-server/code-0a1b", "command-shell", "--cli-data-dir", "/home/a/.vscode-server/cli"}},
		11: {10, []string{"/home/a/.vscode-server/cli/servers/Stable-0a1b/server/node", "/home/a/.vscode-server/x/server-main.js"}},
		12: {11, []string{"/usr/bin/gopls"}},
		20: {1, []string{"sh", "/home/a/.cursor-server/bin/0a1b/bin/cursor-server", "--start-server"}},
		30: {1, []string{"/home/a/.zed_server/zed-remote-server-stable-0.200", "run", "--log-file", "x"}},
		40: {1, []string{"/home/a/.cache/JetBrains/RemoteDev/dist/0a_idea/jbr/bin/java", "-cp", "x"}},
		50: {5, []string{"bash", "-l"}},
		51: {50, []string{"/home/a/.windsurf-server/bin/0a1b/node", "x"}},
		60: {50, []string{"vim", "-o", "/home/a/.vscode-server/data/settings.json"}},
		61: {1, []string{"/usr/bin/sshd"}},
	})
	var got []string
	for _, i := range s.Scan(true) {
		got = append(got, fmt.Sprintf("%d %s %s %d %d", i.PID, i.Product, i.Command, i.Started.Unix(), i.Memory/int64(os.Getpagesize())))
	}
	want := []string{
		"10 VS Code code-0a1b 1000010 30", "20 Cursor sh cursor-server 1000020 10",
		"30 Zed zed-remote-server-stable-0.200 1000030 10", "40 JetBrains java 1000040 10",
	}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if n := len(s.Scan(false)); n != 5 {
		t.Errorf("with no connection: %d, want the session's as well", n)
	}
	s.UID++
	if n := len(s.Scan(false)); n != 0 {
		t.Errorf("of another user: %d", n)
	}
}

// TestReal finds a process of the real /proc.
func TestReal(t *testing.T) {
	if _, err := os.Stat("/proc/self/stat"); err != nil {
		t.Skip("no /proc")
	}
	dir := filepath.Join(t.TempDir(), ".vscode-server")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	program, err := exec.LookPath("sleep")
	if err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(dir, "server")
	if err := os.Symlink(program, link); err != nil {
		t.Fatal(err)
	}
	before := time.Now().Add(-2 * time.Second)
	cmd := exec.Command(link, "60")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }()
	s := Scanner{Proc: "/proc", UID: uint32(os.Getuid()), Self: os.Getpid()}
	for _, i := range s.Scan(false) {
		if i.PID == cmd.Process.Pid {
			if i.Product != "VS Code" || i.Command != "server" || i.Memory <= 0 || i.Started.Before(before) || i.Started.After(time.Now().Add(2*time.Second)) {
				t.Errorf("got %+v", i)
			}
			return
		}
	}
	t.Error("not found")
}
