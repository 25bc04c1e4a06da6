package sqlite

import (
	"bytes"
	"database/sql"
	"io/fs"
	"log/slog"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"berth/coordinator"
)

func TestOpenPaths(t *testing.T) {
	key := newKey(t)
	for _, name := range []string{"plain", "with space", "a?b", "a#b", "a%20b", "100%", "a&_txlock=x", "ü;'\"[x]*"} {
		dir := filepath.Join(t.TempDir(), name)
		ok(t, os.Mkdir(dir, 0o700))
		s := openAt(t, dir, key)
		u := newUser(t, s, "alice")
		for _, f := range []string{File, File + "-wal", File + "-shm"} {
			info, err := os.Stat(filepath.Join(dir, f))
			if err != nil {
				t.Errorf("%s: %v", name, err)
			} else if info.Mode().Perm() != 0o600 {
				t.Errorf("%s: %s has mode %o", name, f, info.Mode().Perm())
			}
		}
		ok(t, s.Close())
		entries := must(os.ReadDir(dir))(t)
		if len(entries) != 1 || entries[0].Name() != File {
			t.Errorf("%s: the directory holds %v", name, entries)
		}
		if siblings := must(os.ReadDir(filepath.Dir(dir)))(t); len(siblings) != 1 {
			t.Errorf("%s: files beside the directory: %v", name, siblings)
		}
		s = openAt(t, dir, key)
		if got := must(s.UserByName(ctx, "alice"))(t); got.ID != u.ID {
			t.Errorf("%s: got %+v", name, got)
		}
		ok(t, s.Close())
	}
}

func TestPragmas(t *testing.T) {
	s := newStore(t)
	for _, tt := range []struct {
		name string
		db   *sql.DB
		want map[string]string
	}{
		{"writer", s.write, map[string]string{"journal_mode": "wal", "synchronous": "2", "foreign_keys": "1", "busy_timeout": "5000", "query_only": "0"}},
		{"reader", s.read, map[string]string{"journal_mode": "wal", "foreign_keys": "1", "busy_timeout": "5000", "query_only": "1"}},
	} {
		var conns []*sql.Conn // every connection of the pool
		for range tt.db.Stats().MaxOpenConnections {
			c := must(tt.db.Conn(ctx))(t)
			conns = append(conns, c)
			for p, want := range tt.want {
				var got string
				ok(t, c.QueryRowContext(ctx, "PRAGMA "+p).Scan(&got))
				if got != want {
					t.Errorf("%s %d: %s = %s, want %s", tt.name, len(conns), p, got, want)
				}
			}
		}
		for _, c := range conns {
			ok(t, c.Close())
		}
	}
	if _, err := s.read.Exec(`DELETE FROM users`); err == nil {
		t.Error("a reader could write")
	}
}

func TestSchema(t *testing.T) {
	s := newStore(t)
	loose := must(list(ctx, s.read, func(r row) (n string, err error) { err = r.Scan(&n); return n, err },
		`SELECT name FROM pragma_table_list WHERE schema = 'main' AND type = 'table' AND NOT strict AND name NOT LIKE 'sqlite_%' AND name <> 'goose_db_version'`))(t)
	if len(loose) != 0 {
		t.Errorf("tables that are not strict: %v", loose)
	}
	// Every foreign key needs an index on its columns: else each delete of a parent reads the whole table.
	bare := must(list(ctx, s.read, func(r row) (n string, err error) { err = r.Scan(&n); return n, err },
		`SELECT m.name || '.' || f."from" FROM sqlite_schema m, pragma_foreign_key_list(m.name) f WHERE m.type = 'table' AND NOT EXISTS (
			SELECT 1 FROM pragma_index_list(m.name) i, pragma_index_info(i.name) c WHERE c.seqno = 0 AND c.name = f."from")`))(t)
	if len(bare) != 0 {
		t.Errorf("foreign keys without an index: %v", bare)
	}
	u, v := newUser(t, s, "alice"), newUser(t, s, "bob")
	if u.HostUID != coordinator.HostUIDBase || v.HostUID != u.HostUID+1 {
		t.Errorf("host uids %d and %d, want from %d on", u.HostUID, v.HostUID, coordinator.HostUIDBase)
	}
}

// content is what a file holds, read only after every connection to it is closed.
func content(t *testing.T, name string) []byte {
	t.Helper()
	return must(os.ReadFile(name))(t)
}

func TestForeignFileRefused(t *testing.T) {
	for _, tt := range []struct {
		name string
		make func(t *testing.T, path string)
	}{
		{"no database", func(t *testing.T, path string) {
			ok(t, os.WriteFile(path, bytes.Repeat([]byte("a letter to my aunt\n"), 300), 0o600))
		}},
		{"another program's database", func(t *testing.T, path string) {
			db := must(sql.Open("sqlite", dsn(path, url.Values{})))(t)
			must(db.Exec(`CREATE TABLE letters (x)`))(t)
			ok(t, db.Close())
		}},
		{"another program's marked database", func(t *testing.T, path string) {
			db := must(sql.Open("sqlite", dsn(path, url.Values{})))(t)
			must(db.Exec(`PRAGMA application_id = 77`))(t)
			ok(t, db.Close())
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), File)
			tt.make(t, path)
			before := content(t, path)
			_, err := Open(ctx, filepath.Dir(path), newKey(t), slog.New(slog.DiscardHandler))
			code(t, err, coordinator.CodeConflict)
			if err == nil || !strings.Contains(err.Error(), "not a database of Berth") {
				t.Errorf("got %v", err)
			}
			if !bytes.Equal(content(t, path), before) {
				t.Error("the file was changed")
			}
			if entries := must(os.ReadDir(filepath.Dir(path)))(t); len(entries) != 1 {
				t.Errorf("files were left beside it: %v", entries)
			}
		})
	}
}

func TestOtherKeyRefused(t *testing.T) {
	dir := t.TempDir()
	ok(t, openAt(t, dir, newKey(t)).Close())
	_, err := Open(ctx, dir, newKey(t), slog.New(slog.DiscardHandler))
	code(t, err, coordinator.CodeConflict)
	if err == nil || !strings.Contains(err.Error(), "key file") {
		t.Errorf("got %v", err)
	}
}

// with returns our migrations and further ones.
func with(t *testing.T, more map[string]string) fs.FS {
	t.Helper()
	all := fstest.MapFS{}
	for _, e := range must(fs.ReadDir(migrations(), "."))(t) {
		all[e.Name()] = &fstest.MapFile{Data: must(fs.ReadFile(migrations(), e.Name()))(t)}
	}
	for name, sql := range more {
		all[name] = &fstest.MapFile{Data: []byte(sql)}
	}
	return all
}

func TestMigration(t *testing.T) {
	dir, key, log := filepath.Join(t.TempDir(), "data [x]?"), newKey(t), slog.New(slog.DiscardHandler)
	ok(t, os.Mkdir(dir, 0o700))
	s := openAt(t, dir, key)
	newUser(t, s, "alice")
	ok(t, s.Close())
	if _, err := os.Stat(filepath.Join(dir, Backups)); err == nil {
		t.Error("a new database was backed up")
	}

	next := with(t, map[string]string{"90000_more.sql": "-- +goose Up\nCREATE TABLE more (x TEXT) STRICT;\nINSERT INTO more VALUES ('x');\n"})
	s = must(open(ctx, dir, key, log, next))(t)
	if n := rowCount(t, s, `SELECT count(*) FROM more`); n != 1 {
		t.Errorf("%d rows", n)
	}
	ok(t, s.Close())
	ok(t, must(open(ctx, dir, key, log, next))(t).Close()) // nothing to migrate, so nothing to back up

	backups := must(os.ReadDir(filepath.Join(dir, Backups)))(t)
	if len(backups) != 1 {
		t.Fatalf("backups: %v", backups)
	}
	backup := filepath.Join(dir, Backups, backups[0].Name())
	if mode := must(os.Stat(backup))(t).Mode().Perm(); mode != 0o600 {
		t.Errorf("the backup has mode %o", mode)
	}
	restored := t.TempDir()
	ok(t, os.WriteFile(filepath.Join(restored, File), content(t, backup), 0o600))
	old := openAt(t, restored, key)
	must(old.UserByName(ctx, "alice"))(t)
	if n := rowCount(t, old, `SELECT count(*) FROM sqlite_schema WHERE name = 'more'`); n != 0 {
		t.Error("the backup was made after the migration")
	}

	// This version does not know the newer schema.
	before := content(t, filepath.Join(dir, File))
	_, err := Open(ctx, dir, key, log)
	code(t, err, coordinator.CodeConflict)
	if err == nil || !strings.Contains(err.Error(), "schema 90000") {
		t.Errorf("got %v", err)
	}
	if !bytes.Equal(content(t, filepath.Join(dir, File)), before) {
		t.Error("the newer database was changed")
	}

	// Old backups go.
	for i, name := range []string{"90001_a.sql", "90002_b.sql", "90003_c.sql", "90004_d.sql"} {
		more := map[string]string{"90000_more.sql": "-- +goose Up\nSELECT 1;\n"}
		for _, n := range []string{"90001_a.sql", "90002_b.sql", "90003_c.sql", "90004_d.sql"}[:i+1] {
			more[n] = "-- +goose Up\nCREATE TABLE t" + n[:5] + " (x TEXT) STRICT;\n"
		}
		s, err := open(ctx, dir, key, log, with(t, more))
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		ok(t, s.Close())
	}
	backups = must(os.ReadDir(filepath.Join(dir, Backups)))(t)
	if got := names(backups, func(e os.DirEntry) string { return e.Name() }); len(backups) != keepBackups || !strings.Contains(got, "schema90003") {
		t.Errorf("backups that are kept: %s", got)
	}
}

func TestMigrationFails(t *testing.T) {
	dir, key, log := t.TempDir(), newKey(t), slog.New(slog.DiscardHandler)
	ok(t, openAt(t, dir, key).Close())
	_, err := open(ctx, dir, key, log, with(t, map[string]string{"90000_bad.sql": "-- +goose Up\nCREATE TABLE half (x TEXT) STRICT;\nCREATE NONSENSE;\n"}))
	if err == nil {
		t.Fatal("a bad migration went through")
	}
	s := openAt(t, dir, key)
	if n := rowCount(t, s, `SELECT count(*) FROM sqlite_schema WHERE name = 'half'`); n != 0 {
		t.Error("half a migration was left")
	}
}

func TestOneActiveCoordinator(t *testing.T) {
	dir, key := t.TempDir(), newKey(t)
	a, b := openAt(t, dir, key), openAt(t, dir, key)
	child := exec.Command("sleep", "60")
	ok(t, child.Start())
	defer child.Process.Kill() //nolint:errcheck // it may have ended

	ok(t, a.Activate(ctx, child.Process.Pid, noon))
	ok(t, a.Activate(ctx, child.Process.Pid, noon)) // the same one again
	err := b.Activate(ctx, os.Getpid(), time.Now())
	code(t, err, coordinator.CodeConflict)
	if err == nil || !strings.Contains(err.Error(), "another berthd") {
		t.Errorf("got %v", err)
	}
	ok(t, b.Deactivate(ctx)) // never active: takes back nothing
	code(t, b.Activate(ctx, os.Getpid(), time.Now()), coordinator.CodeConflict)

	// Killed, and not even waited for by its parent: dead.
	ok(t, child.Process.Kill())
	deadline := time.Now().Add(10 * time.Second)
	for {
		if err = b.Activate(ctx, os.Getpid(), time.Now()); err == nil || time.Now().After(deadline) {
			break
		}
	}
	ok(t, err)
	_ = child.Wait()
	ok(t, a.Deactivate(ctx)) // was taken over: takes back nothing
	if n := rowCount(t, b, `SELECT count(*) FROM active`); n != 1 {
		t.Error("the one who was replaced deactivated its successor")
	}
	// The pid lives, but it is another process than the one recorded.
	must(b.write.Exec(`UPDATE active SET pid = 1, ticks = '1234567890123'`))(t)
	ok(t, b.Activate(ctx, os.Getpid(), time.Now()))
	ok(t, b.Deactivate(ctx))
	if n := rowCount(t, b, `SELECT count(*) FROM active`); n != 0 {
		t.Error("deactivated, and still recorded")
	}
	if err := b.Activate(ctx, 1<<30, noon); err == nil {
		t.Error("a process that is not there was activated")
	}
}

func TestInstallationValues(t *testing.T) {
	s := newStore(t)
	_, err := s.Sealed(ctx, "ca-host")
	code(t, err, coordinator.CodeNotFound)
	for _, v := range []string{"one", "", "two"} {
		ok(t, s.PutSealed(ctx, "ca-host", []byte(v)))
		if got := must(s.Sealed(ctx, "ca-host"))(t); string(got) != v {
			t.Errorf("got %q, want %q", got, v)
		}
	}
	ok(t, s.DeleteSealed(ctx, "ca-host"))
	ok(t, s.DeleteSealed(ctx, "ca-host"))
	_, err = s.Sealed(ctx, "ca-host")
	code(t, err, coordinator.CodeNotFound)
}

// TestNothingSecretInTheFile writes every kind of secret and looks for it in the bytes on disk.
func TestNothingSecretInTheFile(t *testing.T) {
	dir, key := t.TempDir(), newKey(t)
	w := worldIn(t, openAt(t, dir, key))
	const secret = "SECRET-d41d8cd98f"
	u := coordinator.User{Name: "bob", Role: coordinator.RoleMember}
	ok(t, w.CreateUser(ctx, &u, coordinator.GitKey{PrivateKey: secret + "git", PublicKey: keyLine()}))
	ok(t, w.PutSealed(ctx, "ca-host", []byte(secret+"ca")))
	ok(t, w.PutSecret(ctx, coordinator.UserSecret{UserID: u.ID, Name: "plain-marker", Env: "X", Value: secret + "user"}))
	ws := coordinator.Workspace{Name: "x", OwnerID: u.ID, TemplateID: w.v.TemplateID, VersionID: w.v.ID}
	ok(t, w.CreateWorkspace(ctx, &ws, coordinator.HostIdentity{Ed25519: secret + "ed", ECDSA: secret + "ec"}))
	ok(t, w.PutState(ctx, coordinator.State{WorkspaceID: ws.ID, Serial: 1, Data: secret + "state"}))
	agentKey := must(w.AgentKey(ctx, ws.ID))(t)
	token, hash := coordinator.NewAPIToken(coordinator.APITokenPrefix)
	ok(t, w.CreateToken(ctx, &coordinator.Token{UserID: u.ID, Name: "t"}, hash))
	// What comes out is what went in.
	if got := must(w.GitKey(ctx, u.ID))(t); got.PrivateKey != secret+"git" {
		t.Error("the Git key changed")
	}
	if got := must(w.HostIdentity(ctx, ws.ID))(t); got.Ed25519 != secret+"ed" || got.ECDSA != secret+"ec" {
		t.Error("the host identity changed")
	}
	if again := must(w.AgentKey(ctx, ws.ID))(t); len(again) != 32 || !bytes.Equal(again, agentKey) || bytes.Equal(again, must(w.AgentKey(ctx, w.ws.ID))(t)) {
		t.Error("the agent key is not stable, or not its workspace's own")
	}
	ok(t, w.Close())
	b := content(t, filepath.Join(dir, File))
	if !bytes.Contains(b, []byte("plain-marker")) {
		t.Fatal("the file does not even hold what is not secret")
	}
	for what, v := range map[string][]byte{"a secret": []byte(secret), "an agent key": agentKey, "a token": []byte(token)} {
		if bytes.Contains(b, v) {
			t.Errorf("the file holds %s in plain", what)
		}
	}
}

// TestSealedValuesStayInPlace moves sealed values as somebody with the file, but without the key, could.
func TestSealedValuesStayInPlace(t *testing.T) {
	w := newWorld(t)
	other := newWorkspace(t, w.Store, w.user, w.v, "other")
	for n := range int64(2) {
		ok(t, w.PutState(ctx, coordinator.State{WorkspaceID: w.ws.ID, Serial: n + 1, Data: coordinator.Secret("state" + string(rune('1'+n)))}))
	}
	ok(t, w.PutSecret(ctx, coordinator.UserSecret{UserID: w.user.ID, Name: "a", Env: "A", Value: "va"}))
	ok(t, w.PutSecret(ctx, coordinator.UserSecret{UserID: w.user.ID, Name: "b", Env: "B", Value: "vb"}))
	for _, tt := range []struct {
		name, attack string
		read         func() error
	}{
		{
			"another workspace's host key", `UPDATE workspaces SET ed25519_sealed = (SELECT ed25519_sealed FROM workspaces WHERE id = '` + string(other.ID) + `') WHERE id = '` + string(w.ws.ID) + `'`,
			func() error { _, err := w.HostIdentity(ctx, w.ws.ID); return err },
		},
		{
			"an older state", `UPDATE states SET data_sealed = (SELECT data_sealed FROM states WHERE revision = 1) WHERE revision = 2`,
			func() error { _, err := w.State(ctx, w.ws.ID); return err },
		},
		{
			"another secret", `UPDATE user_secrets SET value_sealed = (SELECT value_sealed FROM user_secrets WHERE name = 'a') WHERE name = 'b'`,
			func() error { _, err := w.Secrets(ctx, w.user.ID, true); return err },
		},
	} {
		ok(t, tt.read())
		must(w.write.Exec(tt.attack))(t)
		if tt.read() == nil {
			t.Errorf("%s was read", tt.name)
		}
	}
}

func TestCloseEndsEverything(t *testing.T) {
	s := newStore(t)
	ok(t, s.Close())
	if _, err := s.CountUsers(ctx); err == nil {
		t.Error("a closed store answers")
	}
	if err := s.Audit(ctx, coordinator.AuditEntry{}); err == nil {
		t.Error("a closed store writes")
	}
}
