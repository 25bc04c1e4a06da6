package runner

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"berth/coordinator"
	"berth/coordinator/provider"
	"berth/coordinator/terraform"
)

// BenchmarkFirstStart runs a first start through a runner and, in turn, the same apply against the same provider held
// in this process. It reports both and the difference, which is what a runner costs.
func BenchmarkFirstStart(b *testing.B) {
	w := newWorld(b)
	w.lay("v1", template)
	var through, direct time.Duration
	for b.Loop() {
		job := w.job("v1")
		job.Transition = coordinator.Start
		begun := time.Now()
		if err := w.Begin(job, ""); err != nil {
			b.Fatal(err)
		}
		w.want(w.follow(w.Supervisor, job.ID), coordinator.BuildSucceeded, "")
		through += time.Since(begun)
		direct += w.direct(b, job)
	}
	n := time.Duration(b.N)
	b.ReportMetric(float64((through/n).Microseconds())/1000, "runner-ms")
	b.ReportMetric(float64((direct/n).Microseconds())/1000, "direct-ms")
	b.ReportMetric(float64(((through-direct)/n).Microseconds())/1000, "over-ms")
	b.ReportMetric(0, "ns/op")
}

// direct applies the job's module with a provider that is there already, and returns how long terraform took.
func (w *world) direct(b *testing.B, job coordinator.Job) time.Duration {
	top := b.TempDir()
	module := filepath.Join(top, "module")
	if _, err := terraform.Copy(filepath.Join(job.ModuleDir, "module"), module); err != nil {
		b.Fatal(err)
	}
	s, err := provider.Serve(b.Context(), job, top)
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close() // a test's
	rc := filepath.Join(top, "rc")
	log, err := os.Create(filepath.Join(top, "log"))
	if err != nil {
		b.Fatal(err)
	}
	defer log.Close() // a test's
	if err := os.WriteFile(rc, nil, 0o600); err != nil {
		b.Fatal(err)
	}
	c := terraform.Command{
		Path: job.Terraform.Path, Args: []string{"apply", "-json", "-auto-approve", "-input=false"}, Dir: module, Stdout: log, Stderr: log,
		Env:   terraform.Environment{Home: top, Tmp: top, CLIConfig: rc, Reattach: s.Reattach(), Lean: true}.List(),
		Began: func(pid int) error { s.AllowPeer(pid); return nil },
	}
	begun := time.Now()
	if status, err := c.Run(b.Context()); err != nil || status != 0 {
		b.Fatal(status, err)
	}
	return time.Since(begun)
}
