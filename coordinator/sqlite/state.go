package sqlite

import (
	"bytes"
	"context"
	"database/sql"
	"encoding/json"
	"errors"

	"berth/coordinator"
)

// A revision is a stored state, still sealed.
type revision struct {
	coordinator.State
	number int64
	sealed []byte
}

func scanState(r row) (v revision, err error) {
	err = r.Scan(&v.WorkspaceID, &v.BuildID, &v.VersionID, &v.Serial, at(&v.Created), &v.number, &v.sealed)
	return v, err
}

func (s *Store) newestState(ctx context.Context, q querier, ws coordinator.WorkspaceID) (revision, error) {
	v, err := scanState(q.QueryRowContext(ctx, `SELECT workspace_id, build_id, version_id, serial, created, revision, data_sealed
		FROM states WHERE workspace_id = ? ORDER BY revision DESC LIMIT 1`, ws))
	if err != nil {
		return v, err
	}
	plain, err := s.key.Open(v.sealed, "states", "data_sealed", string(ws), v.number)
	v.Data = coordinator.Secret(plain)
	return v, err
}

// State returns a workspace's newest state, CodeNotFound if there was never one.
func (s *Store) State(ctx context.Context, ws coordinator.WorkspaceID) (coordinator.State, error) {
	v, err := s.newestState(ctx, s.read, ws)
	if err != nil {
		return coordinator.State{}, lookup("read state", err, "state")
	}
	return v.State, nil
}

// PutState stores a revision of a workspace's state, sealed, and forgets all but the newest KeepStates. Within a
// lineage the serial never goes back, and a lineage ends only when nothing is left in it: what breaks that is
// CodeConflict, for it would lose resources. An empty state may leave its serial out. The newest state again is
// nothing new.
func (s *Store) PutState(ctx context.Context, st coordinator.State) error {
	return s.in(ctx, "put state", func(tx *sql.Tx) error {
		old, err := s.newestState(ctx, tx, st.WorkspaceID)
		switch {
		case errors.Is(err, sql.ErrNoRows):
		case err != nil:
			return err
		default:
			if st.Data == "" && st.Serial == 0 {
				st.Serial = old.Serial
			}
			if err := follows(old.State, st); err != nil {
				return err
			}
			if old.Serial == st.Serial && old.BuildID == st.BuildID && bytes.Equal([]byte(old.Data), []byte(st.Data)) {
				return nil
			}
		}
		n := old.number + 1
		res, err := tx.ExecContext(ctx, `INSERT INTO states (workspace_id, revision, build_id, version_id, serial, data_sealed, created)
			SELECT id, ?, ?, ?, ?, ?, ? FROM workspaces WHERE id = ?`, n, st.BuildID, st.VersionID, st.Serial,
			s.key.Seal([]byte(st.Data), "states", "data_sealed", string(st.WorkspaceID), n), ms(orNow(st.Created)), st.WorkspaceID)
		if err != nil {
			return err
		}
		if inserted, err := res.RowsAffected(); err != nil || inserted == 0 {
			return changed(inserted, err, "workspace")
		}
		_, err = tx.ExecContext(ctx, `DELETE FROM states WHERE workspace_id = ? AND revision <= ?`, st.WorkspaceID, n-coordinator.KeepStates)
		return err
	})
}

// A stateHead is what the store needs to know of terraform's JSON.
type stateHead struct {
	Lineage   string            `json:"lineage"`
	Resources []json.RawMessage `json:"resources"`
}

func head(data coordinator.Secret) (h stateHead) {
	_ = json.Unmarshal([]byte(data), &h) // what is not terraform's JSON has no lineage, and is compared by serial alone
	return h
}

// follows returns an Error unless next may take the place of old.
func follows(old, next coordinator.State) error {
	was, is := head(old.Data), head(next.Data)
	switch {
	case was.Lineage != "" && is.Lineage != "" && was.Lineage != is.Lineage:
		if len(was.Resources) > 0 {
			return coordinator.Errorf(coordinator.CodeConflict, "the state of another lineage would replace one that holds %s", count(len(was.Resources), "resource"))
		}
		return nil
	case old.Data == "" && is.Lineage != "":
		return nil // everything was destroyed: terraform begins again
	case next.Serial < old.Serial:
		return coordinator.Errorf(coordinator.CodeConflict, "the state's serial %d is older than %d", next.Serial, old.Serial)
	}
	return nil
}
