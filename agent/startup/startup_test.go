package startup

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"berth/agent"
	"berth/agent/shell"
)

func TestStepsInOrder(t *testing.T) {
	p := newPlace(t)
	p.script(p.coder+"/configure", "#!/bin/bash\npwd\nid -u\nenv | sort\necho to stderr >&2\necho configure >> order\n", 0o755)
	p.manifest.DotfilesURL = p.repository(map[string]string{"install.sh": "#!/bin/sh\necho dotfiles >> ~/order\n", "sub/x": ""})
	script := "#!/bin/sh\ncat < \"$BERTH_SECRETS_DIR/npmrc\"\necho personalize >> ~/order\n"
	p.manifest.Personalize = &script
	p.manifest.Secrets = []agent.UserSecret{
		{Name: "key", Env: "MY_KEY", Value: "s3cret value"},
		{Name: "npm", File: "npmrc", Value: "token=1"},
		{Name: "bad", Env: "BERTH_URL", Value: "http://evil"},
		{Name: "bad", Env: "A B", Value: "x"},
	}
	p.run()
	for _, step := range []string{agent.StepSecrets, agent.StepConfigure, agent.StepDotfiles, agent.StepPersonalize} {
		if r := p.check(step, agent.OutcomeOK, ""); r.Started.IsZero() || r.Duration <= 0 {
			t.Errorf("%s has no times: %+v", step, r)
		}
	}
	if got := p.read(p.home + "/order"); got != "configure\ndotfiles\npersonalize\n" {
		t.Errorf("order: %q", got)
	}
	log := p.told.log(agent.StepConfigure)
	uid := os.Geteuid()
	if uid == 0 {
		uid = tester
	}
	for _, want := range []string{
		p.home + "\n" + strconv.Itoa(uid) + "\n", "to stderr\n",
		"BERTH_URL=http://127.0.0.1:1\n", "BERTH_WORKSPACE=alice/dev\n", "BERTH_TOKEN_FILE=" + p.dir + "/token\n",
		"SSH_AUTH_SOCK=/run/sock\n", "GIT_AUTHOR_NAME=Alice Ä.\n", "GIT_COMMITTER_EMAIL=alice@example.com\n",
		"FROM_TEMPLATE=1\n", "FROM_IMAGE=1\n", "BERTH_PROCESS_ID=7\n", "MY_KEY=s3cret value\n", "HOME=" + p.home + "\n",
		"PATH=" + p.dir + "/bin:/opt/t/bin:",
	} {
		if !strings.Contains(log, want) {
			t.Errorf("no %q in the log of configure:\n%s", want, log)
		}
	}
	if strings.Contains(log, "hidden") || strings.Contains(log, "BERTH_AGENT") || strings.Contains(log, "evil") {
		t.Errorf("the agent's own environment is in a hook's:\n%s", log)
	}
	if got := p.told.log(agent.StepPersonalize); !strings.Contains(got, "token=1") {
		t.Errorf("the log of personalize: %q", got)
	}
	for i, l := range p.told.logs {
		if l.Seq != i {
			t.Fatalf("line %d has number %d", i, l.Seq)
		}
	}
	if got := p.read(p.dir + "/log/configure.log"); !strings.Contains(got, "to stderr\n") {
		t.Errorf("the file of the log: %q", got)
	}
}

func TestSecretsFollowTheManifest(t *testing.T) {
	p := newPlace(t)
	p.manifest.Secrets = []agent.UserSecret{
		{Name: "a", File: "a", Value: "1"}, {Name: "b", File: "b", Value: "2"}, {Name: "c", File: "../c", Value: "3"},
	}
	p.manifest.Git = agent.Git{PublicKey: "ssh-ed25519 AAAA comment", KnownHosts: "git.example.com ssh-ed25519 BBBB"}
	p.run()
	p.check(agent.StepSecrets, agent.OutcomeFailed, "file name is not allowed")
	for name, want := range map[string]string{
		"token": "bt1_narrow", "secrets/a": "1", "secrets/b": "2", "known_hosts": "git.example.com ssh-ed25519 BBBB\n",
	} {
		path := filepath.Join(p.dir, name)
		if got := p.read(path); got != want {
			t.Errorf("%s holds %q", name, got)
		}
		fi, err := os.Stat(path)
		must(t, err)
		if fi.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %v", name, fi.Mode())
		}
		if uid := fi.Sys().(*syscall.Stat_t).Uid; os.Geteuid() == 0 && uid != tester {
			t.Errorf("%s belongs to %d", name, uid)
		}
	}
	if _, err := os.Stat(p.dir + "/c"); err == nil {
		t.Error("a secret's file was written outside its directory")
	}
	p.manifest.Secrets = p.manifest.Secrets[:1]
	p.manifest.Secrets[0].Value = "new"
	p.manifest.Token = "bt1_other"
	p.give()
	poll(t, "the new secrets", func() bool {
		a, _ := os.ReadFile(p.dir + "/secrets/a")
		_, err := os.Stat(p.dir + "/secrets/b")
		return string(a) == "new" && os.IsNotExist(err)
	})
	if got := p.read(p.dir + "/token"); got != "bt1_other" {
		t.Errorf("the token is %q", got)
	}
	if p.told.resets != 1 {
		t.Errorf("startup ran %d times", p.told.resets)
	}
}

func TestFailureDoesNotStopTheNext(t *testing.T) {
	p := newPlace(t)
	p.script(p.coder+"/configure", "#!/bin/sh\necho trying\nexit 3\n", 0o755)
	p.manifest.DotfilesURL = "file:///nonexistent/repository"
	p.script(p.home+"/personalize", "#!/bin/sh\nkill -9 $$\n", 0o755)
	p.run()
	if r := p.check(agent.StepConfigure, agent.OutcomeFailed, "exited with 3"); r.ExitCode != 3 {
		t.Errorf("exit code %d", r.ExitCode)
	}
	p.check(agent.StepDotfiles, agent.OutcomeFailed, "git clone exited with 128")
	p.check(agent.StepPersonalize, agent.OutcomeFailed, "signal 9")
	if note := p.runner.Note(); !strings.Contains(note, "configure failed") {
		t.Errorf("note %q", note)
	}
	if got := p.told.log(agent.StepConfigure); !strings.HasPrefix(got, "trying\n") {
		t.Errorf("log %q", got)
	}
}

func TestNothingToDo(t *testing.T) {
	p := newPlace(t)
	p.run()
	p.check(agent.StepSecrets, agent.OutcomeOK, "")
	p.check(agent.StepConfigure, agent.OutcomeSkipped, "there is no")
	p.check(agent.StepDotfiles, agent.OutcomeSkipped, "no dotfiles repository is set")
	p.check(agent.StepPersonalize, agent.OutcomeSkipped, "there is no ~/personalize")
	if note := p.runner.Note(); note != "" {
		t.Errorf("note %q", note)
	}
}

func TestLimitEndsTheWholeGroup(t *testing.T) {
	p := newPlace(t)
	p.manifest.Limits = map[string]time.Duration{agent.StepConfigure: 500 * time.Millisecond}
	p.script(p.coder+"/configure", "#!/bin/sh\ntrap '' TERM\n(trap '' TERM; echo $$; sleep 61.7) &\necho $! > pid\nsleep 61.7\n", 0o755)
	began := time.Now()
	p.run()
	p.check(agent.StepConfigure, agent.OutcomeTimeout, "500ms")
	p.check(agent.StepPersonalize, agent.OutcomeSkipped, "")
	if took := time.Since(began); took > 30*time.Second {
		t.Errorf("took %s", took)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(p.read(p.home + "/pid")))
	must(t, err)
	poll(t, "the end of the hook's child", func() bool { return !runs(pid) })
}

func TestLimitOfAHookThatExitsWithZero(t *testing.T) {
	p := newPlace(t)
	p.manifest.Limits = map[string]time.Duration{agent.StepConfigure: 500 * time.Millisecond}
	p.script(p.coder+"/configure", "#!/bin/sh\ntrap 'exit 0' TERM\nsleep 61.7 &\nwait\n", 0o755)
	p.run()
	p.check(agent.StepConfigure, agent.OutcomeTimeout, "500ms")
}

// runs reports whether a process is there and no zombie.
func runs(pid int) bool {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	return err == nil && !strings.Contains(string(b), ") Z ")
}

func TestDaemonLeftBehind(t *testing.T) {
	p := newPlace(t)
	p.script(p.coder+"/configure", "#!/bin/sh\n(sleep 1; echo late; echo alive > daemon; sleep 60) &\necho $! > pid\necho done\n", 0o755)
	began := time.Now()
	p.run()
	p.check(agent.StepConfigure, agent.OutcomeOK, "")
	if took := p.told.last(agent.StepConfigure).Duration; took > 10*time.Second {
		t.Errorf("configure took %s of %s", took, time.Since(began))
	}
	poll(t, "the daemon's word after the step ended", func() bool {
		b, _ := os.ReadFile(p.home + "/daemon")
		return string(b) == "alive\n"
	})
	pid, err := strconv.Atoi(strings.TrimSpace(p.read(p.home + "/pid")))
	must(t, err)
	p.stop()
	if !runs(pid) {
		t.Error("the daemon ended with the agent")
	}
	syscall.Kill(-pid, syscall.SIGKILL)
	if group, err := syscall.Getpgid(pid); err == nil {
		syscall.Kill(-group, syscall.SIGKILL)
	}
}

func TestOncePerStartBuild(t *testing.T) {
	p := newPlace(t)
	p.script(p.coder+"/configure", "#!/bin/sh\necho run >> runs\nexit 5\n", 0o755)
	p.run()
	first := p.told
	p.give() // as after a reconnect
	p.stop()
	p.run() // as after a restart of the agent
	if r := p.check(agent.StepConfigure, agent.OutcomeFailed, "exited with 5"); r.ExitCode != 5 || r.Duration <= 0 {
		t.Errorf("told again: %+v", r)
	}
	if got, want := len(p.told.logs), len(first.logs); got != want || !slices.Equal(p.told.logs, first.logs) {
		t.Errorf("%d lines are told again of %d", got, want)
	}
	if got := p.read(p.home + "/runs"); got != "run\n" {
		t.Errorf("runs: %q", got)
	}
	p.manifest.StartBuild = "b2"
	p.give()
	p.wait()
	if got := p.read(p.home + "/runs"); got != "run\nrun\n" {
		t.Errorf("runs after another start build: %q", got)
	}
	if p.told.logs[0].Seq != 0 {
		t.Errorf("numbering goes on over start builds: %+v", p.told.logs[0])
	}
}

func TestInterrupted(t *testing.T) {
	p := newPlace(t)
	p.script(p.coder+"/configure", "#!/bin/sh\necho $$ > pid\necho started\nsleep 62.3\n", 0o755)
	p.script(p.home+"/personalize", "#!/bin/sh\necho personal\n", 0o755)
	p.begin()
	poll(t, "configure", func() bool { b, _ := os.ReadFile(p.home + "/pid"); return len(b) > 0 })
	began := time.Now()
	p.stop()
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("the agent takes %s to stop in a hook", took)
	}
	p.run()
	p.check(agent.StepSecrets, agent.OutcomeOK, "")
	p.check(agent.StepConfigure, agent.OutcomeFailed, "interrupted by an agent restart")
	p.check(agent.StepPersonalize, agent.OutcomeOK, "")
	if got := p.told.log(agent.StepConfigure); !strings.HasPrefix(got, "started\n") {
		t.Errorf("log after the restart: %q", got)
	}
	for i, l := range p.told.logs {
		if l.Seq != i {
			t.Fatalf("line %d has number %d", i, l.Seq)
		}
	}
	if len(p.read(p.home+"/pid")) == 0 || strings.Count(p.told.log(agent.StepConfigure), "started") != 1 {
		t.Error("configure ran twice")
	}
}

// TestCrash is an agent that was killed: its hook lives on, and the next agent ends it.
func TestCrash(t *testing.T) {
	p := newPlace(t)
	cmd := exec.Command("sleep", "63.1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	must(t, cmd.Start())
	start, ok := startTime(cmd.Process.Pid)
	if !ok {
		t.Fatal("no start time")
	}
	must(t, os.Mkdir(p.dir+"/startup", 0o700))
	rec := &record{
		StartBuild: "b1", dir: p.dir + "/startup", Hook: &hookProcess{PID: cmd.Process.Pid, Start: start},
		Steps: []agent.StepReport{{Name: agent.StepConfigure, Outcome: agent.OutcomeRunning}},
	}
	rec.save()
	must(t, os.WriteFile(p.dir+"/startup/lines.jsonl", []byte(`{"step":"configure","seq":0,"text":"x"}`+"\n"+`{"step":"conf`), 0o600))
	p.run()
	p.check(agent.StepConfigure, agent.OutcomeFailed, "interrupted by an agent restart")
	if err := cmd.Wait(); err == nil {
		t.Error("the hook was not ended")
	}
	if p.told.logs[0].Text != "x" || p.told.logs[1].Seq != 1 {
		t.Errorf("lines: %+v", p.told.logs[:2])
	}
}

func TestShebangs(t *testing.T) {
	busybox, _ := exec.LookPath("busybox")
	for _, tt := range []struct {
		name, text string
		mode       os.FileMode
		want       string // log, or error where it does not end with a newline
	}{
		{"executable", "#!/bin/bash\n[[ -n $BASH_VERSION ]] && echo bash\n", 0o755, "bash\n"},
		{"argument", "#!/bin/sh -e\nfalse\necho not reached\n", 0o755, "exited with 1"},
		{"not executable", "#!/bin/bash\n[[ -n $BASH_VERSION ]] && echo bash $0\n", 0o644, "configure\n"},
		{"busybox", "#!" + busybox + " ash\necho ash\n", 0o644, "ash\n"},
		{"env", "#!/usr/bin/env bash\n[[ -n $BASH_VERSION ]] && echo bash\n", 0o644, "bash\n"},
		{"no shebang", "echo plain\n", 0o755, "plain\n"},
		{"no shebang, not executable", "echo plain\n", 0o644, "plain\n"},
		{"no interpreter", "#!/no/such/interpreter\n", 0o755, "its interpreter /no/such/interpreter is not there"},
		{"empty", "", 0o755, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if tt.name == "busybox" && busybox == "" {
				t.Skip("no busybox")
			}
			p := newPlace(t)
			p.script(p.coder+"/configure", tt.text, tt.mode)
			p.run()
			if strings.HasSuffix(tt.want, "\n") || tt.want == "" {
				p.check(agent.StepConfigure, agent.OutcomeOK, "")
				if got := p.told.log(agent.StepConfigure); !strings.HasSuffix(got, tt.want) {
					t.Errorf("log %q, want %q", got, tt.want)
				}
				return
			}
			p.check(agent.StepConfigure, agent.OutcomeFailed, tt.want)
		})
	}
}

func TestPersonalize(t *testing.T) {
	p := newPlace(t)
	victim := filepath.Join(filepath.Dir(p.dir), "victim")
	must(t, os.WriteFile(victim, []byte("untouched"), 0o600))
	must(t, os.Symlink(victim, p.home+"/personalize"))
	script := "#!/bin/sh\necho hello\n"
	p.manifest.Personalize = &script
	p.run()
	p.check(agent.StepPersonalize, agent.OutcomeOK, "")
	if got := p.read(victim); got != "untouched" {
		t.Errorf("a link in the home led to %q", got)
	}
	fi, err := os.Lstat(p.home + "/personalize")
	must(t, err)
	if fi.Mode() != 0o700 {
		t.Errorf("mode %v", fi.Mode())
	}
	if os.Geteuid() == 0 && fi.Sys().(*syscall.Stat_t).Uid != tester {
		t.Error("~/personalize does not belong to the user")
	}
	// Not stored any more: the file is left alone, and run.
	p.manifest.Personalize, p.manifest.StartBuild = nil, "b2"
	p.script(p.home+"/personalize", "#!/bin/sh\necho mine\n", 0o700)
	p.give()
	p.wait()
	if got := p.told.log(agent.StepPersonalize); got != "mine\n" {
		t.Errorf("log %q", got)
	}
}

func TestRootWithoutUser(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	for _, tt := range []struct{ name, passwd, user, want string }{
		{"none", "root:x:0:0::/root:/bin/sh\n", "", "no single ordinary user"},
		{"root by name", "root:x:0:0::/root:/bin/sh\nann:x:1000:1000::/tmp:/bin/sh\n", "root", "never run as root"},
		{"unknown", "root:x:0:0::/root:/bin/sh\n", "ann", "whom the image does not have"},
		{"host", "root:x:0:0::/root:/bin/sh\nann:x:1000:1000::/tmp:/bin/sh\n", "", "process of root's on the coordinator's host"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := newPlace(t)
			must(t, os.WriteFile(p.accounts.Passwd, []byte(strings.ReplaceAll(tt.passwd, "/root", p.home)), 0o644))
			p.manifest.Agent.User = tt.user
			p.script(p.coder+"/configure", "#!/bin/sh\ntouch /tmp/berth-ran-as-root\n", 0o755)
			script := "#!/bin/sh\n"
			p.manifest.Personalize = &script
			p.manifest.DotfilesURL = "file:///nonexistent"
			var user *shell.User
			p.change = func(c *Config) {
				c.OnUser = func(u *shell.User) { user = u }
				c.Host = tt.name == "host"
			}
			p.run()
			p.check(agent.StepSecrets, agent.OutcomeOK, "")
			for _, step := range []string{agent.StepConfigure, agent.StepDotfiles, agent.StepPersonalize} {
				p.check(step, agent.OutcomeSkipped, tt.want)
			}
			if user == nil || user.UID != 0 {
				t.Errorf("sessions run as %+v", user)
			}
			if _, err := os.Stat("/tmp/berth-ran-as-root"); err == nil {
				t.Error("a hook ran as root")
			}
		})
	}
}

func TestOrdinaryUserIsFound(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	p := newPlace(t)
	p.manifest.Agent.User = ""
	must(t, os.WriteFile(p.accounts.Passwd, []byte("root:x:0:0::/root:/bin/sh\nann:x:1000:1000::"+p.home+":/bin/sh\n"), 0o644))
	must(t, os.Chown(p.home, 1000, 1000))
	p.script(p.coder+"/configure", "#!/bin/sh\nid -u\n", 0o755)
	p.run()
	if got := p.told.log(agent.StepConfigure); got != "1000\n" {
		t.Errorf("log %q", got)
	}
}

func TestLogIsCapped(t *testing.T) {
	p := newPlace(t)
	p.script(p.coder+"/configure", "#!/bin/bash\nprintf '%0.s#' {1..30000}; echo\nprintf '10%%\\r20%%\\r30%%\\n'\nprintf 'bad \\xff\\n'\n"+
		"yes | head -n 200000\n", 0o755)
	p.run()
	p.check(agent.StepConfigure, agent.OutcomeOK, "")
	lines := strings.Split(strings.TrimSuffix(p.told.log(agent.StepConfigure), "\n"), "\n")
	for i, l := range lines {
		if len(l) > agent.MaxLogText {
			t.Errorf("line %d has %d bytes", i, len(l))
		}
	}
	if len(strings.Join(lines[:8], "")) < 30000 {
		t.Errorf("a long line was cut: %d", len(strings.Join(lines[:8], "")))
	}
	log := strings.Join(lines, "\n")
	if !strings.Contains(log, "\n30%\nbad \uFFFD\n") {
		t.Errorf("log %.200q", log[30000:])
	}
	if len(lines) != maxStepLines+1 || lines[len(lines)-1] != "[the rest of this log is left out]" {
		t.Errorf("%d lines, the last %q", len(lines), lines[len(lines)-1])
	}
}

// TestAsOrdinaryUser runs the tests of this package once more as somebody who is not root.
func TestAsOrdinaryUser(t *testing.T) {
	if os.Geteuid() != 0 || testing.Short() {
		t.Skip("needs root, and time")
	}
	dir, err := os.MkdirTemp("/tmp", "berth-test-")
	must(t, err)
	defer os.RemoveAll(dir)
	must(t, os.Chown(dir, tester, tester))
	exe, err := os.ReadFile("/proc/self/exe")
	must(t, err)
	must(t, os.WriteFile(dir+"/startup.test", exe, 0o755))
	cmd := exec.Command(dir+"/startup.test", "-test.run", "Steps|Secrets|Once|Shebangs|Personalize|Links|CLI", "-test.short")
	cmd.Dir = dir
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + dir, "TMPDIR=" + dir}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: tester, Gid: tester}}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("as an ordinary user: %v\n%s", err, out)
	}
}
