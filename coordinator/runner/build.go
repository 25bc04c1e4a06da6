package runner

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"berth/coordinator"
	"berth/coordinator/provider"
	"berth/coordinator/terraform"
)

// statePoll is how often terraform's state is looked at while it runs.
const statePoll = 100 * time.Millisecond

// stops are the words for a build that finds nothing to do.
var idle = map[coordinator.Transition]string{
	coordinator.Stop:   "nothing to stop: nothing exists",
	coordinator.Delete: "nothing to delete: nothing exists",
}

// A build is a run for a workspace.
type build struct {
	*run
	session *provider.Session
	env     []string
	result  coordinator.Result
}

// build carries a build: no terraform where nothing exists and nothing is to be made; one apply for a first start and
// for a delete; else a plan, the guard's judgement of it, and the apply of that very plan.
func (r *run) build(ctx context.Context) (coordinator.Result, error) {
	b := &build{run: r}
	data, err := r.dir.state()
	if err != nil {
		return b.result, fmt.Errorf("read state: %w", err)
	}
	empty := true
	if len(data) > 0 {
		s, err := terraform.ParseState(data)
		if err != nil {
			return b.result, err
		}
		empty = s.Empty()
	}
	if empty && r.job.Transition != coordinator.Start {
		r.note(terraform.StagePlan, idle[r.job.Transition])
		b.result.Status = coordinator.BuildSucceeded
		b.conclude()
		return b.result, nil
	}
	if err := b.dir.reserve(); err != nil {
		b.conclude()
		return b.result, err
	}
	_ = allocate(b.log, logRoom, true) // what little the log needs is there, or its lines are lost
	if err := b.layOut(data); err != nil {
		b.conclude()
		return b.result, err
	}
	err = b.serve(ctx, empty)
	b.conclude()
	return b.result, err
}

// serve runs terraform with the provider beside it.
func (b *build) serve(ctx context.Context, empty bool) error {
	var err error
	// The provider outlasts a cancel: terraform needs it to end in order.
	b.session, err = provider.Serve(context.WithoutCancel(ctx), b.job, b.dir.root)
	if err != nil {
		return fmt.Errorf("serve provider: %w", err)
	}
	defer func() { _ = b.session.Close() }() // the process ends next
	if err := b.environment(); err != nil {
		return err
	}
	switch {
	case b.job.Transition == coordinator.Delete:
		err = b.terraform(ctx, terraform.StageApply, "destroying", "apply", "-destroy", "-json", "-auto-approve", "-input=false", "-backup=-")
	case empty:
		err = b.terraform(ctx, terraform.StageApply, "creating", "apply", "-json", "-auto-approve", "-input=false", "-backup=-")
	default:
		err = b.guarded(ctx)
	}
	if err == nil && b.result.Status == "" {
		b.result.Status = coordinator.BuildSucceeded
	}
	return err
}

// guarded plans, has the guard judge, and applies what was judged. A refusal is part of the result.
func (b *build) guarded(ctx context.Context) error {
	out := filepath.Join(b.dir.path(tmpDir), planFile)
	err := b.terraform(ctx, terraform.StagePlan, "planning", "plan", "-json", "-input=false", "-out="+out)
	if err != nil {
		return err
	}
	plan, err := b.takePlan()
	if err != nil {
		return err
	}
	changes := b.outcome.Changes
	if file, err := terraform.ReadPlan(plan); err == nil {
		changes = terraform.Merge(file, changes)
	} else {
		fmt.Fprintln(os.Stderr, "the guard judges by the stream alone:", err)
	}
	if v := terraform.Guard(changes, b.job.Persistent, b.job.AllowDestroy); len(v) > 0 {
		b.result.Status, b.result.Guard = coordinator.BuildFailed, v
		b.result.Error, b.result.Address = terraform.GuardError(v), v[0].Address
		return nil
	}
	if err := context.Cause(ctx); err != nil {
		return err
	}
	if !b.dir.has(reserveFile) {
		return errFull // the plan had it
	}
	return b.terraform(ctx, terraform.StageApply, "applying", "apply", "-json", "-input=false", "-backup=-", b.dir.path(planFile))
}

// takePlan moves the plan out of terraform's reach, so that what is applied is what was judged.
func (b *build) takePlan() ([]byte, error) {
	data, err := b.dir.read(filepath.Join(tmpDir, planFile), terraform.MaxPlanFile)
	if err != nil {
		return nil, fmt.Errorf("read plan: %w", err)
	}
	if err := b.dir.write(planFile, data, false); err != nil {
		return nil, err
	}
	if uid := b.job.Host.BuildUID; uid != 0 {
		err = errors.Join(os.Chown(b.dir.path(planFile), 0, uid), os.Chmod(b.dir.path(planFile), 0o640))
	}
	return data, err
}

// layOut makes what terraform works with: the module's copy with the state, the link to the version's data, its home.
func (b *build) layOut(state []byte) error {
	module := filepath.Join(b.job.ModuleDir, terraform.ModuleDir)
	if _, err := os.Stat(module); errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("the files of version %d of template %s are not there: import it again", b.job.Version, b.job.Template)
	}
	if err := b.makeDirs(); err != nil {
		return err
	}
	localExec, err := terraform.Copy(module, b.dir.path(moduleDir))
	if err != nil {
		return err
	}
	data := filepath.Join(b.job.ModuleDir, terraform.DataDir)
	other, err := terraform.DataStartsPrograms(data)
	if err != nil {
		return err
	}
	b.lean = !localExec && !other
	if err := os.Symlink(data, b.dir.path(dataLink)); err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("link data: %w", err)
	}
	if len(state) > 0 {
		if err := os.WriteFile(filepath.Join(b.dir.path(moduleDir), terraform.StateFile), state, 0o600); err != nil {
			return fmt.Errorf("lay out state: %w", err)
		}
	}
	config, err := terraform.CLIConfig(data)
	if err != nil {
		return err
	}
	return b.own(config)
}

// environment composes what terraform gets to see.
func (b *build) environment() error {
	e := b.baseEnvironment(b.session.Reattach())
	e.Granted = b.job.Env
	b.env = e.List()
	return nil
}

// terraform runs one command of terraform, keeps every good state that it leaves, and fails with what it said.
func (b *build) terraform(ctx context.Context, stage, doing string, args ...string) error {
	b.begin(stage, doing)
	d, byDefault := b.job.Limits.Plan, coordinator.DefaultPlanLimit
	if stage == terraform.StageApply {
		d, byDefault = b.job.Limits.Apply, coordinator.DefaultApplyLimit
	}
	limited, cancel := terraform.Limit(ctx, d, byDefault, stage)
	defer cancel()
	stageCtx, end := context.WithCancelCause(limited)
	defer end(nil)
	stopWatch := b.watchState(end)
	c := terraform.Command{
		Path: b.job.Terraform.Path, Args: args, Dir: b.dir.path(moduleDir), Env: b.env,
		Stdout: b.log, Stderr: b.log, UID: b.job.Host.BuildUID, Grace: b.grace(),
		Began: func(pid int) error {
			b.session.AllowPeer(pid)
			return b.dir.writePID(terraformPID, pid)
		},
	}
	status, err := c.Run(stageCtx)
	stopWatch()
	_ = os.Remove(b.dir.path(terraformPID)) // it names a process that is gone
	b.end()
	if e := b.patiently("the state", b.dir.salvage); e != nil {
		err = errors.Join(err, fmt.Errorf("keep state: %w", e))
	}
	if e := b.readLog(); e != nil {
		err = errors.Join(err, e)
	}
	return b.verdict(stageCtx, status, err)
}

// verdict is why a command failed, or nil.
func (b *build) verdict(ctx context.Context, status int, err error) error {
	switch cause := context.Cause(ctx); {
	case err != nil:
		return err
	case status == 0:
		return nil
	case cause != nil:
		return cause
	case b.outcome.Problem != "":
		return &terraform.Refusal{Msg: b.outcome.Error(), Address: b.outcome.Address}
	case b.outcome.Last != "":
		return fmt.Errorf("terraform failed: %s", b.outcome.Last)
	default:
		return fmt.Errorf("terraform ended with status %d and said nothing", status)
	}
}

// readLog takes in what was logged since the last call.
func (r *run) readLog() error {
	if err := r.reader.Next(r.outcome.Add); err != nil {
		return fmt.Errorf("read log: %w", err)
	}
	return nil
}

// watchState keeps good states while terraform runs, until the returned function is called. When the disk is nearly full
// it gives back what was held back and has terraform ended.
func (b *build) watchState(end context.CancelCauseFunc) func() {
	path := filepath.Join(moduleDir, terraform.StateFile)
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		tick := time.NewTicker(statePoll)
		defer tick.Stop()
		var seen fileID
		for {
			select {
			case <-stop:
				return
			case <-tick.C:
			}
			if b.dir.has(reserveFile) && b.dir.low() {
				b.dir.release()
				end(errFull)
			}
			id := b.dir.id(path)
			if id == seen {
				continue
			}
			data, err := b.dir.read(path, terraform.MaxState)
			if err != nil {
				continue
			}
			if _, err := b.dir.keepState(data, false); err != nil {
				fmt.Fprintln(os.Stderr, "keep state:", err)
				continue
			}
			seen = id
		}
	}()
	return func() { close(stop); <-stopped }
}

// conclude fills in what the last good state says.
func (b *build) conclude() {
	data, err := b.dir.state()
	if err != nil || len(data) == 0 {
		return
	}
	s, err := terraform.ParseState(data)
	if err != nil {
		return
	}
	b.result.Serial = s.Serial
	b.result.Resources = s.Addresses()
	b.result.Agents = terraform.Agents(data)
}
