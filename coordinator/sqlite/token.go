package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"time"

	"berth/coordinator"
)

const (
	maxTokens          = 200 // of one user, workspaces' own not counted
	maxWorkspaceTokens = 20  // of one workspace; the oldest go
)

const tokenColumns = `id, user_id, name, coalesce(workspace_id, ''), created, expires, last_used`

func scanToken(r row) (t coordinator.Token, err error) {
	err = r.Scan(&t.ID, &t.UserID, &t.Name, &t.WorkspaceID, at(&t.Created), at(&t.Expires), at(&t.LastUsed))
	return t, err
}

// CreateToken stores a token under its hash, and fills in ID and Created.
func (s *Store) CreateToken(ctx context.Context, t *coordinator.Token, hash [32]byte) error {
	n := newToken(*t)
	err := s.in(ctx, "create token", func(tx *sql.Tx) error { return insertToken(ctx, tx, n, hash) })
	if err == nil {
		*t = n
	}
	return err
}

// newToken returns t as it is stored.
func newToken(t coordinator.Token) coordinator.Token {
	t.ID, t.Created, t.Expires, t.LastUsed = coordinator.TokenID(coordinator.NewID()), stored(orNow(t.Created)), stored(t.Expires), time.Time{}
	return t
}

func insertToken(ctx context.Context, tx *sql.Tx, n coordinator.Token, hash [32]byte) error {
	if n.WorkspaceID == "" {
		var have int
		if err := tx.QueryRowContext(ctx, `SELECT count(*) FROM tokens WHERE user_id = ? AND workspace_id IS NULL`, n.UserID).Scan(&have); err != nil {
			return err
		}
		if have >= maxTokens {
			return coordinator.Errorf(coordinator.CodeConflict, "you have %d tokens, and may have no more", have).WithHint("delete some first")
		}
	}
	_, err := tx.ExecContext(ctx, `INSERT INTO tokens (id, user_id, name, hash, workspace_id, created, expires, last_used) VALUES (?, ?, ?, ?, ?, ?, ?, 0)`,
		n.ID, n.UserID, n.Name, hash[:], null(n.WorkspaceID), ms(n.Created), ms(n.Expires))
	if err != nil || n.WorkspaceID == "" {
		return err
	}
	_, err = tx.ExecContext(ctx, `DELETE FROM tokens WHERE rowid IN
		(SELECT rowid FROM tokens WHERE workspace_id = ? ORDER BY created DESC, rowid DESC LIMIT -1 OFFSET ?)`, n.WorkspaceID, maxWorkspaceTokens)
	return err
}

// TokenByHash returns the token with that hash and its user. One that is unknown or has expired is
// CodeUnauthenticated.
func (s *Store) TokenByHash(ctx context.Context, hash [32]byte, now time.Time) (coordinator.Token, coordinator.User, error) {
	t, err := scanToken(s.read.QueryRowContext(ctx, `SELECT `+tokenColumns+` FROM tokens WHERE hash = ?`, hash[:]))
	if errors.Is(err, sql.ErrNoRows) {
		return coordinator.Token{}, coordinator.User{}, coordinator.Errorf(coordinator.CodeUnauthenticated, "the token is not known").
			WithHint("sign in again with berth login")
	}
	if err != nil {
		return coordinator.Token{}, coordinator.User{}, wrap("read token", err)
	}
	if !t.Expires.IsZero() && !now.Before(t.Expires) {
		return coordinator.Token{}, coordinator.User{}, coordinator.Errorf(coordinator.CodeUnauthenticated, "the token has expired").
			WithHint("sign in again with berth login")
	}
	u, err := s.User(ctx, t.UserID)
	return t, u, err
}

// Tokens returns a user's tokens, oldest first, without those of workspaces.
func (s *Store) Tokens(ctx context.Context, user coordinator.UserID) ([]coordinator.Token, error) {
	ts, err := list(ctx, s.read, scanToken, `SELECT `+tokenColumns+` FROM tokens WHERE user_id = ? AND workspace_id IS NULL ORDER BY created, rowid`, user)
	return ts, wrap("list tokens", err)
}

// DeleteToken deletes a user's token and the keys that were registered with it.
func (s *Store) DeleteToken(ctx context.Context, user coordinator.UserID, id coordinator.TokenID) error {
	n, err := s.exec(ctx, "delete token", `DELETE FROM tokens WHERE user_id = ? AND id = ?`, user, id)
	return changed(n, err, "token: %q", coordinator.Clip(string(id), 40))
}

// TouchToken records that a token was used, at most once a minute.
func (s *Store) TouchToken(ctx context.Context, id coordinator.TokenID, now time.Time) error {
	_, err := s.exec(ctx, "touch token", `UPDATE tokens SET last_used = ? WHERE id = ? AND last_used <= ?`, ms(now), id, ms(now.Add(-touchEvery)))
	return err
}

// DeleteWorkspaceTokens deletes the tokens that were minted for a workspace.
func (s *Store) DeleteWorkspaceTokens(ctx context.Context, ws coordinator.WorkspaceID) error {
	_, err := s.exec(ctx, "delete workspace tokens", `DELETE FROM tokens WHERE workspace_id = ?`, ws)
	return err
}
