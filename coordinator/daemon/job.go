package daemon

import (
	"context"
	"errors"
	"log/slog"
	"path/filepath"
	"runtime"
	"sync"

	"berth/coordinator"
	"berth/coordinator/dist"
	"berth/coordinator/host"
	"berth/coordinator/sqlite"
	"berth/coordinator/terraform"
)

// jobs composes what a runner needs for a build or an import.
type jobs struct {
	store    *sqlite.Store
	data     dataDir
	url      string
	agentURL string
	script   string                // for templates; empty if no agent is carried
	grant    coordinator.HostGrant // but for the owner's uid
	log      *slog.Logger

	mu        sync.Mutex
	terraform coordinator.Terraform // once it is found; guarded by mu
	warned    bool                  // guarded by mu
}

// find looks for terraform. It is looked for again until it is there, and again when it has gone.
func (j *jobs) find(ctx context.Context) (coordinator.Terraform, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.terraform.Path != "" && exists(j.terraform.Path) {
		return j.terraform, nil
	}
	t, warning, err := terraform.Find(ctx, j.data.path("work"))
	if err != nil {
		return t, err
	}
	if warning != "" && !j.warned {
		j.log.Warn(warning)
		j.warned = true
	}
	j.log.Info("terraform found", "path", t.Path, "version", t.Version)
	j.terraform = t
	return t, nil
}

// look looks for terraform ahead of the first build, so that a missing one is told at the start.
func (j *jobs) look(ctx context.Context) {
	_, err := j.find(ctx)
	if err == nil || ctx.Err() != nil {
		return
	}
	var e *coordinator.Error
	hint := ""
	if errors.As(err, &e) {
		hint = e.Hint
	}
	j.log.Warn("builds and imports fail until there is a terraform", "err", err, "hint", hint)
}

// base is what builds and imports of a version share.
func (j *jobs) base(ctx context.Context, id string, v coordinator.TemplateVersion) (coordinator.Job, error) {
	t, err := j.find(ctx)
	if err != nil {
		return coordinator.Job{}, err
	}
	template, err := j.store.TemplateByID(ctx, v.TemplateID)
	if err != nil {
		return coordinator.Job{}, err
	}
	return coordinator.Job{
		ID: id, Template: template.Name, VersionID: v.ID, Version: v.Number, Archive: v.Archive,
		ModuleDir: filepath.Join(j.data.path("versions"), string(v.ID)),
		AccessURL: j.url, AgentURL: j.agentURL, InitScript: j.script, Terraform: t, Host: j.grant,
	}, nil
}

// ImportJob composes the import of a version.
func (j *jobs) ImportJob(ctx context.Context, v coordinator.TemplateVersion) (coordinator.Job, error) {
	job, err := j.base(ctx, string(v.ID), v)
	job.Import = true
	return job, err
}

// Job composes a build.
func (j *jobs) Job(ctx context.Context, b coordinator.Build) (coordinator.Job, error) {
	v, err := j.store.Version(ctx, b.VersionID)
	if err != nil {
		return coordinator.Job{}, err
	}
	job, err := j.base(ctx, string(b.ID), v)
	if err != nil {
		return job, err
	}
	ws, err := j.store.Workspace(ctx, b.WorkspaceID)
	if err != nil {
		return job, err
	}
	owner, err := j.store.User(ctx, ws.OwnerID)
	if err != nil {
		return job, err
	}
	git, err := j.store.GitKey(ctx, owner.ID)
	if err != nil {
		return job, err
	}
	if job.AgentKey, err = j.store.AgentKey(ctx, ws.ID); err != nil {
		return job, err
	}
	job.Transition, job.Params, job.AllowDestroy = b.Transition, b.Params, b.AllowDestroy
	job.Workspace, job.WorkspaceID, job.Generation = ws.Name, ws.ID, ws.Generation
	job.Owner = coordinator.JobOwner{
		ID: owner.ID, Name: owner.Name, FullName: owner.FullName, Email: owner.Email, Roles: []string{string(owner.Role)},
		PublicKey: git.PublicKey,
	}
	job.Host.UID = owner.HostUID
	return job, nil
}

// hostGrant is what builds may do on this machine.
func hostGrant(ctx context.Context, s settings, data dataDir, carried *dist.Set, log *slog.Logger) (coordinator.HostGrant, error) {
	agent, err := carried.Extract(data.path("bin"), runtime.GOOS, runtime.GOARCH)
	if err != nil {
		return coordinator.HostGrant{}, err
	}
	if agent == "" {
		log.Warn("no agent for this machine is carried: workspaces on this machine cannot start", "platform", runtime.GOOS+"/"+runtime.GOARCH)
	}
	g := coordinator.HostGrant{
		Homes: data.path("homes"), Run: data.path("run"), Agent: agent, Insecure: s.insecureHost,
		Bubblewrap: host.ProbeBubblewrap(ctx), BuildUID: data.buildUID(log),
	}
	if g.Bubblewrap == "" {
		log.Info("bubblewrap does not work here: workspaces on this machine are not isolated", "allowed", s.insecureHost)
	}
	return g, nil
}
