package daemon

import (
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"berth/agent"
)

func TestFromLinkToShell(t *testing.T) {
	b := newBed(t)
	b.manifest.Secrets = []agent.UserSecret{{Name: "x", Env: "MY_SECRET", Value: "s3cret"}}
	p := b.start(nil)
	l := b.next()
	await(t, "startup", l.ready)
	c := b.ssh(l)
	out := b.exec(c, `echo $BERTH_WORKSPACE $MY_SECRET; cat "$BERTH_TOKEN_FILE"; echo; echo $BERTH_AGENT_TOKEN-; ssh-add -l; echo $PATH`)
	for _, want := range []string{"alice/dev s3cret\nbt1_narrow\n-\n", "(ED25519)", "\n" + b.dir + "/run/bin:"} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in %q", want, out)
		}
	}
	b.checkTerminal(c)
	b.checkDial(l)
	t.Logf("VmRSS %d KiB", rss(t, p.Process.Pid))

	began := time.Now()
	must(t, p.Process.Signal(syscall.SIGTERM))
	await(t, "goodbye", l.goodbye)
	await(t, "the end", p.done)
	if took := time.Since(began); took > 2*time.Second {
		t.Errorf("the agent took %s to end", took)
	}
	if code := p.ProcessState.ExitCode(); code != 0 {
		t.Errorf("exit status %d", code)
	}
	fi, err := os.Stat(filepath.Join(b.dir, "run", "agent.key"))
	if err != nil || fi.Mode().Perm() != 0o600 {
		t.Errorf("the agent's key: %v, %v", fi, err)
	}
}

// checkTerminal looks whether the PATH of a login shell has the berth command's directory, whatever the profile did.
func (b *bed) checkTerminal(c *ssh.Client) {
	b.t.Helper()
	s, err := c.NewSession()
	must(b.t, err)
	defer s.Close()
	must(b.t, s.RequestPty("xterm", 24, 200, nil))
	in, err := s.StdinPipe()
	must(b.t, err)
	out, err := s.StdoutPipe()
	must(b.t, err)
	must(b.t, s.Shell())
	io.WriteString(in, "echo \"<$PATH>\"; exit\n")
	text, err := io.ReadAll(out)
	must(b.t, err)
	if !strings.Contains(string(text), "<"+b.dir+"/run/bin:") {
		b.t.Errorf("the terminal's PATH: %s", text)
	}
}

// checkDial connects to an echo service through the agent.
func (b *bed) checkDial(l *bedLink) {
	b.t.Helper()
	echo, err := net.Listen("tcp", "127.0.0.1:0")
	must(b.t, err)
	defer echo.Close()
	go func() {
		c, err := echo.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		io.Copy(c, c)
	}()
	for target, ok := range map[string]bool{"tcp:" + echo.Addr().String(): true, "unix:/nonexistent": false, "udp:x": false} {
		st, err := l.mux.OpenStream()
		must(b.t, err)
		must(b.t, agent.WriteLine(st, agent.StreamHeader{Kind: agent.KindDial, ID: "d", Target: target}, agent.MaxStreamHeader))
		var reply agent.Reply
		must(b.t, agent.ReadLine(st, &reply, agent.MaxStreamHeader))
		if reply.OK != ok || (reply.Error == "") != ok {
			b.t.Errorf("%s: %+v", target, reply)
		}
		if ok {
			io.WriteString(st, "hello")
			st.Close()
			if got, err := io.ReadAll(st); err != nil || string(got) != "hello" {
				b.t.Errorf("echo: %q, %v", got, err)
			}
		}
		st.Close()
	}
}

// rss returns a process's VmRSS in KiB.
func rss(t *testing.T, pid int) int {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	must(t, err)
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			n, err := strconv.Atoi(strings.Fields(rest)[0])
			must(t, err)
			return n
		}
	}
	t.Fatal("no VmRSS")
	return 0
}

// children returns the pids of a process's children that are not zombies, and of those that are.
func children(t *testing.T, pid int) (living, zombies []int) {
	t.Helper()
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	must(t, err)
	for _, path := range stats {
		text, err := os.ReadFile(path)
		if err != nil {
			continue
		}
		f := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
		if f[1] != strconv.Itoa(pid) {
			continue
		}
		child, err := strconv.Atoi(filepath.Base(filepath.Dir(path)))
		must(t, err)
		if f[0] == "Z" {
			zombies = append(zombies, child)
		} else {
			living = append(living, child)
		}
	}
	return living, zombies
}

func TestSupervisorStartsAgain(t *testing.T) {
	b := newBed(t)
	p := b.start(nil, "--supervise")
	await(t, "startup", b.next().ready)
	living, _ := children(t, p.Process.Pid)
	if len(living) != 1 {
		t.Fatalf("children of the supervisor: %v", living)
	}
	t.Logf("VmRSS: supervisor %d KiB, worker %d KiB", rss(t, p.Process.Pid), rss(t, living[0]))
	must(t, syscall.Kill(living[0], syscall.SIGKILL))
	l := b.next()
	await(t, "startup after the restart", l.ready)
	began := time.Now()
	must(t, p.Process.Signal(syscall.SIGTERM))
	await(t, "goodbye", l.goodbye)
	await(t, "the end", p.done)
	if code := p.ProcessState.ExitCode(); code != 0 || time.Since(began) > 2*time.Second {
		t.Errorf("exit status %d after %s", code, time.Since(began))
	}
}

func TestSupervisorStartsAgainAfterPanic(t *testing.T) {
	b := newBed(t)
	file := filepath.Join(b.dir, "starts")
	cmd := b.command(nil, "--supervise")
	cmd.Env = append(cmd.Env, "BERTH_TEST_PANICS="+file)
	b.run(cmd)
	poll(t, "a second start", func() bool {
		started, _ := os.ReadFile(file)
		return len(started) > 1
	})
}

func TestUmask(t *testing.T) {
	b := newBed(t)
	must(t, os.Mkdir(b.dir+"/coder", 0o755))
	must(t, os.WriteFile(b.dir+"/coder/configure", []byte("#!/bin/sh\numask > ~/hook\n"), 0o755))
	cmd := b.ordinary(1234) // no hook is root's
	cmd.Args = append([]string{"sh", "-c", `umask 077; exec "$@"`, "sh", cmd.Path}, cmd.Args[1:]...)
	cmd.Path = "/bin/sh"
	b.run(cmd)
	l := b.next()
	await(t, "startup", l.ready)
	if out := b.exec(b.ssh(l), "umask; cat "+b.home+"/hook"); out != "0022\n0022\n" {
		t.Errorf("the masks of a session and a hook: %q", out)
	}
}

func TestSupervisorDoesNotStartReplacedAgain(t *testing.T) {
	b := newBed(t)
	p := b.start(nil, "--supervise")
	l := b.next()
	await(t, "startup", l.ready)
	b.setRefuse(409, agent.CodeReplaced)
	l.mux.Close()
	poll(t, "the worker's end", func() bool {
		living, zombies := children(t, p.Process.Pid)
		return len(living) == 0 && len(zombies) == 0
	})
	asked := b.refused()
	select {
	case <-p.done:
		t.Fatal("the supervisor ended")
	case <-time.After(1200 * time.Millisecond): // more than four times the first wait
	}
	if n := b.refused(); n != asked {
		t.Errorf("asked %d times more", n-asked)
	}
	must(t, p.Process.Signal(syscall.SIGTERM))
	await(t, "the end", p.done)
	if code := p.ProcessState.ExitCode(); code != 0 {
		t.Errorf("exit status %d", code)
	}
}

func TestReplacedWithoutSupervisor(t *testing.T) {
	b := newBed(t)
	b.setRefuse(409, agent.CodeReplaced)
	p := b.start(nil)
	await(t, "the end", p.done)
	if code := p.ProcessState.ExitCode(); code != agent.ExitReplaced {
		t.Errorf("exit status %d", code)
	}
}

// TestPID1 runs the agent as the first process of a pid namespace, where orphans become its children.
func TestPID1(t *testing.T) {
	unshare := []string{"unshare", "--pid", "--fork", "--kill-child=KILL", "--mount-proc"}
	if os.Geteuid() != 0 {
		unshare = append(unshare, "--user", "--map-current-user")
	}
	if err := exec.Command(unshare[0], append(unshare[1:], "true")...).Run(); err != nil {
		t.Skipf("no pid namespaces here: %v", err)
	}
	b := newBed(t)
	p := b.start(unshare)
	l := b.next()
	await(t, "startup", l.ready)
	c := b.ssh(l)
	if out := b.exec(c, "tr '\\0' ' ' < /proc/1/cmdline | grep -c worker; ls /proc | grep -c '^[0-9]'"); strings.HasPrefix(out, "1") {
		t.Errorf("the worker is process 1: %q", out)
	}
	for range 20 { // each leaves an orphan that ends at once
		b.exec(c, "sh -c 'sh -c \"exit 3\" & sh -c \"kill -9 \\$\\$\" &'")
	}
	if out := b.exec(c, "sh -c 'exit 7'; echo $?"); out != "7\n" {
		t.Errorf("an exit status is lost: %q", out)
	}
	poll(t, "no zombies", func() bool {
		return strings.TrimSpace(b.exec(c, "cat /proc/[0-9]*/stat 2>/dev/null | grep -c ') Z ' || true")) == "0"
	})
	inits, _ := children(t, p.Process.Pid)
	if len(inits) != 1 {
		t.Fatalf("children of unshare: %v", inits)
	}
	must(t, syscall.Kill(inits[0], syscall.SIGTERM))
	await(t, "goodbye", l.goodbye)
	await(t, "the end", p.done)
	if code := p.ProcessState.ExitCode(); code != 0 {
		t.Errorf("exit status %d", code)
	}
}

func TestDropsRoot(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	b := newBed(t)
	b.manifest.Agent.User = "54321"
	b.manifest.Secrets = []agent.UserSecret{{Name: "f", File: "f", Value: "in a file"}}
	b.start(nil)
	l := b.next()
	await(t, "startup", l.ready)
	c := b.ssh(l)
	out := b.exec(c, `id -u; cat "$BERTH_TOKEN_FILE"; echo; cat "$BERTH_SECRETS_DIR/f"; echo; ssh-add -l; cat $(dirname "$BERTH_TOKEN_FILE")/agent.key; ls $(dirname "$BERTH_TOKEN_FILE"); true`)
	if !strings.HasPrefix(out, "54321\nbt1_narrow\nin a file\n") || !strings.Contains(out, "(ED25519)") {
		t.Errorf("got %q", out)
	}
	if strings.Count(out, "Permission denied") != 2 {
		t.Errorf("the user reads what is the agent's: %q", out)
	}
}

func TestOrdinaryUserRunsAll(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root, to become somebody else")
	}
	b := newBed(t)
	b.run(b.ordinary(54321))
	l := b.next()
	await(t, "startup", l.ready)
	if out := b.exec(b.ssh(l), `id -u; pwd; ssh-add -l`); !strings.HasPrefix(out, "54321\n"+b.home+"\n256 ") {
		t.Errorf("got %q", out)
	}
}

func TestSettingsThatCannotWork(t *testing.T) {
	b := newBed(t)
	for _, tt := range []struct {
		name string
		env  string
		args []string
		want string
	}{
		{"no URL", agent.EnvURL + "=", nil, "set BERTH_AGENT_URL"},
		{"plain HTTP", agent.EnvURL + "=http://192.0.2.1:7080", nil, "--insecure-http"},
		{"no token", agent.EnvToken + "=", nil, "no token"},
		{"bad token", agent.EnvToken + "=nonsense", nil, "malformed"},
		{"no token file", agent.EnvToken + "=", []string{"--token-file", "/nonexistent"}, "no such file"},
		{"unknown flag", "", []string{"--frobnicate"}, "frobnicate"},
		{"unknown command", "", []string{"frobnicate"}, `unknown command \"frobnicate\"`},
		{"no CA file", "", []string{"--ca-file", "/nonexistent"}, "no such file"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			cmd := b.command(nil, tt.args...)
			cmd.Env = append(cmd.Env, tt.env)
			out, err := cmd.CombinedOutput()
			if cmd.ProcessState.ExitCode() != exitUsage || !strings.Contains(strings.ReplaceAll(string(out), `\"`, `"`), strings.ReplaceAll(tt.want, `\"`, `"`)) {
				t.Errorf("%v: %s", err, out)
			}
		})
	}
	out, err := b.command(nil, "version").Output()
	if err != nil || string(out) != "berth-agent "+agent.Version+"\n" {
		t.Errorf("version: %q, %v", out, err)
	}
}

func TestRuntimeDir(t *testing.T) {
	top := t.TempDir()
	must(t, os.Symlink("/tmp", top+"/link"))
	must(t, os.WriteFile(top+"/file", nil, 0o600))
	must(t, os.Mkdir(top+"/open", 0o700))
	must(t, os.Chmod(top+"/open", 0o777))
	must(t, os.Mkdir(top+"/readable", 0o755))
	for name, want := range map[string]bool{"link": false, "file": false, "open": false, "readable": true, "new/deep": true} {
		dir, err := openRuntimeDir(filepath.Join(top, name), "")
		if (err == nil) != want {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if fi, err := os.Stat(dir); want && (err != nil || fi.Mode().Perm() != 0o700) {
			t.Errorf("%s: %v, %v", name, fi, err)
		}
	}
	if os.Geteuid() == 0 {
		must(t, os.Mkdir(top+"/other", 0o700))
		must(t, os.Chown(top+"/other", 54321, 54321))
		if _, err := openRuntimeDir(top+"/other", ""); err == nil || !strings.Contains(err.Error(), "somebody else") {
			t.Errorf("another user's: %v", err)
		}
	}
}

func TestKeyIsKept(t *testing.T) {
	dir := t.TempDir()
	first, err := loadKey(dir)
	must(t, err)
	second, err := loadKey(dir)
	must(t, err)
	if !first.Equal(second) {
		t.Error("another key at the second start")
	}
	must(t, os.Chmod(dir+"/agent.key", 0o644))
	if _, err := loadKey(dir); err == nil {
		t.Error("a key that others can read is used")
	}
	must(t, os.WriteFile(dir+"/agent.key", []byte("cut"), 0o600))
	must(t, os.Chmod(dir+"/agent.key", 0o600))
	if _, err := loadKey(dir); err != nil {
		t.Errorf("a damaged key is not made anew: %v", err)
	}
}
