package startup

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"berth/agent"
	"berth/agent/shell"
)

func TestMain(m *testing.M) {
	syscall.Umask(0o022)
	goleak.VerifyTestMain(m)
}

// tester is the workspace's user where the tests run as root.
const tester = 54321

// A told is an Outbox that remembers.
type told struct {
	mu     sync.Mutex
	steps  []agent.StepReport // every report, in order
	logs   []agent.LogReport
	resets int
	ready  chan struct{}
}

func (o *told) Step(r agent.StepReport) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.steps = append(o.steps, r)
}

func (o *told) Log(r agent.LogReport) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.logs = append(o.logs, r)
}

func (o *told) Ready() { o.ready <- struct{}{} }

func (o *told) Reset() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.steps, o.logs = nil, nil
	o.resets++
}

// last returns the newest report of a step.
func (o *told) last(step string) agent.StepReport {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, s := range slices.Backward(o.steps) {
		if s.Name == step {
			return s
		}
	}
	return agent.StepReport{Outcome: "never began"}
}

func (o *told) log(step string) string {
	o.mu.Lock()
	defer o.mu.Unlock()
	var b strings.Builder
	for _, l := range o.logs {
		if l.Step == step {
			b.WriteString(l.Text + "\n")
		}
	}
	return b.String()
}

// A place is a workspace to set up.
type place struct {
	t                *testing.T
	dir, home, coder string
	accounts         shell.Accounts
	user             string
	manifest         agent.Manifest
	told             *told
	runner           *Runner
	stop             func()
	change           func(c *Config)
}

func newPlace(t *testing.T) *place {
	t.Helper()
	top, err := os.MkdirTemp("/tmp", "berth-startup-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(top) })
	p := &place{t: t, dir: filepath.Join(top, "run"), home: filepath.Join(top, "home"), coder: filepath.Join(top, "coder")}
	must(t, os.Chmod(top, 0o755))
	if dir := os.Getenv("BERTH_TEST_RUNTIME"); dir != "" {
		p.dir = filepath.Join(dir, "run")
	}
	for _, d := range []string{p.dir, p.home, p.coder} {
		must(t, os.Mkdir(d, 0o755))
	}
	must(t, os.Chmod(p.dir, 0o700))
	if os.Geteuid() == 0 {
		must(t, os.Chown(p.home, tester, tester))
		p.accounts = shell.Accounts{Passwd: filepath.Join(top, "passwd"), Group: filepath.Join(top, "group")}
		p.user = "tess"
		line := fmt.Sprintf("root:x:0:0::/root:/bin/sh\ntess:x:%d:%d::%s:/bin/bash\n", tester, tester, p.home)
		must(t, os.WriteFile(p.accounts.Passwd, []byte(line), 0o644))
	} else {
		t.Setenv("HOME", p.home)
	}
	p.manifest = agent.Manifest{
		Workspace: "dev", WorkspaceID: "w1", StartBuild: "b1", URL: "http://127.0.0.1:1", Token: "bt1_narrow",
		Owner: agent.Owner{ID: "u1", Name: "alice", FullName: "Alice Ä.", Email: "alice@example.com"},
		Agent: agent.AgentSpec{ID: "a1", Name: "main", User: p.user, Env: map[string]string{"FROM_TEMPLATE": "1", "PATH": "/opt/t/bin:$PATH"}},
	}
	return p
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// begin starts a runner, as an agent that was just started does.
func (p *place) begin() {
	p.t.Helper()
	p.told = &told{ready: make(chan struct{}, 8)}
	c := Config{
		Dir: p.dir, CoderDir: p.coder, Socket: "/run/sock", Outbox: p.told, HTTP: http.DefaultClient, Accounts: p.accounts,
		Base:   []string{"PATH=/usr/local/bin:/usr/bin:/bin", "BERTH_AGENT_TOKEN=hidden", "BERTH_PROCESS_ID=7", "FROM_IMAGE=1"},
		Logger: slog.New(slog.NewTextHandler(p.t.Output(), nil)),
	}
	if p.change != nil {
		p.change(&c)
	}
	p.runner = New(c)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- p.runner.Run(ctx) }()
	p.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			p.t.Errorf("Run: %v", err)
		}
	})
	p.t.Cleanup(p.stop)
	p.give()
}

func (p *place) give() {
	m := p.manifest
	p.runner.Manifest(&m)
}

// wait waits for the end of startup.
func (p *place) wait() {
	p.t.Helper()
	select {
	case <-p.told.ready:
	case <-time.After(60 * time.Second):
		p.t.Fatalf("startup does not end: %+v", p.told.steps)
	}
}

// run sets the place up and waits for the end.
func (p *place) run() {
	p.t.Helper()
	p.begin()
	p.wait()
}

// script puts a script into a place. Files of the home belong to its user.
func (p *place) script(path, text string, mode os.FileMode) {
	p.t.Helper()
	must(p.t, os.MkdirAll(filepath.Dir(path), 0o755))
	must(p.t, os.WriteFile(path, []byte(text), mode))
	p.own(path)
}

func (p *place) own(path string) {
	p.t.Helper()
	if os.Geteuid() == 0 && strings.HasPrefix(path, p.home) {
		must(p.t, os.Lchown(path, tester, tester))
	}
}

func (p *place) read(path string) string {
	p.t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		p.t.Error(err)
	}
	return string(b)
}

// check compares a step's outcome, and looks for a part of its error.
func (p *place) check(step, outcome, inError string) agent.StepReport {
	p.t.Helper()
	r := p.told.last(step)
	if r.Outcome != outcome || !strings.Contains(r.Error, inError) {
		p.t.Errorf("%s: %q (%s), want %q with %q\n%s", step, r.Outcome, r.Error, outcome, inError, p.told.log(step))
	}
	return r
}

// repository makes a git repository with the given files, and returns its address.
func (p *place) repository(files map[string]string) string {
	p.t.Helper()
	dir, err := os.MkdirTemp(filepath.Dir(p.dir), "repository-")
	must(p.t, err)
	must(p.t, os.Chmod(dir, 0o755))
	p.git(dir, "init", "-q", "-b", "main")
	p.commit(dir, files)
	return "file://" + dir
}

func (p *place) commit(dir string, files map[string]string) {
	p.t.Helper()
	for name, text := range files {
		path := filepath.Join(dir, name)
		must(p.t, os.MkdirAll(filepath.Dir(path), 0o755))
		must(p.t, os.WriteFile(path, []byte(text), 0o755))
	}
	p.git(dir, "add", "-A")
	p.git(dir, "commit", "-q", "-m", "x")
	if os.Geteuid() == 0 { // git refuses repositories of other users
		must(p.t, exec.Command("chown", "-R", "54321:54321", dir).Run())
	}
}

func (p *place) git(dir string, args ...string) {
	p.t.Helper()
	cmd := exec.Command("git", append([]string{"-C", dir, "-c", "user.name=x", "-c", "user.email=x@example.com", "-c", "safe.directory=*"}, args...)...)
	cmd.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_SYSTEM=/dev/null")
	if out, err := cmd.CombinedOutput(); err != nil {
		p.t.Fatalf("git %v: %v\n%s", args, err, out)
	}
}

func poll(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for limit := time.Now().Add(15 * time.Second); !ok(); {
		if time.Now().After(limit) {
			t.Fatalf("not in time: %s", what)
		}
		<-time.After(10 * time.Millisecond)
	}
}
