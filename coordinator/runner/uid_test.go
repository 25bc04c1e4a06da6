package runner

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"berth/coordinator"
)

// TestBuildUID checks that terraform runs as its own user where there is one, and what that user can touch.
func TestBuildUID(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	const uid = 60_000_123
	data, err := os.MkdirTemp("", "berth-test-") // the test's own directory lets nobody through
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(data) }) // below TMPDIR
	if err := os.Chmod(data, 0o711); err != nil {
		t.Fatal(err)
	}
	w := worldIn(t, data)
	files := map[string]string{"main.tf": header + `
resource "terraform_data" "dev" {
  count = data.berth_workspace.me.start_count
  input = berth_agent.main.id
  provisioner "local-exec" {
    command = "echo uid $(id -u) of groups $(id -G); cat ../log.jsonl ../result.json ../runner.log; echo x > ../result.json; echo x > ../data/x; echo x > main.tf; env"
  }
}`}
	t.Setenv("BERTH_SECRET", "not for terraform")
	t.Setenv("HTTPS_PROXY", "http://127.0.0.1:9")
	job := w.job("v1")
	job.Import, job.Archive, job.Host.BuildUID = true, w.put(files), uid
	w.want(w.do(job, ""), coordinator.BuildFailed, "cannot reach")
	for _, name := range []string{"work", "versions"} {
		if err := os.Chmod(filepath.Join(w.data, name), 0o711); err != nil {
			t.Fatal(err)
		}
	}
	job.ID = "import"
	w.want(w.do(job, ""), coordinator.BuildSucceeded, "")
	for _, name := range []string{"", "module", "module/main.tf", "data"} {
		info, err := os.Stat(filepath.Join(job.ModuleDir, name))
		if err != nil {
			t.Fatal(err)
		}
		if st, ok := info.Sys().(*syscall.Stat_t); !ok || st.Uid != 0 || info.Mode()&0o022 != 0 {
			t.Errorf("%q is %v of %d", name, info.Mode(), st.Uid)
		}
	}
	build := w.job("v1")
	build.Transition, build.Host.BuildUID = coordinator.Start, uid
	build.Env = map[string]coordinator.Secret{"CLOUD": "granted", "TF_CLI_CONFIG_FILE": "/evil", "HOME": "/evil"}
	e := w.do(build, "")
	w.want(e, coordinator.BuildSucceeded, "")
	log := e.log()
	for _, want := range []string{"uid 60000123 of groups 60000123", "CLOUD=granted", "HTTPS_PROXY=http://127.0.0.1:9"} {
		if !strings.Contains(log, want) {
			t.Errorf("no %q in\n%s", want, log)
		}
	}
	for _, not := range []string{"BERTH_SECRET", "/evil", "GOGC", "\"berth\":"} {
		if strings.Contains(log, not) {
			t.Errorf("%q in\n%s", not, log)
		}
	}
	if n := strings.Count(log, "Permission denied"); n < 4 {
		t.Errorf("%d refusals in\n%s", n, log)
	}
	// The guarded way, with a plan's file between.
	build.ID, build.Transition = "stop", coordinator.Stop
	w.want(w.do(build, e.state), coordinator.BuildSucceeded, "")
	if _, err := os.Stat(filepath.Join(job.ModuleDir, "data", "x")); !errors.Is(err, os.ErrNotExist) {
		t.Error("a build wrote into its version")
	}
}
