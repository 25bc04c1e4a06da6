// Package sqlite is the coordinator's store: one SQLite file with one writer and several readers. It owns the schema
// and what has to be true of the data at any instant; it decides nothing else. What is secret is sealed on its way in.
package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"path/filepath"
	"sync"
	"time"

	sqlite "modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"

	"berth/coordinator"
	"berth/coordinator/seal"
)

// File is the name of the database in its directory.
const File = "berth.db"

const readers = 4

// A Store is an open database.
type Store struct {
	key   *seal.Key
	log   *slog.Logger
	write *sql.DB // one connection; every transaction is immediate
	read  *sql.DB // several connections that cannot write

	mu     sync.Mutex
	active *process // what Activate recorded; guarded by mu
}

// pragmas are part of the DSN, for a pragma that is run on one connection of a pool is not set on the next.
var pragmas = []string{
	"journal_mode(WAL)",
	"synchronous(FULL)",
	"foreign_keys(1)",
	"journal_size_limit(67108864)",
}

// dsn names the database at path as a URI, so that a '?', '#' or '%' in the path is part of the path.
func dsn(path string, params url.Values) string {
	params.Set("_busy_timeout", "5000")
	u := url.URL{Scheme: "file", Path: path, RawQuery: params.Encode()}
	return u.String()
}

func writerDSN(path string) string {
	return dsn(path, url.Values{"_pragma": pragmas, "_txlock": {"immediate"}, "_dqs": {"0"}})
}

func readerDSN(path string) string {
	return dsn(path, url.Values{"_pragma": pragmas[2:3], "_query_only": {"1"}, "_dqs": {"0"}})
}

// ofdLocks makes SQLite use locks that belong to the open file: with POSIX locks, any code of this process that opened
// and closed the database file would drop them all. Where the system has none, nothing may open the file.
var ofdLocks = sync.OnceValue(func() error {
	_, err := sqlite.OFDLocking(true)
	return err
})

// Open opens the database dir/berth.db, making or migrating it as needed. Before a migration it keeps a snapshot in
// dir/backups. It refuses, and leaves as it is, a file that is not ours, that a newer version wrote, or whose sealed
// values key does not open.
func Open(ctx context.Context, dir string, key *seal.Key, log *slog.Logger) (*Store, error) {
	return open(ctx, dir, key, log, migrations())
}

// in runs f in one transaction on the writer.
func (s *Store) in(ctx context.Context, verb string, f func(tx *sql.Tx) error) error {
	tx, err := s.write.BeginTx(ctx, nil)
	if err != nil {
		return wrap(verb, err)
	}
	defer func() { _ = tx.Rollback() }() // nothing to roll back after Commit
	if err := f(tx); err != nil {
		return wrap(verb, err)
	}
	return wrap(verb, tx.Commit())
}

// exec runs one statement on the writer.
func (s *Store) exec(ctx context.Context, verb, query string, args ...any) (changed int64, err error) {
	res, err := s.write.ExecContext(ctx, query, args...)
	if err != nil {
		return 0, wrap(verb, err)
	}
	n, err := res.RowsAffected()
	return n, wrap(verb, err)
}

// Close closes the database. The last to close it folds the write-ahead log into the file.
func (s *Store) Close() error {
	return errors.Join(s.read.Close(), s.write.Close())
}

// wrap adds what was tried to an error that is not yet in the user's words. What an operator can do something about
// becomes an Error.
func wrap(verb string, err error) error {
	var known *coordinator.Error
	var failure *sqlite.Error
	switch {
	case err == nil:
		return nil
	case errors.As(err, &known):
		return err
	case errors.As(err, &failure):
		switch failure.Code() & 0xff {
		case sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR:
			return coordinator.Errorf(coordinator.CodeUnavailable, "the coordinator cannot write its database: %v", failure).
				WithHint("look for a full or failing disk").WithCause(fmt.Errorf("%s: %w", verb, err))
		case sqlite3.SQLITE_BUSY:
			return coordinator.Errorf(coordinator.CodeUnavailable, "the coordinator's database is busy").
				WithHint("try again").WithCause(fmt.Errorf("%s: %w", verb, err))
		}
	}
	return fmt.Errorf("%s: %w", verb, err)
}

// duplicate reports whether err is a violation of a unique index.
func duplicate(err error) bool {
	var failure *sqlite.Error
	return errors.As(err, &failure) &&
		(failure.Code() == sqlite3.SQLITE_CONSTRAINT_UNIQUE || failure.Code() == sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY)
}

// lookup turns a missing row into an Error that says what there is not.
func lookup(verb string, err error, format string, args ...any) error {
	if errors.Is(err, sql.ErrNoRows) {
		return notFound(format, args...)
	}
	return wrap(verb, err)
}

func notFound(format string, args ...any) error {
	return coordinator.Errorf(coordinator.CodeNotFound, "no such "+format, args...)
}

// changed turns a change of nothing into an Error that says what there is not.
func changed(n int64, err error, format string, args ...any) error {
	if err == nil && n == 0 {
		return notFound(format, args...)
	}
	return err
}

// Page sizes of listings.
const (
	defaultLimit = 50
	maxLimit     = 1000
)

func page(limit int) int {
	switch {
	case limit <= 0:
		return defaultLimit
	case limit > maxLimit:
		return maxLimit
	default:
		return limit
	}
}

// touchEvery is how often at most a time of last use is written.
const touchEvery = time.Minute

func absolute(dir string) (string, error) {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return "", fmt.Errorf("find data directory: %w", err)
	}
	return abs, nil
}
