package sqlite

import (
	"context"
	"database/sql"
	"math"
	"strings"
	"time"

	"berth/coordinator"
)

const sessionColumns = `seq, id, workspace_id, workspace, owner_id, owner, user_id, user_name, agent, via, peer, key, token, told_key, started, ended, lost, bytes_in, bytes_out`

func scanSession(r row) (s coordinator.SessionRecord, err error) {
	err = r.Scan(&s.Seq, &s.ID, &s.WorkspaceID, &s.WorkspaceName, &s.OwnerID, &s.OwnerName, &s.UserID, &s.UserName, &s.Agent, &s.Via, &s.Peer,
		&s.Key, &s.Token, &s.ToldKey, at(&s.Started), at(&s.Ended), &s.Lost, &s.BytesIn, &s.BytesOut)
	return s, err
}

// OpenSession records that a session has begun. Seq is not taken from r.
func (s *Store) OpenSession(ctx context.Context, r coordinator.SessionRecord) error {
	_, err := s.exec(ctx, "open session", `INSERT INTO sessions (id, workspace_id, workspace, owner_id, owner, user_id, user_name, agent, via, peer, key, token, told_key, started, ended, lost, bytes_in, bytes_out)
		VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, '', ?, 0, 0, 0, 0)`,
		r.ID, r.WorkspaceID, r.WorkspaceName, r.OwnerID, r.OwnerName, r.UserID, r.UserName, r.Agent, r.Via, r.Peer, r.Key, r.Token, ms(orNow(r.Started)))
	return err
}

// CloseSession records that a session has ended, and how much it moved.
func (s *Store) CloseSession(ctx context.Context, r coordinator.SessionRecord) error {
	_, err := s.exec(ctx, "close session", `UPDATE sessions SET ended = ?, lost = 0, bytes_in = ?, bytes_out = ? WHERE id = ?`,
		ms(orNow(r.Ended)), r.BytesIn, r.BytesOut, r.ID)
	return err
}

// SessionKey records with which key a session was accepted, as its workspace tells: once, and for a session of that
// workspace only. Anything else changes nothing.
func (s *Store) SessionKey(ctx context.Context, ws coordinator.WorkspaceID, id, fingerprint string) error {
	_, err := s.exec(ctx, "record key of session", `UPDATE sessions SET told_key = ? WHERE id = ? AND workspace_id = ? AND told_key = ''`, fingerprint, id, ws)
	return err
}

// Sessions returns a page of sessions, newest first: those before the given sequence number, 0 for the newest.
func (s *Store) Sessions(ctx context.Context, f coordinator.SessionFilter, before int64, limit int) ([]coordinator.SessionRecord, error) {
	q := newestBefore("seq", before)
	q.add(f.Of != "", `seq IN (SELECT seq FROM sessions WHERE user_id = ? UNION SELECT seq FROM sessions WHERE owner_id = ?)`, f.Of, f.Of)
	q.add(f.User != "", `user_name = ?`, f.User)
	q.add(f.Owner != "", `owner = ?`, f.Owner)
	q.add(f.Workspace != "", `workspace = ?`, f.Workspace)
	q.add(f.Open, `ended = 0`)
	rs, err := list(ctx, s.read, scanSession, `SELECT `+sessionColumns+` FROM sessions `+q.where()+`ORDER BY seq DESC LIMIT ?`, append(q.args, page(limit))...)
	return rs, wrap("list sessions", err)
}

// endLost ends the sessions that the coordinator before had open: they do not outlive the process that carried them.
// When that was is known to lie after the last sign of any agent that it wrote down, and before now.
func endLost(ctx context.Context, tx *sql.Tx, now time.Time) error {
	_, err := tx.ExecContext(ctx, `UPDATE sessions SET lost = 1, ended = CASE
			WHEN (SELECT max(last_seen) FROM workspace_agents) BETWEEN started AND ?1 THEN (SELECT max(last_seen) FROM workspace_agents)
			ELSE max(started, ?1) END
		WHERE ended = 0`, ms(now))
	return err
}

// conditions are the parts of a WHERE clause that apply.
type conditions struct {
	parts []string
	args  []any
}

// newestBefore begins a page of rows with a number smaller than before, 0 for all.
func newestBefore(column string, before int64) conditions {
	if before <= 0 {
		before = math.MaxInt64
	}
	return conditions{[]string{column + " < ?"}, []any{before}}
}

func (c *conditions) add(applies bool, part string, args ...any) {
	if applies {
		c.parts, c.args = append(c.parts, part), append(c.args, args...)
	}
}

func (c *conditions) where() string { return "WHERE " + strings.Join(c.parts, " AND ") + " " }
