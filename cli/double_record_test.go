package cli

import (
	"net/http"
	"strconv"
	"time"

	"berth/agent"
	"berth/coordinator/rest"
)

// recordRoutes serves three sessions and two entries, in pages of at most two.
func recordRoutes(handle func(string, func(http.ResponseWriter, *http.Request))) {
	now := time.Now()
	sessions := []rest.Session{
		{ID: "s3", Workspace: "alice/dev", User: "alice", Via: agent.ViaConnect, Peer: "192.0.2.7:1", Token: "laptop", Started: now},
		{ID: "s2", Workspace: "alice/dev", User: "alice", Via: agent.ViaDoor, Peer: "192.0.2.7:2", Key: "SHA256:abc", Started: now.Add(-time.Hour), Ended: now.Add(-time.Hour + 1500*time.Millisecond), BytesIn: 10, BytesOut: 3 << 20},
		{ID: "s1", Workspace: "bob/x\x1b[2J", User: "bob", Via: agent.ViaJump, Peer: "192.0.2.8:3", Started: now.Add(-2 * time.Hour), Ended: now, Lost: true},
	}
	handle("GET /sessions", func(w http.ResponseWriter, r *http.Request) {
		some := sessions
		if r.FormValue("user") == "bob" {
			some = sessions[2:]
		}
		answer(w, cut(some, r))
	})
	handle("GET /audit", func(w http.ResponseWriter, r *http.Request) {
		entries := []rest.AuditEntry{
			{Time: now, Actor: "alice", Action: "user.create", Target: "bob", Detail: "role member"},
			{Time: now, Action: "workspace.deleted", Target: "alice/old"},
		}
		if r.FormValue("action") == "user" && r.FormValue("since") != "" {
			entries = entries[:1]
		}
		answer(w, cut(entries, r))
	})
}

// cut is the page of all that r asks for.
func cut[T any](all []T, r *http.Request) rest.Page[T] {
	from, _ := strconv.Atoi(r.FormValue("cursor"))
	n, _ := strconv.Atoi(r.FormValue("limit"))
	p := rest.Page[T]{Items: all[from:min(from+min(n, 2), len(all))]}
	if next := from + len(p.Items); next < len(all) {
		p.Next = strconv.Itoa(next)
	}
	return p
}
