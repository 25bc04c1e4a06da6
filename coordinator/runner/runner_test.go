package runner

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"berth/coordinator"
	"berth/coordinator/terraform"
)

const header = `
terraform {
  required_providers {
    berth = { source = "berth/berth" }
  }
}
data "berth_workspace" "me" {}
resource "berth_agent" "main" {
  os   = "linux"
  arch = "amd64"
}
`

const template = header + `
data "berth_parameter" "disk" {
  name    = "disk"
  type    = "string"
  default = "small"
}
resource "terraform_data" "home" { triggers_replace = data.berth_parameter.disk.value }
resource "terraform_data" "dev" {
  count = data.berth_workspace.me.start_count
  input = berth_agent.main.id
}
`

func TestLife(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	job := w.job("v1")
	job.Import, job.Archive = true, w.put(map[string]string{"main.tf": template, "terraform.tfstate": "not ours"})
	e := w.do(job, "")
	w.want(e, coordinator.BuildSucceeded, "")
	imp := *e.Imported
	if len(imp.Parameters) != 1 || imp.Parameters[0].Name != "disk" || len(imp.Agents) != 1 || imp.Agents[0].Name != "main" {
		t.Errorf("imported %+v", imp)
	}
	if got := strings.Join(imp.Persistent, " ") + " | " + strings.Join(imp.Ephemeral, " "); got != "berth_agent.main terraform_data.home | terraform_data.dev[0]" {
		t.Errorf("persistent | ephemeral = %s", got)
	}
	build := func(tr coordinator.Transition, disk string, allow ...string) coordinator.Job {
		j := w.job("v1")
		j.Transition, j.Persistent, j.AllowDestroy = tr, imp.Persistent, allow
		j.Params = map[string]string{"disk": disk}
		return j
	}

	e = w.do(build(coordinator.Stop, "small"), "")
	w.want(e, coordinator.BuildSucceeded, "")
	if len(e.Timings) != 0 {
		t.Errorf("terraform ran: %v", e.Timings)
	}

	e = w.do(build(coordinator.Start, "small"), "")
	w.want(e, coordinator.BuildSucceeded, "")
	if len(e.Agents) != 1 || e.Agents[0].Resource != "terraform_data.dev[0]" || len(e.agents) != 1 || e.Serial == 0 {
		t.Errorf("agents %+v, serial %d", e.Agents, e.Serial)
	}
	if strings.Contains(e.log(), "ba1_") || !strings.Contains(e.log(), "terraform_data.dev[0]: created") {
		t.Errorf("log:\n%s", e.log())
	}
	first := e

	e = w.do(build(coordinator.Start, "large"), first.state)
	w.want(e, coordinator.BuildFailed, "the plan would replace terraform_data.home (forced by: triggers_replace), which is persistent; nothing was changed; allow it with --allow-destroy terraform_data.home")
	if len(e.Guard) != 1 || e.Address != "terraform_data.home" || e.state != first.state {
		t.Errorf("guard %+v at %s", e.Guard, e.Address)
	}

	e = w.do(build(coordinator.Start, "large", "terraform_data.home"), first.state)
	w.want(e, coordinator.BuildSucceeded, "")
	if e.Serial <= first.Serial {
		t.Errorf("serial %d after %d", e.Serial, first.Serial)
	}

	e = w.do(build(coordinator.Stop, "large"), e.state)
	w.want(e, coordinator.BuildSucceeded, "")
	if got := strings.Join(e.Resources, " "); got != "berth_agent.main terraform_data.home" {
		t.Errorf("after the stop: %s", got)
	}

	e = w.do(build(coordinator.Delete, "large"), e.state)
	w.want(e, coordinator.BuildSucceeded, "")
	if len(e.Resources) != 0 {
		t.Errorf("after the delete: %v", e.Resources)
	}
	e = w.do(build(coordinator.Delete, "large"), e.state)
	w.want(e, coordinator.BuildSucceeded, "")
	if len(e.Timings) != 0 {
		t.Errorf("terraform ran: %v", e.Timings)
	}
	if left, err := os.ReadDir(filepath.Join(w.data, "work")); err != nil || len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestFailures(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for _, tt := range []struct{ name, config, want, address string }{
		{"broken module", `resource "terraform_data" {`, "Unclosed configuration block", ""},
		{"failing resource", `
resource "terraform_data" "ok" {}
resource "terraform_data" "bad" {
  input = terraform_data.ok.id
  provisioner "local-exec" { command = "echo no space >&2; exit 3" }
}`, "no space", "terraform_data.bad"},
		{"backend", `terraform {
  backend "local" {}
}`, "Backend initialization required", ""},
	} {
		w.lay("bad", tt.config)
		job := w.job("bad")
		job.Transition = coordinator.Start
		e := w.do(job, "")
		w.want(e, coordinator.BuildFailed, tt.want)
		if e.Address != tt.address {
			t.Errorf("%s: at %q, want %q", tt.name, e.Address, tt.address)
		}
		if tt.address != "" && strings.Join(e.Resources, " ") != "terraform_data.bad terraform_data.ok" {
			t.Errorf("%s: exists %v", tt.name, e.Resources)
		}
	}
	job := w.job("absent")
	job.Transition = coordinator.Start
	w.want(w.do(job, ""), coordinator.BuildFailed, "import it again")
	w.lay("ok", template)
	job = w.job("ok")
	job.Transition, job.Terraform.Path = coordinator.Start, filepath.Join(w.data, "no-terraform")
	w.want(w.do(job, ""), coordinator.BuildFailed, "no-terraform: no such file")
}

// slow has one resource that is made and one that takes a minute; its helper's pid is in $TMPDIR/pid.
const slow = `
resource "terraform_data" "quick" {}
resource "terraform_data" "slow" {
  input = terraform_data.quick.id
  provisioner "local-exec" { command = "echo under way; sleep 60 & echo $! > $TMPDIR/pid; wait" }
}
`

// beginSlow begins a build and returns once its slow resource is under way, with the pid of what it started.
func (w *world) beginSlow() (coordinator.Job, int) {
	w.Helper()
	w.lay("slow", slow)
	job := w.job("slow")
	job.Transition = coordinator.Start
	if err := w.Begin(job, ""); err != nil {
		w.Fatal(err)
	}
	var pid int
	w.eventually("the slow resource is under way", func() bool {
		b, err := os.ReadFile(filepath.Join(w.data, "work", job.ID, tmpDir, "pid"))
		if err != nil {
			return false
		}
		n, err := fmt.Sscan(string(b), &pid)
		return n == 1 && err == nil
	})
	return job, pid
}

func (w *world) gone(pid int) {
	w.Helper()
	w.eventually(fmt.Sprintf("process %d ends", pid), func() bool { return startTime(pid) == 0 })
}

func TestCancel(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	job, helper := w.beginSlow()
	begun := time.Now()
	if err := errors.Join(w.Cancel(job.ID), w.Cancel(job.ID)); err != nil {
		t.Fatal(err)
	}
	e := w.follow(w.Supervisor, job.ID)
	w.want(e, coordinator.BuildCanceled, "")
	if d := time.Since(begun); d > 10*time.Second {
		t.Errorf("took %s", d)
	}
	if got := strings.Join(e.Resources, " "); got != "terraform_data.quick terraform_data.slow" || !strings.Contains(string(e.state), "tainted") {
		t.Errorf("kept %s", got)
	}
	w.gone(helper)
	// Canceled before the runner could take a signal.
	job = w.job("slow")
	job.Transition = coordinator.Start
	if err := os.MkdirAll(filepath.Join(w.data, "work", job.ID), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := w.Cancel(job.ID); err != nil {
		t.Fatal(err)
	}
	w.want(w.do(job, e.state), coordinator.BuildCanceled, "")
	if err := w.Cancel("unknown"); !errors.Is(err, ErrNeverBegan) {
		t.Errorf("Cancel of an unknown job = %v", err)
	}
	// A tainted resource does not stand in the way of the next build.
	w.lay("slow", `resource "terraform_data" "quick" {}
resource "terraform_data" "slow" { input = terraform_data.quick.id }`)
	job = w.job("slow")
	job.Transition, job.Persistent = coordinator.Start, []string{"terraform_data.slow", "terraform_data.quick"}
	w.want(w.do(job, e.state), coordinator.BuildSucceeded, "")
}

// TestStubborn checks the end of one that does not hear the interrupt, and of a stage beyond its limit.
func TestStubborn(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	fake := filepath.Join(w.data, "terraform")
	script := "#!/bin/sh\ntrap '' INT\necho $$ > $TMPDIR/pid\nsleep 60 &\nwhile :; do wait; done\n"
	if err := os.WriteFile(fake, []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	w.lay("slow", slow)
	job := w.job("slow")
	job.Transition, job.Terraform.Path = coordinator.Start, fake
	job.Limits = coordinator.JobLimits{Apply: 300 * time.Millisecond, Cancel: 200 * time.Millisecond}
	e := w.do(job, "")
	w.want(e, coordinator.BuildFailed, "apply took longer than 300ms")
}

// TestRunnerKilled checks that nothing is lost when the runner is killed in mid-apply: terraform is ended in order,
// and what it made is delivered.
func TestRunnerKilled(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	job, helper := w.beginSlow()
	d := dir{filepath.Join(w.data, "work", job.ID)}
	tf, ok := d.readPID(terraformPID)
	if !ok {
		t.Fatal("no terraform")
	}
	runner, ok := d.readPID(runnerPID)
	if !ok {
		t.Fatal("no runner")
	}
	runner.signal(os.Kill)
	w.gone(runner.pid)
	if !tf.lives() {
		t.Fatal("terraform did not outlive its runner")
	}
	e := w.follow(w.Supervisor, job.ID)
	w.want(e, coordinator.BuildFailed, "the build's runner died")
	if tf.lives() {
		t.Error("terraform lives on")
	}
	w.gone(helper)
	if got := strings.Join(e.Resources, " "); got != "terraform_data.quick terraform_data.slow" || e.state == "" {
		t.Errorf("kept %s", got)
	}
	again := w.follow(supervisor(t, w.data), job.ID)
	if again.Error != e.Error || again.state != e.state {
		t.Errorf("another look: %+v", again)
	}
}

// TestAllKilled checks what is told when terraform is killed together with its runner.
func TestAllKilled(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	job, helper := w.beginSlow()
	d := dir{filepath.Join(w.data, "work", job.ID)}
	runner, _ := d.readPID(runnerPID)
	tf, _ := d.readPID(terraformPID)
	runner.signal(os.Kill)
	tf.signal(os.Kill)
	w.gone(runner.pid)
	w.gone(tf.pid)
	e := w.follow(w.Supervisor, job.ID)
	w.want(e, coordinator.BuildFailed, "terraform was at work on terraform_data.slow")
	if got := strings.Join(e.Resources, " "); !strings.Contains(got, "terraform_data.quick") || e.Address != "terraform_data.slow" {
		t.Errorf("kept %s, at %s", got, e.Address)
	}
	if p, err := os.FindProcess(helper); err == nil {
		p.Kill() // the test's own
	}
	w.gone(helper)
}

// TestAdoption checks that a runner goes on without its supervisor and that another follows it to the end.
func TestAdoption(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	job, _ := w.beginSlow()
	ctx, cancel := context.WithCancel(t.Context())
	var seen ending
	_, err := w.Follow(ctx, job.ID, func(u coordinator.Update) {
		seen.take(u)
		if strings.Contains(seen.log(), "under way") {
			cancel()
		}
	})
	if !errors.Is(err, context.Canceled) {
		t.Fatalf("Follow = %v, want canceled", err)
	}
	if err := w.Begin(job, ""); err != nil { // it runs: nothing happens
		t.Fatal(err)
	}
	if err := w.Wipe(job.ID); err == nil {
		t.Error("wiped under a runner")
	}
	if ids, err := w.Jobs(); err != nil || !slices.Equal(ids, []string{job.ID}) {
		t.Errorf("Jobs = %v, %v", ids, err)
	}
	other := supervisor(t, w.data)
	if err := other.Cancel(job.ID); err != nil {
		t.Fatal(err)
	}
	e := w.follow(other, job.ID)
	w.want(e, coordinator.BuildCanceled, "")
	if !strings.HasPrefix(e.log(), seen.log()) {
		t.Errorf("the second look at the log differs:\n%s\n---\n%s", e.log(), seen.log())
	}
	if err := other.Begin(job, ""); err != nil { // it has ended: nothing happens
		t.Fatal(err)
	}
	if again := w.follow(w.Supervisor, job.ID); again.Status != e.Status {
		t.Errorf("again: %+v", again.Result)
	}
}

func TestNeverBegan(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	if _, err := w.Follow(t.Context(), "nobody", nil); !errors.Is(err, ErrNeverBegan) {
		t.Errorf("Follow = %v", err)
	}
	// The coordinator was killed while it laid the directory out.
	d := dir{filepath.Join(w.data, "work", "half")}
	if err := errors.Join(os.Mkdir(d.root, 0o700), d.mark(lockFile), d.write(lastState, []byte("{"), false)); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Follow(t.Context(), "half", nil); !errors.Is(err, ErrNeverBegan) {
		t.Errorf("Follow = %v", err)
	}
	for _, id := range []string{"", "..", "a/b", "../../etc", strings.Repeat("x", 100)} {
		if _, err := w.Follow(t.Context(), id, nil); err == nil || errors.Is(err, ErrNeverBegan) {
			t.Errorf("Follow(%q) = %v", id, err)
		}
		if err := w.Begin(coordinator.Job{ID: id}, ""); err == nil {
			t.Errorf("Begin(%q) took it", id)
		}
	}
}

// TestSecondRunner checks that a runner leaves a job alone that another has, or has done.
func TestSecondRunner(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	d := dir{filepath.Join(w.data, "work", "job")}
	if err := os.Mkdir(d.root, 0o700); err != nil {
		t.Fatal(err)
	}
	lock, err := d.lock(nil)
	if err != nil {
		t.Fatal(err)
	}
	run := func() error { return exec.Command(w.config.Exe, "build", d.root).Run() }
	if err := run(); err != nil {
		t.Errorf("with the lock held: %v", err)
	}
	lock.Close() // frees it
	if err := run(); err == nil {
		t.Error("without a job: no error")
	}
	if err := d.write(resultFile, []byte("{}"), false); err != nil {
		t.Fatal(err)
	}
	if err := run(); err != nil {
		t.Errorf("with a result: %v", err)
	}
	if d.has(begunFile) {
		t.Error("it touched the directory")
	}
}

// TestStateIsKept checks which states are taken for good.
func TestStateIsKept(t *testing.T) {
	t.Parallel()
	d := dir{t.TempDir()}
	state := func(serial int, lineage string) string {
		return fmt.Sprintf(`{"version":4,"serial":%d,"lineage":"%s","resources":[]}`, serial, lineage)
	}
	for _, tt := range []struct {
		name, data string
		want       bool
	}{
		{"first", state(3, "a"), true},
		{"cut off", state(4, "a")[:20], false},
		{"empty", "", false},
		{"lower", state(2, "a"), false},
		{"other lineage", state(9, "b"), false},
		{"same serial", state(3, "a") + "\n", true},
		{"next", state(4, "a"), true},
	} {
		if kept, err := d.keepState([]byte(tt.data), false); err != nil || kept != tt.want {
			t.Errorf("%s: %v, %v", tt.name, kept, err)
		}
	}
	// What terraform could not write to its place is the newest.
	m := filepath.Join(d.root, moduleDir)
	err := errors.Join(os.Mkdir(m, 0o700),
		os.WriteFile(filepath.Join(m, terraform.StateFile), nil, 0o600),
		os.WriteFile(filepath.Join(m, terraform.ErroredState), []byte(state(5, "a")), 0o600), d.salvage())
	if got, e := d.state(); err != nil || e != nil || string(got) != state(5, "a") {
		t.Errorf("salvaged %s, %v, %v", got, err, e)
	}
	// terraform's user shall not have another file of ours read.
	other := filepath.Join(t.TempDir(), "secret")
	err = errors.Join(os.WriteFile(other, []byte(state(6, "a")), 0o600), os.Remove(filepath.Join(m, terraform.ErroredState)),
		os.Symlink(other, filepath.Join(m, terraform.ErroredState)))
	if err != nil {
		t.Fatal(err)
	}
	if err := d.salvage(); err == nil {
		t.Error("followed a link")
	}
	if got, _ := d.state(); string(got) != state(5, "a") { // looked at before
		t.Errorf("kept %s", got)
	}
}
