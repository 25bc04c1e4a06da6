// Package api is the coordinator's HTTP side: the REST API, the stream of a client into a workspace, and the public
// files. It checks who asks, what they may and what they say; what then happens is the store's, the builder's and the
// entry's. It keeps no state of its own but a count of failed sign-ins.
package api

import (
	"context"
	"log/slog"
	"net/http"
	"time"

	"berth/coordinator"
	"berth/coordinator/entry"
	"berth/coordinator/rest"
)

// A Builder makes builds and imports.
type Builder interface {
	Request(ctx context.Context, actor coordinator.Actor, ws coordinator.Workspace, r coordinator.BuildRequest) (coordinator.Build, error)
	Cancel(ctx context.Context, actor coordinator.Actor, id coordinator.BuildID) (coordinator.Build, error)
	Import(ctx context.Context, v coordinator.TemplateVersion)
}

// An Entrance lets a user into a workspace, once it is up.
type Entrance interface {
	Lookup(ctx context.Context, user coordinator.User, t coordinator.Target) (coordinator.Workspace, error)
	Enter(ctx context.Context, r entry.Request) (Stream, error)
}

// A Hub knows the agents that have a live link.
type Hub interface {
	Presence(ws coordinator.WorkspaceID) coordinator.Presence
	ManifestChanged(ws coordinator.WorkspaceID)
	Ping(ctx context.Context, ws coordinator.WorkspaceID, agentID string) (time.Duration, error)
}

// Events wakes those who watch a workspace; ws "" stands for all.
type Events interface {
	Watch(ws coordinator.WorkspaceID) (<-chan struct{}, func())
}

// An Issuer makes the keys that come with a new user and a new workspace.
type Issuer interface {
	HostIdentity() (coordinator.HostIdentity, error)
	GitKey(comment string) (coordinator.GitKey, error)
}

// A Setup holds the one-time token that makes the first owner.
type Setup interface {
	Token(ctx context.Context) (coordinator.Secret, error)
	Done(ctx context.Context) error // somebody has signed in: it makes nobody any more; again and again, and cheap
}

// A Config is what an API is made of. Store to Setup, Link and Dist are required.
type Config struct {
	Store    Store
	Builder  Builder
	Entry    Entrance
	Hub      Hub
	Events   Events
	Archives Archives
	Issuer   Issuer
	Setup    Setup

	Link   http.Handler                          // the agents' link, which authenticates by itself
	Dist   http.Handler                          // /dist/{sha256}/{name}
	Script func(os, arch string) (string, error) // the bootstrap script

	Server rest.Server     // what is told about the installation; SetUp is filled in
	Hosts  []string        // names under which this server is reached, beside loopback ones
	Done   <-chan struct{} // closed when the coordinator shuts down: streams that are followed end
	Freed  func()          // called when nothing may refer to a template's files any more

	Logger *slog.Logger
	Now    func() time.Time
}

type server struct {
	Config
	limiter *limiter
}

// New returns the handler of everything that the coordinator serves over HTTP.
func New(c Config) http.Handler {
	h, _ := newServer(c)
	return h
}

func newServer(c Config) (http.Handler, []route) {
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Freed == nil {
		c.Freed = func() {}
	}
	s := &server{Config: c, limiter: newLimiter(c.Now)}
	routes := s.routes()
	mux := http.NewServeMux()
	s.register(mux, routes)
	return s.guard(s.answerAll(mux)), routes
}
