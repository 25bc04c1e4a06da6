package entry

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"berth/agent"
	"berth/coordinator"
)

const (
	tellEvery   = time.Second            // progress is told at least so often
	lookEvery   = 200 * time.Millisecond // at the build, where no event tells
	leastWait   = 10 * time.Second       // for an agent, however late it is already
	maxRequests = 5                      // of builds, in one visit
)

// A visit is one Enter.
type visit struct {
	*Entry
	request Request
	ws      coordinator.Workspace
	changed <-chan struct{} // nil: look often
	asked   int             // builds requested

	told   coordinator.Progress // without Elapsed
	toldAt time.Time
}

// running returns the start build with which the workspace runs, once it does.
func (v *visit) running(ctx context.Context) (coordinator.Build, error) {
	var joined coordinator.BuildID // waited for, and how it ends is this visit's concern
	for {
		b, err := v.store.LatestBuild(ctx, v.ws.ID)
		if err != nil {
			return coordinator.Build{}, fmt.Errorf("look up build: %w", err)
		}
		switch {
		case b != nil && b.Status.Open():
			if err := v.mayWait(*b); err != nil {
				return *b, err
			}
			if b.Transition == coordinator.Start || b.ThenStart != nil {
				joined = b.ID
			}
			if err := v.waitBuild(ctx, *b); err != nil {
				return *b, err
			}
			continue
		case b != nil && b.ID == joined && b.Status != coordinator.BuildSucceeded:
			return *b, v.failure(*b)
		case b != nil && v.enterable(ctx, *b):
			return *b, nil
		case v.request.NoStart:
			return coordinator.Build{}, coordinator.Errorf(coordinator.CodeConflict, "workspace %s is not running", v.ws.Name).
				WithHint("start it: berth start " + v.ws.Name)
		case v.asked >= maxRequests:
			return coordinator.Build{}, coordinator.Errorf(coordinator.CodeUnavailable, "workspace %s does not stay started", v.ws.Name).
				WithHint("look at its builds: berth builds " + v.ws.Name)
		}
		started, err := v.start(ctx)
		if err != nil {
			return coordinator.Build{}, err
		}
		joined = started.ID
		if started.Status == coordinator.BuildSucceeded {
			return started, nil // it runs, says the builder
		}
	}
}

// enterable reports whether one can get in after a build that has ended: a start that succeeded and has not lost its
// agents for good, or any build after which the agent is there all the same.
func (v *visit) enterable(ctx context.Context, b coordinator.Build) bool {
	if b.Status == coordinator.BuildSucceeded && b.Transition != coordinator.Start {
		return false
	}
	agents, err := v.store.Agents(ctx, v.ws.ID)
	if err != nil {
		return b.Status == coordinator.BuildSucceeded
	}
	p := v.hub.Presence(v.ws.ID)
	if a, err := pick(agents, v.request.Target.Agent); err == nil && p.Connected[a.ID] {
		return true
	}
	if b.Status != coordinator.BuildSucceeded {
		return false
	}
	// One that has lost its agent is started again, once: its machine may be gone.
	lost := coordinator.Derive(&b, agents, p, v.now()).Status == coordinator.StatusUnhealthy &&
		slices.ContainsFunc(agents, func(a coordinator.WorkspaceAgent) bool { return !p.Connected[a.ID] })
	return !lost || v.asked > 0 || v.request.NoStart
}

// mayWait returns an Error for a build whose end would not lead to a running workspace.
func (v *visit) mayWait(b coordinator.Build) error {
	switch {
	case b.Transition == coordinator.Delete:
		return coordinator.Errorf(coordinator.CodeConflict, "workspace %s is being deleted", v.ws.Name)
	case b.Transition == coordinator.Stop && b.ThenStart == nil && v.request.NoStart:
		return coordinator.Errorf(coordinator.CodeConflict, "workspace %s is being stopped", v.ws.Name).
			WithHint("start it again afterwards: berth start " + v.ws.Name)
	}
	return nil
}

func (v *visit) start(ctx context.Context) (coordinator.Build, error) {
	v.asked++
	b, err := v.builder.Request(ctx, coordinator.Actor{User: v.request.User}, v.ws, coordinator.BuildRequest{
		Transition: coordinator.Start, Reason: coordinator.ReasonConnect,
	})
	if coordinator.CodeOf(err) != coordinator.CodeConflict {
		return b, err
	}
	// Another build came in between: it is waited for like any that was there before.
	open, e := v.store.LatestBuild(ctx, v.ws.ID)
	if e == nil && open != nil && open.Status.Open() {
		return *open, nil
	}
	return b, err
}

// failure is the one line that a person sees of a build that ended badly.
func (v *visit) failure(b coordinator.Build) error {
	hint := "berth logs " + v.ws.Name
	if b.Status == coordinator.BuildCanceled {
		return coordinator.Errorf(coordinator.CodeFailed, "build %d was canceled", b.Number).WithHint(hint)
	}
	s := fmt.Sprintf("build %d failed", b.Number)
	if b.Address != "" {
		s += ": " + b.Address
	}
	if b.Error != "" {
		s += ": " + b.Error
	}
	return coordinator.Errorf(coordinator.CodeFailed, "%s", s).WithHint(hint)
}

// waitBuild waits for the end of an open build.
func (v *visit) waitBuild(ctx context.Context, b coordinator.Build) error {
	for {
		v.tell(v.progress(ctx, b))
		if err := v.pause(ctx); err != nil {
			return err
		}
		now, err := v.store.Build(ctx, b.ID)
		switch {
		case coordinator.CodeOf(err) == coordinator.CodeNotFound:
			return unknown(v.request.Target) // deleted meanwhile
		case err != nil:
			return fmt.Errorf("look up build: %w", err)
		case !now.Status.Open():
			return nil
		}
		b = now
	}
}

// pause waits for a change, or until it is time to look again or to tell again.
func (v *visit) pause(ctx context.Context) error {
	limit := tellEvery
	if v.changed == nil {
		limit = lookEvery
	}
	t := time.NewTimer(limit)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-v.changed:
	case <-t.C:
	}
	return nil
}

// progress is how far an open build is.
func (v *visit) progress(ctx context.Context, b coordinator.Build) coordinator.Progress {
	if p, ok := v.builder.Progress(v.ws.ID); ok && p.Build == b.Number {
		return p
	}
	p := coordinator.Progress{Build: b.Number, Stage: "queue", Text: "waiting for a worker", Elapsed: max(0, v.now().Sub(b.Created))}
	if n, err := v.store.QueuedBefore(ctx, b.ID); err == nil && n > 0 && b.Status == coordinator.BuildQueued {
		p.Text = fmt.Sprintf("%d builds are ahead", n)
		if n == 1 {
			p.Text = "1 build is ahead"
		}
	}
	return p
}

// tell passes on progress that is new, or a second old.
func (v *visit) tell(p coordinator.Progress) {
	if v.request.Progress == nil {
		return
	}
	bare := p
	bare.Elapsed = 0
	// A tick may come a little early; told twice is better than late.
	if bare == v.told && v.now().Sub(v.toldAt) < tellEvery-lookEvery/2 {
		return
	}
	v.told, v.toldAt = bare, v.now()
	v.request.Progress(p)
}

// agent waits until the agent is connected.
func (v *visit) agent(ctx context.Context, b coordinator.Build) (coordinator.WorkspaceAgent, error) {
	agents, err := v.store.Agents(ctx, v.ws.ID)
	if err != nil {
		return coordinator.WorkspaceAgent{}, fmt.Errorf("look up agents: %w", err)
	}
	a, err := pick(agents, v.request.Target.Agent)
	if err != nil {
		return a, err
	}
	return a, v.await(ctx, b, a)
}

// await waits for the agent's link as long as its template gives it to connect.
func (v *visit) await(ctx context.Context, b coordinator.Build, a coordinator.WorkspaceAgent) error {
	limit := a.ConnectionTimeout
	if limit <= 0 {
		limit = coordinator.DefaultConnectionTimeout
	}
	begun := v.now()
	if a.FirstConnected.IsZero() && !b.Ended.IsZero() {
		limit = max(leastWait, limit-begun.Sub(b.Ended))
	}
	for {
		if v.hub.Presence(v.ws.ID).Connected[a.ID] {
			return nil
		}
		waited := v.now().Sub(begun)
		v.tell(coordinator.Progress{
			Build: b.Number, Stage: "connect", Text: "waiting for agent " + a.Name + " to connect", Elapsed: waited,
		})
		if waited >= limit {
			return coordinator.Errorf(coordinator.CodeUnavailable, "agent %s of workspace %s did not connect within %v", a.Name, v.ws.Name, limit.Round(time.Second)).
				WithHint("look at berth logs " + v.ws.Name + ", or start afresh: berth restart " + v.ws.Name)
		}
		step, cancel := context.WithTimeout(ctx, min(tellEvery, limit-waited))
		err := v.hub.Await(step, v.ws.ID, a.ID)
		cancel()
		switch {
		case err == nil:
			return nil
		case ctx.Err() != nil:
			return ctx.Err()
		case !errors.Is(err, context.DeadlineExceeded):
			return err
		}
		if err := v.stillThere(ctx, b); err != nil {
			return err
		}
	}
}

// stillThere returns an Error once another build has taken the workspace's agents away.
func (v *visit) stillThere(ctx context.Context, b coordinator.Build) error {
	latest, err := v.store.LatestBuild(ctx, v.ws.ID)
	switch {
	case err != nil:
		return fmt.Errorf("look up build: %w", err)
	case latest == nil:
		return unknown(v.request.Target)
	case latest.ID != b.ID && latest.Transition != coordinator.Start:
		return coordinator.Errorf(coordinator.CodeConflict, "workspace %s was asked to %s meanwhile", v.ws.Name, latest.Transition).
			WithHint("connect again to start it")
	}
	return nil
}

// open opens the stream and its record. A link that is lost in between is waited for once more.
func (v *visit) open(ctx context.Context, b coordinator.Build, a coordinator.WorkspaceAgent) (*Stream, error) {
	rec := coordinator.SessionRecord{
		ID: coordinator.NewID(), WorkspaceID: v.ws.ID, WorkspaceName: v.ws.Name, OwnerID: v.ws.OwnerID, OwnerName: v.ws.OwnerName,
		UserID: v.request.User.ID, UserName: v.request.User.Name, Via: v.request.Via, Peer: v.request.Peer, Agent: a.Name,
		Key: v.request.Key, Token: v.request.Token, Started: v.now(),
	}
	hdr := agent.StreamHeader{
		Kind: agent.KindSSH, ID: rec.ID, Peer: rec.Peer, Via: rec.Via,
		User: agent.Person{ID: string(v.request.User.ID), Name: v.request.User.Name},
	}
	const attempts = 3
	for n := 1; ; n++ {
		conn, err := v.hub.Open(ctx, v.ws.ID, a.ID, hdr)
		if err == nil {
			return v.begin(ctx, conn, a, rec)
		}
		if coordinator.CodeOf(err) != coordinator.CodeUnavailable || n == attempts || ctx.Err() != nil {
			return nil, err
		}
		if err := v.await(ctx, b, a); err != nil {
			return nil, err
		}
	}
}
