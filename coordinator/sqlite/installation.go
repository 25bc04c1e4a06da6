package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"berth/coordinator"
)

// SetupToken is the name of the installation value that AdmitFirst goes by: as long as it is there, the first owner can
// be admitted again.
const SetupToken = "setup"

// Sealed returns an installation value that PutSealed stored, CodeNotFound if there is none.
func (s *Store) Sealed(ctx context.Context, name string) ([]byte, error) {
	var revision int64
	var sealed []byte
	err := s.read.QueryRowContext(ctx, `SELECT revision, value_sealed FROM installation WHERE name = ?`, name).Scan(&revision, &sealed)
	if err != nil {
		return nil, lookup("read installation value", err, "installation value %q", name)
	}
	v, err := s.key.Open(sealed, "installation", "value_sealed", name, revision)
	return v, wrap("open installation value", err)
}

// PutSealed stores an installation value, sealed, in place of an older one.
func (s *Store) PutSealed(ctx context.Context, name string, v []byte) error {
	return s.in(ctx, "put installation value", func(tx *sql.Tx) error {
		var revision int64
		err := tx.QueryRowContext(ctx, `SELECT revision FROM installation WHERE name = ?`, name).Scan(&revision)
		if err != nil && !errors.Is(err, sql.ErrNoRows) {
			return err
		}
		revision++
		_, err = tx.ExecContext(ctx, `INSERT INTO installation (name, revision, value_sealed) VALUES (?, ?, ?)
			ON CONFLICT (name) DO UPDATE SET revision = excluded.revision, value_sealed = excluded.value_sealed`,
			name, revision, s.key.Seal(v, "installation", "value_sealed", name, revision))
		return err
	})
}

// DeleteSealed removes an installation value. That there is none is no error.
func (s *Store) DeleteSealed(ctx context.Context, name string) error {
	_, err := s.exec(ctx, "delete installation value", `DELETE FROM installation WHERE name = ?`, name)
	return err
}

// A process is named by more than its pid, which the kernel gives out again.
type process struct {
	pid         int
	boot, ticks string
}

// Activate records the process pid as the one active coordinator of this database. It is refused with CodeConflict
// while the process that is recorded lives. Where /proc does not tell when a process started, its pid alone counts.
func (s *Store) Activate(ctx context.Context, pid int, started time.Time) error {
	me, ok := find(pid)
	if !ok {
		return coordinator.Errorf(coordinator.CodeInvalid, "there is no process %d", pid)
	}
	err := s.in(ctx, "activate", func(tx *sql.Tx) error {
		if err := vacant(ctx, tx, me); err != nil {
			return err
		}
		if err := endLost(ctx, tx, started); err != nil {
			return err
		}
		_, err := tx.ExecContext(ctx, `INSERT OR REPLACE INTO active (one, pid, boot, ticks, started) VALUES (1, ?, ?, ?, ?)`,
			me.pid, me.boot, me.ticks, ms(started))
		return err
	})
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.active = &me
	return nil
}

// Vacant looks, without changing anything, whether another process than this one serves the database in dir: then it is
// CodeConflict, as Activate would be. It is for before Open, which may migrate. A database that is not there, or cannot
// be read as ours, is for Open to judge.
func Vacant(ctx context.Context, dir string) error {
	dir, err := absolute(dir)
	if err != nil {
		return err
	}
	path := filepath.Join(dir, File)
	if _, err := os.Stat(path); err != nil {
		return nil // Open says what is wrong
	}
	if err := ofdLocks(); err != nil {
		return nil // it would drop the locks of whoever has it open in this process
	}
	db, err := sql.Open("sqlite", dsn(path, url.Values{"mode": {"rw"}, "_query_only": {"1"}}))
	if err != nil {
		return wrap("open database", err)
	}
	defer func() { _ = db.Close() }() // it was only read
	var tables int
	if err := db.QueryRowContext(ctx, `SELECT count(*) FROM sqlite_schema WHERE type = 'table' AND name = 'active'`).Scan(&tables); err != nil || tables == 0 {
		return nil // Open says what is wrong
	}
	me, _ := find(os.Getpid())
	return wrap("read who serves the database", vacant(ctx, db, me))
}

// vacant is CodeConflict while another process than me is recorded as active and lives.
func vacant(ctx context.Context, q querier, me process) error {
	var other process
	err := q.QueryRowContext(ctx, `SELECT pid, boot, ticks FROM active WHERE one = 1`).Scan(&other.pid, &other.boot, &other.ticks)
	if errors.Is(err, sql.ErrNoRows) || err == nil && other == me {
		return nil
	}
	if err != nil {
		return err
	}
	if now, ok := find(other.pid); ok && now == other {
		return coordinator.Errorf(coordinator.CodeConflict, "another berthd (pid %d) serves this data directory", other.pid).
			WithHint("end it first, or choose another --data directory")
	}
	return nil
}

// Deactivate takes back what Activate of this Store recorded, unless another coordinator has taken over.
func (s *Store) Deactivate(ctx context.Context) error {
	s.mu.Lock()
	me := s.active
	s.active = nil
	s.mu.Unlock()
	if me == nil {
		return nil
	}
	_, err := s.exec(ctx, "deactivate", `DELETE FROM active WHERE pid = ? AND boot = ? AND ticks = ?`, me.pid, me.boot, me.ticks)
	return err
}

// find returns the live process with that pid. A zombie is not alive.
func find(pid int) (process, bool) {
	p := process{pid: pid}
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return p, alive(pid)
	}
	p.boot = strings.TrimSpace(string(boot))
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return p, false
	}
	// pid (command) state ppid ... starttime is the 22nd field; the command may hold spaces and parentheses.
	fields := strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+1:]))
	if len(fields) < 20 || fields[0] == "Z" || fields[0] == "X" {
		return p, false
	}
	p.ticks = fields[19]
	return p, true
}

// alive is for systems without /proc.
func alive(pid int) bool {
	p, err := os.FindProcess(pid)
	if err != nil {
		return false
	}
	err = p.Signal(syscall.Signal(0))
	return err == nil || errors.Is(err, os.ErrPermission)
}
