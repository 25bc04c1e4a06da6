package host

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"berth/coordinator"
)

// agentScript stands for the agent: it tells what it sees in a report in its home, then stays.
const agentScript = `#!/bin/sh
trap 'echo bye >"$HOME/bye"; exit 0' TERM
report=$HOME/report
{
	echo "user=$USER logname=$LOGNAME home=$HOME shell=$SHELL lang=$LANG mine=$MINE"
	echo "id=$(id -un 2>&1) uid=$(id -u) groups=$(id -G)"
	echo "token=$(cat "$BERTH_AGENT_TOKEN_FILE")"
	echo "tokenmode=$(stat -c %a:%u "$BERTH_AGENT_TOKEN_FILE")"
	echo "env=$(env | grep -c SECRET_OF_THE_HOST)"
	echo "url=$BERTH_AGENT_URL"
	echo "coder=$(cat /coder/configure 2>/dev/null)$(cat "$BERTH_CODER_DIR/configure" 2>/dev/null)"
	echo "pids=$(ls -d /proc/[0-9]* | wc -l)"
	echo "runtime=$(stat -c %a "$BERTH_RUNTIME_DIR") ${#BERTH_RUNTIME_DIR}"
	echo "cwd=$(pwd)"
	echo "earlier=$(cat "$HOME/earlier" 2>/dev/null)"
	cat /etc/shadow >/dev/null 2>&1 && [ -s /etc/shadow ] && echo LEAK shadow
	for dir in $LOOK; do
		ls "$dir" >/dev/null 2>&1 && echo "LEAK $dir"
	done
	(echo x >/usr/x) 2>/dev/null && echo LEAK usr
	(echo x >/x) 2>/dev/null && echo LEAK root
	(echo x >/tmp/from-inside-$$) && echo tmp=ok
	[ -e /tmp/from-outside ] && echo LEAK tmp
	ls /proc/self/fd | tr '\n' ' '; echo
	getent hosts localhost >/dev/null 2>&1 || echo no localhost
	echo end
} >"$report.new" 2>"$HOME/errors"
echo kept >"$HOME/earlier"
mv "$report.new" "$report"
[ -n "$EXTRA" ] && eval "$EXTRA"
sleep 1000 &
wait
`

// A variant is one way in which processes run here.
type variant struct {
	name  string
	grant func(*coordinator.HostGrant)
	want  Isolation
}

var probe = sync.OnceValue(func() string { return ProbeBubblewrap(context.Background()) })

// variants returns those that work here: a machine without namespaces is a machine that people have.
func variants() []variant {
	v := []variant{{"none", func(g *coordinator.HostGrant) { g.Insecure = true }, None}}
	if probe() != "" {
		v = append(v, variant{"bubblewrap", func(g *coordinator.HostGrant) { g.Bubblewrap = probe() }, Bubblewrap})
	}
	return v
}

func eachVariant(t *testing.T, f func(t *testing.T, g coordinator.HostGrant, want Isolation)) {
	for _, v := range variants() {
		t.Run(v.name, func(t *testing.T) {
			g := testGrant(t)
			v.grant(&g)
			if err := os.WriteFile(g.Agent, []byte(agentScript), 0o755); err != nil {
				t.Fatal(err)
			}
			f(t, g, v.want)
		})
	}
}

// start runs a process and stops it at the end of the test.
func start(t *testing.T, h *Host, s Spec) Process {
	t.Helper()
	p, err := h.StartProcess(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := h.StopProcess(context.Background(), s.ID); err != nil {
			t.Error(err)
		}
	})
	return p
}

func await(t *testing.T, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); <-tick.C {
		if ok() {
			return
		}
	}
	t.Fatalf("waited in vain for %s", what)
}

// report waits for the agent's report and returns it.
func report(t *testing.T, home string) string {
	t.Helper()
	var b []byte
	await(t, "the agent's report", func() bool {
		var err error
		b, err = os.ReadFile(filepath.Join(home, "report"))
		return err == nil
	})
	if errs, _ := os.ReadFile(filepath.Join(home, "errors")); len(errs) > 0 {
		t.Logf("the agent's errors: %s", errs)
	}
	return string(b)
}

func TestProcess(t *testing.T) {
	t.Setenv("SECRET_OF_THE_HOST", "x")
	eachVariant(t, func(t *testing.T, g coordinator.HostGrant, want Isolation) {
		h := testHost(t, g, "wsa", "alice")
		other := testHost(t, g, "wsb", "bob")
		coder := filepath.Join(filepath.Dir(g.Homes), "coder dir")
		for _, err := range []error{
			h.EnsureHome("h1"), other.EnsureHome("h2"), os.Mkdir(coder, 0o755),
			os.WriteFile(filepath.Join(coder, "configure"), []byte("configured"), 0o755),
		} {
			if err != nil {
				t.Fatal(err)
			}
		}
		look := strings.Join([]string{"/root", "/home/bob", "/tmp/berth*"}, " ")
		if !strings.Contains(g.Homes, " ") {
			t.Fatal("the path should hold a space")
		}
		s := Spec{
			ID: "p1", AgentID: "a1", Home: "h1", CoderDir: coder, Isolation: Auto, URL: "http://127.0.0.1:7080", Token: "ba1_x",
			Env: map[string]string{"MINE": "yes it is", "LOOK": look},
		}
		p := start(t, h, s)
		if p.Isolation != want {
			t.Errorf("isolation = %q, want %q", p.Isolation, want)
		}
		got := report(t, filepath.Join(g.Homes, "h1"))
		t.Log(got)
		wants := []string{"token=ba1_x\n", "tokenmode=600:", "env=0\n", "url=http://127.0.0.1:7080\n", "coder=configured\n", "mine=yes it is\n", "tmp=ok\n", "runtime=700 ", "earlier=\n", "\nend\n"}
		if want == Bubblewrap {
			wants = append(wants, "user=alice logname=alice home=/home/alice ", "id=alice ", "cwd=/home/alice\n")
			if os.Geteuid() == 0 {
				wants = append(wants, fmt.Sprintf("uid=%d groups=%d\n", g.UID, g.UID))
			}
			if strings.Contains(got, "LEAK") {
				t.Errorf("the agent sees what it should not")
			}
		} else {
			wants = append(wants, "home="+filepath.Join(g.Homes, "h1"), "user="+hostUser().Username)
			_ = os.Remove("/tmp/from-inside-" + strconv.Itoa(p.PID))
		}
		for _, w := range wants {
			if !strings.Contains(got, w) {
				t.Errorf("report lacks %q", w)
			}
		}
		checkOneSession(t, p)

		again, err := h.StartProcess(t.Context(), s)
		if err != nil || again.PID != p.PID {
			t.Errorf("started again: %v, %v, want pid %d", again.PID, err, p.PID)
		}
		_, err = other.ProcessAlive(t.Context(), "p1")
		wantCode(t, err, coordinator.CodeDenied)
		wantCode(t, other.StopProcess(t.Context(), "p1"), coordinator.CodeDenied)
		_, err = other.StartProcess(t.Context(), Spec{ID: "p2", AgentID: "a2", Home: "h1", Isolation: Auto})
		wantCode(t, err, coordinator.CodeDenied)
		if ok, err := h.ProcessAlive(t.Context(), "p1"); !ok || err != nil {
			t.Errorf("alive = %v, %v", ok, err)
		}

		if err := h.StopProcess(t.Context(), "p1"); err != nil {
			t.Fatal(err)
		}
		if b, err := os.ReadFile(filepath.Join(g.Homes, "h1", "bye")); err != nil || string(b) != "bye\n" {
			t.Errorf("the agent was not asked to end: %q, %v", b, err)
		}
		if lives(p.PID, p.StartTime) || p.Init > 0 && lives(p.Init, p.InitStart) {
			t.Error("it still lives")
		}
		if left, err := os.ReadDir(g.Run); err != nil || len(left) != 0 {
			t.Errorf("left in run: %v, %v", left, err)
		}
		if p.RuntimeDir != "" {
			if _, err := os.Stat(p.RuntimeDir); err == nil {
				t.Error("the runtime directory is still there")
			}
		}

		// The home persists, and nothing else.
		if err := os.Remove(filepath.Join(g.Homes, "h1", "report")); err != nil {
			t.Fatal(err)
		}
		s.ID = "p3"
		p = start(t, h, s)
		if got := report(t, filepath.Join(g.Homes, "h1")); !strings.Contains(got, "earlier=kept\n") {
			t.Errorf("the home did not persist:\n%s", got)
		}
		if want == None {
			_ = os.Remove("/tmp/from-inside-" + strconv.Itoa(p.PID))
		}
	})
}

func checkOneSession(t *testing.T, p Process) {
	t.Helper()
	mine, _ := statOf(os.Getpid())
	st, ok := statOf(p.PID)
	if !ok || st.session == mine.session {
		t.Errorf("session of the process = %d, the build's own is %d", st.session, mine.session)
	}
	args, err := os.ReadFile("/proc/" + strconv.Itoa(p.PID) + "/cmdline")
	if err != nil || bytes.Contains(args, []byte("ba1_")) {
		t.Errorf("command line: %q, %v", args, err)
	}
}

func TestSandboxSeesNoDataDirectory(t *testing.T) {
	if probe() == "" {
		t.Skip("bubblewrap does not work here")
	}
	eachVariant(t, func(t *testing.T, g coordinator.HostGrant, want Isolation) {
		if want != Bubblewrap {
			return // there is nothing to see without isolation
		}
		h, other := testHost(t, g, "wsa", "alice"), testHost(t, g, "wsb", "bob")
		data := filepath.Dir(g.Homes)
		for _, err := range []error{h.EnsureHome("h1"), other.EnsureHome("h2"), os.WriteFile(filepath.Join(g.Homes, "h2", "theirs"), nil, 0o644)} {
			if err != nil {
				t.Fatal(err)
			}
		}
		// A root that passes on what it holds would be seen in /proc/*/fd: walk up from every descriptor.
		extra := `{ for fd in /proc/[0-9]*/fd/*; do ls "$fd/../h2" "$fd/../../homes" 2>/dev/null; done
			ls -a /; find /home /run /tmp /var /dev /etc /opt /root -name theirs 2>/dev/null; ls "$DATA" 2>/dev/null; cat /proc/self/mountinfo | cut -d" " -f5
			cat /proc/1/environ | tr '\0' '\n' | grep ^BERTH_AGENT_TOKEN=; } >found; mv found walked`
		p := start(t, h, Spec{ID: "p1", AgentID: "a1", Home: "h1", Isolation: Bubblewrap, Token: "ba1_x", Env: map[string]string{"EXTRA": extra, "DATA": data}})
		var b []byte
		await(t, "the walk", func() bool {
			var err error
			b, err = os.ReadFile(filepath.Join(g.Homes, "h1", "walked"))
			return err == nil
		})
		for _, bad := range []string{"theirs", "h2", "BERTH_AGENT_TOKEN=", data} {
			if strings.Contains(string(b), bad) {
				t.Errorf("inside of the sandbox %q is found:\n%s", bad, b)
			}
		}
		_ = p
	})
}

func TestDeadProcess(t *testing.T) {
	eachVariant(t, func(t *testing.T, g coordinator.HostGrant, _ Isolation) {
		h := testHost(t, g, "wsa", "alice")
		if err := h.EnsureHome("h1"); err != nil {
			t.Fatal(err)
		}
		// A daemon of a session of its own outlives the agent.
		extra := `setsid sh -c 'echo $$ >daemon.new; mv daemon.new daemon; exec sleep 1000' &`
		s := Spec{ID: "p1", AgentID: "a1", Home: "h1", Isolation: Auto, Env: map[string]string{"EXTRA": extra}}
		p := start(t, h, s)
		await(t, "the daemon", func() bool {
			_, err := os.Stat(filepath.Join(g.Homes, "h1", "daemon"))
			return err == nil
		})
		before, err := descendants(p.PID)
		if err != nil || len(before) == 0 {
			t.Fatalf("descendants: %v, %v", before, err)
		}
		if err := syscall.Kill(p.PID, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		await(t, "its death", func() bool { return !lives(p.PID, p.StartTime) })
		if ok, err := h.ProcessAlive(t.Context(), "p1"); ok || err != nil {
			t.Fatalf("alive = %v, %v", ok, err)
		}
		for _, r := range before {
			if lives(r.pid, r.start) {
				t.Errorf("process %d of the dead agent still runs", r.pid)
			}
		}
		if left, err := os.ReadDir(g.Run); err != nil || len(left) != 0 {
			t.Errorf("left in run: %v, %v", left, err)
		}
	})
}

func TestOneProcessOfAnAgent(t *testing.T) {
	eachVariant(t, func(t *testing.T, g coordinator.HostGrant, _ Isolation) {
		h := testHost(t, g, "wsa", "alice")
		if err := h.EnsureHome("h1"); err != nil {
			t.Fatal(err)
		}
		first := start(t, h, Spec{ID: "p1", AgentID: "a1", Home: "h1", Isolation: Auto})
		beside := start(t, h, Spec{ID: "p2", AgentID: "a2", Home: "h1", Isolation: Auto})
		second := start(t, h, Spec{ID: "p3", AgentID: "a1", Home: "h1", Isolation: Auto})
		if lives(first.PID, first.StartTime) {
			t.Error("the agent's first process still runs")
		}
		if !lives(beside.PID, beside.StartTime) || !lives(second.PID, second.StartTime) {
			t.Error("another process was ended")
		}
	})
}

// TestBuildDiesInStart leaves what a build leaves that is killed between the start and the record of it.
func TestBuildDiesInStart(t *testing.T) {
	eachVariant(t, func(t *testing.T, g coordinator.HostGrant, _ Isolation) {
		h := testHost(t, g, "wsa", "alice")
		if err := h.EnsureHome("h1"); err != nil {
			t.Fatal(err)
		}
		p := start(t, h, Spec{ID: "p1", AgentID: "a1", Home: "h1", Isolation: Auto})
		lost := p
		lost.PID, lost.StartTime, lost.Init, lost.InitStart = 0, 0, 0, 0
		if err := writeRecord(h.processRecord("p1"), lost); err != nil {
			t.Fatal(err)
		}
		next := start(t, h, Spec{ID: "p2", AgentID: "a1", Home: "h1", Isolation: Auto})
		if lives(p.PID, p.StartTime) {
			t.Error("the lost process still runs")
		}
		if !lives(next.PID, next.StartTime) {
			t.Error("the next does not run")
		}
	})
}

func TestStopDoesNotWaitForEver(t *testing.T) {
	eachVariant(t, func(t *testing.T, g coordinator.HostGrant, _ Isolation) {
		script := "#!/bin/sh\ntrap '' TERM\n: >ready\nwhile :; do sleep 1; done\n"
		if err := os.WriteFile(g.Agent, []byte(script), 0o755); err != nil {
			t.Fatal(err)
		}
		h := testHost(t, g, "wsa", "alice")
		if err := h.EnsureHome("h1"); err != nil {
			t.Fatal(err)
		}
		p := start(t, h, Spec{ID: "p1", AgentID: "a1", Home: "h1", Isolation: Auto})
		await(t, "the trap", func() bool {
			_, err := os.Stat(filepath.Join(g.Homes, "h1", "ready"))
			return err == nil
		})
		a, _ := hold(p.PID, p.StartTime)
		defer a.release()
		if err := a.signal(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		if a.wait(t.Context(), 200*time.Millisecond) {
			t.Fatal("the agent heeds SIGTERM, which it should not")
		}
		if err := h.end(t.Context(), p, nil); err != nil {
			t.Fatal(err)
		}
		if lives(p.PID, p.StartTime) {
			t.Error("it still lives")
		}
	})
}

func TestAgentThatCannotRun(t *testing.T) {
	eachVariant(t, func(t *testing.T, g coordinator.HostGrant, _ Isolation) {
		if err := os.WriteFile(g.Agent, []byte("#!/no/such/interpreter\n"), 0o755); err != nil {
			t.Fatal(err)
		}
		h := testHost(t, g, "wsa", "alice")
		if err := h.EnsureHome("h1"); err != nil {
			t.Fatal(err)
		}
		_, err := h.StartProcess(t.Context(), Spec{ID: "p1", AgentID: "a1", Home: "h1", Isolation: Auto})
		wantCode(t, err, coordinator.CodeFailed)
		t.Log(err)
		if left, err := os.ReadDir(g.Run); err != nil || len(left) != 0 {
			t.Errorf("left in run: %v, %v", left, err)
		}
	})
}

func TestReboot(t *testing.T) {
	g := testGrant(t)
	h := testHost(t, g, "wsa", "alice")
	st, _ := statOf(os.Getpid())
	p := Process{ID: "p1", WorkspaceID: "wsa", AgentID: "a1", Isolation: None, PID: os.Getpid(), StartTime: st.start, Init: os.Getpid(), InitStart: st.start, Boot: "another"}
	if err := writeRecord(h.processRecord("p1"), p); err != nil {
		t.Fatal(err)
	}
	if err := h.StopProcess(t.Context(), "p1"); err != nil { // and this process lives
		t.Fatal(err)
	}
}

func TestLogIsCapped(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.Write(append(bytes.Repeat([]byte("x"), MaxLog), "the end\n"...)); err != nil {
		t.Fatal(err)
	}
	if err := trimLog(path); err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteString("and on\n"); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(path)
	if err != nil || len(b) != MaxLog/2+len("and on\n") || !bytes.HasSuffix(b, []byte("the end\nand on\n")) {
		t.Errorf("%d bytes, %v", len(b), err)
	}
}

// TestAsOrdinaryUser runs the tests of this package once more as somebody who is not root.
func TestAsOrdinaryUser(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("is one already")
	}
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("/tmp", "berth-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	b, err := os.ReadFile(exe)
	if err != nil {
		t.Fatal(err)
	}
	const nobody = 65534
	copied, tmp := filepath.Join(dir, "test"), filepath.Join(dir, "tmp")
	for _, err := range []error{os.Chmod(dir, 0o755), os.WriteFile(copied, b, 0o755), os.Mkdir(tmp, 0o700), os.Chown(tmp, nobody, nobody)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.Command(copied, "-test.count=1", "-test.v")
	cmd.Dir, cmd.Env = "/", []string{"PATH=" + os.Getenv("PATH"), "TMPDIR=" + tmp, "HOME=/nonexistent"}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Errorf("as uid %d: %v\n%s", nobody, err, out)
	}
	if !bytes.Contains(out, []byte("--- PASS: TestProcess/none")) {
		t.Errorf("it ran too little:\n%s", out)
	}
	t.Logf("isolated as uid %d: %v", nobody, bytes.Contains(out, []byte("--- PASS: TestProcess/bubblewrap")))
}

func BenchmarkIsolatedStart(b *testing.B) {
	if probe() == "" {
		b.Skip("bubblewrap does not work here")
	}
	data := b.TempDir()
	g := coordinator.HostGrant{Homes: data + "/homes", Run: data + "/run", Agent: data + "/agent", UID: coordinator.HostUIDBase, Bubblewrap: probe()}
	if err := os.WriteFile(g.Agent, []byte("#!/bin/sh\nexec sleep 1000\n"), 0o755); err != nil {
		b.Fatal(err)
	}
	h := New(g, Workspace{ID: "wsa", Name: "dev", Owner: "alice"})
	if err := os.Mkdir(g.Homes, 0o700); err != nil {
		b.Fatal(err)
	}
	if err := h.EnsureHome("h1"); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if _, err := h.StartProcess(b.Context(), Spec{ID: "p1", AgentID: "a1", Home: "h1", Isolation: Bubblewrap}); err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		if err := h.StopProcess(b.Context(), "p1"); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
}
