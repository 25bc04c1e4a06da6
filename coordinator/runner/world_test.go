package runner

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"berth/coordinator"
	"berth/coordinator/terraform"
)

// TestMain makes the test's own binary the runner as well.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "build" {
		os.Exit(Main(os.Args[2:]))
	}
	goleak.VerifyTestMain(m)
}

// A world is a data directory with a supervisor.
type world struct {
	testing.TB
	*Supervisor
	data string
	n    int
}

func newWorld(t testing.TB) *world {
	t.Helper()
	return worldIn(t, t.TempDir())
}

func worldIn(t testing.TB, data string) *world {
	t.Helper()
	w := &world{TB: t, data: data, Supervisor: supervisor(t, data)}
	for _, name := range []string{"work", "versions", "homes", "run"} {
		if err := os.Mkdir(filepath.Join(data, name), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	return w
}

func supervisor(t testing.TB, data string) *Supervisor {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return New(Config{Dir: filepath.Join(data, "work"), Exe: exe, Grace: 30 * time.Second})
}

var found = sync.OnceValues(func() (coordinator.Terraform, error) {
	t, _, err := terraform.Find(context.Background(), os.TempDir())
	return t, err
})

// put keeps an archive of the files.
func (w *world) put(files map[string]string) string {
	w.Helper()
	var b bytes.Buffer
	tw := tar.NewWriter(&b)
	for name, body := range files {
		h := &tar.Header{Name: name, Typeflag: tar.TypeReg, Size: int64(len(body)), Mode: 0o644}
		if err := tw.WriteHeader(h); err != nil {
			w.Fatal(err)
		}
		fmt.Fprint(tw, body) // a buffer
	}
	if err := tw.Close(); err != nil {
		w.Fatal(err)
	}
	sha, _, err := terraform.Archives{Dir: filepath.Join(w.data, "archives")}.Put(w.Context(), &b, nil)
	if err != nil {
		w.Fatal(err)
	}
	return sha
}

func (w *world) job(version string) coordinator.Job {
	w.Helper()
	tf, err := found()
	if err != nil {
		w.Fatal(err)
	}
	w.n++
	return coordinator.Job{
		ID: fmt.Sprintf("job%d", w.n), Workspace: "dev", WorkspaceID: "ws1", Template: "t", Version: 1,
		VersionID: coordinator.VersionID(version), ModuleDir: filepath.Join(w.data, "versions", version),
		Owner: coordinator.JobOwner{ID: "u1", Name: "alice"}, AccessURL: "http://127.0.0.1:1", AgentURL: "http://127.0.0.1:1",
		AgentKey: []byte(strings.Repeat("k", 32)), InitScript: "#!/bin/sh\n", Terraform: tf,
		Host:   coordinator.HostGrant{Homes: filepath.Join(w.data, "homes"), Run: filepath.Join(w.data, "run"), Insecure: true},
		Limits: coordinator.JobLimits{Cancel: 20 * time.Second},
	}
}

// lay makes a version without an import.
func (w *world) lay(version, config string) {
	w.Helper()
	dir := filepath.Join(w.data, "versions", version)
	err := errors.Join(os.MkdirAll(filepath.Join(dir, "module"), 0o755), os.MkdirAll(filepath.Join(dir, "data"), 0o755),
		os.WriteFile(filepath.Join(dir, "module", "main.tf"), []byte(config), 0o644))
	if err != nil {
		w.Fatal(err)
	}
}

// An ending is everything that Follow brought.
type ending struct {
	coordinator.Result
	lines  []coordinator.LogLine
	state  coordinator.Secret
	agents []coordinator.AgentRecord
}

func (e ending) log() string {
	var b strings.Builder
	for _, l := range e.lines {
		fmt.Fprintf(&b, "%d %s %s %s: %s\n", l.Seq, l.Stage, l.Level, l.Address, l.Text)
	}
	return b.String()
}

func (e *ending) take(u coordinator.Update) {
	e.lines = append(e.lines, u.Lines...)
	if u.State != "" {
		e.state, e.agents = u.State, u.Agents
	}
}

func (w *world) follow(s *Supervisor, id string) ending {
	w.Helper()
	ctx, cancel := context.WithTimeout(w.Context(), time.Minute)
	defer cancel()
	var e ending
	res, err := s.Follow(ctx, id, e.take)
	if err != nil {
		w.Fatalf("Follow: %v\n%s", err, w.runnerLog(id))
	}
	e.Result = res
	for i, l := range e.lines {
		if l.Seq != i {
			w.Errorf("line %d has number %d", i, l.Seq)
		}
	}
	return e
}

func (w *world) runnerLog(id string) string {
	b, _ := os.ReadFile(filepath.Join(w.data, "work", id, runnerLog)) // for a message
	return string(b)
}

// do carries a job to its end and wipes it.
func (w *world) do(job coordinator.Job, state coordinator.Secret) ending {
	w.Helper()
	if err := w.Begin(job, state); err != nil {
		w.Fatal(err)
	}
	e := w.follow(w.Supervisor, job.ID)
	if err := w.Wipe(job.ID); err != nil {
		w.Error(err)
	}
	if e.state == "" {
		e.state = state
	}
	return e
}

func (w *world) want(e ending, status coordinator.BuildStatus, said string) {
	w.Helper()
	if e.Status != status || !strings.Contains(e.Error, said) {
		w.Fatalf("ended %s: %s (at %q)\nwant %s: …%s…\n%s", e.Status, e.Error, e.Address, status, said, e.log())
	}
}

// eventually polls until f holds.
func (w *world) eventually(what string, f func() bool) {
	w.Helper()
	for deadline := time.Now().Add(20 * time.Second); !f(); {
		if time.Now().After(deadline) {
			w.Fatalf("never: %s", what)
		}
		time.Sleep(5 * time.Millisecond)
	}
}
