package shell

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// stranger is a uid that no database knows.
const stranger = 54321

func current(t *testing.T) *User {
	t.Helper()
	u, err := Current()
	if err != nil {
		t.Fatal(err)
	}
	return u
}

// output runs a command to its end.
func output(t *testing.T, c Command) (stdout, stderr string, exit Exit) {
	t.Helper()
	p, err := Start(c)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	if p.PTY != nil {
		b, _ := io.ReadAll(p.PTY) // ends with EIO
		return string(b), "", p.Wait()
	}
	p.Stdin.Close()
	errs := make(chan string, 1)
	go func() {
		b, _ := io.ReadAll(p.Stderr)
		errs <- string(b)
	}()
	b, err := io.ReadAll(p.Stdout)
	if err != nil {
		t.Fatal(err)
	}
	return string(b), <-errs, p.Wait()
}

func TestPipes(t *testing.T) {
	u := current(t)
	out, errOut, exit := output(t, u.Exec("echo out; echo err >&2; exit 7", []string{"PATH=" + DefaultPath}))
	if out != "out\n" || errOut != "err\n" || exit.Code != 7 || exit.Signal != 0 {
		t.Errorf("got %q, %q, %+v", out, errOut, exit)
	}
}

func TestExitSignal(t *testing.T) {
	u := current(t)
	_, _, exit := output(t, u.Exec("kill -TERM $$", []string{"PATH=" + DefaultPath}))
	if exit.Signal != syscall.SIGTERM || exit.Code != 128+15 {
		t.Errorf("got %+v", exit)
	}
}

func TestTerminal(t *testing.T) {
	u := current(t)
	c := u.Exec("stty size; tty; ps -o tpgid= -p $$ >/dev/null; exit 3", []string{"PATH=" + DefaultPath})
	c.Terminal = &Size{Cols: 81, Rows: 23}
	prepared := false
	c.Prepare = func(*os.File) error { prepared = true; return nil }
	out, _, exit := output(t, c)
	if !strings.HasPrefix(out, "23 81\r\n/dev/pts/") || exit.Code != 3 || !prepared {
		t.Errorf("got %q, %+v, prepared %v", out, exit, prepared)
	}
}

func TestTerminalGoneHangsUp(t *testing.T) {
	u := current(t)
	c := u.Exec("trap 'exit 9' HUP; echo ready; while :; do sleep 0.05; done", []string{"PATH=" + DefaultPath})
	c.Terminal = &Size{Cols: 80, Rows: 24}
	p, err := Start(c)
	if err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 5)
	if _, err := io.ReadFull(p.PTY, b); err != nil {
		t.Fatal(err)
	}
	p.PTY.Close()
	if exit := p.Wait(); exit.Code != 9 && exit.Signal != syscall.SIGHUP {
		t.Errorf("got %+v", exit)
	}
}

func TestOwnGroupAndSignals(t *testing.T) {
	u := current(t)
	p, err := Start(u.Exec("sleep 60 & sleep 60 & echo ready; wait", []string{"PATH=" + DefaultPath}))
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	b := make([]byte, 6)
	if _, err := io.ReadFull(p.Stdout, b); err != nil {
		t.Fatal(err)
	}
	if pgid, err := syscall.Getpgid(p.PID); err != nil || pgid != p.PID {
		t.Errorf("process group %d of process %d: %v", pgid, p.PID, err)
	}
	if err := p.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	p.WaitExit()
	if exit := p.Wait(); exit.Signal != syscall.SIGKILL {
		t.Errorf("got %+v", exit)
	}
	if _, err := io.ReadAll(p.Stdout); err != nil { // ends when the children have gone as well
		t.Error(err)
	}
	if err := p.Signal(syscall.SIGTERM); !errors.Is(err, os.ErrProcessDone) {
		t.Errorf("Signal after Wait: %v", err)
	}
}

func TestWaitDoesNotWaitForPipes(t *testing.T) {
	u := current(t)
	p, err := Start(u.Exec("sleep 60 & exit 0", []string{"PATH=" + DefaultPath}))
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	began := time.Now()
	p.WaitExit()
	defer p.Wait()
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("took %s", took)
	}
	p.Signal(syscall.SIGKILL)
}

func TestStartFails(t *testing.T) {
	u := current(t)
	for _, tt := range []struct {
		name string
		c    Command
	}{
		{"no user", Command{Path: "/bin/sh"}},
		{"no program", Command{Path: "/nonexistent", User: u}},
		{"no program, with a terminal", Command{Path: "/nonexistent", User: u, Terminal: &Size{}}},
	} {
		if p, err := Start(tt.c); err == nil {
			p.Wait()
			t.Errorf("%s: started", tt.name)
		}
	}
}

func TestDropToUnknownUser(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	u := &User{Name: "54321", UID: stranger, GID: stranger + 1, Groups: []uint32{stranger + 1, stranger + 2}, Home: "/", Shell: "/bin/sh"}
	env := []string{"PATH=" + DefaultPath}
	out, _, exit := output(t, u.Exec("id -u; id -g; id -G; pwd", env))
	if want := "54321\n54322\n54322 54323\n/\n"; out != want || exit.Code != 0 {
		t.Errorf("got %q, %+v", out, exit)
	}
	c := u.Exec(`test -O "$(tty)" && : <"$(tty)" && echo mine`, env)
	c.Terminal = &Size{Cols: 80, Rows: 24}
	if out, _, _ := output(t, c); out != "mine\r\n" {
		t.Errorf("the terminal: %q", out)
	}
}

func TestUnreachableDirectory(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	top, err := os.MkdirTemp("/tmp", "berth-shell-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(top) })
	for _, d := range []string{"home", "closed/in"} {
		if err := os.MkdirAll(filepath.Join(top, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(os.Chmod(top, 0o755), os.Chmod(top+"/closed", 0o700)); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct{ dir, home, want string }{
		{top + "/closed", top + "/home", top + "/home"},
		{top + "/closed/in", top + "/home", top + "/home"},
		{"", top + "/closed", "/"},
	} {
		u := &User{Name: "54321", UID: stranger, GID: stranger, Home: tt.home, Shell: "/bin/sh"}
		c := u.Exec("pwd", []string{"PATH=" + DefaultPath})
		c.Dir = tt.dir
		if out, _, exit := output(t, c); out != tt.want+"\n" || exit.Code != 0 {
			t.Errorf("%+v: got %q, %+v", tt, out, exit)
		}
	}
}

func TestOnlyRootBecomesOthers(t *testing.T) {
	if os.Geteuid() == 0 {
		t.Skip("is root")
	}
	u := *current(t)
	u.UID++
	if _, err := Start(u.Exec("true", nil)); err == nil {
		t.Error("started as somebody else")
	}
}

func TestAs(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	dir := t.TempDir()
	secret := filepath.Join(dir, "secret")
	os.WriteFile(secret, []byte("x"), 0o600)
	for d := dir; d != "/tmp" && d != "/"; d = filepath.Dir(d) {
		os.Chmod(d, 0o777)
	}
	u := &User{Name: "x", UID: stranger, GID: stranger, Home: "/", Shell: "/bin/sh"}
	made := filepath.Join(dir, "made")
	err := As(u, func() error {
		if _, err := os.ReadFile(secret); !errors.Is(err, os.ErrPermission) {
			t.Errorf("reads a file of root: %v", err)
		}
		return os.WriteFile(made, nil, 0o600)
	})
	if err != nil {
		t.Fatal(err)
	}
	fi, err := os.Stat(made)
	if err != nil || fi.Sys().(*syscall.Stat_t).Uid != stranger || fi.Sys().(*syscall.Stat_t).Gid != stranger {
		t.Errorf("made %+v, %v", fi, err)
	}
	for range 50 { // no other thread was changed
		done := make(chan int)
		go func() { done <- os.Geteuid() }()
		if uid := <-done; uid != 0 {
			t.Fatalf("another goroutine runs as %d", uid)
		}
	}
}

func TestLookup(t *testing.T) {
	dir := t.TempDir()
	a := Accounts{Passwd: filepath.Join(dir, "passwd"), Group: filepath.Join(dir, "group")}
	home := filepath.Join(dir, "home")
	os.Mkdir(home, 0o755)
	os.WriteFile(a.Passwd, []byte("root:x:0:0:root:/root:/bin/sh\n# comment\n+::::::\nbroken:x:y:z\n"+
		"nobody:x:65534:65534::"+home+":/usr/sbin/nologin\n"+
		"alice:x:1000:1001:Alice,,,:"+home+":/bin/sh\n"+
		"ghost:x:1001:1001::/nonexistent:/bin/sh\nsvc:x:1002:1002:::/usr/sbin/nologin\n"), 0o644)
	os.WriteFile(a.Group, []byte("root:x:0:\ndocker:x:500:bob,alice\nalice:x:1001:\nbad:x:zz:alice\nvideo:x:44:alice\n"), 0o644)

	u, err := a.Lookup("alice")
	if err != nil || u.UID != 1000 || u.GID != 1001 || u.Home != home || !slices.Equal(u.Groups, []uint32{1001, 500, 44}) {
		t.Errorf("alice: %+v, %v", u, err)
	}
	if u, err := a.Lookup("1000"); err != nil || u.Name != "alice" {
		t.Errorf("1000: %+v, %v", u, err)
	}
	if u, err := a.Lookup("54321"); err != nil || u.Name != "54321" || u.UID != stranger || u.GID != stranger || u.Shell == "" {
		t.Errorf("54321: %+v, %v", u, err)
	}
	if u, err := a.Lookup("svc"); err != nil || strings.Contains(u.Shell, "nologin") || u.Home != "/" {
		t.Errorf("svc: %+v, %v", u, err)
	}
	for _, name := range []string{"", "berth-no-such-user", "-1", "4294967296"} {
		if _, err := a.Lookup(name); !errors.Is(err, ErrNoUser) {
			t.Errorf("%q: %v", name, err)
		}
	}
	if u, err := a.Ordinary(); err != nil || u.Name != "alice" {
		t.Errorf("ordinary: %+v, %v", u, err)
	}
	f, _ := os.OpenFile(a.Passwd, os.O_APPEND|os.O_WRONLY, 0)
	f.WriteString("bob:x:1005:1005::" + home + ":/bin/sh")
	f.Close()
	if _, err := a.Ordinary(); !errors.Is(err, ErrNoUser) {
		t.Errorf("two ordinary users: %v", err)
	}
	if u, err := (Accounts{Passwd: "/nonexistent", Group: "/nonexistent"}).Current(); err != nil || u.UID != uint32(os.Geteuid()) {
		t.Errorf("current without a database: %+v, %v", u, err)
	}
}

func TestMerge(t *testing.T) {
	got := Merge([]string{"A=1", "B=2", "=x", "nothing"}, []string{"B=3", "C=\x00"}, []string{"D=a=b"})
	if want := []string{"A=1", "B=3", "D=a=b"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	if got := JoinPath("/a:/b::.:rel", "/b:/c"); got != "/a:/b:/c" {
		t.Errorf("JoinPath: %q", got)
	}
}

// profiled returns a user whose shell is sh, and whose profile is text.
func profiled(t *testing.T, sh, text string) *User {
	t.Helper()
	path, err := exec.LookPath(sh)
	if err != nil {
		t.Skip(err)
	}
	u := *current(t)
	u.Shell, u.Home = path, t.TempDir()
	if sh == "busybox" { // a shell by the name that it is called by, with nothing but its own tools
		bin := t.TempDir()
		for _, applet := range []string{"ash", "env"} {
			if err := os.Symlink(path, filepath.Join(bin, applet)); err != nil {
				t.Fatal(err)
			}
		}
		u.Shell = filepath.Join(bin, "ash")
		text = strings.ReplaceAll(text, "/usr/bin:/bin", bin)
	}
	for _, name := range []string{".profile", ".bash_profile"} {
		if err := os.WriteFile(filepath.Join(u.Home, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return &u
}

// tools is the directory that a profiled user's tools are in.
func tools(u *User) string {
	if filepath.Base(u.Shell) == "ash" {
		return filepath.Dir(u.Shell)
	}
	return "/usr/bin:/bin"
}

func TestLogin(t *testing.T) {
	for _, sh := range []string{"bash", "dash", "busybox"} {
		t.Run(sh, func(t *testing.T) {
			u := profiled(t, sh, "echo noise\necho more noise >&2\nexport PATH=/opt/mine:/usr/bin:/bin GREETING='two\nlines'\n")
			env, kept, err := Login(context.Background(), u, []string{"PATH=/image/bin", "IMAGE=1", "GREETING=old"}, 30*time.Second)
			if err != nil {
				t.Fatal(err)
			}
			if kept {
				t.Error("a profile that sets PATH anew counts as one that keeps it")
			}
			for name, want := range map[string]string{
				"PATH": "/opt/mine:" + tools(u) + ":/image/bin", "GREETING": "two\nlines", "IMAGE": "1",
				"HOME": u.Home, "USER": u.Name, "SHELL": u.Shell, "SHLVL": "", "PWD": "",
			} {
				if got := Value(env, name); got != want {
					t.Errorf("%s is %q, want %q", name, got, want)
				}
			}
		})
	}
}

func TestLoginKeepsPath(t *testing.T) {
	u := profiled(t, "bash", "PATH=/image/bin:$PATH\nPATH=/run/x/bin:/image/bin:$PATH\n")
	env, kept, err := Login(context.Background(), u, []string{"PATH=/image/bin:/usr/bin:/bin"}, 30*time.Second)
	if err != nil || !kept || !strings.HasPrefix(Value(env, "PATH"), "/run/x/bin:/image/bin:") {
		t.Errorf("kept %v, PATH %q, %v", kept, Value(env, "PATH"), err)
	}
}

func TestLoginThatCannot(t *testing.T) {
	for _, tt := range []struct{ name, profile string }{
		{"hangs", "sleep 600 & sleep 600"},
		{"exits", "exit 4"},
		{"execs", "exec true"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			u := profiled(t, "dash", tt.profile)
			began := time.Now()
			env, kept, err := Login(context.Background(), u, []string{"PATH=/usr/bin:/bin", "IMAGE=1"}, time.Second)
			if err == nil || kept {
				t.Errorf("kept %v, %v", kept, err)
			}
			if Value(env, "PATH") != "/usr/bin:/bin" || Value(env, "IMAGE") != "1" || Value(env, "HOME") != u.Home {
				t.Errorf("falls back to %q", env)
			}
			if took := time.Since(began); took > 20*time.Second {
				t.Errorf("took %s", took)
			}
		})
	}
}

func TestLoginDoesNotWaitForDaemons(t *testing.T) {
	u := profiled(t, "dash", "sleep 5 &\nexport FROM_PROFILE=1\n")
	env, _, err := Login(context.Background(), u, nil, 4*time.Second)
	if err != nil || Value(env, "FROM_PROFILE") != "1" {
		t.Errorf("%q, %v", env, err)
	}
}

func TestPathScript(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "it's path.sh")
	want := dir + "/a b:/usr/bin:/bin:/image/bin"
	os.WriteFile(file, []byte(PathScript(file, want)), 0o644)
	for _, sh := range []string{"bash", "dash"} {
		t.Run(sh, func(t *testing.T) {
			u := profiled(t, sh, "export PATH=/usr/bin:/bin\n")
			u.PathFile = file
			c := u.LoginShell([]string{"PATH=" + want, "HOME=" + u.Home, "TERM=dumb"})
			c.Terminal = &Size{Cols: 200, Rows: 24}
			p, err := Start(c)
			if err != nil {
				t.Fatal(err)
			}
			io.WriteString(p.PTY, "echo \"<$PATH>\" \"[${PROMPT_COMMAND-unset}]\"; exit\n")
			var out bytes.Buffer
			io.Copy(&out, p.PTY)
			p.Wait()
			p.Close()
			if got := "<" + dir + "/a b:/usr/bin:/bin:/image/bin> [unset]"; !strings.Contains(out.String(), got) {
				t.Errorf("no %q in\n%s", got, out.String())
			}
		})
	}
}

func FuzzParseEntry(f *testing.F) {
	f.Add("root:x:0:0:root:/root:/bin/bash\n")
	f.Add("::::::\n")
	f.Fuzz(func(t *testing.T, line string) {
		if e, ok := parseEntry(line); ok && (e.name == "" || strings.Contains(e.name, ":")) {
			t.Errorf("%q gives %+v", line, e)
		}
		_ = strconv.Quote(usableShell(line))
	})
}

// An agent that nohup started hangs up its users' shells all the same.
func TestHangsUpUnderNohup(t *testing.T) {
	t.Parallel()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	c := exec.Command("sh", "-c", `trap "" HUP; exec "$0" -test.run '^TestTerminalGoneHangsUp$' -test.v -test.timeout 20s`, exe)
	out, err := c.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "--- PASS: TestTerminalGoneHangsUp") {
		t.Errorf("%v\n%s", err, out)
	}
}
