package sqlite

import (
	"context"
	"database/sql"
	"fmt"
	"time"

	"berth/coordinator"
)

const keyColumns = `k.id, k.user_id, k.name, k.public_key, k.fingerprint, coalesce(k.token_id, ''), k.created, k.last_used`

func scanKey(r row) (k coordinator.SSHKey, err error) {
	err = r.Scan(&k.ID, &k.UserID, &k.Name, &k.PublicKey, &k.Fingerprint, &k.TokenID, at(&k.Created), at(&k.LastUsed))
	return k, err
}

// AddKey registers a public key, and fills in ID and Created. It is CodeConflict if anybody has registered the key,
// if it is the Git key of anybody (which any program in a workspace can use), and beyond MaxKeys.
func (s *Store) AddKey(ctx context.Context, k *coordinator.SSHKey) error {
	n := *k
	err := s.in(ctx, "add key", func(tx *sql.Tx) error { return addKey(ctx, tx, &n) })
	if err == nil {
		*k = n
	}
	return err
}

func addKey(ctx context.Context, tx *sql.Tx, k *coordinator.SSHKey) error {
	k.ID, k.Created, k.LastUsed = coordinator.KeyID(coordinator.NewID()), stored(orNow(k.Created)), time.Time{}
	taken := coordinator.Errorf(coordinator.CodeConflict, "this key is registered already").WithHint("every person needs keys of their own")
	var have, git int
	err := tx.QueryRowContext(ctx, `SELECT (SELECT count(*) FROM ssh_keys WHERE user_id = ?), (SELECT count(*) FROM git_keys WHERE fingerprint = ?)`,
		k.UserID, k.Fingerprint).Scan(&have, &git)
	switch {
	case err != nil:
		return err
	case git > 0:
		return taken
	case have >= coordinator.MaxKeys:
		return coordinator.Errorf(coordinator.CodeConflict, "you have %d keys, and may have no more", have).WithHint("delete one first")
	}
	_, err = tx.ExecContext(ctx, `INSERT INTO ssh_keys (id, user_id, name, public_key, fingerprint, token_id, created, last_used)
		VALUES (?, ?, ?, ?, ?, ?, ?, 0)`, k.ID, k.UserID, k.Name, k.PublicKey, k.Fingerprint, null(k.TokenID), ms(k.Created))
	if duplicate(err) {
		return taken
	}
	return err
}

// Keys returns a user's keys, oldest first.
func (s *Store) Keys(ctx context.Context, user coordinator.UserID) ([]coordinator.SSHKey, error) {
	ks, err := list(ctx, s.read, scanKey, `SELECT `+keyColumns+` FROM ssh_keys k WHERE k.user_id = ? ORDER BY k.created, k.rowid`, user)
	return ks, wrap("list keys", err)
}

// DeleteKey deletes a user's key by its id, its fingerprint, or its name where that is of one key only.
func (s *Store) DeleteKey(ctx context.Context, user coordinator.UserID, idOrNameOrFingerprint string) error {
	ref := idOrNameOrFingerprint
	return s.in(ctx, "delete key", func(tx *sql.Tx) error {
		ks, err := list(ctx, tx, scanKey, `SELECT `+keyColumns+` FROM ssh_keys k WHERE k.user_id = ?`, user)
		if err != nil {
			return err
		}
		var exact, named []coordinator.SSHKey
		for _, k := range ks {
			switch ref {
			case string(k.ID), k.Fingerprint:
				exact = append(exact, k)
			case k.Name:
				named = append(named, k)
			}
		}
		found := exact
		if len(found) == 0 {
			found = named
		}
		switch len(found) {
		case 0:
			return notFound("key: %q", coordinator.Clip(ref, 80))
		case 1:
			_, err := tx.ExecContext(ctx, `DELETE FROM ssh_keys WHERE id = ?`, found[0].ID)
			return err
		default:
			return coordinator.Errorf(coordinator.CodeConflict, "%d keys are named %q", len(found), coordinator.Clip(ref, 80)).
				WithHint("give the fingerprint")
		}
	})
}

// UserByFingerprint returns the registered key with that fingerprint and whose it is. The key of a device whose token
// has expired is not known any more.
func (s *Store) UserByFingerprint(ctx context.Context, fp string) (coordinator.User, coordinator.SSHKey, error) {
	k, err := scanKey(s.read.QueryRowContext(ctx, `SELECT `+keyColumns+` FROM ssh_keys k LEFT JOIN tokens t ON t.id = k.token_id
		WHERE k.fingerprint = ? AND (t.id IS NULL OR t.expires = 0 OR t.expires > ?)`, fp, ms(time.Now())))
	if err != nil {
		return coordinator.User{}, coordinator.SSHKey{}, lookup("read key", err, "key")
	}
	u, err := s.User(ctx, k.UserID)
	return u, k, err
}

// TouchKey records that a key was used, at most once a minute.
func (s *Store) TouchKey(ctx context.Context, id coordinator.KeyID, now time.Time) error {
	_, err := s.exec(ctx, "touch key", `UPDATE ssh_keys SET last_used = ? WHERE id = ? AND last_used <= ?`, ms(now), id, ms(now.Add(-touchEvery)))
	return err
}

// GitKey returns the key that a user's workspaces present to Git hosts.
func (s *Store) GitKey(ctx context.Context, user coordinator.UserID) (coordinator.GitKey, error) {
	k := coordinator.GitKey{UserID: user}
	var revision int64
	var sealed []byte
	err := s.read.QueryRowContext(ctx, `SELECT revision, private_sealed, public_key, created FROM git_keys WHERE user_id = ?`, user).
		Scan(&revision, &sealed, &k.PublicKey, at(&k.Created))
	if err != nil {
		return coordinator.GitKey{}, lookup("read Git key", err, "user")
	}
	private, err := s.key.Open(sealed, "git_keys", "private_sealed", string(user), revision)
	if err != nil {
		return coordinator.GitKey{}, wrap("open Git key", err)
	}
	k.PrivateKey = coordinator.Secret(private)
	return k, nil
}

// count is a number with its noun: 1 workspace, 2 workspaces.
func count(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}
