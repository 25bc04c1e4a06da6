package sqlite

import (
	"bytes"
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/pressly/goose/v3"
	sqlite "modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"

	"berth/coordinator"
	"berth/coordinator/seal"
)

//go:embed migrations/*.sql
var embedded embed.FS

func migrations() fs.FS {
	sub, err := fs.Sub(embedded, "migrations")
	if err != nil {
		panic(err) // the directory is compiled in
	}
	return sub
}

// applicationID marks a SQLite file as ours: "Brth".
const applicationID = 0x42727468

// Backups is the directory, below the data directory, of the snapshots that are made before a migration.
const Backups = "backups"

const keepBackups = 3

func open(ctx context.Context, dir string, key *seal.Key, log *slog.Logger, migrations fs.FS) (*Store, error) {
	if err := ofdLocks(); err != nil {
		log.Warn("no open file description locks, nothing else may open the database", "error", err)
	}
	dir, err := absolute(dir)
	if err != nil {
		return nil, err
	}
	path := filepath.Join(dir, File)
	if err := prepare(path); err != nil {
		return nil, err
	}
	marked, err := inspect(ctx, path)
	if err != nil {
		return nil, err
	}
	s := &Store{key: key, log: log}
	if s.write, err = sql.Open("sqlite", writerDSN(path)); err != nil {
		return nil, wrap("open database", err)
	}
	s.write.SetMaxOpenConns(1)
	if s.read, err = sql.Open("sqlite", readerDSN(path)); err != nil {
		return nil, errors.Join(wrap("open database", err), s.write.Close())
	}
	s.read.SetMaxOpenConns(readers)
	s.read.SetMaxIdleConns(readers)
	if err := s.begin(ctx, dir, migrations, marked); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

// prepare makes an empty file, so that its mode, which SQLite gives to the files beside it as well, is ours and not
// the umask's.
func prepare(path string) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return nil // and not to be opened: see ofdLocks
	}
	if err != nil {
		return fmt.Errorf("make database: %w", err)
	}
	return f.Close()
}

// inspect looks at the file, without changing it, before anything else touches it. It refuses a file that is not
// ours, and reports whether it is marked as ours: an empty one is not yet.
func inspect(ctx context.Context, path string) (marked bool, err error) {
	foreign := coordinator.Errorf(coordinator.CodeConflict, "%s is not a database of Berth", path).
		WithHint("choose another --data directory, or move the file away")
	db, err := sql.Open("sqlite", dsn(path, url.Values{"mode": {"rw"}, "_query_only": {"1"}}))
	if err != nil {
		return false, wrap("open database", err)
	}
	defer func() { _ = db.Close() }() // it was only read
	var id, tables int
	err = db.QueryRowContext(ctx, `SELECT (SELECT application_id FROM pragma_application_id), (SELECT count(*) FROM sqlite_schema)`).Scan(&id, &tables)
	var failure *sqlite.Error
	switch {
	case errors.As(err, &failure) && failure.Code()&0xff == sqlite3.SQLITE_NOTADB:
		return false, foreign.WithCause(err)
	case err != nil:
		return false, wrap("read database", err)
	case id == applicationID, id == 0 && tables == 0:
		return id == applicationID, nil
	default:
		return false, foreign
	}
}

// begin marks, migrates and checks the database.
func (s *Store) begin(ctx context.Context, dir string, migrations fs.FS, marked bool) error {
	if !marked { // before anything else, so that after a crash at any instant the file is still known as ours
		if _, err := s.exec(ctx, "mark database", fmt.Sprintf("PRAGMA application_id = %d", applicationID)); err != nil {
			return err
		}
	}
	if err := s.migrate(ctx, dir, migrations); err != nil {
		return err
	}
	return s.checkKey(ctx)
}

// migrate brings the schema to the newest version, each step in a transaction of its own.
func (s *Store) migrate(ctx context.Context, dir string, migrations fs.FS) error {
	p, err := goose.NewProvider(goose.DialectSQLite3, s.write, migrations,
		goose.WithDisableGlobalRegistry(true), goose.WithSlog(s.log))
	if err != nil {
		return fmt.Errorf("read migrations: %w", err)
	}
	current, target, err := p.GetVersions(ctx)
	switch {
	case err != nil:
		return wrap("read schema version", err)
	case current > target:
		return coordinator.Errorf(coordinator.CodeConflict, "the database has schema %d, this version of berthd knows %d", current, target).
			WithHint("run the newer berthd, or restore a backup from before the upgrade")
	case current == target:
		return nil
	case current > 0:
		if err := s.snapshot(ctx, filepath.Join(dir, Backups), current); err != nil {
			return err
		}
	}
	if _, err := p.Up(ctx); err != nil {
		return wrap("migrate database", err)
	}
	s.log.Info("migrated the database", "from", current, "to", target)
	return nil
}

// snapshot copies the database to a file in dir, whole or not at all, and removes all but the newest few.
func (s *Store) snapshot(ctx context.Context, dir string, version int64) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("make backup directory: %w", err)
	}
	name := filepath.Join(dir, fmt.Sprintf("berth-%s-schema%d.db", time.Now().UTC().Format("20060102T150405.000"), version))
	partial := name + ".partial"
	f, err := os.OpenFile(partial, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600) // VACUUM INTO takes an empty file
	if err != nil {
		return fmt.Errorf("make backup: %w", err)
	}
	defer f.Close()                           // Sync tells
	defer func() { _ = os.Remove(partial) }() // gone after the rename
	if _, err := s.exec(ctx, "make backup", "VACUUM INTO ?", partial); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return fmt.Errorf("make backup: %w", err)
	}
	if err := os.Rename(partial, name); err != nil {
		return fmt.Errorf("make backup: %w", err)
	}
	return thin(dir)
}

// thin removes all but the newest backups.
func thin(dir string) error {
	entries, err := os.ReadDir(dir) // sorted by name, so by time, which comes first in it
	if err != nil {
		return fmt.Errorf("list backups: %w", err)
	}
	var old []string
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), "berth-") && strings.HasSuffix(e.Name(), ".db") {
			old = append(old, filepath.Join(dir, e.Name()))
		}
	}
	for _, name := range old[:max(0, len(old)-keepBackups)] {
		if err := os.Remove(name); err != nil {
			return fmt.Errorf("remove old backup: %w", err)
		}
	}
	return nil
}

// checkKey refuses a key that is not the one under which this database's values are sealed, before a value is lost.
func (s *Store) checkKey(ctx context.Context) error {
	const name, plain = "key-check", "berth"
	got, err := s.Sealed(ctx, name)
	switch {
	case coordinator.CodeOf(err) == coordinator.CodeNotFound:
		return s.PutSealed(ctx, name, []byte(plain))
	case errors.Is(err, seal.ErrOpen), err == nil && !bytes.Equal(got, []byte(plain)):
		return coordinator.Errorf(coordinator.CodeConflict, "the key file is not the one that this database was sealed with").
			WithHint("give the key file of this installation with --key-file").WithCause(err)
	default:
		return err
	}
}
