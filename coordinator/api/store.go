package api

import (
	"context"
	"io"
	"time"

	"berth/coordinator"
)

// A Store is the part of the coordinator's database that the API needs.
type Store interface {
	users
	keys
	secrets
	tokens
	templates
	workspaces
	builds
	records
}

type records interface {
	Audit(ctx context.Context, a coordinator.AuditEntry) error
	AuditEntries(ctx context.Context, f coordinator.AuditFilter, before int64, limit int) ([]coordinator.AuditEntry, error)
	Sessions(ctx context.Context, f coordinator.SessionFilter, before int64, limit int) ([]coordinator.SessionRecord, error)
}

type users interface {
	Admit(ctx context.Context, a *coordinator.Admission) error
	AdmitFirst(ctx context.Context, a *coordinator.Admission) error
	User(ctx context.Context, id coordinator.UserID) (coordinator.User, error)
	UserByName(ctx context.Context, name string) (coordinator.User, error)
	Users(ctx context.Context, after string, limit int) ([]coordinator.User, error)
	CountUsers(ctx context.Context) (int, error)
	DeleteUser(ctx context.Context, id coordinator.UserID) error
	SetDotfiles(ctx context.Context, id coordinator.UserID, url string) error
	SetPersonalize(ctx context.Context, id coordinator.UserID, script *string) error
}

type keys interface {
	AddKey(ctx context.Context, k *coordinator.SSHKey) error
	Keys(ctx context.Context, user coordinator.UserID) ([]coordinator.SSHKey, error)
	DeleteKey(ctx context.Context, user coordinator.UserID, idOrNameOrFingerprint string) error
	GitKey(ctx context.Context, user coordinator.UserID) (coordinator.GitKey, error)
}

type secrets interface {
	PutSecret(ctx context.Context, s coordinator.UserSecret) error
	Secrets(ctx context.Context, user coordinator.UserID, values bool) ([]coordinator.UserSecret, error)
	DeleteSecret(ctx context.Context, user coordinator.UserID, name string) error
}

type tokens interface {
	CreateToken(ctx context.Context, t *coordinator.Token, hash [32]byte) error
	TokenByHash(ctx context.Context, hash [32]byte, now time.Time) (coordinator.Token, coordinator.User, error)
	Tokens(ctx context.Context, user coordinator.UserID) ([]coordinator.Token, error)
	DeleteToken(ctx context.Context, user coordinator.UserID, id coordinator.TokenID) error
	TouchToken(ctx context.Context, id coordinator.TokenID, now time.Time) error
}

type templates interface {
	CreateTemplateVersion(ctx context.Context, name, description string, v *coordinator.TemplateVersion) (coordinator.Template, error)
	Template(ctx context.Context, name string) (coordinator.Template, error)
	TemplateByID(ctx context.Context, id coordinator.TemplateID) (coordinator.Template, error)
	Templates(ctx context.Context, after string, limit int) ([]coordinator.Template, error)
	DeleteTemplate(ctx context.Context, name string) error
	Version(ctx context.Context, id coordinator.VersionID) (coordinator.TemplateVersion, error)
	VersionByNumber(ctx context.Context, t coordinator.TemplateID, n int) (coordinator.TemplateVersion, error)
	Versions(ctx context.Context, t coordinator.TemplateID, before, limit int) ([]coordinator.TemplateVersion, error)
	ActivateVersion(ctx context.Context, t coordinator.TemplateID, v coordinator.VersionID) error
	CountWorkspaces(ctx context.Context, t coordinator.TemplateID) (int, error)
}

type workspaces interface {
	CreateWorkspace(ctx context.Context, w *coordinator.Workspace, id coordinator.HostIdentity) error
	Workspace(ctx context.Context, id coordinator.WorkspaceID) (coordinator.Workspace, error)
	WorkspaceByName(ctx context.Context, owner coordinator.UserID, name string) (coordinator.Workspace, error)
	Workspaces(ctx context.Context, owner coordinator.UserID, after string, limit int) ([]coordinator.Workspace, error)
	Agents(ctx context.Context, ws coordinator.WorkspaceID) ([]coordinator.WorkspaceAgent, error)
	AgentsOf(ctx context.Context, ids []coordinator.WorkspaceID) (map[coordinator.WorkspaceID][]coordinator.WorkspaceAgent, error)
}

type builds interface {
	LatestBuild(ctx context.Context, ws coordinator.WorkspaceID) (*coordinator.Build, error)
	LatestBuilds(ctx context.Context, ids []coordinator.WorkspaceID) (map[coordinator.WorkspaceID]coordinator.Build, error)
	Build(ctx context.Context, id coordinator.BuildID) (coordinator.Build, error)
	BuildByNumber(ctx context.Context, ws coordinator.WorkspaceID, n int) (coordinator.Build, error)
	Builds(ctx context.Context, ws coordinator.WorkspaceID, before, limit int) ([]coordinator.Build, error)
	QueuedBefore(ctx context.Context, id coordinator.BuildID) (int, error)
	Log(ctx context.Context, build coordinator.BuildID, source string, from, limit int) ([]coordinator.LogLine, error)
	LogSources(ctx context.Context, build coordinator.BuildID) ([]string, error)
}

// Archives holds the template archives that were pushed. What Put keeps is not removed before record has returned, which
// makes what refers to it.
type Archives interface {
	Put(ctx context.Context, r io.Reader, record func(sha string, size int64) error) (sha string, size int64, err error)
	Open(sha string) (io.ReadCloser, error)
}
