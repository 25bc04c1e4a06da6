package sqlite

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"time"
)

// ms is a time as it is stored: UTC milliseconds, 0 for the zero time.
func ms(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMilli()
}

// stored is t as it will be read again.
func stored(t time.Time) time.Time { return fromMS(ms(t)) }

func fromMS(n int64) time.Time {
	if n == 0 {
		return time.Time{}
	}
	return time.UnixMilli(n).UTC()
}

// at scans a stored time into t.
func at(t *time.Time) sql.Scanner { return timeColumn{t} }

type timeColumn struct{ t *time.Time }

// Scan implements sql.Scanner.
func (c timeColumn) Scan(src any) error {
	n, ok := src.(int64)
	if !ok {
		return fmt.Errorf("scan time: got %T", src)
	}
	*c.t = fromMS(n)
	return nil
}

// doc scans stored JSON into what v points to; NULL leaves it alone.
func doc(v any) sql.Scanner { return jsonColumn{v} }

type jsonColumn struct{ v any }

// Scan implements sql.Scanner.
func (c jsonColumn) Scan(src any) error {
	switch s := src.(type) {
	case nil:
		return nil
	case string:
		return json.Unmarshal([]byte(s), c.v)
	default:
		return fmt.Errorf("scan JSON: got %T", src)
	}
}

// text is v as JSON.
func text(v any) (string, error) {
	b, err := json.Marshal(v)
	return string(b), err
}

// texts is text of several values.
func texts(vs ...any) ([]string, error) {
	out := make([]string, len(vs))
	for i, v := range vs {
		s, err := text(v)
		if err != nil {
			return nil, err
		}
		out[i] = s
	}
	return out, nil
}

// null is NULL for an empty string.
func null[S ~string](s S) any {
	if s == "" {
		return nil
	}
	return string(s)
}

// A row is a sql.Row or the current one of sql.Rows.
type row interface{ Scan(dest ...any) error }

// A querier is a database or a transaction.
type querier interface {
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
	QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row
}

// list runs a query and scans every row.
func list[T any](ctx context.Context, q querier, scan func(row) (T, error), query string, args ...any) ([]T, error) {
	rows, err := q.QueryContext(ctx, query, args...)
	if err != nil {
		return nil, err
	}
	defer func() { _ = rows.Close() }() // Err tells
	var out []T
	for rows.Next() {
		v, err := scan(rows)
		if err != nil {
			return nil, err
		}
		out = append(out, v)
	}
	return out, rows.Err()
}
