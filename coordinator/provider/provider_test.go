package provider

import (
	"bytes"
	"context"
	"encoding/json"
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

	"go.uber.org/goleak"

	"berth/coordinator"
	"berth/coordinator/host"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const header = `
terraform {
  required_providers {
    berth = { source = "berth/berth" }
  }
}
data "berth_workspace" "me" {}
`

const example = header + `
resource "berth_agent" "main" {
  os   = "linux"
  arch = "amd64"
}
resource "berth_home" "home" {}
resource "berth_process" "dev" {
  count     = data.berth_workspace.me.start_count
  agent_id  = berth_agent.main.id
  home      = berth_home.home.id
  coder_dir = "${path.module}/coder"
}
`

// A build is what one workspace's builds share in a test.
type build struct {
	t   *testing.T
	job coordinator.Job
	dir string // of the state
}

var probe = sync.OnceValue(func() string {
	if os.Getenv("BERTH_TEST_NO_BUBBLEWRAP") != "" {
		return ""
	}
	return host.ProbeBubblewrap(context.Background())
})

// newBuild returns a workspace of a template that is main.
func newBuild(t *testing.T, main string) *build {
	t.Helper()
	if _, err := exec.LookPath("terraform"); err != nil {
		t.Skip("terraform is not installed")
	}
	path, err := exec.LookPath("terraform")
	if err != nil {
		t.Fatal(err)
	}
	data := t.TempDir()
	version := filepath.Join(data, "versions", "v1")
	script := "#!/bin/sh\ntrap 'exit 0' TERM\ncp \"$BERTH_AGENT_TOKEN_FILE\" \"$HOME/token\"\ncat /coder/configure \"$BERTH_CODER_DIR/configure\" >\"$HOME/coder\" 2>/dev/null\nsleep 1000 &\nwait\n"
	for _, err := range []error{
		os.MkdirAll(filepath.Join(version, "module", "coder"), 0o755),
		os.MkdirAll(filepath.Join(data, "homes"), 0o700),
		os.MkdirAll(filepath.Join(data, "run"), 0o700),
		os.WriteFile(filepath.Join(version, "module", "main.tf"), []byte(main), 0o644),
		os.WriteFile(filepath.Join(version, "module", "coder", "configure"), []byte("configured"), 0o755),
		os.WriteFile(filepath.Join(data, "berth-agent"), []byte(script), 0o755),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	return &build{t: t, dir: data, job: coordinator.Job{
		ID: "b1", Transition: coordinator.Start, Workspace: "dev", WorkspaceID: "wsa",
		Owner:    coordinator.JobOwner{ID: "u1", Name: "alice", FullName: "Alice", Email: "a@example.com", Groups: []string{"dev"}},
		Template: "local", VersionID: "v1", Version: 3, Archive: "abc", ModuleDir: version,
		AccessURL: "http://127.0.0.1:7080", AgentURL: "http://127.0.0.1:7081", InitScript: "#!/bin/sh\n", AgentKey: []byte("key"), Generation: 1,
		Terraform: coordinator.Terraform{Path: path},
		Host: coordinator.HostGrant{
			Homes: filepath.Join(data, "homes"), Run: filepath.Join(data, "run"), Agent: filepath.Join(data, "berth-agent"),
			UID: coordinator.HostUIDBase + 3, Insecure: probe() == "", Bubblewrap: probe(),
		},
	}}
}

func (b *build) serve() *Session {
	b.t.Helper()
	s, err := Serve(b.t.Context(), b.job, filepath.Join(b.dir, "work"))
	if err != nil {
		b.t.Fatal(err)
	}
	return s
}

// terraform runs terraform once against s and returns its output.
func (b *build) terraform(s *Session, args ...string) (string, error) {
	b.t.Helper()
	cmd := exec.Command(b.job.Terraform.Path, args...)
	cmd.Dir = filepath.Join(b.job.ModuleDir, "module")
	cmd.Env = []string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + b.dir, "TF_REATTACH_PROVIDERS=" + s.Reattach(), "TF_DATA_DIR=" + filepath.Join(b.dir, "tfdata"),
		"CHECKPOINT_DISABLE=1", "TF_IN_AUTOMATION=1", "GOGC=off",
	}
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		b.t.Fatal(err)
	}
	s.AllowPeer(cmd.Process.Pid)
	err := cmd.Wait()
	return out.String(), err
}

// run is one build in a session of its own.
func (b *build) run(tr coordinator.Transition, verb string, args ...string) (string, error) {
	b.t.Helper()
	b.job.Transition = tr
	s := b.serve()
	args = append([]string{verb, "-input=false", "-no-color", "-state=" + filepath.Join(b.dir, "state")}, args...)
	out, err := b.terraform(s, args...)
	if err := s.Close(); err != nil {
		b.t.Error(err)
	}
	return out, err
}

func (b *build) apply(tr coordinator.Transition, args ...string) string {
	b.t.Helper()
	out, err := b.run(tr, "apply", append([]string{"-auto-approve"}, args...)...)
	if err != nil {
		b.t.Fatalf("%s: %v\n%s", tr, err, out)
	}
	return out
}

// refused expects an apply to fail with these words.
func (b *build) refused(tr coordinator.Transition, want ...string) {
	b.t.Helper()
	out, err := b.run(tr, "apply", "-auto-approve")
	if err == nil {
		b.t.Fatalf("terraform succeeded:\n%s", out)
	}
	flat := strings.Join(strings.Fields(strings.ReplaceAll(out, "│", "")), " ")
	for _, w := range want {
		if !strings.Contains(flat, w) {
			b.t.Errorf("output lacks %q:\n%s", w, out)
		}
	}
}

// attrs returns the attributes of a resource in the state, nil if it is not there.
func (b *build) attrs(typ string) map[string]any {
	b.t.Helper()
	raw, err := os.ReadFile(filepath.Join(b.dir, "state"))
	if err != nil {
		b.t.Fatal(err)
	}
	var st struct {
		Resources []struct {
			Type      string
			Instances []struct{ Attributes map[string]any }
		}
	}
	if err := json.Unmarshal(raw, &st); err != nil {
		b.t.Fatal(err)
	}
	for _, r := range st.Resources {
		if r.Type == typ && len(r.Instances) > 0 {
			return r.Instances[0].Attributes
		}
	}
	return nil
}

func (b *build) process() host.Process {
	b.t.Helper()
	id, _ := b.attrs("berth_process")["id"].(string)
	raw, err := os.ReadFile(filepath.Join(b.job.Host.Run, id+".json"))
	if err != nil {
		b.t.Fatal(err)
	}
	var p host.Process
	if err := json.Unmarshal(raw, &p); err != nil {
		b.t.Fatal(err)
	}
	return p
}

func running(pid int) bool {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return false
	}
	_, rest, _ := strings.Cut(string(b), ") ")
	return !strings.HasPrefix(rest, "Z")
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

// stopAll ends what a test that failed half way has left.
func (b *build) stopAll() {
	records, _ := filepath.Glob(filepath.Join(b.job.Host.Run, "*.json"))
	h := host.New(b.job.Host, host.Workspace{ID: b.job.WorkspaceID})
	for _, r := range records {
		_ = h.StopProcess(context.Background(), strings.TrimSuffix(filepath.Base(r), ".json"))
	}
}

func TestLife(t *testing.T) {
	t.Parallel()
	b := newBuild(t, example)
	t.Cleanup(b.stopAll)

	b.apply(coordinator.Start)
	agent, home, p := b.attrs("berth_agent"), b.attrs("berth_home"), b.process()
	token, _ := agent["token"].(string)
	id, _ := agent["id"].(string)
	if !coordinator.VerifyAgentToken(coordinator.Secret(token), []byte("key"), "wsa", id, 1) {
		t.Errorf("token %q of agent %q is not good", token, id)
	}
	if agent["name"] != "main" || agent["connection_timeout"] != 120.0 {
		t.Errorf("defaults: %v", agent)
	}
	if !running(p.PID) {
		t.Fatal("the process does not run")
	}
	homeDir := filepath.Join(b.job.Host.Homes, fmt.Sprint(home["id"]))
	await(t, "the agent", func() bool {
		got, err := os.ReadFile(filepath.Join(homeDir, "coder"))
		return err == nil && string(got) == "configured"
	})
	if got, err := os.ReadFile(filepath.Join(homeDir, "token")); err != nil || strings.TrimSpace(string(got)) != token {
		t.Errorf("the agent's token = %q, %v; want %q", got, err, token)
	}

	out, err := b.run(coordinator.Start, "plan", "-detailed-exitcode")
	if err != nil || !strings.Contains(out, "No changes") {
		t.Errorf("plan of what is there: %v\n%s", err, out)
	}

	// A dead process is made again; nothing else is touched.
	if err := syscall.Kill(p.PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	await(t, "its death", func() bool { return !running(p.PID) })
	b.apply(coordinator.Start)
	again := b.process()
	if again.ID == p.ID || !running(again.PID) {
		t.Errorf("after its death: %+v", again)
	}
	if b.attrs("berth_agent")["token"] != token || b.attrs("berth_home")["id"] != home["id"] {
		t.Error("agent or home were made again")
	}

	b.apply(coordinator.Stop)
	if b.attrs("berth_process") != nil || running(again.PID) {
		t.Error("the process is still there")
	}
	if b.attrs("berth_agent")["token"] != token || b.attrs("berth_home")["id"] != home["id"] {
		t.Error("agent or home did not persist")
	}
	b.apply(coordinator.Start)
	if got := b.process(); !running(got.PID) {
		t.Error("the process does not run")
	}
	last := b.process()

	b.apply(coordinator.Delete, "-destroy")
	if running(last.PID) {
		t.Error("the process is still there")
	}
	for _, dir := range []string{b.job.Host.Homes, b.job.Host.Run} {
		if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
			t.Errorf("left in %s: %v, %v", dir, left, err)
		}
	}
	if left, err := os.ReadDir(filepath.Join(b.dir, "work")); err != nil || len(left) != 0 {
		t.Errorf("left of the socket: %v, %v", left, err)
	}
}

func TestReplacedWhenItRunsSomethingElse(t *testing.T) {
	t.Parallel()
	b := newBuild(t, example)
	t.Cleanup(b.stopAll)
	b.apply(coordinator.Start)
	first, token := b.process(), b.attrs("berth_agent")["token"]

	b.job.Generation = 2 // revokes the token
	out, err := b.run(coordinator.Start, "plan")
	if err != nil || !strings.Contains(out, "berth_agent.main will be updated in-place") || !strings.Contains(out, "must be replaced") {
		t.Errorf("plan: %v\n%s", err, out)
	}
	b.apply(coordinator.Start)
	second := b.process()
	if second.ID == first.ID || running(first.PID) || !running(second.PID) {
		t.Errorf("not replaced: %+v", second)
	}
	got, _ := b.attrs("berth_agent")["token"].(string)
	if got == token || !coordinator.VerifyAgentToken(coordinator.Secret(got), []byte("key"), "wsa", fmt.Sprint(b.attrs("berth_agent")["id"]), 2) {
		t.Error("the token did not change with its generation")
	}

	b.job.Archive = "def" // another version of the template, and so of what is at /coder
	b.apply(coordinator.Start)
	if third := b.process(); third.ID == second.ID {
		t.Error("not replaced for a new /coder")
	}
	b.apply(coordinator.Delete, "-destroy")
}

func TestPlanThenApplyInOneSession(t *testing.T) {
	t.Parallel()
	b := newBuild(t, example)
	t.Cleanup(b.stopAll)
	b.apply(coordinator.Start)
	b.apply(coordinator.Stop)
	b.job.Transition = coordinator.Start
	s := b.serve()
	state, plan := "-state="+filepath.Join(b.dir, "state"), filepath.Join(b.dir, "plan")
	if out, err := b.terraform(s, "plan", "-input=false", "-no-color", state, "-out="+plan); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if out, err := b.terraform(s, "apply", "-input=false", "-no-color", state, plan); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if !running(b.process().PID) {
		t.Error("the process does not run")
	}
	b.apply(coordinator.Delete, "-destroy")
}

func TestForeignIDs(t *testing.T) {
	t.Parallel()
	theirs := newBuild(t, example)
	t.Cleanup(theirs.stopAll)
	theirs.apply(coordinator.Start)
	home, agent, process := fmt.Sprint(theirs.attrs("berth_home")["id"]), fmt.Sprint(theirs.attrs("berth_agent")["id"]), theirs.process()

	mine := func(main string) *build {
		b := newBuild(t, main)
		b.job.WorkspaceID = "wsb"
		b.job.Host.Homes, b.job.Host.Run = theirs.job.Host.Homes, theirs.job.Host.Run
		t.Cleanup(b.stopAll)
		return b
	}
	t.Run("home in the configuration", func(t *testing.T) {
		b := mine(strings.Replace(example, "berth_home.home.id", strconv.Quote(home), 1))
		b.t = t
		b.refused(coordinator.Start, "belongs to another workspace")
	})
	t.Run("agent in the configuration", func(t *testing.T) {
		b := mine(strings.Replace(example, "berth_agent.main.id", strconv.Quote(agent), 1))
		b.t = t
		b.refused(coordinator.Start, "is not an agent of this workspace", "agent_id = berth_agent.main.id")
	})
	t.Run("import block", func(t *testing.T) {
		b := mine(example + fmt.Sprintf("import {\n  to = berth_home.home\n  id = %q\n}\n", home))
		b.t = t
		b.refused(coordinator.Start, "berth_home cannot be imported")
	})
	t.Run("state", func(t *testing.T) {
		b := mine(example)
		b.t = t
		raw, err := os.ReadFile(filepath.Join(theirs.dir, "state"))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(b.dir, "state"), raw, 0o600); err != nil {
			t.Fatal(err)
		}
		b.refused(coordinator.Start, "belongs to another workspace")
		for _, refresh := range []string{"-refresh=true", "-refresh=false"} {
			if out, err := b.run(coordinator.Delete, "apply", "-auto-approve", "-destroy", refresh); err == nil || !strings.Contains(out, "belongs to another") {
				t.Errorf("destroyed with %s: %v\n%s", refresh, err, out)
			}
		}
	})
	if !running(process.PID) {
		t.Error("their process was ended")
	}
	if _, err := os.Stat(filepath.Join(theirs.job.Host.Homes, home)); err != nil {
		t.Error(err)
	}
	theirs.apply(coordinator.Delete, "-destroy")
}

func TestProcessRefusals(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, from, to string
		grant          func(*coordinator.HostGrant)
		want           []string
	}{
		{"no isolation here", "", "", func(g *coordinator.HostGrant) { g.Bubblewrap, g.Insecure = "", false }, []string{"bubblewrap is missing", "apt-get install bubblewrap", "--insecure-host-processes"}},
		{"none without the flag", "agent_id ", "isolation = \"none\"\n  agent_id ", func(g *coordinator.HostGrant) { g.Insecure = false }, []string{"is not allowed", "--insecure-host-processes"}},
		{"unknown isolation", "agent_id ", "isolation = \"docker\"\n  agent_id ", nil, []string{`isolation: "docker" is not known`}},
		{"reserved variable", "agent_id ", "env = { BERTH_AGENT_URL = \"http://evil\" }\n  agent_id ", nil, []string{`env: "BERTH_AGENT_URL" cannot be set`}},
		{"coder_dir outside", `"${path.module}/coder"`, `"/etc"`, nil, []string{"is not in the template"}},
		{"coder_dir above", `"${path.module}/coder"`, `"../../.."`, nil, []string{"is not in the template"}},
		{"no such coder_dir", `"${path.module}/coder"`, `"nothing"`, nil, []string{`the template has no directory "nothing"`}},
		{"not gated", "count     = data.berth_workspace.me.start_count", "count = 1", func(g *coordinator.HostGrant) { g.UID = -1 }, []string{"while the workspace is stopped", "data.berth_workspace.me.start_count"}},
		{"operating system", `"linux"`, `"plan9"`, nil, []string{`no agent for "plan9"`, "use linux"}},
		{"agent's name", `os   =`, "name = \"a_b\"\n  os =", nil, []string{`"a_b" is not a valid agent name`}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b := newBuild(t, strings.Replace(example, tt.from, tt.to, 1))
			t.Cleanup(b.stopAll)
			tr := coordinator.Start
			if tt.grant != nil {
				tt.grant(&b.job.Host)
			}
			if tt.name == "not gated" {
				tr = coordinator.Stop
			}
			b.refused(tr, tt.want...)
			if left, err := os.ReadDir(b.job.Host.Homes); err != nil || len(left) != 0 {
				t.Errorf("something was made: %v, %v", left, err)
			}
		})
	}
}

// asUser runs tests of this package once more as somebody else.
func asUser(t *testing.T, uid uint32, tests string, env ...string) (string, error) {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(exe)
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("/tmp", "berth-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	copied, tmp := filepath.Join(dir, "test"), filepath.Join(dir, "tmp")
	for _, err := range []error{os.Chmod(dir, 0o755), os.WriteFile(copied, b, 0o755), os.Mkdir(tmp, 0o700), os.Chown(tmp, int(uid), int(uid))} {
		if err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.Command(copied, "-test.count=1", "-test.v", "-test.run=^("+tests+")$")
	cmd.Dir = "/"
	cmd.Env = append(env, "PATH="+os.Getenv("PATH"), "TMPDIR="+tmp, "HOME=/nonexistent")
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// TestAsOrdinaryUser runs some of the tests as somebody who is not root, with bubblewrap where it works and without.
func TestAsOrdinaryUser(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("is one already")
	}
	if _, err := exec.LookPath("terraform"); err != nil {
		t.Skip("terraform is not installed")
	}
	for _, without := range []string{"", "1"} {
		out, err := asUser(t, 65534, "TestLife|TestPeer", "BERTH_TEST_NO_BUBBLEWRAP="+without)
		if err != nil || !strings.Contains(out, "--- PASS: TestLife") {
			t.Errorf("without bubblewrap: %q: %v\n%s", without, err, out)
		}
	}
}
