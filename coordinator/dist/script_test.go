package dist

import (
	"bytes"
	"context"
	"encoding/pem"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

func thisArch(t *testing.T) string {
	t.Helper()
	if runtime.GOOS != "linux" {
		t.Skip("the script is for linux")
	}
	return runtime.GOARCH
}

// image makes a directory of links to programs, as the PATH of a small image.
func image(t *testing.T, programs ...string) string {
	t.Helper()
	dir := t.TempDir()
	for _, p := range append([]string{"uname", "id", "ls", "rm", "mkdir", "chmod", "mv", "sleep", "grep"}, programs...) {
		if p == "wget=busybox" || p == "sha256sum=busybox" {
			name, _, _ := strings.Cut(p, "=")
			link(t, "busybox", filepath.Join(dir, name))
			continue
		}
		link(t, p, filepath.Join(dir, p))
	}
	return dir
}

func link(t *testing.T, program, to string) {
	t.Helper()
	path, err := exec.LookPath(program)
	if err != nil {
		t.Skipf("%s is not installed", program)
	}
	if err := os.Symlink(path, to); err != nil {
		t.Fatal(err)
	}
}

type run struct {
	shell []string
	path  string
	env   []string
	args  []string
}

func (r run) do(t *testing.T, script string) (stdout, stderr string, err error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	shell := r.shell
	if shell == nil {
		shell = []string{"/bin/sh"}
	}
	bin, lookErr := exec.LookPath(shell[0])
	if lookErr != nil {
		t.Skipf("%s is not installed", shell[0])
	}
	args := append(append(shell[1:], "-c", script, "init.sh"), r.args...)
	c := exec.CommandContext(ctx, bin, args...)
	c.Env = append([]string{"PATH=" + r.path, "HOME=/nonexistent"}, r.env...)
	var o, e bytes.Buffer
	c.Stdout, c.Stderr = &o, &e
	err = c.Run()
	return o.String(), e.String(), err
}

func script(t *testing.T, s *Set, o Script) string {
	t.Helper()
	text, err := s.Script(o)
	if err != nil {
		t.Fatal(err)
	}
	return strings.Replace(text, fmt.Sprintf("pause=1 tries=%d", downloadTries), "pause=0 tries=2", 1)
}

func TestScriptShells(t *testing.T) {
	arch := thisArch(t)
	s := carry(t, map[string]string{"linux/" + arch + "/berth-agent": agentScript, "linux/other/berth-agent": "x"})
	srv := httptest.NewServer(serve(s, t.TempDir()))
	t.Cleanup(srv.Close)
	text := script(t, s, Script{URL: srv.URL + "/"})
	curl, busybox := []string{"curl", "sha256sum"}, []string{"busybox"}
	for _, tt := range []struct{ shell, tools []string }{
		{[]string{"dash"}, curl},
		{[]string{"dash"}, []string{"wget", "openssl"}},
		{[]string{"dash"}, []string{"wget=busybox", "sha256sum=busybox"}},
		{[]string{"dash"}, []string{"curl", "shasum", "perl"}},
		{[]string{"busybox", "sh"}, busybox},
		{[]string{"busybox", "sh"}, curl},
		{[]string{"bash", "--posix"}, busybox},
		{[]string{"bash"}, curl},
	} {
		shell, tools := tt.shell, tt.tools
		t.Run(strings.Join(shell, " ")+" with "+strings.Join(tools, " "), func(t *testing.T) {
			t.Parallel()
			dir := filepath.Join(t.TempDir(), "rt")
			r := run{shell: shell, path: image(t, tools...), env: []string{
				"BERTH_AGENT_TOKEN=ba1_secret", "BERTH_RUNTIME_DIR=" + dir,
			}}
			for range 2 { // the second time it finds the agent in its place
				out, errs, err := r.do(t, text)
				if want := "agent url=" + srv.URL + " token=ba1_secret ca= args=0\n"; err != nil || out != want {
					t.Fatalf("got %q, %v; stderr: %s", out, err, errs)
				}
				agents, _ := filepath.Glob(filepath.Join(dir, "berth-agent-*"))
				if len(agents) != 1 {
					t.Fatalf("agents in the directory: %q", agents)
				}
				if st, err := os.Stat(agents[0]); err != nil || st.Mode().Perm() != 0o755 {
					t.Errorf("the workspace's user cannot run the agent: %v, %v", st.Mode(), err)
				}
				if err := os.Chmod(agents[0], 0o700); err != nil { // as earlier scripts left it
					t.Fatal(err)
				}
			}
		})
	}
}

func TestScriptErrors(t *testing.T) {
	arch := thisArch(t)
	s := carry(t, map[string]string{"linux/" + arch + "/berth-agent": agentScript})
	forged := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write([]byte("#!/bin/sh\necho forged\n"))
	}))
	defer forged.Close()
	gone := httptest.NewServer(http.NotFoundHandler())
	defer gone.Close()
	other := carry(t, map[string]string{"linux/sparc/berth-agent": "x"})
	shared := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(t.TempDir(), shared); err != nil {
		t.Fatal(err)
	}
	token := []string{"BERTH_AGENT_TOKEN=ba1_secret"}
	for _, tt := range []struct {
		name  string
		text  string
		tools []string
		env   []string
		args  []string
		want  string
	}{
		{"no token", script(t, s, Script{URL: gone.URL}), []string{"curl", "sha256sum"}, nil, nil, "usage"},
		{"unknown flag", script(t, s, Script{URL: gone.URL}), []string{"curl", "sha256sum"}, token, []string{"--tokn"}, "usage"},
		{"wrong digest", script(t, s, Script{URL: forged.URL}), []string{"curl", "sha256sum"}, token, nil, "is not the agent"},
		{"not there", script(t, s, Script{URL: gone.URL}), []string{"curl", "sha256sum"}, token, nil, "cannot download the agent from " + gone.URL},
		{"no downloader", script(t, s, Script{URL: gone.URL}), []string{"sha256sum"}, token, nil, "none of curl, wget and busybox"},
		{"no digest tool", script(t, s, Script{URL: forged.URL}), []string{"curl"}, token, nil, "none of sha256sum, busybox, openssl and shasum"},
		{"no such architecture", script(t, other, Script{URL: forged.URL}), []string{"curl", "sha256sum"}, token, nil, "carries no agent for linux/" + arch},
	} {
		t.Run(tt.name, func(t *testing.T) {
			rt := filepath.Join(t.TempDir(), "rt")
			r := run{path: image(t, tt.tools...), env: append(tt.env, "BERTH_RUNTIME_DIR="+rt), args: tt.args}
			out, errs, err := r.do(t, tt.text)
			lines := strings.Split(strings.TrimSpace(errs), "\n")
			if last := lines[len(lines)-1]; err == nil || out != "" || !strings.Contains(last, tt.want) || !strings.HasPrefix(last, "berth: ") {
				t.Errorf("got %q, %v; stderr: %s", out, err, errs)
			}
			if left, _ := filepath.Glob(filepath.Join(rt, ".agent.*")); len(left) > 0 {
				t.Errorf("left behind: %v", left)
			}
		})
	}
}

// TestScriptDirectory checks that a directory which somebody else prepared is not used.
func TestScriptDirectory(t *testing.T) {
	arch := thisArch(t)
	s := carry(t, map[string]string{"linux/" + arch + "/berth-agent": agentScript})
	srv := httptest.NewServer(serve(s, t.TempDir()))
	defer srv.Close()
	text := script(t, s, Script{URL: srv.URL})
	base := t.TempDir()
	target, open, foreign := filepath.Join(base, "target"), filepath.Join(base, "open"), filepath.Join(base, "foreign")
	for _, d := range []string{target, open, foreign} {
		if err := os.Mkdir(d, 0o777); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(open, 0o777); err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(base, "link")
	if err := os.Symlink(target, link); err != nil {
		t.Fatal(err)
	}
	try := func(dir string) {
		t.Helper()
		r := run{path: image(t, "curl", "sha256sum"), env: []string{"BERTH_AGENT_TOKEN=x", "BERTH_RUNTIME_DIR=" + dir}}
		if out, errs, err := r.do(t, text); err != nil || !strings.HasPrefix(out, "agent") {
			t.Fatalf("got %q, %v: %s", out, err, errs)
		}
	}
	try(link)
	if left, _ := os.ReadDir(target); len(left) > 0 {
		t.Error("a link was followed")
	}
	try(open)
	if st, err := os.Stat(open); err != nil || st.Mode().Perm() != 0o700 {
		t.Errorf("our own directory is %v, %v", st.Mode(), err)
	}
	if os.Getuid() == 0 {
		if err := os.Chown(foreign, 12345, 12345); err != nil {
			t.Fatal(err)
		}
		try(foreign)
		if left, _ := os.ReadDir(foreign); len(left) > 0 {
			t.Error("somebody else's directory was used")
		}
	}
}

func TestScriptProxy(t *testing.T) {
	arch := thisArch(t)
	s := carry(t, map[string]string{"linux/" + arch + "/berth-agent": agentScript})
	h := serve(s, t.TempDir())
	var proxied, direct atomic.Int32
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		proxied.Add(1)
		h.ServeHTTP(w, r)
	}))
	defer proxy.Close()
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		direct.Add(1)
		h.ServeHTTP(w, r)
	}))
	defer srv.Close()
	u, err := url.Parse(srv.URL)
	if err != nil {
		t.Fatal(err)
	}
	for _, tools := range [][]string{{"curl"}, {"wget"}, {"busybox"}} {
		for _, noProxy := range []string{"", u.Hostname()} {
			t.Run(tools[0]+" no_proxy="+noProxy, func(t *testing.T) {
				proxied.Store(0)
				direct.Store(0)
				r := run{path: image(t, append(tools, "sha256sum")...), env: []string{
					"BERTH_AGENT_TOKEN=x", "BERTH_RUNTIME_DIR=" + filepath.Join(t.TempDir(), "rt"),
					"HTTP_PROXY=" + proxy.URL, "NO_PROXY=example.com, " + noProxy,
				}}
				if out, errs, err := r.do(t, script(t, s, Script{URL: srv.URL})); err != nil || !strings.HasPrefix(out, "agent") {
					t.Fatalf("got %q, %v: %s", out, err, errs)
				}
				if viaProxy := proxied.Load() > 0; viaProxy == (noProxy != "") || viaProxy == (direct.Load() > 0) {
					t.Errorf("%d through the proxy, %d direct", proxied.Load(), direct.Load())
				}
			})
		}
	}
}

func TestScriptPrivateCA(t *testing.T) {
	arch := thisArch(t)
	s := carry(t, map[string]string{"linux/" + arch + "/berth-agent": agentScript})
	srv := httptest.NewUnstartedServer(serve(s, t.TempDir()))
	srv.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError) // a refused certificate is expected
	srv.StartTLS()
	defer srv.Close()
	ca := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: srv.Certificate().Raw}))
	for _, tool := range []string{"curl", "wget"} {
		t.Run(tool, func(t *testing.T) {
			rt := filepath.Join(t.TempDir(), "rt")
			r := run{path: image(t, tool, "sha256sum"), env: []string{"BERTH_AGENT_TOKEN=x", "BERTH_RUNTIME_DIR=" + rt}}
			out, errs, err := r.do(t, script(t, s, Script{URL: srv.URL, CA: ca}))
			if err != nil || !strings.Contains(out, "ca="+rt+"/coordinator-ca.pem") {
				t.Fatalf("got %q, %v: %s", out, err, errs)
			}
			r.env[1] += "-without"
			if out, _, err := r.do(t, script(t, s, Script{URL: srv.URL})); err == nil {
				t.Errorf("an unknown authority was trusted: %q", out)
			}
		})
	}
}

func TestScriptQuoting(t *testing.T) {
	s := carry(t, map[string]string{"linux/amd64/berth-agent": "x"})
	text, err := s.Script(Script{URL: "http://a'; touch /tmp/x; '"})
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(text, `berth_url='http://a'\''; touch /tmp/x; '\'''`) {
		t.Error("the URL is not quoted")
	}
	if _, err := s.Script(Script{OS: "linux", Arch: "s390x"}); err == nil {
		t.Error("a script for a platform that is not carried")
	}
}
