package sqlite

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/base64"
	"slices"
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
	n := *u
	err := s.in(ctx, "create user", func(tx *sql.Tx) error { return s.createUser(ctx, tx, &n, git) })
	if err == nil {
		*u = n
	}
	return err
}

func (s *Store) createUser(ctx context.Context, tx *sql.Tx, u *coordinator.User, git coordinator.GitKey) error {
	u.ID, u.Created = coordinator.UserID(coordinator.NewID()), stored(orNow(u.Created))
	err := tx.QueryRowContext(ctx, `INSERT INTO users (id, name, full_name, email, role, dotfiles, personalize, created)
		VALUES (?, ?, ?, ?, ?, ?, ?, ?) RETURNING host_uid`,
		u.ID, u.Name, u.FullName, u.Email, u.Role, u.Dotfiles, u.Personalize, ms(u.Created)).Scan(&u.HostUID)
	if duplicate(err) {
		return coordinator.Errorf(coordinator.CodeConflict, "a user named %q exists already", u.Name).WithHint("choose another name")
	}
	if err != nil {
		return err
	}
	return s.putGitKey(ctx, tx, u.ID, git)
}

// Admit stores a new user with their keys, their token and the audit entry in one transaction, and fills in what the
// store makes of them.
func (s *Store) Admit(ctx context.Context, a *coordinator.Admission) error {
	return s.admission(ctx, a, s.admit)
}

// AdmitFirst is Admit where there is no user yet; the audit entry is in the new user's own name. While the installation
// value SetupToken is there and no token has ever been used, it can be repeated in the same name: the answer to the
// first time may have been lost. Then the user is the one of the first time, and the new token replaces the former.
// Anything else is CodeConflict.
func (s *Store) AdmitFirst(ctx context.Context, a *coordinator.Admission) error {
	return s.admission(ctx, a, func(ctx context.Context, tx *sql.Tx, n *coordinator.Admission) error {
		us, err := list(ctx, tx, scanUser, `SELECT `+userColumns+` FROM users WHERE host_uid > 0 ORDER BY host_uid LIMIT 2`)
		switch {
		case err != nil:
			return err
		case len(us) == 0:
			return s.admit(ctx, tx, n)
		case len(us) > 1:
			return setUp()
		}
		return admitAgain(ctx, tx, n, us[0])
	})
}

// admission runs f on a copy of a, which replaces a once all of it is stored.
func (s *Store) admission(ctx context.Context, a *coordinator.Admission, f func(context.Context, *sql.Tx, *coordinator.Admission) error) error {
	n := *a
	n.Keys = slices.Clone(a.Keys)
	err := s.in(ctx, "create user", func(tx *sql.Tx) error { return f(ctx, tx, &n) })
	if err == nil {
		*a = n
	}
	return err
}

func (s *Store) admit(ctx context.Context, tx *sql.Tx, a *coordinator.Admission) error {
	if err := s.createUser(ctx, tx, &a.User, a.Git); err != nil {
		return err
	}
	for i := range a.Keys {
		a.Keys[i].UserID = a.User.ID
		if err := addKey(ctx, tx, &a.Keys[i]); err != nil {
			return err
		}
	}
	return welcome(ctx, tx, a)
}

// welcome stores the token and the entry of an admission whose user is there.
func welcome(ctx context.Context, tx *sql.Tx, a *coordinator.Admission) error {
	a.Token.UserID = a.User.ID
	a.Token = newToken(a.Token)
	if err := insertToken(ctx, tx, a.Token, a.Hash); err != nil {
		return err
	}
	if a.Entry.Actor == "" {
		a.Entry.Actor, a.Entry.ActorName = a.User.ID, a.User.Name
	}
	return audit(ctx, tx, a.Entry)
}

func setUp() error {
	return coordinator.Errorf(coordinator.CodeConflict, "this installation is set up already").
		WithHint("run berth login, or ask an owner for an account")
}

func admitAgain(ctx context.Context, tx *sql.Tx, a *coordinator.Admission, first coordinator.User) error {
	var open, used int
	err := tx.QueryRowContext(ctx, `SELECT (SELECT count(*) FROM installation WHERE name = ?), (SELECT count(*) FROM tokens WHERE user_id = ? AND last_used > 0)`,
		SetupToken, first.ID).Scan(&open, &used)
	switch {
	case err != nil:
		return err
	case open == 0 || used > 0:
		return setUp()
	case a.User.Name != first.Name:
		return coordinator.Errorf(coordinator.CodeConflict, "the first owner is there already: %s", first.Name).
			WithHint("sign in as that: berth login --name " + first.Name)
	}
	if _, err := tx.ExecContext(ctx, `DELETE FROM tokens WHERE user_id = ?`, first.ID); err != nil {
		return err
	}
	a.User, a.Entry.Action, a.Entry.Detail = first, "token.create", "the first owner's, once more by the setup token"
	return welcome(ctx, tx, a)
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
