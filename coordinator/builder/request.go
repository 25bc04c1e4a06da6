package builder

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"berth/coordinator"
)

// A Request asks for a build.
type Request = coordinator.BuildRequest

// Request takes r into the queue and returns its build. The same request twice joins the open build; a different one
// while a build is open is a conflict. A request for what is there already returns the build that made it so. The
// zero Actor is the coordinator itself.
func (b *Builder) Request(ctx context.Context, actor coordinator.Actor, ws coordinator.Workspace, r Request) (coordinator.Build, error) {
	const attempts = 3 // another request may come between the look and the leap
	for n := 1; ; n++ {
		build, err := b.request(ctx, actor, ws.ID, r)
		if coordinator.CodeOf(err) == coordinator.CodeConflict && n < attempts {
			if open, e := b.store.OpenBuild(ctx, ws.ID); e == nil && open != nil && !open.CancelRequested {
				continue
			}
		}
		return build, err
	}
}

func (b *Builder) request(ctx context.Context, actor coordinator.Actor, id coordinator.WorkspaceID, r Request) (coordinator.Build, error) {
	ws, err := b.store.Workspace(ctx, id)
	if err != nil {
		return coordinator.Build{}, err
	}
	if err := allowed(actor, ws, r.Transition == coordinator.Stop && !r.Restart); err != nil {
		return coordinator.Build{}, err
	}
	latest, err := b.store.LatestBuild(ctx, ws.ID)
	if err != nil {
		return coordinator.Build{}, err
	}
	want, err := b.resolve(ctx, ws, r, latest)
	if err != nil {
		return coordinator.Build{}, err
	}
	if latest != nil && latest.Status.Open() {
		if joins(*latest, want) {
			return *latest, nil
		}
		return coordinator.Build{}, conflict(ws, *latest)
	}
	if done, err := b.done(ctx, ws, latest, want); done || err != nil {
		return *latest, err
	}
	want.ID = coordinator.BuildID(coordinator.NewID())
	want.WorkspaceID = ws.ID
	want.Initiator, want.InitiatorName = actor.User.ID, actor.User.Name
	want.Status, want.Created = coordinator.BuildQueued, b.now()
	if err := b.store.CreateBuild(ctx, &want); err != nil {
		return coordinator.Build{}, err
	}
	b.events.Notify(ws.ID)
	b.poke()
	return want, nil
}

// allowed checks that the actor may have this workspace built. The API checks it first; here it guards every other
// way to a build as well.
func allowed(actor coordinator.Actor, ws coordinator.Workspace, stop bool) error {
	switch {
	case actor.User.ID == "":
		return nil
	case !actor.Owns(ws.OwnerID):
		return coordinator.Errorf(coordinator.CodeNotFound, "there is no workspace %q", ws.Name)
	case actor.Workspace != "" && (actor.Workspace != ws.ID || !stop):
		return coordinator.Errorf(coordinator.CodeDenied, "a workspace's own token can only stop that workspace").
			WithHint("sign in on your own machine: berth login")
	}
	return nil
}

// resolve fills in what r leaves open: the version and parameters of a start are the workspace's, those of a stop or
// delete are what the state was made with.
func (b *Builder) resolve(ctx context.Context, ws coordinator.Workspace, r Request, latest *coordinator.Build) (coordinator.Build, error) {
	want := coordinator.Build{
		Transition: r.Transition, Reason: r.Reason, VersionID: r.VersionID, Params: r.Params, AllowDestroy: r.AllowDestroy,
	}
	if want.Reason == "" {
		want.Reason = coordinator.ReasonUser
	}
	if want.VersionID == "" {
		want.VersionID = ws.VersionID
	}
	if want.Params == nil {
		want.Params = ws.Params
	}
	if r.Restart {
		want.Transition = coordinator.Start
	}
	switch want.Transition {
	case coordinator.Start:
		if err := b.ready(ctx, want.VersionID); err != nil {
			return want, err
		}
		if !r.Restart || latest == nil || stopped(*latest) {
			return want, nil // nothing to stop first
		}
		want.ThenStart = &coordinator.Then{
			VersionID: want.VersionID, Params: want.Params, AllowDestroy: want.AllowDestroy, Reason: want.Reason,
		}
		want.Transition = coordinator.Stop
	case coordinator.Stop, coordinator.Delete:
	default:
		return want, coordinator.Errorf(coordinator.CodeInvalid, "%q is no transition of a workspace", coordinator.Clip(string(want.Transition), 20))
	}
	var err error
	want.VersionID, want.Params, err = b.made(ctx, ws)
	return want, err
}

func stopped(b coordinator.Build) bool {
	return b.Transition == coordinator.Stop && b.Status == coordinator.BuildSucceeded
}

func (b *Builder) ready(ctx context.Context, id coordinator.VersionID) error {
	v, err := b.store.Version(ctx, id)
	switch {
	case err != nil:
		return err
	case v.Status == coordinator.VersionImporting:
		return coordinator.Errorf(coordinator.CodeConflict, "version %d of the template is still being imported", v.Number).
			WithHint("wait for its import, then try again")
	case v.Status != coordinator.VersionReady:
		return coordinator.Errorf(coordinator.CodeConflict, "version %d of the template cannot be used: its import failed", v.Number).
			WithHint("choose another version")
	}
	return nil
}

// made returns the version and parameters with which the workspace's state was made.
func (b *Builder) made(ctx context.Context, ws coordinator.Workspace) (coordinator.VersionID, map[string]string, error) {
	s, err := b.store.State(ctx, ws.ID)
	if coordinator.CodeOf(err) == coordinator.CodeNotFound {
		return ws.VersionID, ws.Params, nil
	}
	if err != nil {
		return "", nil, err
	}
	build, err := b.store.Build(ctx, s.BuildID)
	if err != nil {
		return "", nil, err
	}
	return s.VersionID, build.Params, nil
}

// joins reports whether the open build does what is wanted.
func joins(open, want coordinator.Build) bool {
	if open.CancelRequested {
		return false
	}
	switch {
	case want.Transition == coordinator.Delete:
		return open.Transition == coordinator.Delete
	case want.Transition == coordinator.Stop && want.ThenStart == nil:
		return open.Transition == coordinator.Stop && open.ThenStart == nil
	case want.ThenStart != nil:
		return open.ThenStart != nil && sameStart(*open.ThenStart, *want.ThenStart)
	}
	start := coordinator.Then{VersionID: want.VersionID, Params: want.Params, AllowDestroy: want.AllowDestroy}
	if open.ThenStart != nil {
		return sameStart(*open.ThenStart, start)
	}
	return open.Transition == coordinator.Start &&
		sameStart(coordinator.Then{VersionID: open.VersionID, Params: open.Params, AllowDestroy: open.AllowDestroy}, start)
}

func sameStart(open, want coordinator.Then) bool {
	return open.VersionID == want.VersionID && maps.Equal(open.Params, want.Params) &&
		!slices.ContainsFunc(want.AllowDestroy, func(a string) bool { return !slices.Contains(open.AllowDestroy, a) })
}

// done reports whether the workspace is already as it is wanted. A started workspace that has lost an agent is not:
// its machine may be gone, and another start makes it again.
func (b *Builder) done(ctx context.Context, ws coordinator.Workspace, latest *coordinator.Build, want coordinator.Build) (bool, error) {
	if latest == nil || latest.Status != coordinator.BuildSucceeded || latest.Transition != want.Transition || want.ThenStart != nil {
		return false, nil
	}
	if want.Transition != coordinator.Start {
		return want.Transition == coordinator.Stop, nil
	}
	if latest.VersionID != want.VersionID || !maps.Equal(latest.Params, want.Params) {
		return false, nil
	}
	agents, err := b.store.Agents(ctx, ws.ID)
	if err != nil {
		return false, err
	}
	p := b.hub.Presence(ws.ID)
	if coordinator.Derive(latest, agents, p, b.now()).Status != coordinator.StatusUnhealthy {
		return true, nil
	}
	gone := func(a coordinator.WorkspaceAgent) bool { return !p.Connected[a.ID] }
	return !slices.ContainsFunc(agents, gone), nil
}

func conflict(ws coordinator.Workspace, open coordinator.Build) *coordinator.Error {
	doing := "is running"
	switch {
	case open.CancelRequested:
		doing = "is being canceled"
	case open.Status == coordinator.BuildQueued:
		doing = "waits in the queue"
	case open.ThenStart != nil:
		doing = "is running, and a start follows"
	}
	return coordinator.Errorf(coordinator.CodeConflict, "%s build %d of %s %s", open.Transition, open.Number, ws.Name, doing).
		WithHint(fmt.Sprintf("wait until it has ended, or cancel it: berth cancel %s", ws.Name))
}

// Cancel asks an open build to end: one that waits ends at once, one that runs once terraform has ended in order.
func (b *Builder) Cancel(ctx context.Context, actor coordinator.Actor, id coordinator.BuildID) (coordinator.Build, error) {
	build, err := b.store.Build(ctx, id)
	if err != nil {
		return build, err
	}
	ws, err := b.store.Workspace(ctx, build.WorkspaceID)
	if err != nil {
		return build, err
	}
	if err := allowed(actor, ws, false); err != nil {
		return build, err
	}
	if build.Status.Open() {
		build, err = b.store.RequestCancel(ctx, id)
	}
	if err != nil {
		return build, err
	}
	if !build.Status.Open() && build.Status != coordinator.BuildCanceled {
		return build, coordinator.Errorf(coordinator.CodeConflict, "build %d of %s has %s already", build.Number, ws.Name, build.Status)
	}
	b.events.Notify(ws.ID)
	b.interrupt(string(id))
	return build, nil
}
