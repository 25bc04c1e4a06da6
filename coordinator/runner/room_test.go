package runner

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"berth/coordinator"
)

// A disk that fills up ends terraform in order: what it made is in the state, the reason is told, and the next build
// goes on from there. Where the disk is full from the beginning, nothing begins.
func TestFullDisk(t *testing.T) {
	data := filepath.Join(t.TempDir(), "small")
	if err := os.Mkdir(data, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", data, "tmpfs", 0, "size=24m,mode=0700"); err != nil {
		t.Skip("a small disk cannot be mounted here:", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(data, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	w := worldIn(t, data)
	slow := filepath.Join(t.TempDir(), "slow")
	w.lay("v1", header+`
resource "terraform_data" "first" {}
resource "terraform_data" "slow" {
  depends_on = [terraform_data.first]
  provisioner "local-exec" { command = "touch `+slow+`; exec sleep 30" }
}
`)
	job := w.job("v1")
	job.Transition = coordinator.Start
	if err := w.Begin(job, ""); err != nil {
		t.Fatal(err)
	}
	w.eventually("the slow resource begins", func() bool {
		_, err := os.Stat(slow)
		return err == nil
	})
	fill := filepath.Join(data, "fill")
	f, err := os.Create(fill)
	if err != nil {
		t.Fatal(err)
	}
	_, err = io.Copy(f, zeros{})
	if err := f.Close(); err != nil {
		t.Error(err)
	}
	if !errors.Is(err, unix.ENOSPC) {
		t.Fatalf("the disk did not fill up: %v", err)
	}
	e := w.follow(w.Supervisor, job.ID)
	w.want(e, coordinator.BuildFailed, "disk is full")
	for _, address := range []string{"terraform_data.first", "terraform_data.slow"} {
		if !strings.Contains(strings.Join(e.Resources, " "), address) {
			t.Errorf("%s is in no state: %v", address, e.Resources)
		}
	}
	if err := w.Wipe(job.ID); err != nil {
		t.Error(err)
	}

	if err := os.Truncate(fill, 18<<20); err != nil {
		t.Fatal(err)
	}
	next := w.job("v1")
	next.Transition = coordinator.Start
	refused := w.do(next, e.state)
	w.want(refused, coordinator.BuildFailed, "nothing was changed")
	if refused.Serial != e.Serial {
		t.Errorf("a build that did not begin ends with serial %d, want %d", refused.Serial, e.Serial)
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }
