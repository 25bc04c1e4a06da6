package startup

import (
	"crypto/sha256"
	"encoding/hex"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"berth/agent"
)

func TestCLI(t *testing.T) {
	body := "#!/bin/sh\necho berth 1\n"
	var asked atomic.Int32
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		if r.URL.Path == "/long" {
			w.Write([]byte(strings.Repeat("x", 1<<20)))
			return
		}
		w.Write([]byte(body))
	}))
	defer server.Close()
	defer http.DefaultClient.CloseIdleConnections()
	sum := sha256.Sum256([]byte(body))
	digest := hex.EncodeToString(sum[:])

	p := newPlace(t)
	p.manifest.URL = server.URL
	p.manifest.CLI = &agent.Download{URL: "/dist/x/berth", SHA256: digest, Size: int64(len(body))}
	p.run()
	p.check(agent.StepSecrets, agent.OutcomeOK, "")
	out, err := exec.Command(p.dir + "/bin/berth").Output()
	if err != nil || string(out) != "berth 1\n" {
		t.Errorf("bin/berth says %q, %v", out, err)
	}
	if target, err := os.Readlink(p.dir + "/bin/berth"); (err == nil) != (os.Getenv("BERTH_TEST_RUNTIME") != "") {
		t.Errorf("bin/berth is a link to %q: %v", target, err)
	}
	p.manifest.StartBuild = "b2"
	p.give()
	p.wait()
	if n := asked.Load(); n != 1 {
		t.Errorf("fetched %d times", n)
	}
	for build, d := range map[string]agent.Download{
		"b3": {URL: server.URL + "/other", SHA256: strings.Repeat("0", 64), Size: int64(len(body))},
		"b4": {URL: server.URL + "/long", SHA256: digest, Size: int64(len(body)) + 1},
		"b5": {URL: server.URL + "/x", SHA256: "zz", Size: 10},
		"b6": {URL: server.URL + "/x", SHA256: strings.Repeat("0", 64), Size: maxCLI + 1},
		"b7": {URL: "file:///etc/passwd", SHA256: strings.Repeat("0", 64), Size: 10},
	} {
		p.manifest.StartBuild, p.manifest.CLI = build, &d
		p.give()
		p.wait()
		p.check(agent.StepSecrets, agent.OutcomeFailed, "fetch the berth command")
	}
	entries, err := os.ReadDir(p.dir + "/bin")
	if err != nil || len(entries) != 1 {
		t.Errorf("bin/ holds %v, %v", entries, err)
	}
	if got := p.read(p.dir + "/bin/berth"); got != body {
		t.Errorf("a wrong download took the place of the right one")
	}
}

// TestCLINoExec runs TestCLI with a runtime directory from which nothing can be run.
func TestCLINoExec(t *testing.T) {
	dir := t.TempDir()
	exe, err := os.Executable()
	must(t, err)
	mount := `mount -t tmpfs -o noexec,mode=0755 tmpfs "$1" && exec "$2" -test.run '^TestCLI$' -test.v`
	cmd := exec.Command("unshare", "--mount", "sh", "-c", mount, "sh", dir, exe)
	if err := exec.Command("unshare", "--mount", "true").Run(); err != nil {
		t.Skipf("no mount namespaces here: %v", err)
	}
	for d := dir; d != "/tmp" && d != "/"; d = filepath.Dir(d) {
		must(t, os.Chmod(d, 0o755))
	}
	cmd.Env = append(os.Environ(), "BERTH_TEST_RUNTIME="+dir)
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "--- PASS: TestCLI") {
		t.Errorf("%v\n%s", err, out)
	}
}

func TestHashFile(t *testing.T) {
	dir := t.TempDir()
	file, link, pipe := filepath.Join(dir, "file"), filepath.Join(dir, "link"), filepath.Join(dir, "pipe")
	must(t, os.WriteFile(file, []byte("x"), 0o755))
	must(t, os.Symlink(file, link))
	must(t, syscall.Mkfifo(pipe, 0o755))
	if sum, err := hashFile(file, 1); err != nil || sum != sha256.Sum256([]byte("x")) {
		t.Errorf("a file: %x, %v", sum, err)
	}
	if _, err := hashFile(link, 1); err == nil {
		t.Error("a link was followed")
	}
	if _, err := hashFile(pipe, 0); err == nil { // it returns, too
		t.Error("a pipe was taken for a program")
	}
}
