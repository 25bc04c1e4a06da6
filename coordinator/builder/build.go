package builder

import (
	"context"
	"errors"
	"reflect"
	"slices"
	"strings"
	"time"

	"berth/coordinator"
)

// buildTask returns the task of a build that is recorded as running.
func (b *Builder) buildTask(build coordinator.Build) task {
	b.progressBegin(build)
	b.events.Notify(build.WorkspaceID)
	w := &buildWork{b: b, build: build}
	return task{
		id: string(build.ID), events: build.WorkspaceID,
		prepare: w.prepare, take: w.take, failed: w.failed, finish: w.finish, canceled: w.canceled,
		close: func() { b.progressEnd(build) },
	}
}

// A buildWork is a build under way. It is owned by the goroutine that carries it.
type buildWork struct {
	b      *Builder
	build  coordinator.Build
	agents []coordinator.AgentRecord // recorded last
}

func (w *buildWork) prepare(ctx context.Context) (coordinator.Job, coordinator.Secret, error) {
	job, err := w.b.jobs.Job(ctx, w.build)
	if err != nil {
		return job, "", err
	}
	state, err := w.b.store.State(ctx, w.build.WorkspaceID)
	if err != nil && coordinator.CodeOf(err) != coordinator.CodeNotFound {
		return job, "", err
	}
	job.Persistent, err = w.persistent(ctx, state.VersionID)
	return job, state.Data, err
}

// persistent returns the addresses that the guard protects: what the import of the build's version and of the
// state's version found to be persistent, and what outlived the last stop.
func (w *buildWork) persistent(ctx context.Context, made coordinator.VersionID) ([]string, error) {
	addresses, err := w.b.store.LastStopResources(ctx, w.build.WorkspaceID)
	if err != nil {
		return nil, err
	}
	addresses = slices.Clone(addresses)
	for _, id := range []coordinator.VersionID{w.build.VersionID, made} {
		if id == "" {
			continue
		}
		v, err := w.b.store.Version(ctx, id)
		if err != nil {
			return nil, err
		}
		addresses = append(addresses, v.Import.Persistent...)
	}
	slices.Sort(addresses)
	return slices.Compact(addresses), nil
}

// take records agents first, so that a fresh one can link before the apply ends, then the state.
func (w *buildWork) take(ctx context.Context, u coordinator.Update) error {
	w.b.progressLines(w.build, u.Lines)
	if err := w.takeAgents(ctx, u.Agents); err != nil || u.State == "" {
		return err
	}
	err := w.b.insist(ctx, "store the state", func() error {
		return w.b.store.PutState(ctx, coordinator.State{
			WorkspaceID: w.build.WorkspaceID, BuildID: w.build.ID, VersionID: w.build.VersionID,
			Serial: u.Serial, Data: u.State, Created: w.b.now(),
		})
	})
	return w.b.tolerate(ctx, "a state was not stored", string(w.build.ID), err)
}

func (w *buildWork) takeAgents(ctx context.Context, agents []coordinator.AgentRecord) error {
	if w.build.Transition != coordinator.Start || len(agents) == 0 || reflect.DeepEqual(agents, w.agents) {
		return nil
	}
	err := w.b.insist(ctx, "record agents", func() error {
		return w.b.store.RecordAgents(ctx, w.build.WorkspaceID, w.build.ID, agents)
	})
	if err == nil {
		w.agents = agents
		w.b.events.Notify(w.build.WorkspaceID)
	}
	return w.b.tolerate(ctx, "agents were not recorded", string(w.build.ID), err)
}

// failed is the result of a build that changed nothing: what was there is there still.
func (w *buildWork) failed(ctx context.Context, cause error) coordinator.Result {
	r := coordinator.Result{Status: coordinator.BuildFailed, Error: oneLine(cause)}
	if s, err := w.b.store.State(ctx, w.build.WorkspaceID); err == nil {
		r.Serial = s.Serial
	}
	if before, err := w.b.store.Builds(ctx, w.build.WorkspaceID, w.build.Number, 1); err == nil && len(before) == 1 {
		r.Resources = before[0].Resources
	}
	if agents, err := w.b.store.Agents(ctx, w.build.WorkspaceID); err == nil {
		for _, a := range agents {
			r.Agents = append(r.Agents, a.AgentRecord)
		}
	}
	return r
}

// finish commits the result. The store does what has to go with it in the same transaction: the start that was to
// follow, the end of the workspace's tokens.
func (w *buildWork) finish(ctx context.Context, r coordinator.Result) error {
	ws := w.build.WorkspaceID
	if !w.build.Started.IsZero() {
		queue := coordinator.Timing{Stage: "queue", Start: w.build.Created, Duration: w.build.Started.Sub(w.build.Created)}
		r.Timings = append([]coordinator.Timing{queue}, r.Timings...)
	}
	gone := r.Status == coordinator.BuildSucceeded && w.build.Transition != coordinator.Start
	var next *coordinator.Build
	err := w.b.insist(ctx, "record the result", func() (err error) {
		next, err = w.b.store.FinishBuild(ctx, w.build.ID, r, w.b.now())
		return err
	})
	if err != nil && !permanent(err) {
		return err
	}
	switch {
	case gone:
		w.b.hub.Drop(ws)
	case r.Status == coordinator.BuildSucceeded:
		w.b.hub.ManifestChanged(ws)
	}
	if next != nil {
		w.b.poke()
	}
	return err
}

func (w *buildWork) canceled(ctx context.Context) (bool, error) {
	build, err := w.b.store.Build(ctx, w.build.ID)
	return build.CancelRequested, err
}

// oneLine returns the message of err, and what to do about it, as one line of bearable length.
func oneLine(err error) string {
	text := err.Error()
	var e *coordinator.Error
	if errors.As(err, &e) && e.Hint != "" {
		text += "; " + e.Hint
	}
	return coordinator.Clip(strings.Join(strings.Fields(text), " "), 1000)
}

// A liveStatus is how far a build is.
type liveStatus struct {
	build    coordinator.BuildID
	progress coordinator.Progress // Elapsed unset
	since    time.Time            // when what it names began
	open     []underway           // resources that have begun and not ended, oldest first
}

// An underway resource is one that terraform works on.
type underway struct {
	progress coordinator.Progress
	since    time.Time
}

// track keeps the resources under way in step with p; where p tells the end of one while another goes on, the oldest
// of those is what a waiting person waits for.
func (l *liveStatus) track(p coordinator.Progress) {
	if p.Stage != "apply" || p.Address == "" || strings.HasPrefix(p.Address, "data.") || strings.Contains(p.Address, ".data.") {
		return
	}
	going := strings.HasSuffix(p.Text, "ing")
	i := slices.IndexFunc(l.open, func(u underway) bool { return u.progress.Address == p.Address })
	switch {
	case going && i < 0:
		l.open = append(l.open, underway{p, l.since})
	case !going && i >= 0 && strings.HasSuffix(p.Text, "ed"):
		l.open = slices.Delete(l.open, i, i+1)
	}
	if !going && len(l.open) > 0 {
		l.progress, l.since = l.open[0].progress, l.open[0].since
	}
}

// Progress returns how far the running build of a workspace is.
func (b *Builder) Progress(ws coordinator.WorkspaceID) (coordinator.Progress, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	l, ok := b.live[ws]
	if !ok {
		return coordinator.Progress{}, false
	}
	p := l.progress
	p.Elapsed = max(0, b.now().Sub(l.since))
	return p, true
}

func (b *Builder) progressBegin(build coordinator.Build) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.live[build.WorkspaceID] = &liveStatus{
		build:    build.ID,
		progress: coordinator.Progress{Build: build.Number, Stage: "init", Text: "preparing"},
		since:    b.now(),
	}
}

func (b *Builder) progressEnd(build coordinator.Build) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if l := b.live[build.WorkspaceID]; l != nil && l.build == build.ID {
		delete(b.live, build.WorkspaceID)
	}
}

// progressLines takes the newest line that says something as the build's progress.
func (b *Builder) progressLines(build coordinator.Build, lines []coordinator.LogLine) {
	b.mu.Lock()
	defer b.mu.Unlock()
	l := b.live[build.WorkspaceID]
	if l == nil || l.build != build.ID {
		return
	}
	for _, line := range lines {
		if line.Level == "debug" || line.Stage == "" {
			continue
		}
		text := strings.TrimSpace(strings.TrimPrefix(strings.TrimPrefix(line.Text, line.Address), ":"))
		next := coordinator.Progress{
			Build: build.Number, Stage: line.Stage, Address: line.Address,
			Text: coordinator.Clip(strings.Join(strings.Fields(text), " "), 200),
		}
		if line.Elapsed > 0 {
			l.since = b.now().Add(-line.Elapsed)
		} else if next != l.progress {
			l.since = b.now()
		}
		l.progress = next
		l.track(next)
	}
}
