package sqlite

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	"berth/coordinator"
)

// A recorder is a connector that notes every statement that is prepared.
type recorder struct {
	driver driver.Driver
	dsn    string
	mu     sync.Mutex
	seen   map[string]bool
}

func (r *recorder) Connect(context.Context) (driver.Conn, error) {
	c, err := r.driver.Open(r.dsn)
	return recordedConn{c, r}, err
}

func (r *recorder) Driver() driver.Driver { return r.driver }

type recordedConn struct {
	driver.Conn
	r *recorder
}

func (c recordedConn) PrepareContext(ctx context.Context, query string) (driver.Stmt, error) {
	c.r.mu.Lock()
	c.r.seen[query] = true
	c.r.mu.Unlock()
	return c.Conn.(driver.ConnPrepareContext).PrepareContext(ctx, query)
}

func (c recordedConn) BeginTx(ctx context.Context, o driver.TxOptions) (driver.Tx, error) {
	return c.Conn.(driver.ConnBeginTx).BeginTx(ctx, o)
}

// fine are steps that read a whole table, or sort, and may: what is not a table of the schema, what a partial index
// holds nothing else of, and what is short.
var fine = regexp.MustCompile(`^SCAN (json_each|CONSTANT ROW|active|\(subquery|\S+ USING (COVERING )?INDEX (builds_queued|builds_running|template_versions_importing|sessions_open)$)`)

// mayScan and maySort are statements that read everything by intent, or sort the few rows that they found.
var (
	mayScan = regexp.MustCompile(`row_number\(\)|^SELECT count\(\*\) FROM users$`)
	maySort = regexp.MustCompile(`row_number\(\)|SELECT DISTINCT source|->> 'name'`)
)

// TestEveryQueryHasAnIndex does something of everything and asks SQLite how it would go about each statement.
func TestEveryQueryHasAnIndex(t *testing.T) {
	dir := t.TempDir()
	s := openAt(t, dir, newKey(t))
	path := filepath.Join(dir, File)
	seen := map[string]bool{}
	for db, name := range map[**sql.DB]string{&s.write: writerDSN(path), &s.read: readerDSN(path)} {
		ok(t, (*db).Close())
		*db = sql.OpenDB(&recorder{driver: (*db).Driver(), dsn: name, seen: seen})
	}
	s.write.SetMaxOpenConns(1)
	exercise(t, worldIn(t, s))
	if len(seen) < 80 {
		t.Errorf("only %d statements were seen", len(seen))
	}
	for _, query := range slices.Collect(maps.Keys(seen)) {
		plan := must(list(ctx, s.write, func(r row) (detail string, err error) {
			var n int
			err = r.Scan(&n, &n, &n, &detail)
			return detail, err
		}, "EXPLAIN QUERY PLAN "+query, make([]any, strings.Count(query, "?"))...))(t)
		for _, step := range plan {
			scans := strings.HasPrefix(step, "SCAN ") && !fine.MatchString(step) && !mayScan.MatchString(query)
			sorts := strings.Contains(step, "TEMP B-TREE FOR") && !maySort.MatchString(query)
			if scans || sorts {
				t.Errorf("%s\n\tin %s", step, query)
			}
		}
	}
}

// exercise calls every method of the store. Whether the calls find something does not matter.
func exercise(t *testing.T, w world) {
	b := w.build(t, coordinator.Start)
	tpl, ws, u := w.v.TemplateID, w.ws.ID, w.user.ID
	none := func(...any) {}
	must(w.OpenBuild(ctx, ws))(t)
	none(w.ClaimBuild(ctx, noon))
	none(w.RunningBuilds(ctx))
	none(w.RequestCancel(ctx, b.ID))
	none(w.FinishBuild(ctx, b.ID, coordinator.Result{Status: coordinator.BuildSucceeded, Agents: []coordinator.AgentRecord{record("a", "a")}}, noon))
	none(w.LatestBuild(ctx, ws))
	none(w.LatestStart(ctx, ws))
	none(w.LatestBuilds(ctx, []coordinator.WorkspaceID{ws}))
	none(w.Build(ctx, b.ID))
	none(w.BuildByNumber(ctx, ws, 1))
	none(w.Builds(ctx, ws, 0, 0))
	none(w.LastStopResources(ctx, ws))
	none(w.QueuedBefore(ctx, b.ID))
	none(w.PutState(ctx, state(w, "A", 1, 1)), w.PutState(ctx, state(w, "A", 2, 1)))
	none(w.State(ctx, ws))
	none(w.AppendLog(ctx, b.ID, []coordinator.LogLine{{Text: "x"}}))
	none(w.Log(ctx, b.ID, "build", 0, 0))
	none(w.LogSources(ctx, b.ID))
	none(w.Agents(ctx, ws))
	none(w.AgentsOf(ctx, []coordinator.WorkspaceID{ws}))
	none(w.PinAgentKey(ctx, ws, "a", b.ID, nil), w.UpdateAgent(ctx, coordinator.WorkspaceAgent{WorkspaceID: ws}))
	none(w.User(ctx, u))
	none(w.UserByName(ctx, "alice"))
	none(w.Users(ctx, "", 0))
	none(w.CountUsers(ctx))
	none(w.SetDotfiles(ctx, u, ""), w.SetPersonalize(ctx, u, nil))
	none(w.Admit(ctx, &coordinator.Admission{User: coordinator.User{Name: "x"}, Keys: []coordinator.SSHKey{{}}}), w.AdmitFirst(ctx, &coordinator.Admission{}), w.DeleteUser(ctx, u))
	k := coordinator.SSHKey{UserID: u, Name: "k", Fingerprint: "f"}
	none(w.AddKey(ctx, &k), w.TouchKey(ctx, k.ID, noon))
	none(w.Keys(ctx, u))
	none(w.UserByFingerprint(ctx, "f"))
	none(w.DeleteKey(ctx, u, "k"))
	none(w.GitKey(ctx, u))
	none(w.PutSecret(ctx, coordinator.UserSecret{UserID: u, Name: "s", Env: "S"}))
	none(w.Secrets(ctx, u, true))
	none(w.DeleteSecret(ctx, u, "s"))
	for _, of := range []coordinator.WorkspaceID{"", ws} {
		tok := coordinator.Token{UserID: u, WorkspaceID: of}
		none(w.CreateToken(ctx, &tok, [32]byte{byte(len(of))}), w.TouchToken(ctx, tok.ID, noon), w.DeleteToken(ctx, u, tok.ID))
	}
	none(w.TokenByHash(ctx, [32]byte{}, noon))
	none(w.Tokens(ctx, u))
	none(w.DeleteWorkspaceTokens(ctx, ws))
	none(w.Template(ctx, "local"))
	none(w.TemplateByID(ctx, tpl))
	none(w.Templates(ctx, "", 0))
	none(w.Version(ctx, w.v.ID))
	none(w.VersionByNumber(ctx, tpl, 1))
	none(w.Versions(ctx, tpl, 0, 0))
	none(w.ImportingVersions(ctx))
	none(w.ActivateVersion(ctx, tpl, w.v.ID), w.DeleteTemplate(ctx, "local"))
	none(w.CountWorkspaces(ctx, tpl))
	none(w.WorkspaceByName(ctx, u, "dev"))
	none(w.Workspaces(ctx, "", "", 0))
	none(w.Workspaces(ctx, u, "", 0))
	none(w.AgentKey(ctx, ws))
	none(w.HostIdentity(ctx, ws))
	none(w.TouchWorkspace(ctx, ws, noon))
	none(w.OpenSession(ctx, coordinator.SessionRecord{ID: "s", WorkspaceID: ws}), w.CloseSession(ctx, coordinator.SessionRecord{ID: "s"}))
	none(w.SessionKey(ctx, ws, "s", "k"), w.Activate(ctx, os.Getpid(), noon), w.Deactivate(ctx))
	for _, f := range []coordinator.SessionFilter{{}, {Of: u}, {User: "alice"}, {Owner: "alice", Workspace: "dev"}, {Open: true}} {
		none(w.Sessions(ctx, f, 0, 0))
		none(w.Sessions(ctx, f, 7, 0))
	}
	for _, f := range []coordinator.AuditFilter{{}, {Actor: "alice"}, {Action: "key"}, {Target: "alice/dev"}, {Since: noon}} {
		none(w.AuditEntries(ctx, f, 0, 0))
		none(w.AuditEntries(ctx, f, 7, 0))
	}
	none(w.Audit(ctx, coordinator.AuditEntry{}), w.Prune(ctx, noon))
	none(w.PutSealed(ctx, "x", nil), w.DeleteSealed(ctx, "x"))
	w.run(t, coordinator.Stop, succeeded)
	d := w.build(t, coordinator.Delete)
	must(w.FinishBuild(ctx, d.ID, succeeded, noon))(t)
	none(w.DeleteUser(ctx, u), w.DeleteTemplate(ctx, "local"))
}
