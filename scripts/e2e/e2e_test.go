// Package e2e runs the stories in testdata/script: real programs, real terraform, real OpenSSH, one coordinator a story.
package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// bin is the directory of the programs under test: bin/ of the tree, or $BERTH_BIN.
var bin string

func TestMain(m *testing.M) {
	bin = os.Getenv("BERTH_BIN")
	if bin == "" {
		abs, err := filepath.Abs("../../bin")
		if err != nil {
			panic(err)
		}
		bin = abs
	}
	if _, err := os.Stat(filepath.Join(bin, "berthd")); err != nil {
		fmt.Fprintln(os.Stderr, "e2e: run make build first:", err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

func TestStories(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "../../testdata/script",
		Setup:               setup,
		RequireExplicitExec: true,
		Condition:           condition,
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"serve":     cmdServe,
			"signal":    cmdSignal,
			"owner":     cmdOwner,
			"poll":      cmdPoll,
			"sshconfig": cmdSSHConfig,
			"quiet":     cmdQuiet,
			"upload":    cmdUpload,
		},
	})
}

func condition(name string) (bool, error) {
	switch name {
	case "isolated":
		return isolation() == "bubblewrap", nil
	case "root":
		return os.Getuid() == 0, nil
	}
	return false, fmt.Errorf("unknown condition %q", name)
}

func isolation() string {
	out, err := exec.Command(filepath.Join(bin, "berthd"), "isolation").Output()
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(out))
}

// setup gives a story its own directories and ports, and ends what it left running.
func setup(env *testscript.Env) error {
	http, ssh, err := twoPorts()
	if err != nil {
		return err
	}
	home := filepath.Join(env.WorkDir, "home")
	if err := os.MkdirAll(home, 0o700); err != nil {
		return err
	}
	root, err := filepath.Abs("../..")
	if err != nil {
		return err
	}
	env.Setenv("HOME", home)
	env.Setenv("BERTH_CONFIG_DIR", filepath.Join(env.WorkDir, "cli"))
	env.Setenv("ROOT", root)
	env.Setenv("PATH", bin+":"+env.Getenv("PATH")+":/usr/sbin:/sbin")
	env.Setenv("HTTP", fmt.Sprintf("127.0.0.1:%d", http))
	env.Setenv("URL", fmt.Sprintf("http://127.0.0.1:%d", http))
	env.Setenv("DOOR", strconv.Itoa(ssh))
	env.Setenv("XDG_RUNTIME_DIR", "")
	s := &story{dir: env.WorkDir, daemons: map[string]*exec.Cmd{}}
	env.Values[storyKey{}] = s
	env.Defer(s.end)
	return nil
}

type storyKey struct{}

// A story is what one script has started.
type story struct {
	dir     string
	daemons map[string]*exec.Cmd
}

func of(ts *testscript.TestScript) *story { return ts.Value(storyKey{}).(*story) }

func twoPorts() (int, int, error) {
	a, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, 0, err
	}
	defer a.Close()
	b, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, 0, err
	}
	defer b.Close()
	return a.Addr().(*net.TCPAddr).Port, b.Addr().(*net.TCPAddr).Port, nil
}

// end ends coordinators, then the workspaces' processes by their records, then every process whose environment names
// this story's directory.
func (s *story) end() {
	defer s.endWorkspaces()
	for name, c := range s.daemons {
		stopDaemon(c, syscall.SIGTERM)
		delete(s.daemons, name)
	}
	for range 50 {
		pids := s.strays()
		if len(pids) == 0 {
			return
		}
		for _, pid := range pids {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// endWorkspaces ends the processes of workspaces that a failed story left: by process id, where it is still the
// process of the record.
func (s *story) endWorkspaces() {
	records, err := filepath.Glob(filepath.Join(s.dir, "data", "run", "*.json"))
	if err != nil {
		return
	}
	for _, f := range records {
		b, err := os.ReadFile(f)
		var r struct {
			PID       int    `json:"pid"`
			StartTime uint64 `json:"start_time"`
			Init      int    `json:"init"`
			InitStart uint64 `json:"init_start"`
		}
		if err != nil || json.Unmarshal(b, &r) != nil {
			continue
		}
		for pid, start := range map[int]uint64{r.PID: r.StartTime, r.Init: r.InitStart} {
			if pid > 1 && kernelStart(pid) == start {
				_ = syscall.Kill(pid, syscall.SIGKILL)
			}
		}
	}
}

// kernelStart returns when a process started, in the kernel's ticks since boot; 0 if it is gone.
func kernelStart(pid int) uint64 {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	_, rest, _ := strings.Cut(string(b), ") ")
	fields := strings.Fields(rest)
	if len(fields) < 20 {
		return 0
	}
	n, err := strconv.ParseUint(fields[19], 10, 64)
	if err != nil {
		return 0
	}
	return n
}

// strays are the processes with the story's directory in their environment, their arguments or as their home.
func (s *story) strays() []int {
	var pids []int
	dirs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return nil
	}
	for _, d := range dirs {
		pid, err := strconv.Atoi(filepath.Base(d))
		if err != nil || pid == os.Getpid() {
			continue
		}
		for _, f := range []string{"environ", "cmdline"} {
			b, err := os.ReadFile(filepath.Join(d, f))
			if err == nil && strings.Contains(string(b), s.dir+"/") {
				pids = append(pids, pid)
				break
			}
		}
	}
	return pids
}

func stopDaemon(c *exec.Cmd, sig syscall.Signal) {
	if c.ProcessState != nil {
		return
	}
	_ = c.Process.Signal(sig)
	done := make(chan struct{})
	go func() { defer close(done); _ = c.Wait() }()
	select {
	case <-done:
	case <-time.After(20 * time.Second):
		_ = c.Process.Kill()
		<-done
	}
}

// serve [flag...]: starts the coordinator on the story's ports and waits until it answers. Where bubblewrap does not
// work, workspaces run without isolation.
func cmdServe(ts *testscript.TestScript, neg bool, args []string) {
	s := of(ts)
	args = append([]string{
		"serve", "--data", ts.MkAbs("data"), "--key-file", ts.MkAbs("key"), "--http", ts.Getenv("HTTP"),
		"--ssh", "127.0.0.1:" + ts.Getenv("DOOR"), "--url", ts.Getenv("URL"),
	}, args...)
	if isolation() != "bubblewrap" {
		args = append(args, "--insecure-host-processes")
	}
	log, err := os.OpenFile(ts.MkAbs("berthd.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	ts.Check(err)
	defer log.Close()
	c := exec.Command(filepath.Join(bin, "berthd"), args...)
	c.Env = append(os.Environ(), "HOME="+ts.Getenv("HOME"), "PATH="+ts.Getenv("PATH"), "XDG_RUNTIME_DIR=")
	c.Stdout, c.Stderr = log, log
	c.Dir = ts.MkAbs(".")
	ts.Check(c.Start())
	s.daemons["serve"] = c
	exited := make(chan struct{})
	deadline := time.Now().Add(30 * time.Second)
	for time.Now().Before(deadline) {
		if healthy(ts.Getenv("URL")) {
			return
		}
		if processGone(c.Process.Pid) {
			close(exited)
			b, _ := os.ReadFile(ts.MkAbs("berthd.log"))
			ts.Fatalf("berthd ended:\n%s", b)
		}
		time.Sleep(20 * time.Millisecond)
	}
	ts.Fatalf("berthd does not answer")
}

func healthy(url string) bool {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url+"/healthz", nil)
	if err != nil {
		return false
	}
	r, err := http.DefaultClient.Do(req)
	if err != nil {
		return false
	}
	defer r.Body.Close()
	return r.StatusCode == http.StatusOK
}

func processGone(pid int) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return true
	}
	_, rest, _ := strings.Cut(string(b), ") ")
	return strings.HasPrefix(rest, "Z")
}

// signal TERM|KILL: sends it to the coordinator and waits for its end.
func cmdSignal(ts *testscript.TestScript, neg bool, args []string) {
	s := of(ts)
	c := s.daemons["serve"]
	if c == nil || len(args) != 1 {
		ts.Fatalf("usage: signal TERM|KILL, with a coordinator running")
	}
	sig := map[string]syscall.Signal{"TERM": syscall.SIGTERM, "KILL": syscall.SIGKILL}[args[0]]
	stopDaemon(c, sig)
	delete(s.daemons, "serve")
}

// owner NAME: makes the first owner with the setup token and signs in as them.
func cmdOwner(ts *testscript.TestScript, neg bool, args []string) {
	token := strings.TrimSpace(ts.ReadFile("data/setup-token"))
	ts.Check(ts.Exec("berth", "login", ts.Getenv("URL"), "--name", args[0], "--token", token))
}

// poll DURATION COMMAND [ARG...]: runs the command until it succeeds.
func cmdPoll(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) < 2 {
		ts.Fatalf("usage: poll DURATION COMMAND [ARG...]")
	}
	d, err := time.ParseDuration(args[0])
	ts.Check(err)
	deadline := time.Now().Add(d)
	for {
		err := ts.Exec(args[1], args[2:]...)
		if (err == nil) != neg {
			return
		}
		if time.Now().After(deadline) {
			ts.Fatalf("%v: not within %v: %v", args[1:], d, err)
		}
		time.Sleep(100 * time.Millisecond)
	}
}

// sshconfig: writes $WORK/ssh_config as `berth ssh-config --stdout` prints it.
func cmdSSHConfig(ts *testscript.TestScript, neg bool, args []string) {
	c := exec.Command(filepath.Join(bin, "berth"), "ssh-config", "--stdout")
	c.Env = append(os.Environ(), "HOME="+ts.Getenv("HOME"), "BERTH_CONFIG_DIR="+ts.Getenv("BERTH_CONFIG_DIR"), "PATH="+ts.Getenv("PATH"))
	out, err := c.Output()
	ts.Check(err)
	ts.Check(os.WriteFile(ts.MkAbs("ssh_config"), out, 0o600))
}

// quiet: no process of the story's workspaces is left.
func cmdQuiet(ts *testscript.TestScript, neg bool, args []string) {
	s := of(ts)
	deadline := time.Now().Add(10 * time.Second)
	for {
		var left []string
		for _, pid := range s.strays() {
			b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
			line := strings.ReplaceAll(string(b), "\x00", " ")
			if !strings.Contains(line, "berthd serve") {
				left = append(left, line)
			}
		}
		if len(left) == 0 {
			return
		}
		if time.Now().After(deadline) {
			ts.Fatalf("still running: %q", left)
		}
		time.Sleep(100 * time.Millisecond)
	}
}
