package sqlite

import (
	"context"
	"database/sql"
	"fmt"
	"maps"
	"time"

	"berth/coordinator"
)

// FinishBuild records how a build ended, and in the same transaction what follows from it:
//
//   - a start that succeeded leaves the agents of its result, none if its state holds none;
//   - a stop that succeeded ends the workspace's own tokens, and queues the start that was to follow, which it
//     returns, unless somebody canceled the build;
//   - a start that the plan guard refused gives the workspace its former version and parameters back, and where it was
//     the second half of a restart queues a start with those, which it returns;
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
		if err := recordResult(ctx, tx, *b, r, now); err != nil {
			return err
		}
		if len(r.Guard) > 0 && b.Transition == coordinator.Start {
			next, err = refused(ctx, tx, *b, now)
			return err
		}
		if r.Status != coordinator.BuildSucceeded {
			return nil
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

// refused puts a workspace back to what its state was made with, after a start that changed nothing.
func refused(ctx context.Context, tx *sql.Tx, b coordinator.Build, now time.Time) (next *coordinator.Build, err error) {
	made, err := oneBuild(ctx, tx, `WHERE b.id = (SELECT build_id FROM states WHERE workspace_id = ? ORDER BY revision DESC LIMIT 1)`, b.WorkspaceID)
	if err != nil || made == nil {
		return nil, err
	}
	if made.ID == b.ID || made.VersionID == b.VersionID && maps.Equal(made.Params, b.Params) {
		return nil, nil // the former version is no other
	}
	params, err := text(made.Params)
	if err != nil {
		return nil, err
	}
	if _, err := tx.ExecContext(ctx, `UPDATE workspaces SET version_id = ?, params = ? WHERE id = ?`, made.VersionID, params, b.WorkspaceID); err != nil {
		return nil, err
	}
	before, err := oneBuild(ctx, tx, `WHERE b.workspace_id = ? AND b.number = ?`, b.WorkspaceID, b.Number-1)
	if err != nil || before == nil || before.ThenStart == nil || b.CancelRequested {
		return nil, err
	}
	return createBuild(ctx, tx, coordinator.Build{
		WorkspaceID: b.WorkspaceID, Transition: coordinator.Start, Reason: coordinator.ReasonRecovery, Initiator: b.Initiator,
		VersionID: made.VersionID, Params: made.Params, Created: now,
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
