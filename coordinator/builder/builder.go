// Package builder carries builds and imports: it takes requests into the queue, claims what waits there, has a
// runner do it, follows the runner's files into the store, and records the end. The queue is the database's; what the
// builder itself remembers is the progress of open builds, which nobody misses after a restart.
package builder

import (
	"context"
	"errors"
	"log/slog"
	"runtime"
	"sync"
	"time"

	"berth/coordinator"
)

// A Store keeps workspaces, builds, states, agents and logs.
type Store interface {
	Workspaces
	Queue
	Records
	Versions
}

// Workspaces are the facts from which a request is judged.
type Workspaces interface {
	Workspace(ctx context.Context, id coordinator.WorkspaceID) (coordinator.Workspace, error)
	Agents(ctx context.Context, ws coordinator.WorkspaceID) ([]coordinator.WorkspaceAgent, error)
	State(ctx context.Context, ws coordinator.WorkspaceID) (coordinator.State, error)
	LastStopResources(ctx context.Context, ws coordinator.WorkspaceID) ([]string, error)
}

// A Queue holds builds.
type Queue interface {
	CreateBuild(ctx context.Context, b *coordinator.Build) error
	OpenBuild(ctx context.Context, ws coordinator.WorkspaceID) (*coordinator.Build, error)
	LatestBuild(ctx context.Context, ws coordinator.WorkspaceID) (*coordinator.Build, error)
	Build(ctx context.Context, id coordinator.BuildID) (coordinator.Build, error)
	Builds(ctx context.Context, ws coordinator.WorkspaceID, before, limit int) ([]coordinator.Build, error)
	ClaimBuild(ctx context.Context, now time.Time) (*coordinator.Build, error)
	RunningBuilds(ctx context.Context) ([]coordinator.Build, error)
	RequestCancel(ctx context.Context, id coordinator.BuildID) (coordinator.Build, error)
}

// Records take in what a build brings forth.
type Records interface {
	AppendLog(ctx context.Context, build coordinator.BuildID, lines []coordinator.LogLine) error
	PutState(ctx context.Context, s coordinator.State) error
	RecordAgents(ctx context.Context, ws coordinator.WorkspaceID, build coordinator.BuildID, recs []coordinator.AgentRecord) error
	FinishBuild(ctx context.Context, id coordinator.BuildID, r coordinator.Result, now time.Time) (*coordinator.Build, error)
}

// Versions are the templates' versions and their imports.
type Versions interface {
	Version(ctx context.Context, id coordinator.VersionID) (coordinator.TemplateVersion, error)
	ImportingVersions(ctx context.Context) ([]coordinator.TemplateVersion, error)
	FinishImport(ctx context.Context, id coordinator.VersionID, r coordinator.Result) error
}

// A Runner carries jobs in processes of their own, which outlive the coordinator.
type Runner interface {
	// Begin starts the job's runner on the given state.
	Begin(job coordinator.Job, state coordinator.Secret) error
	// Follow reports what the runner's files hold, from their beginning, until the job has ended. It returns ctx's
	// error once ctx ends, and coordinator.ErrNeverBegan for a job that has not begun.
	Follow(ctx context.Context, id string, each func(coordinator.Update)) (coordinator.Result, error)
	// Cancel asks the runner to end in order.
	Cancel(id string) error
	// Wipe removes the runner's files.
	Wipe(id string) error
	// Jobs returns the ids of the jobs that have files.
	Jobs() ([]string, error)
}

// Jobs composes what a runner needs.
type Jobs interface {
	Job(ctx context.Context, b coordinator.Build) (coordinator.Job, error)
	ImportJob(ctx context.Context, v coordinator.TemplateVersion) (coordinator.Job, error)
}

// Events wakes those who watch a workspace.
type Events interface {
	Notify(ws coordinator.WorkspaceID)
}

// A Hub holds the links of live agents.
type Hub interface {
	// Drop ends every link of a workspace that is stopped or gone.
	Drop(ws coordinator.WorkspaceID)
	// ManifestChanged tells the workspace's agents that their manifest, with its start build, is another now.
	ManifestChanged(ws coordinator.WorkspaceID)
	// Presence says which agents are connected.
	Presence(ws coordinator.WorkspaceID) coordinator.Presence
}

// A Config is what a Builder is made of. Workers is how many jobs run at once, the number of CPUs by default;
// Imported is called after each import, which may have left files that nothing refers to; Imported, Logger and Now may
// be left out as well.
type Config struct {
	Store   Store
	Runner  Runner
	Jobs    Jobs
	Events  Events
	Hub     Hub
	Workers int

	Imported func()
	Logger   *slog.Logger
	Now      func() time.Time
}

// A Builder carries builds and imports.
type Builder struct {
	store  Store
	runner Runner
	jobs   Jobs
	events Events
	hub    Hub
	limit  int
	log    *slog.Logger
	now    func() time.Time

	imported func()
	wake     chan struct{} // capacity 1: there may be something to claim

	mu      sync.Mutex
	active  int                                     // jobs under way; guarded by mu
	imports []coordinator.TemplateVersion           // waiting; guarded by mu
	taken   map[coordinator.VersionID]bool          // imports waiting or under way; guarded by mu
	cancels map[string]chan struct{}                // by job under way, capacity 1: a cancel was asked for; guarded by mu
	live    map[coordinator.WorkspaceID]*liveStatus // of builds under way; guarded by mu
}

// New returns a Builder, which does nothing but take requests until Run is called.
func New(c Config) *Builder {
	b := &Builder{
		store: c.Store, runner: c.Runner, jobs: c.Jobs, events: c.Events, hub: c.Hub,
		limit: c.Workers, log: c.Logger, now: c.Now, imported: c.Imported,
		wake:    make(chan struct{}, 1),
		taken:   make(map[coordinator.VersionID]bool),
		cancels: make(map[string]chan struct{}),
		live:    make(map[coordinator.WorkspaceID]*liveStatus),
	}
	if b.limit <= 0 {
		b.limit = runtime.NumCPU()
	}
	if b.imported == nil {
		b.imported = func() {}
	}
	if b.log == nil {
		b.log = slog.New(slog.DiscardHandler)
	}
	if b.now == nil {
		b.now = time.Now
	}
	return b
}

// Run adopts what was running, then claims and carries builds and imports until ctx ends. It returns once it has let
// go of every job; their runners go on, and the next Run adopts them.
func (b *Builder) Run(ctx context.Context) error {
	var work sync.WaitGroup
	defer work.Wait()
	if err := b.adopt(ctx, &work); err != nil {
		return ended(ctx, err)
	}
	for {
		if err := b.claim(ctx, &work); err != nil {
			if ctx.Err() != nil {
				return nil
			}
			b.log.Error("cannot claim a build", "err", err)
			if pause(ctx, time.Second) != nil {
				return nil
			}
			continue
		}
		select {
		case <-ctx.Done():
			return nil
		case <-b.wake:
		}
	}
}

// ended returns nil in place of the error of a context that ended as it should.
func ended(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// adopt follows every build that was running, whatever became of its runner, queues every import, and removes the
// files of every other job.
func (b *Builder) adopt(ctx context.Context, work *sync.WaitGroup) error {
	var running []coordinator.Build
	var importing []coordinator.TemplateVersion
	err := b.insist(ctx, "list running builds", func() (err error) {
		if running, err = b.store.RunningBuilds(ctx); err != nil {
			return err
		}
		importing, err = b.store.ImportingVersions(ctx)
		return err
	})
	if err != nil {
		return err
	}
	b.clearUp(running, importing)
	for _, v := range importing {
		b.Import(ctx, v)
	}
	for _, build := range running {
		b.mu.Lock()
		b.active++
		b.mu.Unlock()
		work.Go(func() {
			defer b.release()
			b.carry(ctx, b.buildTask(build), true)
		})
	}
	return nil
}

// clearUp removes what ended jobs left if the coordinator died after it had committed their results: it holds plain
// states. It is called before anything is claimed, so that what is not open cannot be beginning.
func (b *Builder) clearUp(running []coordinator.Build, importing []coordinator.TemplateVersion) {
	ids, err := b.runner.Jobs()
	if err != nil {
		b.log.Error("cannot list what runners left", "err", err)
	}
	open := make(map[string]bool)
	for _, build := range running {
		open[string(build.ID)] = true
	}
	for _, v := range importing {
		open[string(v.ID)] = true
	}
	for _, id := range ids {
		if !open[id] {
			b.log.Info("removing what an ended job left", "job", id)
			b.wipe(id)
		}
	}
}

// claim starts as many waiting jobs as there are free workers. Builds go first: people wait for them.
func (b *Builder) claim(ctx context.Context, work *sync.WaitGroup) error {
	for b.reserve() {
		build, err := b.store.ClaimBuild(ctx, b.now())
		if err != nil {
			b.release()
			return err
		}
		if build != nil {
			work.Go(func() {
				defer b.release()
				b.carry(ctx, b.buildTask(*build), false)
			})
			continue
		}
		v, ok := b.nextImport()
		if !ok {
			b.mu.Lock()
			b.active-- // without a wake-up: there is nothing to claim
			b.mu.Unlock()
			return nil
		}
		work.Go(func() {
			defer b.release()
			b.carry(ctx, b.importTask(v), true)
		})
	}
	return nil
}

func (b *Builder) reserve() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.active >= b.limit {
		return false
	}
	b.active++
	return true
}

func (b *Builder) release() {
	b.mu.Lock()
	b.active--
	b.mu.Unlock()
	b.poke()
}

// poke wakes Run.
func (b *Builder) poke() {
	select {
	case b.wake <- struct{}{}:
	default:
	}
}

// Pauses between attempts of something that has to succeed.
const (
	minPause = 250 * time.Millisecond
	maxPause = 5 * time.Second
)

// insist calls f until it succeeds, with a pause between attempts: a full disk or a busy database must not lose what
// a runner has told. It gives up when ctx ends, and on an error that another attempt cannot mend.
func (b *Builder) insist(ctx context.Context, what string, f func() error) error {
	for wait := minPause; ; wait = min(2*wait, maxPause) {
		err := f()
		if err == nil || permanent(err) {
			return err
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		b.log.Error("trying again", "what", what, "err", err, "pause", wait)
		if err := pause(ctx, wait); err != nil {
			return err
		}
	}
}

// permanent reports whether err says that the thing asked for cannot be, however often it is asked for.
func permanent(err error) bool {
	var e *coordinator.Error
	return errors.As(err, &e) && e.Code != coordinator.CodeInternal && e.Code != coordinator.CodeUnavailable
}

func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}
