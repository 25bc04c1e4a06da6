package sqlite

import (
	"context"
	"crypto/rand"
	"database/sql"
	"strings"
	"time"

	"berth/coordinator"
)

const agentKeySize = 32

const workspaceQuery = `SELECT w.id, w.name, w.owner_id, u.name, w.template_id, t.name, w.version_id, w.params, w.generation, w.created, w.last_used
	FROM workspaces w JOIN users u ON u.id = w.owner_id JOIN templates t ON t.id = w.template_id `

func scanWorkspace(r row) (w coordinator.Workspace, err error) {
	err = r.Scan(&w.ID, &w.Name, &w.OwnerID, &w.OwnerName, &w.TemplateID, &w.Template, &w.VersionID, doc(&w.Params), &w.Generation, at(&w.Created), at(&w.LastUsed))
	return w, err
}

// CreateWorkspace stores w with the SSH identity given and a fresh key for its agents' tokens. It fills in ID,
// OwnerName, Template, Generation and Created. A name that its owner has used is CodeConflict.
func (s *Store) CreateWorkspace(ctx context.Context, w *coordinator.Workspace, id coordinator.HostIdentity) error {
	n := *w
	n.ID, n.Created, n.LastUsed = coordinator.WorkspaceID(coordinator.NewID()), stored(orNow(w.Created)), stored(w.LastUsed)
	n.Generation = max(1, w.Generation)
	const revision = 1
	agentKey := make([]byte, agentKeySize)
	rand.Read(agentKey) // never fails
	sealed := func(v []byte, column string) []byte {
		return s.key.Seal(v, "workspaces", column, string(n.ID), revision)
	}
	err := s.in(ctx, "create workspace", func(tx *sql.Tx) error {
		params, err := text(n.Params)
		if err != nil {
			return err
		}
		_, err = tx.ExecContext(ctx, `INSERT INTO workspaces (id, name, owner_id, template_id, version_id, params, generation, revision,
			agent_sealed, ed25519_sealed, ecdsa_sealed, created, last_used) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`,
			n.ID, n.Name, n.OwnerID, n.TemplateID, n.VersionID, params, n.Generation, revision, sealed(agentKey, "agent_sealed"),
			sealed([]byte(id.Ed25519), "ed25519_sealed"), sealed([]byte(id.ECDSA), "ecdsa_sealed"), ms(n.Created), ms(n.LastUsed))
		if duplicate(err) {
			return coordinator.Errorf(coordinator.CodeConflict, "a workspace named %q exists already", n.Name).WithHint("choose another name, or delete that one first")
		}
		if err != nil {
			return err
		}
		n, err = scanWorkspace(tx.QueryRowContext(ctx, workspaceQuery+`WHERE w.id = ?`, n.ID))
		return err
	})
	if err == nil {
		*w = n
	}
	return err
}

// Workspace returns the workspace with that id.
func (s *Store) Workspace(ctx context.Context, id coordinator.WorkspaceID) (coordinator.Workspace, error) {
	w, err := scanWorkspace(s.read.QueryRowContext(ctx, workspaceQuery+`WHERE w.id = ?`, id))
	return w, lookup("read workspace", err, "workspace")
}

// WorkspaceByName returns the owner's workspace of that name.
func (s *Store) WorkspaceByName(ctx context.Context, owner coordinator.UserID, name string) (coordinator.Workspace, error) {
	w, err := scanWorkspace(s.read.QueryRowContext(ctx, workspaceQuery+`WHERE w.owner_id = ? AND w.name = ?`, owner, name))
	return w, lookup("read workspace", err, "workspace: %q", coordinator.Clip(name, 40))
}

// Workspaces returns a page of the owner's workspaces, or of everybody's if owner is empty, by the owner's name and
// their own: those after the "owner/name" given.
func (s *Store) Workspaces(ctx context.Context, owner coordinator.UserID, after string, limit int) ([]coordinator.Workspace, error) {
	ownerAfter, nameAfter, _ := strings.Cut(after, "/")
	query, args := `WHERE (u.name, w.name) > (?, ?) ORDER BY u.name, w.name LIMIT ?`, []any{ownerAfter, nameAfter, page(limit)}
	if owner != "" {
		query, args = `WHERE w.owner_id = ? AND (u.name, w.name) > (?, ?) ORDER BY w.name LIMIT ?`, append([]any{owner}, args...)
	}
	ws, err := list(ctx, s.read, scanWorkspace, workspaceQuery+query, args...)
	return ws, wrap("list workspaces", err)
}

// AgentKey returns the key of which the tokens of a workspace's agents are derived.
func (s *Store) AgentKey(ctx context.Context, id coordinator.WorkspaceID) ([]byte, error) {
	keys, err := s.openWorkspace(ctx, id, "agent_sealed")
	if err != nil {
		return nil, err
	}
	return keys[0], nil
}

// HostIdentity returns the SSH identity of a workspace.
func (s *Store) HostIdentity(ctx context.Context, id coordinator.WorkspaceID) (coordinator.HostIdentity, error) {
	keys, err := s.openWorkspace(ctx, id, "ed25519_sealed", "ecdsa_sealed")
	if err != nil {
		return coordinator.HostIdentity{}, err
	}
	return coordinator.HostIdentity{Ed25519: coordinator.Secret(keys[0]), ECDSA: coordinator.Secret(keys[1])}, nil
}

// openWorkspace returns sealed columns of a workspace, opened.
func (s *Store) openWorkspace(ctx context.Context, id coordinator.WorkspaceID, columns ...string) ([][]byte, error) {
	var revision int64
	values := make([][]byte, len(columns))
	dest := []any{&revision}
	for i := range values {
		dest = append(dest, &values[i])
	}
	err := s.read.QueryRowContext(ctx, `SELECT revision, `+strings.Join(columns, ", ")+` FROM workspaces WHERE id = ?`, id).Scan(dest...)
	if err != nil {
		return nil, lookup("read workspace", err, "workspace")
	}
	for i, c := range columns {
		if values[i], err = s.key.Open(values[i], "workspaces", c, string(id), revision); err != nil {
			return nil, wrap("open workspace's "+c, err)
		}
	}
	return values, nil
}

// TouchWorkspace records that a workspace was used, at most once a minute.
func (s *Store) TouchWorkspace(ctx context.Context, id coordinator.WorkspaceID, now time.Time) error {
	_, err := s.exec(ctx, "touch workspace", `UPDATE workspaces SET last_used = ? WHERE id = ? AND last_used <= ?`, ms(now), id, ms(now.Add(-touchEvery)))
	return err
}
