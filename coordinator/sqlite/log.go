package sqlite

import (
	"context"
	"database/sql"
	"strings"
	"time"

	"berth/coordinator"
)

// AppendLog stores lines of a build's log, or of a template version's import under the version's id. A line whose
// source and Seq are stored already is ignored, so one may repeat oneself. Lines from MaxLogLines on are not kept,
// and text is cut at MaxLogLine.
func (s *Store) AppendLog(ctx context.Context, build coordinator.BuildID, lines []coordinator.LogLine) error {
	if len(lines) == 0 {
		return nil
	}
	return s.in(ctx, "append log", func(tx *sql.Tx) error {
		var exists bool
		err := tx.QueryRowContext(ctx, `SELECT EXISTS (SELECT 1 FROM builds WHERE id = ?) OR EXISTS (SELECT 1 FROM template_versions WHERE id = ?)`, build, build).Scan(&exists)
		if err != nil {
			return err
		}
		if !exists { // deleted meanwhile; nothing would ever remove the lines
			return notFound("build")
		}
		insert, err := tx.PrepareContext(ctx, `INSERT OR IGNORE INTO log_lines (job_id, source, seq, time, stage, level, address, text, elapsed) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)`)
		if err != nil {
			return err
		}
		defer func() { _ = insert.Close() }() // it goes with the transaction
		for _, l := range lines {
			if l.Seq < 0 || l.Seq >= coordinator.MaxLogLines {
				continue
			}
			_, err := insert.ExecContext(ctx, build, sourceOf(l), l.Seq, ms(l.Time), l.Stage, l.Level, l.Address, cut(l.Text), int64(l.Elapsed))
			if err != nil {
				return err
			}
		}
		return nil
	})
}

func sourceOf(l coordinator.LogLine) string {
	if l.Source == "" {
		return coordinator.SourceBuild
	}
	return l.Source
}

// cut makes s valid UTF-8 of at most MaxLogLine bytes.
func cut(s string) string {
	const mark = len("…")
	if len(s) > coordinator.MaxLogLine {
		s = coordinator.Clip(s, coordinator.MaxLogLine-mark)
	}
	return strings.ToValidUTF8(s, "\uFFFD")
}

// Log returns a page of the lines of one source of a build, in order: those with a Seq of at least from.
func (s *Store) Log(ctx context.Context, build coordinator.BuildID, source string, from, limit int) ([]coordinator.LogLine, error) {
	ls, err := list(ctx, s.read, func(r row) (coordinator.LogLine, error) {
		l := coordinator.LogLine{Source: source}
		var elapsed int64
		err := r.Scan(&l.Seq, at(&l.Time), &l.Stage, &l.Level, &l.Address, &l.Text, &elapsed)
		l.Elapsed = time.Duration(elapsed)
		return l, err
	}, `SELECT seq, time, stage, level, address, text, elapsed FROM log_lines WHERE job_id = ? AND source = ? AND seq >= ? ORDER BY seq LIMIT ?`,
		build, source, from, page(limit))
	return ls, wrap("read log", err)
}

// LogSources returns the sources of a build's log: the build itself, then its agents by name.
func (s *Store) LogSources(ctx context.Context, build coordinator.BuildID) ([]string, error) {
	names, err := list(ctx, s.read, func(r row) (name string, err error) {
		err = r.Scan(&name)
		return name, err
	}, `SELECT DISTINCT source FROM log_lines WHERE job_id = ? ORDER BY source <> ?, source`, build, coordinator.SourceBuild)
	return names, wrap("list log sources", err)
}
