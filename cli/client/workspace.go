package client

import (
	"context"
	"net/http"
	"net/url"
	"strconv"

	"berth/coordinator"
	"berth/coordinator/rest"
)

// workspace is the route of a workspace; without an owner, of the caller's own.
func workspace(t coordinator.Target, more ...string) string {
	owner := t.Owner
	if owner == "" {
		owner = "me"
	}
	return route(append([]string{"workspaces", owner, t.Workspace}, more...)...)
}

// Workspaces lists the caller's workspaces, or everybody's.
func (c *Client) Workspaces(ctx context.Context, all bool) ([]rest.Workspace, error) {
	query := url.Values{}
	if all {
		query.Set("all", "true")
	}
	return list[rest.Workspace](ctx, c, "/workspaces", query)
}

// CreateWorkspace makes a workspace.
func (c *Client) CreateWorkspace(ctx context.Context, in rest.CreateWorkspace) (rest.Workspace, error) {
	var w rest.Workspace
	return w, c.do(ctx, http.MethodPost, "/workspaces", nil, in, &w)
}

// Workspace returns one workspace.
func (c *Client) Workspace(ctx context.Context, t coordinator.Target) (rest.Workspace, error) {
	var w rest.Workspace
	return w, c.do(ctx, http.MethodGet, workspace(t), nil, nil, &w)
}

// Start starts a workspace, perhaps with other parameters or another version.
func (c *Client) Start(ctx context.Context, t coordinator.Target, in rest.StartWorkspace) (rest.Build, error) {
	var b rest.Build
	return b, c.do(ctx, http.MethodPost, workspace(t, "start"), nil, in, &b)
}

// Restart stops a workspace and starts it again. It returns the build that stops it.
func (c *Client) Restart(ctx context.Context, t coordinator.Target, in rest.StartWorkspace) (rest.Build, error) {
	var b rest.Build
	return b, c.do(ctx, http.MethodPost, workspace(t, "restart"), nil, in, &b)
}

// Stop stops a workspace.
func (c *Client) Stop(ctx context.Context, t coordinator.Target) (rest.Build, error) {
	var b rest.Build
	return b, c.do(ctx, http.MethodPost, workspace(t, "stop"), nil, nil, &b)
}

// Delete deletes a workspace and everything in it.
func (c *Client) Delete(ctx context.Context, t coordinator.Target) (rest.Build, error) {
	var b rest.Build
	return b, c.do(ctx, http.MethodDelete, workspace(t), nil, nil, &b)
}

// Builds lists the builds of a workspace, newest first.
func (c *Client) Builds(ctx context.Context, t coordinator.Target) ([]rest.Build, error) {
	return list[rest.Build](ctx, c, workspace(t, "builds"), nil)
}

func build(number int) string {
	if number == 0 {
		return "latest"
	}
	return strconv.Itoa(number)
}

// Build returns one build; 0 is the latest.
func (c *Client) Build(ctx context.Context, t coordinator.Target, number int) (rest.Build, error) {
	var b rest.Build
	return b, c.do(ctx, http.MethodGet, workspace(t, "builds", build(number)), nil, nil, &b)
}

// Cancel asks for the end of a build; 0 is the latest.
func (c *Client) Cancel(ctx context.Context, t coordinator.Target, number int) (rest.Build, error) {
	var b rest.Build
	return b, c.do(ctx, http.MethodPost, workspace(t, "builds", build(number), "cancel"), nil, nil, &b)
}

// BuildLog returns a log of a build: of the build itself, of one of its agents' startup (the agent's name), or of
// all ("*"). Build 0 is the latest.
func (c *Client) BuildLog(t coordinator.Target, number int, source string) Log {
	return Log{c: c, route: workspace(t, "builds", build(number), "log"), source: source}
}

// Ping measures how far an agent is from the coordinator.
func (c *Client) Ping(ctx context.Context, t coordinator.Target) (rest.Ping, error) {
	var p rest.Ping
	query := url.Values{}
	if t.Agent != "" {
		query.Set("agent", t.Agent)
	}
	return p, c.do(ctx, http.MethodGet, workspace(t, "ping"), query, nil, &p)
}
