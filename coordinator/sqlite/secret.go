package sqlite

import (
	"context"
	"database/sql"
	"errors"

	"berth/coordinator"
)

// PutSecret stores a user's secret in place of an older one of that name. It is CodeConflict beyond MaxSecrets and
// where another secret has the same environment variable or file, CodeTooLarge for a value beyond MaxSecretValue.
func (s *Store) PutSecret(ctx context.Context, v coordinator.UserSecret) error {
	if len(v.Value) > coordinator.MaxSecretValue {
		return coordinator.Errorf(coordinator.CodeTooLarge, "a secret may have at most %d KiB", coordinator.MaxSecretValue>>10)
	}
	return s.in(ctx, "put secret", func(tx *sql.Tx) error {
		var revision int64
		var have int
		err := tx.QueryRowContext(ctx, `SELECT revision FROM user_secrets WHERE user_id = ? AND name = ?`, v.UserID, v.Name).Scan(&revision)
		if errors.Is(err, sql.ErrNoRows) {
			err = tx.QueryRowContext(ctx, `SELECT count(*) FROM user_secrets WHERE user_id = ?`, v.UserID).Scan(&have)
		}
		switch {
		case err != nil:
			return err
		case have >= coordinator.MaxSecrets:
			return coordinator.Errorf(coordinator.CodeConflict, "you have %d secrets, and may have no more", have).WithHint("delete one first")
		}
		revision++
		_, err = tx.ExecContext(ctx, `INSERT INTO user_secrets (user_id, name, env, file, revision, value_sealed, updated) VALUES (?, ?, ?, ?, ?, ?, ?)
			ON CONFLICT (user_id, name) DO UPDATE SET env = excluded.env, file = excluded.file, revision = excluded.revision,
			value_sealed = excluded.value_sealed, updated = excluded.updated`,
			v.UserID, v.Name, v.Env, v.File, revision,
			s.key.Seal([]byte(v.Value), "user_secrets", "value_sealed", secretRow(v), revision), ms(orNow(v.Updated)))
		if duplicate(err) {
			return coordinator.Errorf(coordinator.CodeConflict, "another of your secrets is stored in %s%s already", v.Env, v.File).
				WithHint("delete that one, or choose another place")
		}
		return err
	})
}

// secretRow names a secret's row to the seal. Ids hold no slash.
func secretRow(v coordinator.UserSecret) string { return string(v.UserID) + "/" + v.Name }

// Secrets returns a user's secrets by name, with their values only where asked.
func (s *Store) Secrets(ctx context.Context, user coordinator.UserID, values bool) ([]coordinator.UserSecret, error) {
	vs, err := list(ctx, s.read, func(r row) (coordinator.UserSecret, error) {
		v := coordinator.UserSecret{UserID: user}
		var revision int64
		var sealed []byte
		if err := r.Scan(&v.Name, &v.Env, &v.File, &revision, &sealed, at(&v.Updated)); err != nil || !values {
			return v, err
		}
		plain, err := s.key.Open(sealed, "user_secrets", "value_sealed", secretRow(v), revision)
		v.Value = coordinator.Secret(plain)
		return v, err
	}, `SELECT name, env, file, revision, value_sealed, updated FROM user_secrets WHERE user_id = ? ORDER BY name`, user)
	return vs, wrap("list secrets", err)
}

// DeleteSecret deletes a user's secret.
func (s *Store) DeleteSecret(ctx context.Context, user coordinator.UserID, name string) error {
	n, err := s.exec(ctx, "delete secret", `DELETE FROM user_secrets WHERE user_id = ? AND name = ?`, user, name)
	return changed(n, err, "secret: %q", coordinator.Clip(name, 80))
}
