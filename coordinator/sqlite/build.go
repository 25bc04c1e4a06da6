package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"time"

	"berth/coordinator"
)

const buildQuery = `SELECT b.id, b.workspace_id, b.number, b.transition, b.reason, b.initiator, coalesce(i.name, ''), b.version_id, b.params, b.allow_destroy,
	b.then_start, b.status, b.cancel_requested, b.error, b.address, b.timings, b.resources, b.state_serial, b.created, b.started, b.ended
	FROM builds b LEFT JOIN users i ON i.id = b.initiator `

func scanBuild(r row) (b coordinator.Build, err error) {
	err = r.Scan(&b.ID, &b.WorkspaceID, &b.Number, &b.Transition, &b.Reason, &b.Initiator, &b.InitiatorName, &b.VersionID, doc(&b.Params), doc(&b.AllowDestroy),
		doc(&b.ThenStart), &b.Status, &b.CancelRequested, &b.Error, &b.Address, doc(&b.Timings), doc(&b.Resources), &b.StateSerial,
		at(&b.Created), at(&b.Started), at(&b.Ended))
	return b, err
}

// oneBuild returns the one build that a query finds, nil if there is none.
func oneBuild(ctx context.Context, q querier, where string, args ...any) (*coordinator.Build, error) {
	b, err := scanBuild(q.QueryRowContext(ctx, buildQuery+where, args...))
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return nil, nil
	case err != nil:
		return nil, err
	default:
		return &b, nil
	}
}

// CreateBuild queues a build, and fills in ID, Number, Status, InitiatorName and Created. It is CodeConflict while
// the workspace has an open build. A start also sets what the workspace's next start uses.
func (s *Store) CreateBuild(ctx context.Context, b *coordinator.Build) error {
	var made *coordinator.Build
	err := s.in(ctx, "create build", func(tx *sql.Tx) (err error) {
		made, err = createBuild(ctx, tx, *b)
		return err
	})
	if err == nil {
		*b = *made
	}
	return err
}

func createBuild(ctx context.Context, tx *sql.Tx, b coordinator.Build) (*coordinator.Build, error) {
	var number int
	err := tx.QueryRowContext(ctx, `SELECT coalesce((SELECT max(number) FROM builds WHERE workspace_id = w.id), 0) + 1 FROM workspaces w WHERE w.id = ?`, b.WorkspaceID).Scan(&number)
	if err != nil {
		return nil, lookup("read workspace", err, "workspace")
	}
	docs, err := texts(b.Params, b.AllowDestroy, b.ThenStart)
	if err != nil {
		return nil, err
	}
	then := any(docs[2])
	if b.ThenStart == nil {
		then = nil
	}
	id := coordinator.NewID()
	_, err = tx.ExecContext(ctx, `INSERT INTO builds (id, workspace_id, number, transition, reason, initiator, version_id, params, allow_destroy, then_start,
		status, cancel_requested, error, address, timings, resources, state_serial, created, started, ended)
		VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 'queued', 0, '', '', 'null', 'null', 0, ?, 0, 0)`,
		id, b.WorkspaceID, number, b.Transition, b.Reason, b.Initiator, b.VersionID, docs[0], docs[1], then, ms(orNow(b.Created)))
	if duplicate(err) {
		return nil, openBuildError(ctx, tx, b.WorkspaceID)
	}
	if err != nil {
		return nil, err
	}
	if b.Transition == coordinator.Start {
		if _, err := tx.ExecContext(ctx, `UPDATE workspaces SET version_id = ?, params = ? WHERE id = ?`, b.VersionID, docs[0], b.WorkspaceID); err != nil {
			return nil, err
		}
	}
	return oneBuild(ctx, tx, `WHERE b.id = ?`, id)
}

func openBuildError(ctx context.Context, tx *sql.Tx, ws coordinator.WorkspaceID) error {
	b, err := oneBuild(ctx, tx, `WHERE b.workspace_id = ? AND b.status IN ('queued', 'running')`, ws)
	if err != nil {
		return err
	}
	if b == nil {
		return errors.New("a build was refused though none is open")
	}
	return coordinator.Errorf(coordinator.CodeConflict, "%s build %d of this workspace is %s", b.Transition, b.Number, b.Status).
		WithHint("wait for it to end, or cancel it")
}

// OpenBuild returns the workspace's build that has not ended, nil if there is none.
func (s *Store) OpenBuild(ctx context.Context, ws coordinator.WorkspaceID) (*coordinator.Build, error) {
	b, err := oneBuild(ctx, s.read, `WHERE b.workspace_id = ? AND b.status IN ('queued', 'running')`, ws)
	return b, wrap("read open build", err)
}

// LatestBuild returns the workspace's latest build, nil if there is none.
func (s *Store) LatestBuild(ctx context.Context, ws coordinator.WorkspaceID) (*coordinator.Build, error) {
	b, err := oneBuild(ctx, s.read, `WHERE b.workspace_id = ? ORDER BY b.number DESC LIMIT 1`, ws)
	return b, wrap("read latest build", err)
}

// LatestStart returns the workspace's latest start build that is open or has succeeded, nil if there is none.
func (s *Store) LatestStart(ctx context.Context, ws coordinator.WorkspaceID) (*coordinator.Build, error) {
	b, err := oneBuild(ctx, s.read, `WHERE b.workspace_id = ? AND b.transition = 'start' AND b.status IN ('queued', 'running', 'succeeded')
		ORDER BY b.number DESC LIMIT 1`, ws)
	return b, wrap("read latest start", err)
}

// LatestBuilds returns the latest build of each of several workspaces in one query.
func (s *Store) LatestBuilds(ctx context.Context, wss []coordinator.WorkspaceID) (map[coordinator.WorkspaceID]coordinator.Build, error) {
	ids, err := text(wss)
	if err != nil {
		return nil, wrap("list latest builds", err)
	}
	bs, err := list(ctx, s.read, scanBuild, buildQuery+`WHERE b.workspace_id IN (SELECT value FROM json_each(?))
		AND b.number = (SELECT max(number) FROM builds l WHERE l.workspace_id = b.workspace_id)`, ids)
	if err != nil {
		return nil, wrap("list latest builds", err)
	}
	of := make(map[coordinator.WorkspaceID]coordinator.Build, len(bs))
	for _, b := range bs {
		of[b.WorkspaceID] = b
	}
	return of, nil
}

// Build returns the build with that id.
func (s *Store) Build(ctx context.Context, id coordinator.BuildID) (coordinator.Build, error) {
	b, err := scanBuild(s.read.QueryRowContext(ctx, buildQuery+`WHERE b.id = ?`, id))
	return b, lookup("read build", err, "build")
}

// BuildByNumber returns a workspace's build of that number.
func (s *Store) BuildByNumber(ctx context.Context, ws coordinator.WorkspaceID, n int) (coordinator.Build, error) {
	b, err := scanBuild(s.read.QueryRowContext(ctx, buildQuery+`WHERE b.workspace_id = ? AND b.number = ?`, ws, n))
	return b, lookup("read build", err, "build: %d", n)
}

// Builds returns a page of a workspace's builds, newest first: those before the number given, or from the newest on
// if that is 0.
func (s *Store) Builds(ctx context.Context, ws coordinator.WorkspaceID, before, limit int) ([]coordinator.Build, error) {
	bs, err := list(ctx, s.read, scanBuild, buildQuery+`WHERE b.workspace_id = ? AND b.number < ? ORDER BY b.number DESC LIMIT ?`, ws, orLast(before), page(limit))
	return bs, wrap("list builds", err)
}

// LastStopResources returns the addresses that outlived the workspace's last successful stop.
func (s *Store) LastStopResources(ctx context.Context, ws coordinator.WorkspaceID) ([]string, error) {
	b, err := oneBuild(ctx, s.read, `WHERE b.workspace_id = ? AND b.transition = 'stop' AND b.status = 'succeeded' ORDER BY b.number DESC LIMIT 1`, ws)
	if err != nil || b == nil {
		return nil, wrap("read last stop", err)
	}
	return b.Resources, nil
}

// RunningBuilds returns the builds that were claimed and have not ended, oldest first.
func (s *Store) RunningBuilds(ctx context.Context) ([]coordinator.Build, error) {
	bs, err := list(ctx, s.read, scanBuild, buildQuery+`WHERE b.status = 'running' ORDER BY b.seq`)
	return bs, wrap("list running builds", err)
}

// QueuedBefore returns how many builds wait in the queue before the one given; 0 if that does not wait itself.
func (s *Store) QueuedBefore(ctx context.Context, id coordinator.BuildID) (int, error) {
	var n int
	err := s.read.QueryRowContext(ctx, `SELECT count(*) FROM builds WHERE status = 'queued' AND seq < (SELECT seq FROM builds WHERE id = ? AND status = 'queued')`, id).Scan(&n)
	return n, wrap("count queued builds", err)
}

// ClaimBuild makes the oldest queued build a running one and returns it, nil if the queue is empty.
func (s *Store) ClaimBuild(ctx context.Context, now time.Time) (*coordinator.Build, error) {
	var b *coordinator.Build
	err := s.in(ctx, "claim build", func(tx *sql.Tx) error {
		var id string
		err := tx.QueryRowContext(ctx, `UPDATE builds SET status = 'running', started = ?
			WHERE seq = (SELECT seq FROM builds WHERE status = 'queued' ORDER BY seq LIMIT 1) RETURNING id`, ms(now)).Scan(&id)
		if errors.Is(err, sql.ErrNoRows) {
			return nil
		}
		if err != nil {
			return err
		}
		b, err = oneBuild(ctx, tx, `WHERE b.id = ?`, id)
		return err
	})
	if err != nil {
		return nil, err
	}
	return b, nil
}

// RequestCancel asks for the end of a build. One that waits in the queue is canceled at once; one that runs gets a
// flag, for whoever runs it. It is CodeConflict if the build has ended.
func (s *Store) RequestCancel(ctx context.Context, id coordinator.BuildID) (coordinator.Build, error) {
	var b *coordinator.Build
	err := s.in(ctx, "cancel build", func(tx *sql.Tx) (err error) {
		if b, err = oneBuild(ctx, tx, `WHERE b.id = ?`, id); err != nil {
			return err
		}
		switch {
		case b == nil:
			return notFound("build")
		case !b.Status.Open():
			return coordinator.Errorf(coordinator.CodeConflict, "%s build %d has ended already: %s", b.Transition, b.Number, b.Status)
		case b.Status == coordinator.BuildQueued:
			_, err = tx.ExecContext(ctx, `UPDATE builds SET cancel_requested = 1, status = 'canceled', error = 'canceled before it began', ended = ? WHERE id = ?`, ms(time.Now()), id)
		default:
			_, err = tx.ExecContext(ctx, `UPDATE builds SET cancel_requested = 1 WHERE id = ?`, id)
		}
		if err != nil {
			return err
		}
		b, err = oneBuild(ctx, tx, `WHERE b.id = ?`, id)
		return err
	})
	if err != nil {
		return coordinator.Build{}, err
	}
	return *b, nil
}
