package sqlite

import (
	"context"
	"database/sql"
	"fmt"
	"time"

	"berth/coordinator"
)

// FinishBuild records how a build ended, and in the same transaction what follows from it:
//
//   - a start that succeeded leaves the agents of its result, none if its state holds none;
//   - a stop that succeeded ends the workspace's own tokens, and queues the start that was to follow, which it
//     returns, unless somebody canceled the build;
//   - a delete that succeeded removes every row of the workspace and leaves an audit entry and a summary.
//
// It is CodeConflict if the build has ended already.
func (s *Store) FinishBuild(ctx context.Context, id coordinator.BuildID, r coordinator.Result, now time.Time) (next *coordinator.Build, err error) {
	if r.Status == "" || r.Status.Open() {
		return nil, fmt.Errorf("finish build: %q is no end", r.Status)
	}
	err = s.in(ctx, "finish build", func(tx *sql.Tx) error {
		b, err := oneBuild(ctx, tx, `WHERE b.id = ?`, id)
		switch {
		case err != nil:
			return err
		case b == nil:
			return notFound("build")
		case !b.Status.Open():
			return coordinator.Errorf(coordinator.CodeConflict, "%s build %d has ended already: %s", b.Transition, b.Number, b.Status)
		}
		if err := recordResult(ctx, tx, *b, r, now); err != nil || r.Status != coordinator.BuildSucceeded {
			return err
		}
		switch b.Transition {
		case coordinator.Start:
			if len(r.Agents) == 0 && r.Serial == 0 {
				return nil // it left no state from which agents could be told
			}
			return recordAgents(ctx, tx, b.WorkspaceID, b.ID, r.Agents)
		case coordinator.Stop:
			next, err = stopped(ctx, tx, *b, now)
			return err
		default:
			return deleteWorkspace(ctx, tx, *b, now)
		}
	})
	if err != nil {
		return nil, err
	}
	return next, nil
}

func recordResult(ctx context.Context, tx *sql.Tx, b coordinator.Build, r coordinator.Result, now time.Time) error {
	docs, err := texts(r.Timings, r.Resources)
	if err != nil {
		return err
	}
	_, err = tx.ExecContext(ctx, `UPDATE builds SET status = ?, error = ?, address = ?, timings = ?, resources = ?, state_serial = ?, ended = ? WHERE id = ?`,
		r.Status, r.Error, r.Address, docs[0], docs[1], r.Serial, ms(now), b.ID)
	return err
}

func stopped(ctx context.Context, tx *sql.Tx, b coordinator.Build, now time.Time) (next *coordinator.Build, err error) {
	if _, err := tx.ExecContext(ctx, `DELETE FROM tokens WHERE workspace_id = ?`, b.WorkspaceID); err != nil {
		return nil, err
	}
	if b.ThenStart == nil || b.CancelRequested {
		return nil, nil
	}
	return createBuild(ctx, tx, coordinator.Build{
		WorkspaceID: b.WorkspaceID, Transition: coordinator.Start, Reason: b.ThenStart.Reason, Initiator: b.Initiator,
		VersionID: b.ThenStart.VersionID, Params: b.ThenStart.Params, AllowDestroy: b.ThenStart.AllowDestroy, Created: now,
	})
}

func deleteWorkspace(ctx context.Context, tx *sql.Tx, b coordinator.Build, now time.Time) error {
	w, err := scanWorkspace(tx.QueryRowContext(ctx, workspaceQuery+`WHERE w.id = ?`, b.WorkspaceID))
	if err != nil {
		return err
	}
	_, err = tx.ExecContext(ctx, `INSERT INTO deleted_workspaces (id, owner, name, template, builds, created, deleted) VALUES (?, ?, ?, ?, ?, ?, ?)`,
		w.ID, w.OwnerName, w.Name, w.Template, b.Number, ms(w.Created), ms(now))
	if err != nil {
		return err
	}
	err = audit(ctx, tx, coordinator.AuditEntry{
		Time: now, Actor: b.Initiator, ActorName: b.InitiatorName, Action: "workspace.deleted", Target: w.OwnerName + "/" + w.Name,
		Detail: fmt.Sprintf("build %d, reason %s", b.Number, b.Reason),
	})
	if err != nil {
		return err
	}
	// Everything that refers to the workspace goes with it, and logs with their builds.
	_, err = tx.ExecContext(ctx, `DELETE FROM workspaces WHERE id = ?`, w.ID)
	return err
}
