package api

import (
	"context"
	"strings"

	"berth/coordinator"
	"berth/coordinator/rest"
)

// noWorkspace is the answer for a workspace that is not there and for one that is somebody else's: who may not see it
// must not learn that it exists.
func noWorkspace(owner, name string) error {
	return coordinator.Errorf(coordinator.CodeNotFound, "there is no workspace %s/%s", oneLine(owner), oneLine(name)).
		WithHint("berth list shows your workspaces")
}

// A WorkspacePath names a workspace in a route.
type WorkspacePath struct {
	Owner string `path:"owner" maxLength:"200" doc:"name of a user, or me"`
	Name  string `path:"name" maxLength:"200"`
}

// find returns the workspace that p names, if the caller may see it.
func (s *server) find(ctx context.Context, p WorkspacePath) (coordinator.Workspace, error) {
	a := actor(ctx)
	none := noWorkspace(p.Owner, p.Name)
	owner := a.User
	if p.Owner != "me" && p.Owner != a.User.Name {
		if a.User.Role != coordinator.RoleOwner || a.Workspace != "" {
			return coordinator.Workspace{}, none
		}
		var err error
		if owner, err = s.Store.UserByName(ctx, p.Owner); err != nil {
			return coordinator.Workspace{}, replace(err, coordinator.CodeNotFound, none)
		}
	}
	ws, err := s.Store.WorkspaceByName(ctx, owner.ID, p.Name)
	if err != nil {
		return coordinator.Workspace{}, replace(err, coordinator.CodeNotFound, none)
	}
	if !a.Owns(ws.OwnerID) {
		return coordinator.Workspace{}, none
	}
	if a.Workspace != "" && a.Workspace != ws.ID {
		return coordinator.Workspace{}, denied(a)
	}
	return ws, nil
}

// replace returns with in place of an error with the code.
func replace(err error, code coordinator.Code, with error) error {
	if coordinator.CodeOf(err) == code {
		return with
	}
	return err
}

// A view makes workspaces of the API from rows, and remembers versions meanwhile.
type view struct {
	*server
	versions map[coordinator.VersionID]int
	active   map[coordinator.TemplateID]coordinator.VersionID
	actor    coordinator.Actor
}

func (s *server) view(ctx context.Context) *view {
	return &view{s, map[coordinator.VersionID]int{}, map[coordinator.TemplateID]coordinator.VersionID{}, actor(ctx)}
}

func (v *view) number(ctx context.Context, id coordinator.VersionID) (int, error) {
	if n, ok := v.versions[id]; ok || id == "" {
		return n, nil
	}
	version, err := v.Store.Version(ctx, id)
	if err != nil {
		return 0, err
	}
	v.versions[id] = version.Number
	return version.Number, nil
}

func (v *view) outdated(ctx context.Context, ws coordinator.Workspace) (bool, error) {
	active, ok := v.active[ws.TemplateID]
	if !ok {
		t, err := v.Store.TemplateByID(ctx, ws.TemplateID)
		if err != nil {
			return false, err
		}
		active = t.Active
		v.active[ws.TemplateID] = active
	}
	return active != "" && active != ws.VersionID, nil
}

// workspace makes the API's workspace. A workspace's own token sees no more of the owner's others than that they are.
func (v *view) workspace(ctx context.Context, ws coordinator.Workspace, b *coordinator.Build, agents []coordinator.WorkspaceAgent) (rest.Workspace, error) {
	presence := v.Hub.Presence(ws.ID)
	health := coordinator.Derive(b, agents, presence, v.Now())
	w := rest.Workspace{
		ID: ws.ID, Name: ws.Name, Owner: ws.OwnerName, Template: ws.Template, Status: health.Status, Reason: oneLine(health.Reason),
		Params: ws.Params, Created: ws.Created, LastUsed: ws.LastUsed,
		HostNames: []string{ws.Name + "." + v.Server.Suffix, coordinator.Target{Workspace: ws.Name}.HostName(ws.OwnerName, v.Server.Suffix)},
	}
	var err error
	if w.Version, err = v.number(ctx, ws.VersionID); err != nil {
		return w, err
	}
	if w.Outdated, err = v.outdated(ctx, ws); err != nil {
		return w, err
	}
	if v.actor.Workspace != "" && v.actor.Workspace != ws.ID {
		w.Params, w.Reason = nil, ""
		return w, nil
	}
	for _, a := range agents {
		w.Agents = append(w.Agents, rest.Agent{
			Name: a.Name, Resource: a.Resource, Connected: presence.Connected[a.ID], Version: presence.Versions[a.ID],
			Ready: a.Ready, Steps: a.Steps, IDEs: presence.IDEs[a.ID],
		})
	}
	if b != nil {
		build, err := v.build(ctx, ws, *b)
		if err != nil {
			return w, err
		}
		w.Build = &build
	}
	return w, nil
}

// present makes the API's workspace of a row, reading what belongs to it.
func (s *server) present(ctx context.Context, ws coordinator.Workspace) (rest.Workspace, error) {
	b, err := s.Store.LatestBuild(ctx, ws.ID)
	if err != nil {
		return rest.Workspace{}, err
	}
	agents, err := s.Store.Agents(ctx, ws.ID)
	if err != nil {
		return rest.Workspace{}, err
	}
	view := s.view(ctx)
	w, err := view.workspace(ctx, ws, b, agents)
	if err != nil || w.Build == nil {
		return w, err
	}
	w.Notice, err = view.notice(ctx, ws, b)
	return w, err
}

type listWorkspacesInput struct {
	PageInput
	Owner string `query:"owner" maxLength:"32" doc:"of this user; the caller's own by default"`
	All   bool   `query:"all" doc:"everybody's, which needs the role owner"`
}

func (s *server) listWorkspaces(ctx context.Context, in *listWorkspacesInput) (*output[rest.Page[rest.Workspace]], error) {
	owner, err := s.listOwner(ctx, in)
	if err != nil {
		return nil, err
	}
	after, err := in.after()
	if err != nil {
		return nil, err
	}
	rows, err := s.Store.Workspaces(ctx, owner, after, in.Limit+1)
	if err != nil {
		return nil, err
	}
	p := page(rows, in.Limit, func(w coordinator.Workspace) string { return w.OwnerName + "/" + w.Name },
		func(w coordinator.Workspace) coordinator.Workspace { return w })
	ids := make([]coordinator.WorkspaceID, len(p.Items))
	for i, w := range p.Items {
		ids[i] = w.ID
	}
	builds, err := s.Store.LatestBuilds(ctx, ids)
	if err != nil {
		return nil, err
	}
	agents, err := s.Store.AgentsOf(ctx, ids)
	if err != nil {
		return nil, err
	}
	view := s.view(ctx)
	answer := rest.Page[rest.Workspace]{Items: []rest.Workspace{}, Next: p.Next}
	for _, w := range p.Items {
		var latest *coordinator.Build
		if b, ok := builds[w.ID]; ok {
			latest = &b
		}
		x, err := view.workspace(ctx, w, latest, agents[w.ID])
		if err != nil {
			return nil, err
		}
		answer.Items = append(answer.Items, x)
	}
	return out(answer), nil
}

// listOwner is whose workspaces are listed; "" for everybody's.
func (s *server) listOwner(ctx context.Context, in *listWorkspacesInput) (coordinator.UserID, error) {
	a := actor(ctx)
	other := in.All || in.Owner != "" && in.Owner != "me" && in.Owner != a.User.Name
	switch {
	case !other:
		return a.User.ID, nil
	case a.User.Role != coordinator.RoleOwner || a.Workspace != "":
		return "", denied(a)
	case in.All:
		return "", nil
	}
	u, err := s.Store.UserByName(ctx, in.Owner)
	return u.ID, err
}

func (s *server) showWorkspace(ctx context.Context, in *WorkspacePath) (*output[rest.Workspace], error) {
	ws, err := s.find(ctx, *in)
	if err != nil {
		return nil, err
	}
	w, err := s.present(ctx, ws)
	return out(w), err
}

func (s *server) createWorkspace(ctx context.Context, in *struct{ Body rest.CreateWorkspace }) (*output[rest.Workspace], error) {
	a := actor(ctx)
	if err := coordinator.CheckName("workspace", in.Body.Name); err != nil {
		return nil, err
	}
	t, err := s.Store.Template(ctx, in.Body.Template)
	if err != nil {
		return nil, err
	}
	v, err := s.usable(ctx, t, in.Body.Version)
	if err != nil {
		return nil, err
	}
	params, err := choose(choice{}, v.Import.Parameters, in.Body.Params)
	if err != nil {
		return nil, err
	}
	identity, err := s.Issuer.HostIdentity()
	if err != nil {
		return nil, err
	}
	ws := coordinator.Workspace{
		Name: in.Body.Name, OwnerID: a.User.ID, OwnerName: a.User.Name, TemplateID: t.ID, Template: t.Name, VersionID: v.ID, Params: params,
	}
	if err := s.Store.CreateWorkspace(ctx, &ws, identity); err != nil {
		return nil, err
	}
	if err := s.audit(ctx, a, "workspace.create", a.User.Name+"/"+ws.Name, "template "+t.Name); err != nil {
		return nil, err
	}
	if !in.Body.Stopped {
		r := coordinator.BuildRequest{Transition: coordinator.Start, VersionID: v.ID, Params: params, Reason: coordinator.ReasonUser}
		if _, err := s.Builder.Request(ctx, a, ws, r); err != nil {
			return nil, err
		}
	}
	if ws, err = s.Store.Workspace(ctx, ws.ID); err != nil {
		return nil, err
	}
	w, err := s.present(ctx, ws)
	return out(w), err
}

type startInput struct {
	WorkspacePath
	Body *rest.StartWorkspace
}

func (s *server) startWorkspace(ctx context.Context, in *startInput) (*output[rest.Build], error) {
	return s.begin(ctx, in, false)
}

func (s *server) restartWorkspace(ctx context.Context, in *startInput) (*output[rest.Build], error) {
	return s.begin(ctx, in, true)
}

// begin requests a start, or a restart, on the version and with the parameters that are asked for.
func (s *server) begin(ctx context.Context, in *startInput, restart bool) (*output[rest.Build], error) {
	ws, err := s.find(ctx, in.WorkspacePath)
	if err != nil {
		return nil, err
	}
	body := rest.StartWorkspace{}
	if in.Body != nil {
		body = *in.Body
	}
	r := coordinator.BuildRequest{
		Transition: coordinator.Start, Restart: restart, AllowDestroy: body.AllowDestroy, Reason: reason(actor(ctx), ws),
	}
	if body.Update || body.Version > 0 || len(body.Params) > 0 {
		if r.VersionID, r.Params, err = s.move(ctx, ws, body); err != nil {
			return nil, err
		}
		r.Reason = coordinator.ReasonUpdate
	}
	return s.request(ctx, ws, r)
}

// move finds the version and the values that a workspace moves to.
func (s *server) move(ctx context.Context, ws coordinator.Workspace, body rest.StartWorkspace) (coordinator.VersionID, map[string]string, error) {
	current, err := s.Store.Version(ctx, ws.VersionID)
	if err != nil {
		return "", nil, err
	}
	next := current
	if body.Update || body.Version > 0 {
		t, err := s.Store.TemplateByID(ctx, ws.TemplateID)
		if err != nil {
			return "", nil, err
		}
		if next, err = s.usable(ctx, t, body.Version); err != nil {
			return "", nil, err
		}
	}
	params, err := choose(choice{current.Import.Parameters, ws.Params}, next.Import.Parameters, body.Params)
	return next.ID, params, err
}

func reason(a coordinator.Actor, ws coordinator.Workspace) coordinator.Reason {
	if a.User.ID != ws.OwnerID {
		return coordinator.ReasonAdmin
	}
	return coordinator.ReasonUser
}

// request asks the builder, writes it down and answers with the build.
func (s *server) request(ctx context.Context, ws coordinator.Workspace, r coordinator.BuildRequest) (*output[rest.Build], error) {
	a := actor(ctx)
	b, err := s.Builder.Request(ctx, a, ws, r)
	if err != nil {
		return nil, err
	}
	action := "workspace." + string(r.Transition)
	if r.Restart {
		action = "workspace.restart"
	}
	var detail []string
	if len(r.AllowDestroy) > 0 {
		detail = append(detail, "allow destroy "+strings.Join(r.AllowDestroy, " "))
	}
	if err := s.audit(ctx, a, action, ws.OwnerName+"/"+ws.Name, strings.Join(detail, ", ")); err != nil {
		return nil, err
	}
	x, err := s.view(ctx).build(ctx, ws, b)
	return out(x), err
}

func (s *server) stopWorkspace(ctx context.Context, in *WorkspacePath) (*output[rest.Build], error) {
	ws, err := s.find(ctx, *in)
	if err != nil {
		return nil, err
	}
	return s.request(ctx, ws, coordinator.BuildRequest{Transition: coordinator.Stop, Reason: reason(actor(ctx), ws)})
}

func (s *server) deleteWorkspace(ctx context.Context, in *WorkspacePath) (*output[rest.Build], error) {
	ws, err := s.find(ctx, *in)
	if err != nil {
		return nil, err
	}
	return s.request(ctx, ws, coordinator.BuildRequest{Transition: coordinator.Delete, Reason: reason(actor(ctx), ws)})
}

type pingInput struct {
	WorkspacePath
	Agent string `query:"agent" maxLength:"32"`
}

func (s *server) ping(ctx context.Context, in *pingInput) (*output[rest.Ping], error) {
	ws, err := s.find(ctx, in.WorkspacePath)
	if err != nil {
		return nil, err
	}
	if ws.OwnerID != actor(ctx).User.ID {
		return nil, coordinator.Errorf(coordinator.CodeDenied, "only its owner reaches a workspace")
	}
	agents, err := s.Store.Agents(ctx, ws.ID)
	if err != nil {
		return nil, err
	}
	a, err := pickAgent(agents, in.Agent)
	if err != nil {
		return nil, err
	}
	rtt, err := s.Hub.Ping(ctx, ws.ID, a.ID)
	return out(rest.Ping{Agent: a.Name, RTT: rtt}), err
}

// pickAgent is the named agent; the only one, or main, where no name is given.
func pickAgent(agents []coordinator.WorkspaceAgent, name string) (coordinator.WorkspaceAgent, error) {
	var names []string
	for _, a := range agents {
		if a.Name == name || name == "" && (len(agents) == 1 || a.Name == "main") {
			return a, nil
		}
		names = append(names, a.Name)
	}
	switch {
	case len(agents) == 0:
		return coordinator.WorkspaceAgent{}, coordinator.Errorf(coordinator.CodeConflict, "the workspace is not running").WithHint("start it with berth start")
	case name == "":
		return coordinator.WorkspaceAgent{}, coordinator.Errorf(coordinator.CodeInvalid, "the workspace has several agents").WithHint("name one of " + strings.Join(names, ", "))
	}
	return coordinator.WorkspaceAgent{}, coordinator.Errorf(coordinator.CodeNotFound, "the workspace has no agent %s", oneLine(name)).WithHint("it has " + strings.Join(names, ", "))
}
