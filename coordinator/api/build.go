package api

import (
	"context"
	"fmt"
	"maps"
	"strconv"

	"berth/coordinator"
	"berth/coordinator/rest"
)

func (v *view) build(ctx context.Context, ws coordinator.Workspace, b coordinator.Build) (rest.Build, error) {
	n, err := v.number(ctx, b.VersionID)
	return rest.Build{
		Number: b.Number, Workspace: ws.OwnerName + "/" + ws.Name, Transition: b.Transition, ThenStart: b.ThenStart != nil,
		Reason: b.Reason, Initiator: b.InitiatorName, Version: n, Status: b.Status, CancelRequested: b.CancelRequested,
		Error: oneLine(b.Error), Address: b.Address, Resources: b.Resources, Timings: b.Timings,
		Created: b.Created, Started: b.Started, Ended: b.Ended,
	}, err
}

// notice tells of an update that was refused and changed nothing, after which the workspace is as it was before: what
// happened, and what can be done. It is empty for anything else.
func (v *view) notice(ctx context.Context, ws coordinator.Workspace, b *coordinator.Build) (string, error) {
	stays := "berth start " + ws.Name + " starts it as it was"
	if b != nil && b.Reason == coordinator.ReasonRecovery && b.Transition == coordinator.Start {
		before, err := v.Store.Builds(ctx, ws.ID, b.Number, 1)
		if err != nil || len(before) == 0 {
			return "", err
		}
		stays, b = "it was started again as it was", &before[0]
	}
	if b == nil || b.Transition != coordinator.Start || b.Status != coordinator.BuildFailed ||
		b.VersionID == ws.VersionID && maps.Equal(b.Params, ws.Params) {
		return "", nil // what failed is what the workspace still is
	}
	refused, err := v.number(ctx, b.VersionID)
	if err != nil {
		return "", err
	}
	kept, err := v.number(ctx, ws.VersionID)
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("build %d, an update to version %d, was refused: %s (berth update does it then, not berth start); %s, on version %d",
		b.Number, refused, oneLine(b.Error), stays, kept), nil
}

type listBuildsInput struct {
	WorkspacePath
	PageInput
}

func (s *server) listBuilds(ctx context.Context, in *listBuildsInput) (*output[rest.Page[rest.Build]], error) {
	ws, err := s.find(ctx, in.WorkspacePath)
	if err != nil {
		return nil, err
	}
	before, err := in.before()
	if err != nil {
		return nil, err
	}
	rows, err := s.Store.Builds(ctx, ws.ID, before, in.Limit+1)
	if err != nil {
		return nil, err
	}
	view := s.view(ctx)
	p := page(rows, in.Limit, func(b coordinator.Build) string { return strconv.Itoa(b.Number) }, func(b coordinator.Build) rest.Build {
		x, buildErr := view.build(ctx, ws, b)
		if buildErr != nil {
			err = buildErr
		}
		return x
	})
	return out(p), err
}

// A BuildPath names a build in a route.
type BuildPath struct {
	WorkspacePath
	Build string `path:"build" maxLength:"20" doc:"number of a build, or latest"`
}

func (s *server) findBuild(ctx context.Context, p BuildPath) (coordinator.Workspace, coordinator.Build, error) {
	ws, err := s.find(ctx, p.WorkspacePath)
	if err != nil {
		return ws, coordinator.Build{}, err
	}
	none := coordinator.Errorf(coordinator.CodeNotFound, "%s/%s has no build %s", ws.OwnerName, ws.Name, oneLine(p.Build)).
		WithHint("berth builds " + ws.Name + " lists them")
	if p.Build == "latest" {
		b, err := s.Store.LatestBuild(ctx, ws.ID)
		if err == nil && b == nil {
			err = none
		}
		if err != nil {
			return ws, coordinator.Build{}, err
		}
		return ws, *b, nil
	}
	n, err := strconv.Atoi(p.Build)
	if err != nil || n < 1 {
		return ws, coordinator.Build{}, none
	}
	b, err := s.Store.BuildByNumber(ctx, ws.ID, n)
	return ws, b, replace(err, coordinator.CodeNotFound, none)
}

func (s *server) showBuild(ctx context.Context, in *BuildPath) (*output[rest.Build], error) {
	ws, b, err := s.findBuild(ctx, *in)
	if err != nil {
		return nil, err
	}
	x, err := s.view(ctx).build(ctx, ws, b)
	if err == nil && b.Status == coordinator.BuildQueued {
		x.Ahead, err = s.Store.QueuedBefore(ctx, b.ID)
	}
	if err != nil || b.Transition != coordinator.Start {
		return out(x), err
	}
	agents, err := s.Store.Agents(ctx, ws.ID)
	x.Timings = append(x.Timings, coordinator.StartupTimings(b, agents)...)
	return out(x), err
}

func (s *server) cancelBuild(ctx context.Context, in *BuildPath) (*output[rest.Build], error) {
	ws, b, err := s.findBuild(ctx, *in)
	if err != nil {
		return nil, err
	}
	a := actor(ctx)
	if b, err = s.Builder.Cancel(ctx, a, b.ID); err != nil {
		return nil, err
	}
	if err := s.audit(ctx, a, "build.cancel", ws.OwnerName+"/"+ws.Name, "build "+strconv.Itoa(b.Number)); err != nil {
		return nil, err
	}
	x, err := s.view(ctx).build(ctx, ws, b)
	return out(x), err
}
