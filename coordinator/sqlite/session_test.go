package sqlite

import (
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/google/go-cmp/cmp"

	"berth/agent"
	"berth/coordinator"
)

func TestSessions(t *testing.T) {
	w := newWorld(t)
	bob := newUser(t, w.Store, "bob")
	open := func(id, workspace string, u coordinator.User) coordinator.SessionRecord {
		r := coordinator.SessionRecord{
			ID: id, WorkspaceID: w.ws.ID, WorkspaceName: workspace, OwnerID: w.user.ID, OwnerName: "alice", UserID: u.ID, UserName: u.Name,
			Agent: "main", Via: agent.ViaJump, Peer: "192.0.2.1:5", Key: "SHA256:k", Token: "laptop", Started: noon,
		}
		ok(t, w.OpenSession(ctx, r))
		return r
	}
	want := open("s1", "dev", w.user)
	open("s2", "dev", bob)
	open("s3", "other", w.user)
	r := open("s4", "dev", bob)
	r.OwnerID, r.OwnerName, r.ID = bob.ID, "bob", "s5"
	ok(t, w.OpenSession(ctx, r))
	want.Seq, want.Ended, want.BytesIn, want.BytesOut = 1, noon.Add(time.Minute), 5, 7
	ok(t, w.CloseSession(ctx, want))

	for _, told := range []struct{ ws, key string }{{"another", "SHA256:forged"}, {string(w.ws.ID), "SHA256:k"}, {string(w.ws.ID), "SHA256:later"}} {
		ok(t, w.SessionKey(ctx, coordinator.WorkspaceID(told.ws), "s1", told.key))
	}
	want.ToldKey = "SHA256:k"
	id := func(r coordinator.SessionRecord) string { return r.ID }
	for _, tt := range []struct {
		name   string
		filter coordinator.SessionFilter
		before int64
		limit  int
		want   string
	}{
		{"all, newest first", coordinator.SessionFilter{}, 0, 0, "s5 s4 s3 s2 s1"},
		{"first page", coordinator.SessionFilter{}, 0, 2, "s5 s4"},
		{"next page", coordinator.SessionFilter{}, 4, 2, "s3 s2"},
		{"in or into one's own", coordinator.SessionFilter{Of: w.user.ID}, 0, 0, "s4 s3 s2 s1"},
		{"of bob's concern", coordinator.SessionFilter{Of: bob.ID}, 0, 0, "s5 s4 s2"},
		{"of nobody", coordinator.SessionFilter{Of: "x"}, 0, 0, ""},
		{"user", coordinator.SessionFilter{User: "bob"}, 0, 0, "s5 s4 s2"},
		{"workspace", coordinator.SessionFilter{Workspace: "other"}, 0, 0, "s3"},
		{"owner's workspace", coordinator.SessionFilter{Owner: "bob", Workspace: "dev"}, 0, 0, "s5"},
		{"open", coordinator.SessionFilter{Open: true}, 0, 0, "s5 s4 s3 s2"},
		{"together", coordinator.SessionFilter{Of: w.user.ID, User: "bob", Owner: "alice", Workspace: "dev", Open: true}, 4, 9, "s2"},
	} {
		if got := names(must(w.Sessions(ctx, tt.filter, tt.before, tt.limit))(t), id); got != tt.want {
			t.Errorf("%s: %q, want %q", tt.name, got, tt.want)
		}
	}
	if diff := cmp.Diff([]coordinator.SessionRecord{want}, must(w.Sessions(ctx, coordinator.SessionFilter{}, 2, 0))(t)); diff != "" {
		t.Error(diff)
	}
}

// TestLostSessions has a coordinator begin after one that was killed: when that was is taken from what it wrote last.
func TestLostSessions(t *testing.T) {
	w := newWorld(t)
	b := w.run(t, coordinator.Start, coordinator.Result{Status: coordinator.BuildSucceeded, Agents: []coordinator.AgentRecord{record("a1", "main")}})
	seen := noon.Add(3 * time.Minute)
	ok(t, w.UpdateAgent(ctx, coordinator.WorkspaceAgent{WorkspaceID: w.ws.ID, ID: "a1", AgentRecord: record("a1", "main"), BuildID: b.ID, LastSeen: seen}))
	now := noon.Add(time.Hour)
	for id, started := range map[string]time.Time{"before": noon, "after": noon.Add(5 * time.Minute), "ahead": now.Add(time.Minute)} {
		ok(t, w.OpenSession(ctx, coordinator.SessionRecord{ID: id, WorkspaceID: w.ws.ID, Started: started}))
	}
	ok(t, w.OpenSession(ctx, coordinator.SessionRecord{ID: "closed", WorkspaceID: w.ws.ID, Started: noon}))
	ok(t, w.CloseSession(ctx, coordinator.SessionRecord{ID: "closed", Ended: noon.Add(time.Second)}))
	ok(t, w.Activate(ctx, os.Getpid(), now))
	got := map[string]string{}
	for _, r := range must(w.Sessions(ctx, coordinator.SessionFilter{}, 0, 0))(t) {
		got[r.ID] = fmt.Sprint(r.Ended.Sub(noon), r.Lost)
	}
	want := map[string]string{"before": "3m0s true", "after": "1h0m0s true", "ahead": "1h1m0s true", "closed": "1s false"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestAuditLog(t *testing.T) {
	s := newStore(t)
	for i, e := range []coordinator.AuditEntry{
		{ActorName: "alice", Action: "key.add", Target: "k1", Detail: "d"},
		{ActorName: "bob", Action: "key.delete", Target: "k1"},
		{ActorName: "alice", Action: "keyring.add", Target: "k2"},
		{Action: "workspace.deleted", Target: "alice/dev"},
	} {
		e.Time = noon.Add(time.Duration(i) * time.Minute)
		ok(t, s.Audit(ctx, e))
	}
	seq := func(e coordinator.AuditEntry) string { return fmt.Sprint(e.Seq) }
	for _, tt := range []struct {
		name   string
		filter coordinator.AuditFilter
		before int64
		limit  int
		want   string
	}{
		{"all, newest first", coordinator.AuditFilter{}, 0, 0, "4 3 2 1"},
		{"page", coordinator.AuditFilter{}, 4, 2, "3 2"},
		{"actor", coordinator.AuditFilter{Actor: "alice"}, 0, 0, "3 1"},
		{"action", coordinator.AuditFilter{Action: "key.add"}, 0, 0, "1"},
		{"noun", coordinator.AuditFilter{Action: "key"}, 0, 0, "2 1"},
		{"no pattern", coordinator.AuditFilter{Action: "%"}, 0, 0, ""},
		{"target", coordinator.AuditFilter{Target: "alice/dev"}, 0, 0, "4"},
		{"since", coordinator.AuditFilter{Since: noon.Add(2 * time.Minute)}, 0, 0, "4 3"},
		{"together", coordinator.AuditFilter{Actor: "alice", Action: "key", Target: "k1", Since: noon}, 9, 1, "1"},
	} {
		if got := names(must(s.AuditEntries(ctx, tt.filter, tt.before, tt.limit))(t), seq); got != tt.want {
			t.Errorf("%s: %q, want %q", tt.name, got, tt.want)
		}
	}
	want := coordinator.AuditEntry{Seq: 1, Time: noon, ActorName: "alice", Action: "key.add", Target: "k1", Detail: "d"}
	if diff := cmp.Diff([]coordinator.AuditEntry{want}, must(s.AuditEntries(ctx, coordinator.AuditFilter{}, 2, 0))(t)); diff != "" {
		t.Error(diff)
	}
}

// TestSessionsAreMigrated brings sessions of the first schema to the next.
func TestSessionsAreMigrated(t *testing.T) {
	dir, key := t.TempDir(), newKey(t)
	first := fstest.MapFS{"00001_init.sql": {Data: must(embedded.ReadFile("migrations/00001_init.sql"))(t)}}
	old := must(open(ctx, dir, key, slog.New(slog.DiscardHandler), first))(t)
	w := worldIn(t, old)
	must(old.write.Exec(`INSERT INTO sessions VALUES ('s', ?, ?, 'door', 'p:1', 'main', 5, 9, 1, 2), ('gone', ?, 'deleted', 'jump', 'p:2', 'main', 1, 0, 0, 0)`, w.ws.ID, w.user.ID, w.ws.ID))(t)
	ok(t, old.Close())
	s := openAt(t, dir, key)
	got := must(s.Sessions(ctx, coordinator.SessionFilter{Workspace: "dev"}, 0, 0))(t)
	if len(got) != 2 || got[0].ID != "s" || got[0].UserName != "alice" || got[0].OwnerID != w.user.ID || got[0].BytesOut != 2 || got[1].UserName != "" {
		t.Errorf("got %+v", got)
	}
}

func TestVacant(t *testing.T) {
	dir, key := t.TempDir(), newKey(t)
	ok(t, Vacant(ctx, dir)) // nothing is there
	if _, err := os.Stat(filepath.Join(dir, File)); err == nil {
		t.Error("looking made a database")
	}
	first := fstest.MapFS{"00001_init.sql": {Data: must(embedded.ReadFile("migrations/00001_init.sql"))(t)}}
	old := must(open(ctx, dir, key, slog.New(slog.DiscardHandler), first))(t)
	child := exec.Command("sleep", "60")
	ok(t, child.Start())
	defer child.Process.Kill() //nolint:errcheck // it may have ended
	ok(t, Vacant(ctx, dir))
	must(old.write.Exec(`INSERT INTO active (one, pid, boot, ticks, started) VALUES (1, ?, ?, ?, 0)`, activeRow(t, child.Process.Pid)...))(t)
	err := Vacant(ctx, dir)
	code(t, err, coordinator.CodeConflict)
	if err == nil || !strings.Contains(err.Error(), fmt.Sprint(child.Process.Pid)) {
		t.Errorf("got %v", err)
	}
	if n := rowCount(t, old, `SELECT max(version_id) FROM goose_db_version`); n != 1 {
		t.Errorf("schema %d: looking migrated it", n)
	}
	ok(t, child.Process.Kill())
	_ = child.Wait()
	ok(t, Vacant(ctx, dir))
	must(old.write.Exec(`DELETE FROM active`))(t)
	must(old.write.Exec(`INSERT INTO active (one, pid, boot, ticks, started) VALUES (1, ?, ?, ?, 0)`, activeRow(t, os.Getpid())...))(t)
	ok(t, Vacant(ctx, dir)) // this very process
	ok(t, old.Close())
	ok(t, os.WriteFile(filepath.Join(dir, File), []byte(strings.Repeat("not a database ", 100)), 0o600))
	ok(t, Vacant(ctx, dir)) // for Open to refuse
}

func activeRow(t *testing.T, pid int) []any {
	t.Helper()
	p, found := find(pid)
	if !found {
		t.Fatalf("no process %d", pid)
	}
	return []any{p.pid, p.boot, p.ticks}
}
