package client

import (
	"context"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"berth/coordinator/rest"
)

// A SessionQuery says which sessions are wanted. What is empty does not matter.
type SessionQuery struct {
	Workspace string // a workspace's name, or owner/name
	User      string
	Open      bool
	Limit     int // the newest ones; 0: all
}

// Sessions lists sessions, newest first: the caller's own, an owner's reach goes over all.
func (c *Client) Sessions(ctx context.Context, q SessionQuery) ([]rest.Session, error) {
	v := url.Values{}
	set(v, "workspace", q.Workspace)
	set(v, "user", q.User)
	if q.Open {
		v.Set("open", "true")
	}
	return newest[rest.Session](ctx, c, "/sessions", v, q.Limit)
}

// An AuditQuery says which entries are wanted. What is empty does not matter.
type AuditQuery struct {
	User, Action, Target string
	Since                time.Time
	Limit                int // the newest ones; 0: all
}

// Audit lists entries of the audit log, newest first. It is for owners.
func (c *Client) Audit(ctx context.Context, q AuditQuery) ([]rest.AuditEntry, error) {
	v := url.Values{}
	set(v, "user", q.User)
	set(v, "action", q.Action)
	set(v, "target", q.Target)
	if !q.Since.IsZero() {
		v.Set("since", q.Since.UTC().Format(time.RFC3339Nano))
	}
	return newest[rest.AuditEntry](ctx, c, "/audit", v, q.Limit)
}

func set(v url.Values, name, value string) {
	if value != "" {
		v.Set(name, value)
	}
}

// newest returns the first limit items of a listing, 0 for all.
func newest[T any](ctx context.Context, c *Client, route string, query url.Values, limit int) ([]T, error) {
	const most = 200 // of one page
	if limit <= 0 {
		query.Set("limit", strconv.Itoa(most))
		return list[T](ctx, c, route, query)
	}
	items := []T{} // a listing of nothing is [] in JSON
	for {
		query.Set("limit", strconv.Itoa(min(limit-len(items), most)))
		var page rest.Page[T]
		if err := c.do(ctx, http.MethodGet, route, query, nil, &page); err != nil {
			return nil, err
		}
		items = append(items, page.Items...)
		if page.Next == "" || len(page.Items) == 0 || len(items) >= limit {
			return items[:min(len(items), limit)], nil
		}
		query.Set("cursor", page.Next)
	}
}
