package sqlite

import (
	"context"
	"database/sql"

	"berth/coordinator"
)

const agentColumns = `workspace_id, id, build_id, record, pinned_key, first_connected, last_seen, ready, steps`

func scanAgent(r row) (a coordinator.WorkspaceAgent, err error) {
	err = r.Scan(&a.WorkspaceID, &a.ID, &a.BuildID, doc(&a.AgentRecord), &a.PinnedKey, at(&a.FirstConnected), at(&a.LastSeen), &a.Ready, doc(&a.Steps))
	return a, err
}

// RecordAgents makes recs the agents of a workspace as build left them. What an agent has told since that very build
// began is kept; of another build's it is forgotten.
func (s *Store) RecordAgents(ctx context.Context, ws coordinator.WorkspaceID, build coordinator.BuildID, recs []coordinator.AgentRecord) error {
	return s.in(ctx, "record agents", func(tx *sql.Tx) error { return recordAgents(ctx, tx, ws, build, recs) })
}

func recordAgents(ctx context.Context, tx *sql.Tx, ws coordinator.WorkspaceID, build coordinator.BuildID, recs []coordinator.AgentRecord) error {
	var exists int
	if err := tx.QueryRowContext(ctx, `SELECT count(*) FROM workspaces WHERE id = ?`, ws).Scan(&exists); err != nil {
		return err
	}
	if exists == 0 {
		return notFound("workspace")
	}
	ids := make([]string, len(recs))
	for i, r := range recs {
		ids[i] = r.ID
	}
	keep, err := text(ids)
	if err != nil {
		return err
	}
	if err := keepTimings(ctx, tx, ws, build); err != nil {
		return err
	}
	_, err = tx.ExecContext(ctx, `DELETE FROM workspace_agents WHERE workspace_id = ? AND (build_id <> ? OR id NOT IN (SELECT value FROM json_each(?)))`, ws, build, keep)
	if err != nil {
		return err
	}
	for _, r := range recs {
		record, err := text(r)
		if err != nil {
			return err
		}
		_, err = tx.ExecContext(ctx, `INSERT INTO workspace_agents (workspace_id, id, build_id, record, pinned_key, first_connected, last_seen, ready, steps)
			VALUES (?, ?, ?, ?, NULL, 0, 0, 0, '[]') ON CONFLICT (workspace_id, id) DO UPDATE SET record = excluded.record`, ws, r.ID, build, record)
		if err != nil {
			return err
		}
	}
	return nil
}

// keepTimings writes how long connecting and startup took to the builds whose agents make room for those of next.
func keepTimings(ctx context.Context, tx *sql.Tx, ws coordinator.WorkspaceID, next coordinator.BuildID) error {
	former, err := list(ctx, tx, scanAgent, `SELECT `+agentColumns+` FROM workspace_agents WHERE workspace_id = ? AND build_id <> ? ORDER BY record ->> 'name', id`, ws, next)
	if err != nil {
		return err
	}
	kept := make(map[coordinator.BuildID]bool)
	for _, a := range former {
		if kept[a.BuildID] {
			continue
		}
		kept[a.BuildID] = true
		b, err := oneBuild(ctx, tx, `WHERE b.id = ?`, a.BuildID)
		if err != nil {
			return err
		}
		if b == nil {
			continue
		}
		timings, err := text(append(b.Timings, coordinator.StartupTimings(*b, former)...))
		if err != nil {
			return err
		}
		if _, err := tx.ExecContext(ctx, `UPDATE builds SET timings = ? WHERE id = ?`, timings, b.ID); err != nil {
			return err
		}
	}
	return nil
}

// Agents returns a workspace's agents by name.
func (s *Store) Agents(ctx context.Context, ws coordinator.WorkspaceID) ([]coordinator.WorkspaceAgent, error) {
	as, err := list(ctx, s.read, scanAgent, `SELECT `+agentColumns+` FROM workspace_agents WHERE workspace_id = ? ORDER BY record ->> 'name', id`, ws)
	return as, wrap("list agents", err)
}

// AgentsOf returns the agents of several workspaces in one query.
func (s *Store) AgentsOf(ctx context.Context, wss []coordinator.WorkspaceID) (map[coordinator.WorkspaceID][]coordinator.WorkspaceAgent, error) {
	ids, err := text(wss)
	if err != nil {
		return nil, wrap("list agents", err)
	}
	as, err := list(ctx, s.read, scanAgent, `SELECT `+agentColumns+` FROM workspace_agents
		WHERE workspace_id IN (SELECT value FROM json_each(?)) ORDER BY workspace_id, record ->> 'name', id`, ids)
	if err != nil {
		return nil, wrap("list agents", err)
	}
	of := make(map[coordinator.WorkspaceID][]coordinator.WorkspaceAgent)
	for _, a := range as {
		of[a.WorkspaceID] = append(of[a.WorkspaceID], a)
	}
	return of, nil
}

// PinAgentKey makes key the one with which an agent of that start build proves who it is. It is CodeNotFound where
// the agent is not recorded for that build.
func (s *Store) PinAgentKey(ctx context.Context, ws coordinator.WorkspaceID, agentID string, build coordinator.BuildID, key []byte) error {
	n, err := s.exec(ctx, "pin agent key", `UPDATE workspace_agents SET pinned_key = ? WHERE workspace_id = ? AND id = ? AND build_id = ?`, key, ws, agentID, build)
	return changed(n, err, "agent in this build")
}

// UpdateAgent records what an agent has told: its steps, whether it is ready, when it connected first and was seen
// last. It is CodeNotFound where the agent is not recorded for a.BuildID (any more).
func (s *Store) UpdateAgent(ctx context.Context, a coordinator.WorkspaceAgent) error {
	steps, err := text(a.Steps)
	if err != nil {
		return wrap("update agent", err)
	}
	n, err := s.exec(ctx, "update agent", `UPDATE workspace_agents SET first_connected = ?, last_seen = ?, ready = ?, steps = ? WHERE workspace_id = ? AND id = ? AND build_id = ?`,
		ms(a.FirstConnected), ms(a.LastSeen), a.Ready, steps, a.WorkspaceID, a.ID, a.BuildID)
	return changed(n, err, "agent in this build")
}
