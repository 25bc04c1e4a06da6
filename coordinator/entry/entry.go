// Package entry is the one way into a workspace, for every door: it finds what a person named, starts it or joins the
// build that is under way, waits for the agent with progress, opens the stream, and keeps the record of the session.
package entry

import (
	"context"
	"log/slog"
	"net"
	"slices"
	"strings"
	"time"

	"berth/agent"
	"berth/coordinator"
)

// A Store knows workspaces and keeps the records of sessions.
type Store interface {
	Workspaces
	Sessions
}

// Workspaces are what there is to enter.
type Workspaces interface {
	WorkspaceByName(ctx context.Context, owner coordinator.UserID, name string) (coordinator.Workspace, error)
	LatestBuild(ctx context.Context, ws coordinator.WorkspaceID) (*coordinator.Build, error)
	Build(ctx context.Context, id coordinator.BuildID) (coordinator.Build, error)
	QueuedBefore(ctx context.Context, id coordinator.BuildID) (int, error)
	Agents(ctx context.Context, ws coordinator.WorkspaceID) ([]coordinator.WorkspaceAgent, error)
}

// Sessions are the records of who was in.
type Sessions interface {
	OpenSession(ctx context.Context, s coordinator.SessionRecord) error
	CloseSession(ctx context.Context, s coordinator.SessionRecord) error
	TouchWorkspace(ctx context.Context, id coordinator.WorkspaceID, now time.Time) error
}

// A Builder starts workspaces.
type Builder interface {
	Request(ctx context.Context, actor coordinator.Actor, ws coordinator.Workspace, r coordinator.BuildRequest) (coordinator.Build, error)
	Progress(ws coordinator.WorkspaceID) (coordinator.Progress, bool)
}

// A Hub opens streams to agents.
type Hub interface {
	Await(ctx context.Context, ws coordinator.WorkspaceID, agentID string) error
	Presence(ws coordinator.WorkspaceID) coordinator.Presence
	Open(ctx context.Context, ws coordinator.WorkspaceID, agentID string, hdr agent.StreamHeader) (net.Conn, error)
}

// A Config is what an Entry is made of. Logger and Now have defaults. Events is optional: with it a change is seen at
// once, without it within a moment.
type Config struct {
	Store   Store
	Builder Builder
	Hub     Hub
	Events  Events
	Logger  *slog.Logger
	Now     func() time.Time
}

// Events wakes those who watch a workspace.
type Events interface {
	Watch(ws coordinator.WorkspaceID) (<-chan struct{}, func())
}

// An Entry lets people into their workspaces.
type Entry struct {
	store   Store
	builder Builder
	hub     Hub
	events  Events
	log     *slog.Logger
	now     func() time.Time
}

// New returns an Entry.
func New(c Config) *Entry {
	e := &Entry{store: c.Store, builder: c.Builder, hub: c.Hub, events: c.Events, log: c.Logger, now: c.Now}
	if e.log == nil {
		e.log = slog.New(slog.DiscardHandler)
	}
	if e.now == nil {
		e.now = time.Now
	}
	return e
}

// A Request asks for a stream into a workspace.
type Request struct {
	User    coordinator.User
	Target  coordinator.Target
	Peer    string // the true peer, host:port
	Key     string // fingerprint of the SSH key that the user proved; empty where they came with a token
	Token   string // name of the API token that they came with; empty where it was none
	Via     string // one of agent's Via constants
	NoStart bool   // do not start a stopped workspace
	// Progress is called while Enter waits: at once, on change, and at least every second. It may be nil.
	Progress func(coordinator.Progress)
}

// Lookup finds a workspace that the user may enter: their own, and nobody else's. One that is not theirs looks like
// one that is not there.
func (e *Entry) Lookup(ctx context.Context, user coordinator.User, t coordinator.Target) (coordinator.Workspace, error) {
	if user.ID == "" || t.Owner != "" && t.Owner != user.Name {
		return coordinator.Workspace{}, unknown(t)
	}
	ws, err := e.store.WorkspaceByName(ctx, user.ID, t.Workspace)
	if coordinator.CodeOf(err) == coordinator.CodeNotFound || err == nil && ws.OwnerID != user.ID {
		return coordinator.Workspace{}, unknown(t)
	}
	return ws, err
}

func unknown(t coordinator.Target) error {
	t.Agent = ""
	return coordinator.Errorf(coordinator.CodeNotFound, "you have no workspace %q", coordinator.Clip(t.String(), 80)).
		WithHint("see what you have: berth list")
}

// Enter opens an SSH stream into the workspace. It starts a workspace that does not run, joins a build that is under
// way, and waits for the agent; everything that it waits for ends with ctx, whose error it returns then.
func (e *Entry) Enter(ctx context.Context, r Request) (*Stream, error) {
	s, err := e.enter(ctx, r)
	if err != nil && ctx.Err() != nil {
		err = ctx.Err()
	}
	return s, err
}

func (e *Entry) enter(ctx context.Context, r Request) (*Stream, error) {
	ws, err := e.Lookup(ctx, r.User, r.Target)
	if err != nil {
		return nil, err
	}
	v := &visit{Entry: e, request: r, ws: ws}
	if e.events != nil {
		changed, stop := e.events.Watch(ws.ID)
		defer stop()
		v.changed = changed
	}
	build, err := v.running(ctx)
	if err != nil {
		return nil, err
	}
	a, err := v.agent(ctx, build)
	if err != nil {
		return nil, err
	}
	return v.open(ctx, build, a)
}

// pick finds the agent that is meant: the one that is named, else the only one, else main.
func pick(agents []coordinator.WorkspaceAgent, name string) (coordinator.WorkspaceAgent, error) {
	var names []string
	for _, a := range agents {
		names = append(names, a.Name)
	}
	want := name
	if want == "" {
		want = "main"
	}
	switch i := slices.Index(names, want); {
	case i >= 0:
		return agents[i], nil
	case len(agents) == 0:
		return coordinator.WorkspaceAgent{}, coordinator.Errorf(coordinator.CodeUnavailable, "the workspace has no agent").
			WithHint("its template has to run one; ask its author")
	case name == "" && len(agents) == 1:
		return agents[0], nil
	case name == "":
		return coordinator.WorkspaceAgent{}, coordinator.Errorf(coordinator.CodeNotFound, "the workspace has several agents: %s", strings.Join(names, ", ")).
			WithHint("say which one: workspace.agent")
	default:
		return coordinator.WorkspaceAgent{}, coordinator.Errorf(coordinator.CodeNotFound, "the workspace has no agent %q", coordinator.Clip(name, 40)).
			WithHint("it has: " + strings.Join(names, ", "))
	}
}
