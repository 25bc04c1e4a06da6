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

// AuditEntries returns a page of the audit log, newest first: those before the given sequence number, 0 for the newest.
func (s *Store) AuditEntries(ctx context.Context, f coordinator.AuditFilter, before int64, limit int) ([]coordinator.AuditEntry, error) {
	q := newestBefore("id", before)
	q.add(f.Actor != "", `actor_name = ?`, f.Actor)
	q.add(f.Action != "", `(action = ? OR substr(action, 1, length(?) + 1) = ? || '.')`, f.Action, f.Action, f.Action)
	q.add(f.Target != "", `target = ?`, f.Target)
	q.add(!f.Since.IsZero(), `time >= ?`, ms(f.Since))
	es, err := list(ctx, s.read, scanAudit, `SELECT id, time, actor, actor_name, action, target, detail FROM audit `+q.where()+`ORDER BY id DESC LIMIT ?`, append(q.args, page(limit))...)
	return es, wrap("list audit entries", err)
}

func scanAudit(r row) (a coordinator.AuditEntry, err error) {
	err = r.Scan(&a.Seq, at(&a.Time), &a.Actor, &a.ActorName, &a.Action, &a.Target, &a.Detail)
	return a, err
}

// expiredTokens is how long a token is still listed after it has expired.
const expiredTokens = 30 * 24 * time.Hour

// Prune removes what is past its retention: sessions that have ended, audit entries and summaries of deleted workspaces, tokens that
// expired a while ago, and the logs of all but the last KeepBuildLogs builds of a workspace and versions of a
// template. It works in small transactions, so that others can write in between.
func (s *Store) Prune(ctx context.Context, now time.Time) error {
	for _, p := range []struct {
		query  string
		before time.Time
	}{
		{`DELETE FROM sessions WHERE started < ? AND ended > 0`, now.Add(-coordinator.SessionRetention)},
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
