package api

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"berth/agent"
	"berth/coordinator"
	"berth/coordinator/rest"
)

func TestSessions(t *testing.T) {
	w := newWorld(t).populate()
	at := time.Now().Add(-time.Hour).Truncate(time.Millisecond).UTC()
	for i, u := range []coordinator.User{w.member, w.other, w.member, w.owner} {
		r := coordinator.SessionRecord{
			ID: fmt.Sprint("s", i), WorkspaceID: w.dev.ID, WorkspaceName: "dev", OwnerID: u.ID, OwnerName: u.Name, UserID: u.ID, UserName: u.Name,
			Agent: "main", Via: agent.ViaJump, Peer: "192.0.2.1:5", Key: "SHA256:k", Token: "laptop", Started: at,
		}
		w.check(w.store.OpenSession(t.Context(), r))
		if i == 0 {
			r.Ended, r.BytesIn, r.BytesOut = at.Add(time.Minute), 5, 7
			w.check(w.store.CloseSession(t.Context(), r))
		}
	}
	for _, tt := range []struct{ who, query, want string }{
		{"owner", "", "s3 s2 s1 s0"},
		{"member", "", "s2 s0"},
		{"other", "", "s1"},
		{"other", "?user=mary", ""},
		{"owner", "?user=mary", "s2 s0"},
		{"owner", "?workspace=otto/dev", "s1"},
		{"owner", "?workspace=dev&limit=2", "s3 s2 +"},
		{"member", "?workspace=me/dev", "s2 s0"},
		{"member", "?open=true", "s2"},
	} {
		p := get[rest.Page[rest.Session]](w, tt.who, "GET", "/sessions"+tt.query, nil)
		var ids []string
		for _, s := range p.Items {
			ids = append(ids, s.ID)
		}
		if p.Next != "" {
			ids = append(ids, "+")
		}
		if got := strings.Join(ids, " "); got != tt.want {
			t.Errorf("%s%s: %q, want %q", tt.who, tt.query, got, tt.want)
		}
	}
	first := get[rest.Page[rest.Session]](w, "owner", "GET", "/sessions?limit=3", nil)
	last := get[rest.Page[rest.Session]](w, "owner", "GET", "/sessions?limit=3&cursor="+first.Next, nil)
	want := rest.Session{
		ID: "s0", Workspace: "mary/dev", Agent: "main", User: "mary", Via: agent.ViaJump, Peer: "192.0.2.1:5", Key: "SHA256:k", Token: "laptop",
		Started: at, Ended: at.Add(time.Minute), BytesIn: 5, BytesOut: 7,
	}
	if len(last.Items) != 1 || last.Items[0] != want || last.Next != "" {
		t.Errorf("got %+v, want %+v", last, want)
	}
}

func TestAuditLog(t *testing.T) {
	w := newWorld(t).populate()
	for _, name := range []string{"one", "two"} {
		get[rest.CreatedToken](w, "member", "POST", "/tokens", rest.CreateToken{Name: name})
	}
	get[rest.CreatedUser](w, "owner", "POST", "/users", rest.CreateUser{Name: "nina"})
	since := time.Now().Add(time.Hour).UTC().Format(time.RFC3339)
	for _, tt := range []struct{ query, want string }{
		{"", "user.create:nina token.create:two token.create:one"},
		{"?user=mary", "token.create:two token.create:one"},
		{"?action=user", "user.create:nina"},
		{"?action=token.create&target=one", "token.create:one"},
		{"?since=" + since, ""},
	} {
		var got []string
		for cursor := ""; ; {
			q := tt.query + "?"
			if tt.query != "" {
				q = tt.query + "&"
			}
			p := get[rest.Page[rest.AuditEntry]](w, "owner", "GET", "/audit"+q+"limit=2&cursor="+cursor, nil)
			for _, e := range p.Items {
				got = append(got, e.Action+":"+e.Target)
			}
			if cursor = p.Next; cursor == "" {
				break
			}
		}
		if got := strings.Join(got, " "); got != tt.want {
			t.Errorf("%s: %q, want %q", tt.query, got, tt.want)
		}
	}
	if a := w.do("member", "GET", "/audit", nil); a.status != 403 {
		t.Errorf("a member reads the log: %d", a.status)
	}
}
