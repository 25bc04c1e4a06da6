package sqlite

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/base64"
	"strings"
	"time"

	"berth/coordinator"
)

const userColumns = `id, name, full_name, email, role, host_uid, dotfiles, personalize, created`

func scanUser(r row) (u coordinator.User, err error) {
	err = r.Scan(&u.ID, &u.Name, &u.FullName, &u.Email, &u.Role, &u.HostUID, &u.Dotfiles, &u.Personalize, at(&u.Created))
	return u, err
}

// CreateUser stores u with the key that their workspaces present to Git hosts. It fills in ID, HostUID and Created. A
// name that is taken is CodeConflict.
func (s *Store) CreateUser(ctx context.Context, u *coordinator.User, git coordinator.GitKey) error {
	return s.createUser(ctx, u, git, false, nil)
}

// CreateFirstUser is CreateUser where there is no user yet; else it is CodeConflict.
func (s *Store) CreateFirstUser(ctx context.Context, u *coordinator.User, git coordinator.GitKey) error {
	return s.createUser(ctx, u, git, true, nil)
}

// CreateFirstUserWithToken is CreateFirstUser and CreateToken for that user in one transaction: a first user without a
// token could never sign in. It fills in both.
func (s *Store) CreateFirstUserWithToken(ctx context.Context, u *coordinator.User, git coordinator.GitKey, t *coordinator.Token, hash [32]byte) error {
	var n coordinator.Token
	err := s.createUser(ctx, u, git, true, func(tx *sql.Tx, made coordinator.User) error {
		n = newToken(*t)
		n.UserID = made.ID
		return insertToken(ctx, tx, n, hash)
	})
	if err == nil {
		*t = n
	}
	return err
}

// noUser is CodeConflict where there is a user already.
func noUser(ctx context.Context, tx *sql.Tx) error {
	var count int
	if err := tx.QueryRowContext(ctx, `SELECT count(*) FROM users`).Scan(&count); err != nil {
		return err
	}
	if count > 0 {
		return coordinator.Errorf(coordinator.CodeConflict, "the first user exists already").
			WithHint("ask an owner of this installation for an account")
	}
	return nil
}

// createUser makes u, with first only where there is nobody yet, and in the same transaction does what also says.
func (s *Store) createUser(ctx context.Context, u *coordinator.User, git coordinator.GitKey, first bool,
	also func(*sql.Tx, coordinator.User) error,
) error {
	n := *u
	n.ID, n.Created = coordinator.UserID(coordinator.NewID()), stored(orNow(u.Created))
	err := s.in(ctx, "create user", func(tx *sql.Tx) error {
		if first {
			if err := noUser(ctx, tx); err != nil {
				return err
			}
		}
		err := tx.QueryRowContext(ctx, `INSERT INTO users (id, name, full_name, email, role, dotfiles, personalize, created)
			VALUES (?, ?, ?, ?, ?, ?, ?, ?) RETURNING host_uid`,
			n.ID, n.Name, n.FullName, n.Email, n.Role, n.Dotfiles, n.Personalize, ms(n.Created)).Scan(&n.HostUID)
		if duplicate(err) {
			return coordinator.Errorf(coordinator.CodeConflict, "a user named %q exists already", n.Name).WithHint("choose another name")
		}
		if err != nil {
			return err
		}
		if err := s.putGitKey(ctx, tx, n.ID, git); err != nil || also == nil {
			return err
		}
		return also(tx, n)
	})
	if err == nil {
		*u = n
	}
	return err
}

func (s *Store) putGitKey(ctx context.Context, tx *sql.Tx, user coordinator.UserID, git coordinator.GitKey) error {
	const revision = 1
	_, err := tx.ExecContext(ctx, `INSERT INTO git_keys (user_id, revision, private_sealed, public_key, fingerprint, created) VALUES (?, ?, ?, ?, ?, ?)`,
		user, revision, s.key.Seal([]byte(git.PrivateKey), "git_keys", "private_sealed", string(user), revision),
		git.PublicKey, fingerprint(git.PublicKey), ms(orNow(git.Created)))
	return err
}

// fingerprint is the SHA256 fingerprint of a key in authorized_keys form, as OpenSSH prints it. What is not a key
// has one of its own.
func fingerprint(line string) string {
	blob := []byte(line)
	if words := strings.Fields(line); len(words) > 1 {
		if b, err := base64.StdEncoding.DecodeString(words[1]); err == nil {
			blob = b
		}
	}
	sum := sha256.Sum256(blob)
	return "SHA256:" + base64.RawStdEncoding.EncodeToString(sum[:])
}

func orNow(t time.Time) time.Time {
	if t.IsZero() {
		return time.Now()
	}
	return t
}

// User returns the user with that id.
func (s *Store) User(ctx context.Context, id coordinator.UserID) (coordinator.User, error) {
	u, err := scanUser(s.read.QueryRowContext(ctx, `SELECT `+userColumns+` FROM users WHERE id = ?`, id))
	return u, lookup("read user", err, "user")
}

// UserByName returns the user of that name.
func (s *Store) UserByName(ctx context.Context, name string) (coordinator.User, error) {
	u, err := scanUser(s.read.QueryRowContext(ctx, `SELECT `+userColumns+` FROM users WHERE name = ?`, name))
	return u, lookup("read user", err, "user: %q", coordinator.Clip(name, 40))
}

// Users returns a page of users by name, those after the name given.
func (s *Store) Users(ctx context.Context, after string, limit int) ([]coordinator.User, error) {
	us, err := list(ctx, s.read, scanUser, `SELECT `+userColumns+` FROM users WHERE name > ? ORDER BY name LIMIT ?`, after, page(limit))
	return us, wrap("list users", err)
}

// CountUsers returns how many users there are.
func (s *Store) CountUsers(ctx context.Context) (int, error) {
	var n int
	err := s.read.QueryRowContext(ctx, `SELECT count(*) FROM users`).Scan(&n)
	return n, wrap("count users", err)
}

// DeleteUser deletes a user with their keys, secrets and tokens. It is CodeConflict while they have workspaces, and
// for the last owner of the installation.
func (s *Store) DeleteUser(ctx context.Context, id coordinator.UserID) error {
	return s.in(ctx, "delete user", func(tx *sql.Tx) error {
		var name string
		var role coordinator.Role
		var workspaces, otherOwners int
		err := tx.QueryRowContext(ctx, `SELECT name, role, (SELECT count(*) FROM workspaces WHERE owner_id = users.id),
			(SELECT count(*) FROM users o WHERE o.role = ? AND o.id <> users.id) FROM users WHERE id = ?`,
			coordinator.RoleOwner, id).Scan(&name, &role, &workspaces, &otherOwners)
		switch {
		case err != nil:
			return lookup("read user", err, "user")
		case workspaces > 0:
			return coordinator.Errorf(coordinator.CodeConflict, "user %q still has %s", name, count(workspaces, "workspace")).
				WithHint("delete the workspaces first")
		case role == coordinator.RoleOwner && otherOwners == 0:
			return coordinator.Errorf(coordinator.CodeConflict, "user %q is the last owner", name).
				WithHint("make another user an owner first")
		}
		_, err = tx.ExecContext(ctx, `DELETE FROM users WHERE id = ?`, id)
		return err
	})
}

// SetDotfiles sets the URL of a user's dotfiles repository; empty: none.
func (s *Store) SetDotfiles(ctx context.Context, id coordinator.UserID, url string) error {
	n, err := s.exec(ctx, "set dotfiles", `UPDATE users SET dotfiles = ? WHERE id = ?`, url, id)
	return changed(n, err, "user")
}

// SetPersonalize sets a user's ~/personalize script; nil: none.
func (s *Store) SetPersonalize(ctx context.Context, id coordinator.UserID, script *string) error {
	if script != nil && len(*script) > coordinator.MaxPersonalize {
		return coordinator.Errorf(coordinator.CodeTooLarge, "a personalize script may have at most %d KiB", coordinator.MaxPersonalize>>10)
	}
	n, err := s.exec(ctx, "set personalize", `UPDATE users SET personalize = ? WHERE id = ?`, script, id)
	return changed(n, err, "user")
}
