// Package startup sets a workspace up, in this order: who the user is, secrets, /coder/configure, dotfiles,
// ~/personalize. Each step is logged, timed and limited, a failure does not stop the next one, and all of it happens
// once per start build, however often the agent restarts. The secrets are put in place again for every manifest.
//
// It owns the runtime directory's files but for the agent's key and the ssh-agent's socket. It knows neither the link
// nor SSH: what it has to tell goes to an Outbox, what sessions need is asked of it.
package startup

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"slices"
	"sync"
	"time"

	"berth/agent"
	"berth/agent/shell"
)

// An Outbox takes what is to be told to the coordinator.
type Outbox interface {
	Step(r agent.StepReport)
	Log(r agent.LogReport)
	Ready()
	Reset()
}

// A Config says where a Runner works. Dir, Outbox and HTTP are required.
type Config struct {
	Dir      string   // the runtime directory
	CoderDir string   // /coder if empty
	Socket   string   // of the ssh-agent
	Base     []string // the environment that the agent was started with
	Host     bool     // the agent is a plain process on the coordinator's host
	HTTP     *http.Client
	Outbox   Outbox
	Accounts shell.Accounts
	Logger   *slog.Logger
	// SetKey takes the Git key of every manifest.
	SetKey func(g agent.Git) error
	// OnUser is called once, as soon as it is known whom the workspace's processes run as.
	OnUser func(u *shell.User)
}

// A Runner sets a workspace up, and keeps what its sessions need.
type Runner struct {
	Config
	log    *slog.Logger
	latest chan *agent.Manifest // capacity one: the newest, until Run takes it
	ready  chan struct{}        // closed once a session's environment is known

	// Owned by Run.
	who    Who
	login  []string // environment of the login shell
	record *record
	steps  *run // nil before the first start build

	mu      sync.Mutex
	env     []string           // guarded by mu: of sessions
	current *agent.Manifest    // guarded by mu
	reports []agent.StepReport // guarded by mu: of the start build, in order
	left    []*os.File         // guarded by mu: output of hooks that have ended, held by what they left behind
	drains  sync.WaitGroup
}

// A run is the steps of one start build under way.
type run struct {
	build  string
	cancel context.CancelFunc
	done   chan struct{}
}

// New returns a runner. It starts nothing.
func New(c Config) *Runner {
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.CoderDir == "" {
		c.CoderDir = "/coder"
	}
	return &Runner{
		Config: c, log: c.Logger,
		latest: make(chan *agent.Manifest, 1), ready: make(chan struct{}),
	}
}

// Manifest gives the runner a manifest. It does not wait; an older one that was not taken yet is replaced.
func (r *Runner) Manifest(m *agent.Manifest) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.current = m
	select {
	case <-r.latest:
	default:
	}
	r.latest <- m
}

// Current returns the newest manifest, nil before the first.
func (r *Runner) Current() *agent.Manifest {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.current
}

// Ready returns once a session's environment is known and the secrets are in place, or ctx ends.
func (r *Runner) Ready(ctx context.Context) {
	select {
	case <-r.ready:
	case <-ctx.Done():
	}
}

// Env returns the environment of a session.
func (r *Runner) Env() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.env)
}

// Note returns a line about a startup that has not ended well, or not ended, for whoever logs in; else "".
func (r *Runner) Note() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, s := range r.reports {
		if s.Outcome == agent.OutcomeFailed || s.Outcome == agent.OutcomeTimeout {
			return fmt.Sprintf("startup: %s failed: %s (log: %s)", s.Name, s.Error, r.logFile(s.Name))
		}
	}
	for _, s := range r.reports {
		if s.Outcome == agent.OutcomeRunning {
			return fmt.Sprintf("startup: %s is still running (log: %s)", s.Name, r.logFile(s.Name))
		}
	}
	return ""
}

// Run takes manifests until ctx ends. It returns once every step has.
func (r *Runner) Run(ctx context.Context) error {
	r.record = loadRecord(r.Dir, r.log)
	defer r.stopDrains()
	defer r.stopSteps()
	for {
		select {
		case <-ctx.Done():
			return nil
		case m := <-r.latest:
			r.take(ctx, m)
		}
	}
}

// take puts a manifest into effect, and begins startup if its start build is new.
func (r *Runner) take(ctx context.Context, m *agent.Manifest) {
	if r.who.User == nil {
		if !r.settle(ctx, m) {
			return
		}
	}
	err := r.placeSecrets(m)
	if err != nil {
		r.log.Error("cannot put secrets in place", "error", err)
	}
	r.publish(m)
	if r.steps != nil && r.steps.build == m.StartBuild {
		select {
		case <-r.steps.done: // a newer coordinator may have a newer CLI
			r.steps = r.begin(ctx, m, func(ctx context.Context) { r.refreshCLI(ctx, m) })
		default:
		}
		return
	}
	r.stopSteps()
	r.steps = r.begin(ctx, m, func(ctx context.Context) { r.runSteps(ctx, m, err) })
}

func (r *Runner) begin(ctx context.Context, m *agent.Manifest, f func(ctx context.Context)) *run {
	ctx, cancel := context.WithCancel(ctx)
	s := &run{build: m.StartBuild, cancel: cancel, done: make(chan struct{})}
	go func() { // Run waits for it by stopSteps
		defer close(s.done)
		defer cancel()
		f(ctx)
	}()
	return s
}

func (r *Runner) stopSteps() {
	if r.steps != nil {
		r.steps.cancel()
		<-r.steps.done
	}
}

// settle finds out who the user is and what a login gives them, once.
func (r *Runner) settle(ctx context.Context, m *agent.Manifest) bool {
	who, err := FindUser(m.Agent.User, r.Host, r.Accounts)
	if err != nil {
		r.log.Error("cannot tell whom to run as", "error", err)
		return false
	}
	if who.Note != "" {
		r.log.Warn(who.Note)
	}
	r.who = who
	if err := r.openDir(); err != nil {
		r.log.Error("cannot prepare the runtime directory", "error", err)
	}
	r.learnLogin(ctx)
	if r.OnUser != nil {
		r.OnUser(who.User)
	}
	return true
}

// learnLogin starts the login shell once, and prepares for a profile that sets PATH anew.
func (r *Runner) learnLogin(ctx context.Context) {
	bin := r.path("bin")
	base := shell.Without(r.Base, ours)
	probe := shell.Merge(base, []string{"PATH=" + shell.JoinPath(bin, shell.Value(base, "PATH"), shell.DefaultPath)})
	env, kept, err := shell.Login(ctx, r.who.User, probe, 0)
	if err != nil {
		r.log.Warn("the login shell could not be asked for its environment", "error", err)
	}
	path := shell.JoinPath(bin, shell.Value(env, "PATH"))
	r.login = shell.Merge(env, []string{"PATH=" + path})
	if kept {
		return
	}
	file := r.path("path.sh")
	if err := r.write("path.sh", []byte(shell.PathScript(file, path)), 0o644); err != nil {
		r.log.Error("cannot write path.sh", "error", err)
		return
	}
	r.who.User.PathFile = file
}

// runSteps runs the steps of a start build that have not begun before.
func (r *Runner) runSteps(ctx context.Context, m *agent.Manifest, secretsErr error) {
	r.openRecord(m.StartBuild)
	defer r.record.close()
	again := r.begun(agent.StepSecrets)
	for _, s := range []struct {
		name string
		run  func(ctx context.Context, j *job) outcome
	}{
		{agent.StepSecrets, func(ctx context.Context, j *job) outcome { return r.secrets(ctx, j, m, secretsErr) }},
		{agent.StepConfigure, r.configure},
		{agent.StepDotfiles, func(ctx context.Context, j *job) outcome { return r.dotfiles(ctx, j, m.DotfilesURL) }},
		{agent.StepPersonalize, func(ctx context.Context, j *job) outcome { return r.personalize(ctx, j, m.Personalize) }},
	} {
		if ctx.Err() != nil {
			return // what has not begun runs after the restart
		}
		if r.begun(s.name) {
			continue
		}
		r.step(ctx, s.name, limitOf(m, s.name), s.run)
	}
	if ctx.Err() != nil {
		return
	}
	if r.Outbox.Ready(); again {
		r.refreshCLI(ctx, m)
	}
}

func limitOf(m *agent.Manifest, step string) time.Duration {
	if d := m.Limits[step]; d > 0 {
		return d
	}
	return agent.DefaultLimits[step]
}

// step runs one step within its limit and records what became of it.
func (r *Runner) step(ctx context.Context, name string, limit time.Duration, f func(ctx context.Context, j *job) outcome) {
	began := time.Now()
	report := agent.StepReport{Name: name, Outcome: agent.OutcomeRunning, Started: began.UTC().Truncate(time.Millisecond)}
	r.report(report)
	j := r.openJob(name)
	defer j.close()
	limited, cancel := context.WithTimeoutCause(ctx, limit, errLimit)
	defer cancel()
	o := f(limited, j)
	if ctx.Err() != nil {
		return // recorded as running: the next agent finds it interrupted
	}
	report.Outcome, report.ExitCode, report.Error = o.outcome, o.code, o.err
	if context.Cause(limited) == errLimit && o.outcome != agent.OutcomeOK {
		report.Outcome = agent.OutcomeTimeout
		report.Error = fmt.Sprintf("did not end within %s and was ended", limit)
	}
	report.Duration = time.Since(began)
	if report.Error != "" {
		j.logf("%s: %s", name, report.Error)
	}
	j.close()
	r.report(report)
	r.log.Info("startup step ended", "step", name, "outcome", report.Outcome, "duration", report.Duration.Round(time.Millisecond))
}

// An outcome is how a step ended.
type outcome struct {
	outcome string
	code    int
	err     string // one line
}

var ok = outcome{outcome: agent.OutcomeOK}

func skipped(format string, args ...any) outcome {
	return outcome{outcome: agent.OutcomeSkipped, err: fmt.Sprintf(format, args...)}
}

func failed(format string, args ...any) outcome {
	return outcome{outcome: agent.OutcomeFailed, err: fmt.Sprintf(format, args...)}
}
