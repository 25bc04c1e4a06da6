package sshd

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
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

func TestExitCodes(t *testing.T) {
	w := serve(t)
	for _, tt := range []struct {
		command string
		want    int
	}{
		{"true", 0},
		{"exit 1", 1},
		{"exit 7", 7},
		{"exit 254", 254},
		{"exit 255", 255},
		{"/nonexistent/command", 127},
		{"/etc", 126},
	} {
		if _, _, got := w.ssh(nil, "dev.berth", tt.command); got != tt.want {
			t.Errorf("%q: exit %d, want %d", tt.command, got, tt.want)
		}
	}
}

func TestStreams(t *testing.T) {
	w := serve(t)
	out, errOut, code := w.ssh(nil, "dev.berth", "echo out; echo err >&2; exit 3")
	if out != "out\n" || errOut != "err\n" || code != 3 {
		t.Errorf("got %q, %q, %d", out, errOut, code)
	}
	out, errOut, code = w.ssh(nil, "dev.berth", "exec >&-; sleep 0.3; echo late >&2; exit 3")
	if out != "" || errOut != "late\n" || code != 3 {
		t.Errorf("stderr after stdout was closed: got %q, %q, %d", out, errOut, code)
	}
	out, _, _ = w.ssh(strings.NewReader("abc"), "dev.berth", "cat; sleep 0.2; echo :after")
	if out != "abc:after\n" {
		t.Errorf("half-close: got %q", out)
	}
	out, _, code = w.ssh(strings.NewReader("shopt -q login_shell && echo login\nexit 5\n"), "-T", "dev.berth")
	if out != "login\n" || code != 5 {
		t.Errorf("shell without a terminal: got %q, %d", out, code)
	}
}

func TestBinaryClean(t *testing.T) {
	w := serve(t)
	data := make([]byte, 10<<20)
	rand.Read(data)
	out, _, code := w.ssh(bytes.NewReader(data), "dev.berth", "cat")
	if out != string(data) || code != 0 {
		t.Errorf("10 MB through cat: %d bytes came back, exit %d", len(out), code)
	}
	_, errOut, _ := w.ssh(bytes.NewReader(data), "dev.berth", "cat >&2")
	if errOut != string(data) {
		t.Errorf("10 MB on stderr: %d bytes came back", len(errOut))
	}
}

func TestStdinThatNobodyReads(t *testing.T) {
	w := serve(t)
	if _, _, code := w.ssh(io.LimitReader(zeros{}, 64<<20), "dev.berth", "exit 4"); code != 4 {
		t.Errorf("exit %d, want 4", code)
	}
	if _, _, code := w.ssh(io.LimitReader(zeros{}, 64<<20), "dev.berth", "exec <&-; sleep 0.3; exit 5"); code != 5 {
		t.Errorf("stdin closed: exit %d, want 5", code)
	}
}

// Nobody reads any more: OpenSSH says so with eow@openssh.com, and the command gets a broken pipe.
func TestEndOfWrite(t *testing.T) {
	w := serve(t)
	pid := filepath.Join(w.dir, "pid")
	cmd := w.command("ssh", "dev.berth", "echo $$ >"+pid+"; exec yes")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(out, make([]byte, 2)); err != nil {
		t.Fatal(err)
	}
	out.Close()
	_ = cmd.Wait() // SIGPIPE there
	eventually(t, "yes ended", func() bool { return !alive(t, pid) })
}

func alive(t *testing.T, pidFile string) bool {
	t.Helper()
	b, err := os.ReadFile(pidFile)
	if err != nil {
		return false
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil {
		return false
	}
	return syscall.Kill(pid, 0) == nil
}

// The end of output is told when it comes, though the command runs on.
func TestEndOfOutput(t *testing.T) {
	w := serve(t)
	pid := filepath.Join(w.dir, "pid")
	cmd := w.command("ssh", "dev.berth", "echo $$ >"+pid+"; echo said; exec >&- 2>&-; exec sleep 600")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	late := time.AfterFunc(20*time.Second, func() { kill(t, pid) })
	defer late.Stop()
	b, err := io.ReadAll(out)
	if err != nil || string(b) != "said\n" {
		t.Errorf("output %q, %v", b, err)
	}
	if !alive(t, pid) {
		t.Error("the output ended with the command only")
	}
	kill(t, pid)
	var exit *exec.ExitError
	if err := cmd.Wait(); !errors.As(err, &exit) {
		t.Errorf("ssh after the command was killed: %v", err)
	}
}

// exit-status comes before CLOSE, and after all output, every time.
func TestOrderOfTheEnd(t *testing.T) {
	w := serve(t)
	c := w.client()
	for i := range 100 {
		code := uint32(i + 1)
		ch, reqs, err := c.OpenChannel("session", nil)
		if err != nil {
			t.Fatal(err)
		}
		if ok, err := ch.SendRequest("exec", true, ssh.Marshal(struct{ C string }{fmt.Sprintf("seq 2000; exit %d", code)})); err != nil || !ok {
			t.Fatal("exec:", ok, err)
		}
		status := make(chan uint32, 1)
		go func() {
			defer close(status)
			for r := range reqs {
				var m struct{ Code uint32 }
				if r.Type == "exit-status" && ssh.Unmarshal(r.Payload, &m) == nil {
					status <- m.Code
				}
			}
		}()
		out, err := io.ReadAll(ch)
		if err != nil || !bytes.HasSuffix(out, []byte("\n2000\n")) {
			t.Fatalf("run %d: output ends with %q, %v", i, out[max(0, len(out)-20):], err)
		}
		// EOF is in; the status comes before CLOSE, which ends the requests.
		if got := <-status; got != code {
			t.Fatalf("run %d: exit-status %d, want %d", i, got, code)
		}
		ch.Close()
	}
}

func TestExitSignal(t *testing.T) {
	w := serve(t)
	c := w.client()
	for _, sig := range []string{"TERM", "KILL", "USR1"} {
		s, err := c.NewSession()
		if err != nil {
			t.Fatal(err)
		}
		err = s.Run("kill -" + sig + " $$; sleep 5")
		exit, ok := err.(*ssh.ExitError)
		if !ok || exit.Signal() != sig {
			t.Errorf("killed by %s: got %v", sig, err)
		}
	}
}

func TestSignals(t *testing.T) {
	w := serve(t)
	s, err := w.client().NewSession()
	if err != nil {
		t.Fatal(err)
	}
	out, err := s.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Start(`trap "echo usr1" USR1; trap "echo int; exit 9" INT; echo ready; while :; do sleep 0.05; done`); err != nil {
		t.Fatal(err)
	}
	readUntil(t, out, "ready")
	if err := s.Signal(ssh.SIGUSR1); err != nil {
		t.Fatal(err)
	}
	readUntil(t, out, "usr1")
	if err := s.Signal(ssh.SIGINT); err != nil {
		t.Fatal(err)
	}
	readUntil(t, out, "int")
	if exit, ok := s.Wait().(*ssh.ExitError); !ok || exit.ExitStatus() != 9 {
		t.Errorf("exit %v, want 9", exit)
	}
	if ok, err := s.SendRequest("signal", true, ssh.Marshal(struct{ N string }{"NOSUCH"})); ok {
		t.Error("unknown signal accepted", err)
	}
}

func readUntil(t *testing.T, r io.Reader, text string) string {
	t.Helper()
	var got []byte
	buf := make([]byte, 4096)
	for !bytes.Contains(got, []byte(text)) {
		n, err := r.Read(buf)
		got = append(got, buf[:n]...)
		if err != nil {
			t.Fatalf("%v before %q: %q", err, text, got)
		}
	}
	return string(got)
}

func TestEnvironment(t *testing.T) {
	w := serve(t)
	w.write("env-config", nil)
	cmd := w.command("ssh", "-o", `SetEnv=LC_ONE="a b" LANG=C.UTF-8 LD_PRELOAD=/x BASH_ENV=/x PATH=/x SSH_AUTH_SOCK=/x HOME=/x GIT_SSH=/x`, "dev.berth", "env; pwd; echo $0")
	b, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, b)
	}
	out := "\n" + string(b)
	for _, want := range []string{
		"LC_ONE=a b", "LANG=C.UTF-8", "FROM_WORKSPACE=1", "HOME=" + w.home, "PATH=" + os.Getenv("PATH"), "SHELL=/bin/bash",
		"SSH_CLIENT=192.0.2.7 50122 22", "SSH_CONNECTION=192.0.2.7 50122 127.0.0.1 22", "SSH_AUTH_SOCK=/run/berth/agent.sock", w.home, "bash",
	} {
		if !strings.Contains(out, "\n"+want+"\n") {
			t.Errorf("no %q in %s", want, out)
		}
	}
	for _, bad := range []string{"LD_PRELOAD", "BASH_ENV", "=/x", "\nTERM=", "SSH_TTY"} {
		if strings.Contains(out, bad) {
			t.Errorf("%q in %s", bad, out)
		}
	}
}

func TestAllowedEnv(t *testing.T) {
	for _, tt := range []struct {
		name, value string
		want        bool
	}{
		{"LANG", "C", true},
		{"LC_ALL", "", true},
		{"MY_VAR", "x=y;$z", true},
		{"COLORTERM", "truecolor", true},
		{"LD_PRELOAD", "x", false},
		{"LD_LIBRARY_PATH", "x", false},
		{"BASH_ENV", "x", false},
		{"IFS", "x", false},
		{"PS0", "x", false},
		{"NODE_PATH", "x", false},
		{"LUA_INIT", "x", false},
		{"OPENSSL_CONF", "x", false},
		{"GCONV_PATH", "x", false},
		{"GLIBC_TUNABLES", "x", false},
		{"GIT_SSH_COMMAND", "x", false},
		{"GIT_PROTOCOL", "version=2", true},
		{"GIT_PROTOCOL", "$(x)", false},
		{"ENV", "x", false},
		{"SHELLOPTS", "x", false},
		{"BASH_FUNC_ls%%", "x", false},
		{"SSH_CLIENT", "x", false},
		{"BERTH_TOKEN_FILE", "x", false},
		{"", "x", false},
		{"A=B", "x", false},
		{"A", "x\x00y", false},
		{strings.Repeat("A", 200), "x", false},
	} {
		if got := allowedEnv(tt.name, tt.value); got != tt.want {
			t.Errorf("%q=%q: got %v", tt.name, tt.value, got)
		}
	}
}

func TestEnvIsCapped(t *testing.T) {
	w := serve(t)
	ch, reqs, err := w.client().OpenChannel("session", nil)
	if err != nil {
		t.Fatal(err)
	}
	go ssh.DiscardRequests(reqs)
	accepted := 0
	for i := range 200 {
		ok, err := ch.SendRequest("env", true, ssh.Marshal(struct{ N, V string }{fmt.Sprintf("LC_%d", i), "v"}))
		if err != nil {
			t.Fatal(err)
		}
		if ok {
			accepted++
		}
	}
	if accepted != maxEnv {
		t.Errorf("%d variables accepted, want %d", accepted, maxEnv)
	}
}

func TestTerminal(t *testing.T) {
	w := serve(t)
	out, _, code := w.ssh(nil, "-tt", "dev.berth", `tty; echo "$SSH_TTY"; echo "$TERM"; ps -o stat= -p $$; exit 7`)
	f := strings.Split(strings.ReplaceAll(out, "\r", ""), "\n")
	if code != 7 || len(f) < 4 || !strings.HasPrefix(f[0], "/dev/pts/") || f[1] != f[0] || f[2] != "xterm-256color" {
		t.Fatalf("exit %d, %q", code, f)
	}
	if !strings.Contains(f[3], "s") || !strings.Contains(f[3], "+") {
		t.Errorf("not the leader of a session with a terminal: stat %q", f[3])
	}
	for range 5 {
		out, _, _ = w.ssh(nil, "-tt", "dev.berth", "seq 1 50000")
		if !strings.HasSuffix(out, "\r\n50000\r\n") {
			t.Fatalf("output ends with %q", out[max(0, len(out)-20):])
		}
	}
	out, _, code = w.ssh(strings.NewReader("stty -echo\necho job-$((20+2))\nexit 6\n"), "-tt", "dev.berth")
	if code != 6 || !strings.Contains(out, "job-22") || strings.Contains(out, "no job control") {
		t.Errorf("shell on a terminal: exit %d, %q", code, out)
	}
	// A process that lets go of its terminal is not hung up.
	if _, _, code = w.ssh(nil, "-tt", "dev.berth", "exec </dev/null >/dev/null 2>&1; sleep 0.3; exit 8"); code != 8 {
		t.Errorf("let go of the terminal: exit %d, want 8", code)
	}
	// One in the background that holds the terminal does not hold the session.
	began := time.Now()
	out, _, code = w.ssh(nil, "-tt", "dev.berth", "trap '' HUP; sleep 3 & echo held; exit 9")
	if code != 9 || !strings.Contains(out, "held") || time.Since(began) > 2*time.Second {
		t.Errorf("background process: exit %d after %v, %q", code, time.Since(began), out)
	}
}

func terminalSession(t *testing.T, c *ssh.Client, cols, rows uint32, modes string) (ssh.Channel, <-chan *ssh.Request) {
	t.Helper()
	ch, reqs, err := c.OpenChannel("session", nil)
	if err != nil {
		t.Fatal(err)
	}
	ok, err := ch.SendRequest("pty-req", true, ssh.Marshal(struct {
		Term       string
		C, R, X, Y uint32
		Modes      string
	}{"xterm", cols, rows, 0, 0, modes}))
	if err != nil || !ok {
		t.Fatal("pty-req:", ok, err)
	}
	return ch, reqs
}

func exec1(t *testing.T, ch ssh.Channel, command string) {
	t.Helper()
	if ok, err := ch.SendRequest("exec", true, ssh.Marshal(struct{ C string }{command})); err != nil || !ok {
		t.Fatal("exec:", ok, err)
	}
}

func resize(t *testing.T, ch ssh.Channel, cols, rows uint32) {
	t.Helper()
	if _, err := ch.SendRequest("window-change", false, ssh.Marshal(struct{ C, R, X, Y uint32 }{cols, rows, 0, 0})); err != nil {
		t.Fatal(err)
	}
}

func TestTerminalSize(t *testing.T) {
	w := serve(t)
	c := w.client()
	ch, reqs := terminalSession(t, c, 80, 24, "")
	go ssh.DiscardRequests(reqs)
	for i := range 100 { // before the start, and more than a queue holds
		resize(t, ch, 100+uint32(i), 26)
	}
	exec1(t, ch, `stty size; trap 'stty size; exit 0' WINCH; echo ready; while :; do sleep 0.05; done`)
	if out := readUntil(t, ch, "ready"); !strings.Contains(out, "26 199") {
		t.Errorf("size at the start: %q", out)
	}
	resize(t, ch, 100, 30)
	readUntil(t, ch, "30 100")

	ch, reqs = terminalSession(t, c, 0, 0, "") // JetBrains Toolbox
	go ssh.DiscardRequests(reqs)
	exec1(t, ch, "echo alive")
	readUntil(t, ch, "alive")
	if ok, err := ch.SendRequest("nosuch@test", true, nil); ok {
		t.Error("unknown request accepted", err)
	}
}

func TestTerminalModes(t *testing.T) {
	w := serve(t)
	c := w.client()
	modes := ssh.Marshal(struct {
		A byte
		B uint32
		C byte
		D uint32
		E byte
		F uint32
		G byte
		H uint32
		I byte
		J uint32
		K byte
		L uint32
		M byte
	}{53, 0, 1, 7, 36, 0, 72, 0, 129, 38400, 2, 255, 0})
	ch, reqs := terminalSession(t, c, 80, 24, string(modes))
	go ssh.DiscardRequests(reqs)
	exec1(t, ch, "stty -a")
	out, err := io.ReadAll(ch)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{" -echo ", "-icrnl", "-onlcr", "intr = ^G", "quit = <undef>", "speed 38400 baud"} {
		if !strings.Contains(string(out), want) {
			t.Errorf("no %q in %s", want, out)
		}
	}
	ch, reqs = terminalSession(t, c, 80, 24, "")
	go ssh.DiscardRequests(reqs)
	exec1(t, ch, `stty raw -echo -opost; printf '<\1\n\r\n\377>'`)
	if out, _ := io.ReadAll(ch); string(out) != "<\x01\n\r\n\xff>" {
		t.Errorf("raw bytes: %q", out)
	}
}

func TestTerminalKeys(t *testing.T) {
	w := serve(t)
	c := w.client()
	ch, reqs := terminalSession(t, c, 80, 24, "")
	exec1(t, ch, "echo ready; sleep 60")
	readUntil(t, ch, "ready")
	if ok, err := ch.SendRequest("break", true, ssh.Marshal(struct{ L uint32 }{500})); err != nil || !ok {
		t.Error("break:", ok, err)
	}
	if _, err := ch.Write([]byte{3}); err != nil {
		t.Fatal(err)
	}
	for r := range reqs {
		if r.Type == "exit-signal" || r.Type == "exit-status" {
			return
		}
	}
	t.Error("^C did not end the command")
}

// A session waits for the secrets, and not for ever.
func TestGate(t *testing.T) {
	open := make(chan struct{})
	entered := make(chan struct{}, 1)
	w := serve(t, func(c *Config, _ *workspace) {
		c.Ready = func(ctx context.Context) {
			if _, ok := ctx.Deadline(); !ok {
				t.Error("no deadline")
			}
			entered <- struct{}{}
			select {
			case <-open:
			case <-ctx.Done():
			}
		}
	})
	marker := filepath.Join(w.dir, "ran")
	s, err := w.client().NewSession()
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Start("touch " + marker); err != nil {
		t.Fatal(err)
	}
	<-entered
	if exists(marker) {
		t.Error("the command ran before the gate was open")
	}
	close(open)
	if err := s.Wait(); err != nil || !exists(marker) {
		t.Error(err)
	}
}

func TestBackground(t *testing.T) {
	w := serve(t)
	pid := filepath.Join(w.dir, "pid")
	began := time.Now()
	w.ssh(nil, "dev.berth", "sleep 60 >/dev/null 2>&1 </dev/null & echo $! >"+pid)
	if time.Since(began) > 5*time.Second {
		t.Error("a daemon that let go of the streams held the session")
	}
	if !alive(t, pid) {
		t.Error("the daemon died with its session")
	}
	kill(t, pid)
	out, _, _ := w.ssh(nil, "dev.berth", "(sleep 0.5; echo child) & echo parent")
	if out != "parent\nchild\n" {
		t.Errorf("output of a child that keeps the pipes: %q", out)
	}
}

func kill(t *testing.T, pidFile string) {
	t.Helper()
	b, err := os.ReadFile(pidFile)
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil {
		t.Fatal(err)
	}
	_ = syscall.Kill(pid, syscall.SIGKILL)
}

// When the client vanishes, a terminal is hung up; a command without one sees the end of its input and lives on.
func TestClientVanishes(t *testing.T) {
	w := serve(t)
	up, gone, hup := filepath.Join(w.dir, "up"), filepath.Join(w.dir, "gone"), filepath.Join(w.dir, "hup")
	vanish := func(args ...string) {
		t.Helper()
		cmd := w.command("ssh", args...)
		in, err := cmd.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		defer in.Close()
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		eventually(t, "the command started", func() bool { return exists(up) })
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		_ = os.Remove(up)
	}
	vanish("dev.berth", "touch "+up+"; cat; sleep 0.2; touch "+gone)
	eventually(t, "stdin ended and the command lived on", func() bool { return exists(gone) })
	vanish("-tt", "dev.berth", "trap 'touch "+hup+"; exit' HUP; touch "+up+"; while :; do sleep 0.05; done")
	eventually(t, "SIGHUP", func() bool { return exists(hup) })
	pid := filepath.Join(w.dir, "pid")
	vanish("dev.berth", "sleep 60 >/dev/null 2>&1 </dev/null & echo $! >"+pid+"; touch "+up+"; sleep 1")
	if !alive(t, pid) {
		t.Error("the daemon died with the connection")
	}
	kill(t, pid)
}

func TestRequestsAreAnswered(t *testing.T) {
	w := serve(t)
	c := w.client()
	if ok, _, err := c.SendRequest("keepalive@openssh.com", true, nil); !ok || err != nil {
		t.Error("keepalive:", ok, err)
	}
	if ok, _, err := c.SendRequest("nosuch@test", true, nil); ok || err != nil {
		t.Error("unknown global request:", ok, err)
	}
	_, _, err := c.OpenChannel("nosuch@test", nil)
	var open *ssh.OpenChannelError
	if !asErr(err, &open) || open.Reason != ssh.UnknownChannelType {
		t.Error("unknown channel:", err)
	}
	ch, reqs, err := c.OpenChannel("session", nil)
	if err != nil {
		t.Fatal(err)
	}
	go ssh.DiscardRequests(reqs)
	for _, name := range []string{"nosuch@test", "x11-req", "window-change"} {
		if ok, err := ch.SendRequest(name, true, nil); ok || err != nil {
			t.Errorf("%s: %v, %v", name, ok, err)
		}
	}
	if ok, err := ch.SendRequest("subsystem", true, ssh.Marshal(struct{ N string }{"nosuch"})); ok || err != nil {
		t.Error("unknown subsystem:", ok, err)
	}
	exec1(t, ch, "sleep 0.2")
	if ok, err := ch.SendRequest("exec", true, ssh.Marshal(struct{ C string }{"true"})); ok || err != nil {
		t.Error("second exec:", ok, err)
	}
}

func TestManySessionsAtOnce(t *testing.T) {
	w := serve(t)
	c := w.client()
	errs := make(chan error)
	const n = 60
	for i := range n {
		go func() {
			errs <- func() error {
				s, err := c.NewSession()
				if err != nil {
					return err
				}
				text := strings.Repeat(fmt.Sprintf("%d ", i), 5000)
				s.Stdin = strings.NewReader(text)
				out, err := s.Output(fmt.Sprintf("cat; exit %d", i+1))
				exit, ok := err.(*ssh.ExitError)
				if !ok || exit.ExitStatus() != i+1 || string(out) != text {
					return fmt.Errorf("session %d: %v, %d bytes", i, err, len(out))
				}
				return nil
			}()
		}()
	}
	for range n {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
}

func TestAnotherUser(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can become another user")
	}
	w := serve(t, func(c *Config, w *workspace) {
		c.User.Name, c.User.UID, c.User.GID, c.User.Groups = "berth-test", 54321, 54321, []uint32{54321, 54322}
		if err := os.Chown(w.home, 54321, 54321); err != nil {
			t.Fatal(err)
		}
		for d := w.home; d != os.TempDir() && d != "/"; d = filepath.Dir(d) {
			if err := os.Chmod(d, 0o755); err != nil {
				t.Fatal(err)
			}
		}
	})
	out, _, _ := w.ssh(nil, "dev.berth", "id -u; id -g; id -G; pwd; cat /etc/shadow || echo denied")
	if want := "54321\n54321\n54321 54322\n" + w.home + "\ndenied\n"; out != want {
		t.Errorf("got %q, want %q", out, want)
	}
	out, _, code := w.ssh(nil, "-tt", "dev.berth", "id -u; : <>$(tty) && echo mine")
	if !strings.HasPrefix(out, "54321\r\nmine") || code != 0 {
		t.Errorf("terminal: %q, %d", out, code)
	}
	cmd := w.command("sftp", "-q", "-b", "-", "dev.berth")
	w.write("f", []byte("text"))
	cmd.Stdin = strings.NewReader("put " + w.dir + "/f f\n-get /etc/shadow " + w.dir + "/shadow\n-put " + w.dir + "/f /etc/berth-test\n")
	if b, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("sftp: %v: %s", err, b)
	}
	fi, err := os.Stat(filepath.Join(w.home, "f"))
	if err != nil || fi.Sys().(*syscall.Stat_t).Uid != 54321 {
		t.Error("put as the user:", fi, err)
	}
	if exists(filepath.Join(w.dir, "shadow")) || exists("/etc/berth-test") {
		t.Error("sftp reached beyond the user's rights")
	}
}

func TestLookups(t *testing.T) {
	if _, err := exec.LookPath("ssh"); err != nil {
		t.Fatal("the tests need OpenSSH's client:", err)
	}
	for _, tt := range []struct{ peer, host, port string }{
		{"192.0.2.7:50122", "192.0.2.7", "50122"},
		{"[2001:db8::1]:9", "2001:db8::1", "9"},
		{"", "0.0.0.0", "0"},
		{"a b:1", "0.0.0.0", "0"},
		{"x", "0.0.0.0", "0"},
	} {
		if h, p := splitPeer(tt.peer); h != tt.host || p != tt.port {
			t.Errorf("%q: got %q %q", tt.peer, h, p)
		}
	}
	for name, sig := range signals {
		if n, ok := signalNumber("SIG" + name); !ok || n != sig || signalName(sig) != name {
			t.Errorf("signal %s: %v %v %s", name, n, ok, signalName(sig))
		}
	}
	if signalName(syscall.SIGBUS) != "BUS@openssh.com" || signalName(syscall.SIGIO) != "SIG@openssh.com" {
		t.Error("signals without a name in the RFC")
	}
	_ = agent.SSHVersion
}
