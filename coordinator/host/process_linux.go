package host

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"berth/agent"
	"berth/coordinator"
)

// How long a process may take to end by itself, and after a kill.
const (
	stopGrace = 10 * time.Second
	killGrace = 5 * time.Second
)

// StartProcess runs the agent as s says and returns once it runs. A process with that id that lives is left alone
// and returned, so that there are never two; another process of the same agent is ended first, and so is what is
// left of processes that have died.
func (h *Host) StartProcess(ctx context.Context, s Spec) (Process, error) {
	isolation, err := h.check(s)
	if err != nil {
		return Process{}, err
	}
	p, ok, err := h.process(s.ID)
	if err != nil {
		return Process{}, err
	}
	if ok && p.alive() {
		return p, nil
	}
	if err := h.sweep(ctx, s.AgentID); err != nil {
		return Process{}, err
	}
	if err := keepFiles(); err != nil {
		return Process{}, err
	}
	p = Process{ID: s.ID, WorkspaceID: h.ws.ID, AgentID: s.AgentID, Isolation: isolation, Boot: bootID(), Started: time.Now().UTC()}
	if isolation == None {
		if p.RuntimeDir, err = shortDir(); err != nil {
			return Process{}, err
		}
	}
	// Before the start: if this process ends in between, the next one finds what runs by its marker.
	if err := writeRecord(h.processRecord(p.ID), p); err != nil {
		return Process{}, errors.Join(err, h.forget(p))
	}
	if isolation == None {
		err = h.startPlain(&p, s)
	} else {
		err = h.startIsolated(ctx, &p, s)
	}
	if err == nil {
		err = writeRecord(h.processRecord(p.ID), p)
	}
	if err != nil {
		return Process{}, errors.Join(err, h.end(context.WithoutCancel(ctx), p, nil))
	}
	return p, nil
}

// ProcessAlive reports whether the process runs. What is left of one that has died is ended and its record removed,
// because nobody will ask for it again. It refuses another workspace's.
func (h *Host) ProcessAlive(ctx context.Context, id string) (bool, error) {
	p, ok, err := h.process(id)
	if err != nil || !ok {
		return false, err
	}
	if p.alive() {
		return true, trimLog(h.processLog(id))
	}
	return false, h.end(ctx, p, nil)
}

// StopProcess ends the process and everything that it started: first by asking, after ten seconds by force. One that
// is gone is no error; another workspace's is.
func (h *Host) StopProcess(ctx context.Context, id string) error {
	p, ok, err := h.process(id)
	if err != nil || !ok {
		return err
	}
	return h.stop(ctx, p)
}

func (h *Host) stop(ctx context.Context, p Process) error {
	a, ok := p.hold()
	if !ok {
		return h.end(ctx, p, nil)
	}
	defer a.release()
	var others []ref
	if p.Isolation == None { // some may have dropped the marker from their environment
		var err error
		if others, err = descendants(p.PID); err != nil {
			return err
		}
	}
	if err := a.signal(syscall.SIGTERM); err != nil {
		return fmt.Errorf("end process %s: %w", p.ID, err)
	}
	a.wait(ctx, stopGrace)
	return h.end(ctx, p, append(others, ref{p.PID, p.StartTime}))
}

// sweep stops what runs of the agent, and ends what is left of this workspace's dead processes.
func (h *Host) sweep(ctx context.Context, agentID string) error {
	all, err := h.processes()
	if err != nil {
		return err
	}
	for _, p := range all {
		if p.AgentID != agentID && p.alive() {
			continue
		}
		if err := h.stop(ctx, p); err != nil {
			return err
		}
	}
	return nil
}

// alive reports whether the agent itself runs; daemons that it left behind do not count.
func (p Process) alive() bool {
	return p.PID > 0 && p.Boot == bootID() && lives(p.PID, p.StartTime)
}

func (p Process) hold() (handle, bool) {
	if !p.alive() {
		return handle{}, false
	}
	return hold(p.PID, p.StartTime)
}

// end kills whatever is left of the process, and the others if they still run, and removes its record.
func (h *Host) end(ctx context.Context, p Process, others []ref) error {
	if p.Boot != bootID() { // the host has been started again since: pids mean nothing, and nothing runs
		return h.forget(p)
	}
	if p.Init > 0 {
		if err := endNamespace(ctx, p); err != nil {
			return err
		}
	} else if err := killMarked(ctx, p.ID, others); err != nil {
		return err
	}
	return h.forget(p)
}

// endNamespace kills the init of the process's pid namespace, and the kernel everything else in it.
func endNamespace(ctx context.Context, p Process) error {
	init, ok := hold(p.Init, p.InitStart)
	if !ok {
		return nil
	}
	defer init.release()
	if err := init.signal(syscall.SIGKILL); err != nil {
		return fmt.Errorf("end process %s: %w", p.ID, err)
	}
	if !init.wait(ctx, killGrace) {
		return fmt.Errorf("end process %s: it does not go away", p.ID)
	}
	return nil
}

// startPlain runs the agent on the host itself, as the coordinator's own user.
func (h *Host) startPlain(p *Process, s Spec) error {
	me := hostUser()
	homeDir := me.HomeDir
	if s.Home != "" {
		if err := h.ownHome(s.Home, os.Geteuid()); err != nil {
			return err
		}
		homeDir = h.homeDir(s.Home)
	}
	token := filepath.Join(p.RuntimeDir, "agent-token")
	if err := os.WriteFile(token, []byte(string(s.Token)+"\n"), 0o600); err != nil {
		return fmt.Errorf("write agent token: %w", err)
	}
	base := map[string]string{"SHELL": shellOf(me.Uid)}
	for _, k := range []string{"PATH", "LANG", "TZ"} {
		if v := os.Getenv(k); v != "" {
			base[k] = v
		}
	}
	own := map[string]string{
		"HOME": homeDir, "USER": me.Username, "LOGNAME": me.Username,
		agent.EnvTokenFile: token, agent.EnvRuntimeDir: p.RuntimeDir,
	}
	if s.CoderDir != "" {
		own[agent.EnvCoderDir] = s.CoderDir
	}
	log, err := h.openLog(p.ID)
	if err != nil {
		return err
	}
	defer log.Close() //nolint:errcheck // the process has its own
	cmd := exec.Command(h.grant.Agent)
	cmd.Dir, cmd.Env = homeDir, environ(s, base, own)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return coordinator.Errorf(coordinator.CodeFailed, "the agent could not be started: %w", err)
	}
	p.PID = cmd.Process.Pid
	st, ok := statOf(p.PID)
	if !ok {
		return fmt.Errorf("look at process %d: it is gone", p.PID)
	}
	p.StartTime = st.start
	return cmd.Process.Release()
}

// openLog makes the file for a process's output, which the process appends to.
func (h *Host) openLog(id string) (*os.File, error) {
	f, err := os.OpenFile(h.processLog(id), os.O_CREATE|os.O_WRONLY|os.O_TRUNC|os.O_APPEND, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open log: %w", err)
	}
	return f, nil
}

// shortDir makes a private directory whose path leaves room for the names of unix sockets.
func shortDir() (string, error) {
	var errs []error
	for _, base := range []string{os.Getenv("XDG_RUNTIME_DIR"), "/run", "/tmp"} {
		if base == "" || len(base) > 32 {
			continue
		}
		dir, err := os.MkdirTemp(base, "berth-")
		if err == nil {
			return dir, nil
		}
		errs = append(errs, err)
	}
	return "", fmt.Errorf("make runtime directory: %w", errors.Join(errs...))
}

// hostUser returns the coordinator's own user, who may have no entry in passwd.
func hostUser() *user.User {
	if u, err := user.LookupId(strconv.Itoa(os.Geteuid())); err == nil {
		return u
	}
	u := &user.User{Uid: strconv.Itoa(os.Geteuid()), Username: os.Getenv("USER"), HomeDir: os.Getenv("HOME")}
	if u.Username == "" {
		u.Username = "uid" + u.Uid
	}
	if u.HomeDir == "" {
		u.HomeDir = "/"
	}
	return u
}

// shellOf returns the login shell of a uid of the host, or any where it has none, as services do.
func shellOf(uid string) string {
	b, _ := os.ReadFile("/etc/passwd")
	for line := range strings.SplitSeq(string(b), "\n") {
		f := strings.Split(line, ":")
		if len(f) == 7 && f[2] == uid && f[6] != "" && !strings.HasSuffix(f[6], "/nologin") && !strings.HasSuffix(f[6], "/false") {
			return f[6]
		}
	}
	return anyShell()
}

// anyShell returns a shell that this host has.
func anyShell() string {
	if _, err := os.Stat("/bin/bash"); err == nil {
		return "/bin/bash"
	}
	return "/bin/sh"
}
