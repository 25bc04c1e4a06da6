package daemon

import (
	"context"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"berth/agent"
	"berth/coordinator"
	"berth/coordinator/api"
	"berth/coordinator/builder"
	"berth/coordinator/ca"
	"berth/coordinator/dist"
	"berth/coordinator/door"
	"berth/coordinator/entry"
	"berth/coordinator/events"
	"berth/coordinator/hub"
	"berth/coordinator/rest"
	"berth/coordinator/runner"
	"berth/coordinator/terraform"
)

// parts are the parts of a coordinator that run or are asked.
type parts struct {
	web     http.Handler
	door    *door.Server
	builder *builder.Builder
	hub     *hub.Hub
	jobs    *jobs
	sweeper *sweeper
	url     string
	setup   coordinator.Secret // empty once somebody has signed in
}

// facts are what several parts have to know.
type facts struct {
	settings
	data     dataDir
	ca       *ca.CA
	carried  *dist.Set
	agentCA  string // PEM; empty where the agents' systems trust the coordinator
	gitHosts string
	bus      *events.Bus
}

// gather finds the facts.
func gather(ctx context.Context, s settings, d *daemon) (f facts, err error) {
	f = facts{settings: s, data: dataDir(s.data), bus: events.New()}
	if f.agentCA, err = agentCA(s); err != nil {
		return f, err
	}
	if f.gitHosts, err = gitHosts(s.gitKnownHosts); err != nil {
		return f, err
	}
	if f.carried, err = programs(d.log); err != nil {
		return f, err
	}
	f.ca, err = loadCA(ctx, d.store)
	return f, err
}

// script makes the bootstrap script for a platform; for all if they are empty.
func (f facts) script(os, arch string) (string, error) {
	u := f.agentsPublic
	return f.carried.Script(dist.Script{
		URL: u.String(), OS: os, Arch: arch, CA: f.agentCA, Insecure: u.Scheme == "http" && !loopback(u.Hostname()),
	})
}

// assemble makes all parts and hands each what it needs. Nothing runs yet.
func assemble(ctx context.Context, s settings, d *daemon) (*parts, error) {
	f, err := gather(ctx, s, d)
	if err != nil {
		return nil, err
	}
	p := &parts{url: s.public.String()}
	tokens := &workspaceTokens{store: d.store, now: time.Now, live: map[coordinator.WorkspaceID]liveToken{}}
	p.hub = hub.New(hub.Config{Store: d.store, Events: f.bus, Logger: d.log, Boot: time.Now(), Manifests: &manifests{
		store: d.store, ca: f.ca, carried: f.carried, tokens: tokens, agentURL: s.agentsPublic.String(), suffix: s.suffix,
		gitHosts: f.gitHosts, limit: s.startupLimit, now: time.Now,
	}})
	if err := p.buildWith(ctx, f, d, tokens); err != nil {
		return nil, err
	}
	in := entry.New(entry.Config{Store: d.store, Builder: p.builder, Hub: p.hub, Events: f.bus, Logger: d.log})
	name, err := doorAt(s, d.ssh.Addr())
	if err != nil {
		return nil, err
	}
	signers, err := name.signers(ctx, d.store, f.ca, time.Now())
	if err != nil {
		return nil, err
	}
	setup := &setupToken{store: d.store, file: f.data.path("setup-token")}
	if p.setup, err = setup.offer(ctx); err != nil {
		return nil, err
	}
	p.web = api.New(api.Config{
		Store: d.store, Builder: p.builder, Entry: entrance{in}, Hub: p.hub, Events: f.bus,
		Archives: terraform.Archives{Dir: f.data.path("archives")},
		Issuer:   issuer{}, Setup: setup, Link: p.hub, Dist: f.carried.Handler(f.data.path("bin")), Script: f.script, Freed: p.sweeper.poke,
		Hosts: []string{s.public.Hostname(), s.agentsPublic.Hostname()}, Done: d.done, Logger: d.log,
		Server: rest.Server{
			Version: agent.Version, URL: p.url, SSHHost: name.host, SSHPort: name.port, Suffix: s.suffix,
			KnownHosts: name.knownHosts(f.ca, s.suffix),
		},
	})
	p.door, err = door.New(door.Config{
		Entry: in, Store: d.store, Certs: f.ca, HostSigners: signers, HostCAs: []string{f.ca.HostCALine()}, Suffix: s.suffix, Exempt: s.sshExempt, Logger: d.log,
		Console: newConsole(p.web, d.store, p.url, name, d.done, d.log),
	})
	return p, err
}

// buildWith makes the builder and what composes its jobs.
func (p *parts) buildWith(ctx context.Context, f facts, d *daemon, tokens *workspaceTokens) error {
	grant, err := hostGrant(ctx, f.settings, f.data, f.carried, d.log)
	if err != nil {
		return err
	}
	if err := f.data.makeDirs(grant.BuildUID != 0); err != nil {
		return err
	}
	exe, err := os.Executable()
	if err != nil {
		return err
	}
	p.jobs = &jobs{store: d.store, data: f.data, url: p.url, agentURL: f.agentsPublic.String(), grant: grant, log: d.log}
	p.jobs.script, _ = f.script("", "") //nolint:errcheck // without agents there is none, and that was said
	runners := runner.New(runner.Config{Dir: f.data.path("work"), Exe: exe, Archives: f.data.path("archives"), Logger: d.log})
	p.sweeper = newSweeper(d.store, f.data, runners.Jobs, d.log)
	p.builder = builder.New(builder.Config{
		Store: d.store, Jobs: p.jobs, Events: f.bus, Hub: &dropper{p.hub, tokens, d.log}, Workers: f.workers, Logger: d.log,
		Runner: runners, Imported: p.sweeper.poke,
	})
	return nil
}

// programs are what this berthd carries; a build without assets takes what lies beside it.
func programs(log *slog.Logger) (*dist.Set, error) {
	carried, err := dist.Embedded()
	if err != nil || !carried.Empty() {
		return carried, err
	}
	exe, err := os.Executable()
	if err != nil {
		return nil, err
	}
	log.Debug("this build carries no programs; those beside it are used", "dir", filepath.Dir(exe))
	return dist.Beside(filepath.Dir(exe))
}

// A dropper is the hub as the builder sees it: with a workspace's links its token ends.
type dropper struct {
	*hub.Hub
	tokens *workspaceTokens
	log    *slog.Logger
}

// Drop ends links and token of a workspace that is stopped or gone.
func (d *dropper) Drop(ws coordinator.WorkspaceID) {
	if err := d.tokens.revoke(context.Background(), ws); err != nil {
		d.log.Error("revoke the token of a stopped workspace", "workspace", ws, "err", err)
	}
	d.Hub.Drop(ws)
}

// An entrance is the entry as the API sees it.
type entrance struct{ *entry.Entry }

// Enter opens a stream into a workspace.
func (e entrance) Enter(ctx context.Context, r entry.Request) (api.Stream, error) {
	s, err := e.Entry.Enter(ctx, r)
	if err != nil {
		return nil, err // not a nil *entry.Stream in an interface
	}
	return s, nil
}

// issuer makes the keys of new users and workspaces.
type issuer struct{}

// HostIdentity makes the host keys of a workspace.
func (issuer) HostIdentity() (coordinator.HostIdentity, error) { return ca.NewHostIdentity() }

// GitKey makes the key that a user's workspaces present to Git hosts.
func (issuer) GitKey(comment string) (coordinator.GitKey, error) { return ca.NewGitKey(comment) }
