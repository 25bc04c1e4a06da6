package sqlite

import (
	"context"
	"database/sql"
	"time"

	"berth/coordinator"
)

// Audit writes an entry of the audit log.
func (s *Store) Audit(ctx context.Context, a coordinator.AuditEntry) error {
	return s.in(ctx, "write audit entry", func(tx *sql.Tx) error { return audit(ctx, tx, a) })
}

func audit(ctx context.Context, tx *sql.Tx, a coordinator.AuditEntry) error {
	_, err := tx.ExecContext(ctx, `INSERT INTO audit (time, actor, actor_name, action, target, detail) VALUES (?, ?, ?, ?, ?, ?)`,
		ms(orNow(a.Time)), a.Actor, a.ActorName, a.Action, a.Target, a.Detail)
	return err
}

// OpenSession records that a session has begun.
func (s *Store) OpenSession(ctx context.Context, r coordinator.SessionRecord) error {
	_, err := s.exec(ctx, "open session", `INSERT INTO sessions (id, workspace_id, user_id, via, peer, agent, started, ended, bytes_in, bytes_out)
		VALUES (?, ?, ?, ?, ?, ?, ?, 0, 0, 0)`, r.ID, r.WorkspaceID, r.UserID, r.Via, r.Peer, r.Agent, ms(orNow(r.Started)))
	return err
}

// CloseSession records that a session has ended, and how much it moved. A session whose workspace was deleted
// meanwhile has no record any more, which is no error.
func (s *Store) CloseSession(ctx context.Context, r coordinator.SessionRecord) error {
	_, err := s.exec(ctx, "close session", `UPDATE sessions SET ended = ?, bytes_in = ?, bytes_out = ? WHERE id = ?`,
		ms(orNow(r.Ended)), r.BytesIn, r.BytesOut, r.ID)
	return err
}

// expiredTokens is how long a token is still listed after it has expired.
const expiredTokens = 30 * 24 * time.Hour

// Prune removes what is past its retention: sessions, audit entries and summaries of deleted workspaces, tokens that
// expired a while ago, and the logs of all but the last KeepBuildLogs builds of a workspace and versions of a
// template. It works in small transactions, so that others can write in between.
func (s *Store) Prune(ctx context.Context, now time.Time) error {
	for _, p := range []struct {
		query  string
		before time.Time
	}{
		{`DELETE FROM sessions WHERE started < ?`, now.Add(-coordinator.SessionRetention)},
		{`DELETE FROM audit WHERE time < ?`, now.Add(-coordinator.AuditRetention)},
		{`DELETE FROM deleted_workspaces WHERE deleted < ?`, now.Add(-coordinator.AuditRetention)},
		{`DELETE FROM tokens WHERE expires > 0 AND expires < ?`, now.Add(-expiredTokens)},
	} {
		if _, err := s.exec(ctx, "prune", p.query, ms(p.before)); err != nil {
			return err
		}
	}
	jobs, err := list(ctx, s.read, func(r row) (id string, err error) {
		err = r.Scan(&id)
		return id, err
	}, `SELECT id FROM (
			SELECT id, row_number() OVER (PARTITION BY workspace_id ORDER BY number DESC) AS place FROM builds
			UNION ALL
			SELECT id, row_number() OVER (PARTITION BY template_id ORDER BY number DESC) FROM template_versions
		) WHERE place > ? AND EXISTS (SELECT 1 FROM log_lines WHERE job_id = id)`, coordinator.KeepBuildLogs)
	if err != nil {
		return wrap("list old logs", err)
	}
	for _, id := range jobs {
		if _, err := s.exec(ctx, "prune log", `DELETE FROM log_lines WHERE job_id = ?`, id); err != nil {
			return err
		}
	}
	return nil
}
