package sqlite

import (
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"berth/agent"
	"berth/coordinator"
)

func TestTemplates(t *testing.T) {
	s := newStore(t)
	push := func(name, description string, activate bool) coordinator.TemplateVersion {
		v := coordinator.TemplateVersion{Message: "m", Archive: "abc", Activate: activate, CreatedBy: "u1", Created: noon}
		tpl, err := s.CreateTemplateVersion(ctx, name, description, &v)
		ok(t, err)
		if tpl.Name != name || v.TemplateID != tpl.ID || v.Status != coordinator.VersionImporting {
			t.Errorf("template %+v, version %+v", tpl, v)
		}
		return v
	}
	v1, v2, v3 := push("local", "first words", true), push("local", "", true), push("local", "", false)
	if v1.Number != 1 || v2.Number != 2 || v3.Number != 3 || push("other", "", true).Number != 1 {
		t.Error("versions are not numbered within their template")
	}
	if diff := cmp.Diff(v2, must(s.Version(ctx, v2.ID))(t)); diff != "" {
		t.Error(diff)
	}
	active := func(want coordinator.VersionID) {
		t.Helper()
		tpl := must(s.Template(ctx, "local"))(t)
		if tpl.Active != want || tpl.Description != "first words" {
			t.Errorf("template %+v, want active %q", tpl, want)
		}
	}
	active("")
	if n := len(must(s.ImportingVersions(ctx))(t)); n != 4 {
		t.Errorf("%d are being imported", n)
	}
	code(t, s.ActivateVersion(ctx, v1.TemplateID, v1.ID), coordinator.CodeConflict)

	def := "2"
	found := coordinator.Import{
		Parameters: []coordinator.Parameter{{Name: "cpu", Type: "number", Default: &def}}, Persistent: []string{"a.b"},
		Agents: []coordinator.TemplateAgent{{Name: "main", Address: "berth_agent.main"}},
	}
	ok(t, s.FinishImport(ctx, v2.ID, coordinator.Result{Status: coordinator.BuildSucceeded, Imported: &found}))
	active(v2.ID)
	if got := must(s.VersionByNumber(ctx, v2.TemplateID, 2))(t); got.Status != coordinator.VersionReady || cmp.Diff(found, got.Import) != "" {
		t.Errorf("got %+v", got)
	}
	ok(t, s.FinishImport(ctx, v1.ID, coordinator.Result{Status: coordinator.BuildSucceeded, Imported: &found}))
	active(v2.ID) // the slower import of the older version does not take over
	ok(t, s.FinishImport(ctx, v3.ID, coordinator.Result{Status: coordinator.BuildFailed, Error: "no agent"}))
	if got := must(s.Version(ctx, v3.ID))(t); got.Status != coordinator.VersionFailed || got.Error != "no agent" {
		t.Errorf("got %+v", got)
	}
	code(t, s.FinishImport(ctx, v3.ID, succeeded), coordinator.CodeConflict)
	code(t, s.FinishImport(ctx, "nothing", succeeded), coordinator.CodeNotFound)
	code(t, s.ActivateVersion(ctx, v3.TemplateID, v3.ID), coordinator.CodeConflict)
	code(t, s.ActivateVersion(ctx, "other template", v1.ID), coordinator.CodeNotFound)
	ok(t, s.ActivateVersion(ctx, v1.TemplateID, v1.ID))
	active(v1.ID)

	number := func(v coordinator.TemplateVersion) string { return fmt.Sprint(v.Number) }
	if got := names(must(s.Versions(ctx, v1.TemplateID, 0, 2))(t), number); got != "3 2" {
		t.Errorf("first page %s", got)
	}
	if got := names(must(s.Versions(ctx, v1.TemplateID, 2, 2))(t), number); got != "1" {
		t.Errorf("second page %s", got)
	}
	name := func(t coordinator.Template) string { return t.Name }
	if got := names(must(s.Templates(ctx, "", 0))(t), name); got != "local other" {
		t.Errorf("templates %s", got)
	}
	if got := names(must(s.Templates(ctx, "local", 0))(t), name); got != "other" {
		t.Errorf("templates after local: %s", got)
	}
	must(s.TemplateByID(ctx, v1.TemplateID))(t)

	ok(t, s.AppendLog(ctx, coordinator.BuildID(v1.ID), []coordinator.LogLine{{Text: "importing"}}))
	alice := newUser(t, s, "alice")
	newWorkspace(t, s, alice, v1, "dev")
	if n := must(s.CountWorkspaces(ctx, v1.TemplateID))(t); n != 1 {
		t.Errorf("%d workspaces", n)
	}
	code(t, s.DeleteTemplate(ctx, "local"), coordinator.CodeConflict)
	must(s.write.Exec(`DELETE FROM workspaces`))(t)
	ok(t, s.DeleteTemplate(ctx, "local"))
	code(t, s.DeleteTemplate(ctx, "local"), coordinator.CodeNotFound)
	for _, err := range []error{second(s.Template(ctx, "local")), second(s.TemplateByID(ctx, v1.TemplateID)), second(s.Version(ctx, v1.ID)), second(s.VersionByNumber(ctx, v1.TemplateID, 1))} {
		code(t, err, coordinator.CodeNotFound)
	}
	if n := rowCount(t, s, `SELECT count(*) FROM log_lines`); n != 0 {
		t.Errorf("%d lines of its log are left", n)
	}
}

func TestWorkspaces(t *testing.T) {
	w := newWorld(t)
	bob := newUser(t, w.Store, "bob")
	made := coordinator.Workspace{Name: "api", OwnerID: bob.ID, TemplateID: w.v.TemplateID, VersionID: w.v.ID, Params: map[string]string{"cpu": "2"}, Created: noon, LastUsed: noon}
	ok(t, w.CreateWorkspace(ctx, &made, coordinator.HostIdentity{Ed25519: "e", ECDSA: "c"}))
	if made.OwnerName != "bob" || made.Template != "local" || made.Generation == 0 {
		t.Errorf("created %+v", made)
	}
	if diff := cmp.Diff(made, must(w.Workspace(ctx, made.ID))(t)); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(made, must(w.WorkspaceByName(ctx, bob.ID, "api"))(t)); diff != "" {
		t.Error(diff)
	}
	again := made
	code(t, w.CreateWorkspace(ctx, &again, coordinator.HostIdentity{}), coordinator.CodeConflict)
	newWorkspace(t, w.Store, w.user, w.v, "api") // the same name, of another owner
	for _, err := range []error{
		second(w.Workspace(ctx, "no")), second(w.WorkspaceByName(ctx, w.user.ID, "no")), second(w.AgentKey(ctx, "no")),
		second(w.HostIdentity(ctx, "no")), second(w.State(ctx, w.ws.ID)),
	} {
		code(t, err, coordinator.CodeNotFound)
	}

	newWorkspace(t, w.Store, bob, w.v, "zoo")
	name := func(w coordinator.Workspace) string { return w.OwnerName + "/" + w.Name }
	for _, tt := range []struct {
		owner coordinator.UserID
		after string
		limit int
		want  string
	}{
		{"", "", 0, "alice/api alice/dev bob/api bob/zoo"},
		{"", "", 3, "alice/api alice/dev bob/api"},
		{"", "alice/dev", 3, "bob/api bob/zoo"},
		{"", "bob/zoo", 3, ""},
		{bob.ID, "", 0, "bob/api bob/zoo"},
		{bob.ID, "bob/api", 0, "bob/zoo"},
		{"nobody", "", 0, ""},
	} {
		if got := names(must(w.Workspaces(ctx, tt.owner, tt.after, tt.limit))(t), name); got != tt.want {
			t.Errorf("%q after %q: %s, want %s", tt.owner, tt.after, got, tt.want)
		}
	}
	ok(t, w.TouchWorkspace(ctx, made.ID, noon.Add(30*time.Second)))
	if got := must(w.Workspace(ctx, made.ID))(t); !got.LastUsed.Equal(noon) {
		t.Errorf("last used %v", got.LastUsed)
	}
	ok(t, w.TouchWorkspace(ctx, made.ID, noon.Add(time.Hour)))
	if got := must(w.Workspace(ctx, made.ID))(t); !got.LastUsed.Equal(noon.Add(time.Hour)) {
		t.Errorf("last used %v", got.LastUsed)
	}
}

func record(id, name string) coordinator.AgentRecord {
	return coordinator.AgentRecord{ID: id, Name: name, OS: "linux", Env: map[string]string{"A": "b"}, ConnectionTimeout: time.Minute}
}

func TestAgents(t *testing.T) {
	w := newWorld(t)
	b := w.build(t, coordinator.Start)
	ok(t, w.RecordAgents(ctx, w.ws.ID, b.ID, []coordinator.AgentRecord{record("a1", "main"), record("a2", "gpu")}))
	want := coordinator.WorkspaceAgent{
		WorkspaceID: w.ws.ID, ID: "a1", BuildID: b.ID, AgentRecord: record("a1", "main"), PinnedKey: []byte("key"), FirstConnected: noon, LastSeen: noon.Add(time.Minute),
		Ready: true, Steps: []agent.StepReport{{Name: agent.StepConfigure, Outcome: agent.OutcomeOK, Started: noon, Duration: time.Second}},
	}
	ok(t, w.PinAgentKey(ctx, w.ws.ID, "a1", b.ID, want.PinnedKey))
	ok(t, w.UpdateAgent(ctx, want))
	got := must(w.Agents(ctx, w.ws.ID))(t)
	if names(got, func(a coordinator.WorkspaceAgent) string { return a.Name }) != "gpu main" {
		t.Fatalf("agents %+v", got)
	}
	if diff := cmp.Diff(want, got[1]); diff != "" {
		t.Error(diff)
	}
	// The end of the same build keeps what the agent told; an agent that is no more goes.
	must(w.ClaimBuild(ctx, noon))(t)
	changed := record("a1", "main")
	changed.Dir = "/src"
	must(w.FinishBuild(ctx, b.ID, coordinator.Result{Status: coordinator.BuildSucceeded, Agents: []coordinator.AgentRecord{changed}}, noon))(t)
	want.AgentRecord = changed
	if diff := cmp.Diff([]coordinator.WorkspaceAgent{want}, must(w.Agents(ctx, w.ws.ID))(t)); diff != "" {
		t.Error(diff)
	}
	// A failed start leaves them alone, a stop as well; another start makes them new.
	w.run(t, coordinator.Start, coordinator.Result{Status: coordinator.BuildFailed, Agents: []coordinator.AgentRecord{record("x", "x")}})
	w.run(t, coordinator.Stop, coordinator.Result{Status: coordinator.BuildSucceeded, Agents: []coordinator.AgentRecord{record("x", "x")}})
	if diff := cmp.Diff([]coordinator.WorkspaceAgent{want}, must(w.Agents(ctx, w.ws.ID))(t)); diff != "" {
		t.Error(diff)
	}
	b2 := w.run(t, coordinator.Start, coordinator.Result{Status: coordinator.BuildSucceeded, Agents: []coordinator.AgentRecord{record("a1", "main")}})
	fresh := coordinator.WorkspaceAgent{WorkspaceID: w.ws.ID, ID: "a1", BuildID: b2.ID, AgentRecord: record("a1", "main"), Steps: []agent.StepReport{}}
	if diff := cmp.Diff([]coordinator.WorkspaceAgent{fresh}, must(w.Agents(ctx, w.ws.ID))(t)); diff != "" {
		t.Error(diff)
	}
	// How long the former agents' startup took is kept with their build, once.
	kept := []coordinator.Timing{
		{Stage: "connect", Name: "main", Start: noon},
		{Stage: "startup", Name: "main: configure", Start: noon, Duration: time.Second},
	}
	ok(t, w.RecordAgents(ctx, w.ws.ID, b2.ID, []coordinator.AgentRecord{record("a1", "main")}))
	if diff := cmp.Diff(kept, must(w.Build(ctx, b.ID))(t).Timings); diff != "" {
		t.Error(diff)
	}
	// What comes late, from the build before, changes nothing.
	code(t, w.UpdateAgent(ctx, want), coordinator.CodeNotFound)
	code(t, w.PinAgentKey(ctx, w.ws.ID, "a1", b.ID, []byte("old")), coordinator.CodeNotFound)
	code(t, w.RecordAgents(ctx, "nowhere", b.ID, nil), coordinator.CodeNotFound)

	other := newWorkspace(t, w.Store, w.user, w.v, "other")
	ok(t, w.RecordAgents(ctx, other.ID, "b9", []coordinator.AgentRecord{record("o1", "main"), record("o2", "a")}))
	of := must(w.AgentsOf(ctx, []coordinator.WorkspaceID{w.ws.ID, other.ID, "none"}))(t)
	if len(of) != 2 || len(of[w.ws.ID]) != 1 || len(of[other.ID]) != 2 || of[other.ID][0].Name != "a" {
		t.Errorf("agents of several: %+v", of)
	}
}

func state(w world, lineage string, serial int64, resources int) coordinator.State {
	data := ""
	if lineage != "" {
		data = fmt.Sprintf(`{"version":4,"serial":%d,"lineage":%q,"resources":[%s]}`, serial, lineage, strings.TrimSuffix(strings.Repeat("{},", resources), ","))
	}
	return coordinator.State{WorkspaceID: w.ws.ID, BuildID: "b1", VersionID: w.v.ID, Serial: serial, Data: coordinator.Secret(data), Created: noon}
}

func TestState(t *testing.T) {
	w := newWorld(t)
	for _, tt := range []struct {
		name    string
		lineage string
		serial  int64
		n       int
		want    coordinator.Code
		current int64 // serial of the newest one afterwards
	}{
		{"the first", "A", 1, 1, "", 1},
		{"the next", "A", 4, 2, "", 4},
		{"the same again", "A", 4, 2, "", 4},
		{"the same serial, other content", "A", 4, 3, "", 4},
		{"an older one", "A", 3, 2, coordinator.CodeConflict, 4},
		{"another lineage, though something is left", "B", 9, 1, coordinator.CodeConflict, 4},
		{"another lineage, empty", "B", 9, 0, coordinator.CodeConflict, 4},
		{"everything destroyed", "A", 7, 0, "", 7},
		{"a new lineage after that", "B", 1, 1, "", 1},
		{"empty and old", "", 0, 0, "", 1},
		{"a new lineage after nothing", "C", 1, 1, "", 1},
		{"empty with a serial", "", 5, 0, "", 5},
		{"back to an older serial", "", 3, 0, coordinator.CodeConflict, 5},
	} {
		st := state(w, tt.lineage, tt.serial, tt.n)
		if got := coordinator.CodeOf(w.PutState(ctx, st)); got != tt.want {
			t.Errorf("%s: %q, want %q", tt.name, got, tt.want)
		}
		got := must(w.State(ctx, w.ws.ID))(t)
		if got.Serial != tt.current || tt.want == "" && got.Data != st.Data {
			t.Errorf("%s: the newest is %d %s", tt.name, got.Serial, string(got.Data))
		}
	}
	st := state(w, "D", 1, 1)
	ok(t, w.PutState(ctx, st))
	if diff := cmp.Diff(st, must(w.State(ctx, w.ws.ID))(t)); diff != "" {
		t.Error(diff)
	}
	st.WorkspaceID = "nowhere"
	code(t, w.PutState(ctx, st), coordinator.CodeNotFound)

	for n := range int64(3 * coordinator.KeepStates) {
		ok(t, w.PutState(ctx, state(w, "D", n+2, 1)))
	}
	if n := rowCount(t, w.Store, `SELECT count(*) FROM states`); n != coordinator.KeepStates {
		t.Errorf("%d revisions are kept", n)
	}
	if got := must(w.State(ctx, w.ws.ID))(t); got.Serial != 3*coordinator.KeepStates+1 {
		t.Errorf("the newest was not kept: %d", got.Serial)
	}
	if n := rowCount(t, w.Store, `SELECT max(revision) - min(revision) + 1 FROM states`); n != coordinator.KeepStates {
		t.Errorf("the newest %d are not what is kept", n)
	}
}

// TestStateNeverGoesBack has writers race with states in any order.
func TestStateNeverGoesBack(t *testing.T) {
	w := newWorld(t)
	serials := rand.Perm(40)
	var wg sync.WaitGroup
	for i := range 4 {
		wg.Go(func() {
			for _, n := range serials[i*10 : i*10+10] {
				if c := coordinator.CodeOf(w.PutState(ctx, state(w, "A", int64(n), 1))); c != "" && c != coordinator.CodeConflict {
					t.Errorf("code %q", c)
				}
			}
		})
	}
	wg.Wait()
	stored := must(list(ctx, w.read, func(r row) (n int, err error) { err = r.Scan(&n); return n, err }, `SELECT serial FROM states ORDER BY revision`))(t)
	if !slices.IsSorted(stored) || stored[len(stored)-1] != 39 {
		t.Errorf("stored serials %v", stored)
	}
}

func TestLog(t *testing.T) {
	w := newWorld(t)
	b := w.build(t, coordinator.Start)
	line := func(source string, seq int, text string) coordinator.LogLine {
		return coordinator.LogLine{Source: source, Seq: seq, Time: noon, Stage: "apply", Level: "info", Address: "a.b", Text: text, Elapsed: 1500 * time.Millisecond}
	}
	ok(t, w.AppendLog(ctx, b.ID, []coordinator.LogLine{line("build", 0, "zero"), line("build", 1, "one")}))
	ok(t, w.AppendLog(ctx, b.ID, []coordinator.LogLine{line("build", 1, "ANOTHER ONE"), line("", 2, "two"), line("main", 0, "agent"), line("gpu", 0, "agent")}))
	ok(t, w.AppendLog(ctx, b.ID, nil))
	got := must(w.Log(ctx, b.ID, "build", 0, 0))(t)
	if diff := cmp.Diff([]coordinator.LogLine{line("build", 0, "zero"), line("build", 1, "one"), line("build", 2, "two")}, got); diff != "" {
		t.Error(diff)
	}
	if got := must(w.Log(ctx, b.ID, "build", 1, 1))(t); len(got) != 1 || got[0].Text != "one" {
		t.Errorf("a page from 1: %+v", got)
	}
	if got := must(w.LogSources(ctx, b.ID))(t); !slices.Equal(got, []string{"build", "gpu", "main"}) {
		t.Errorf("sources %v", got)
	}
	long := strings.Repeat("ä", coordinator.MaxLogLine)
	ok(t, w.AppendLog(ctx, b.ID, []coordinator.LogLine{
		line("caps", -1, "before"), line("caps", coordinator.MaxLogLines, "after"), line("caps", coordinator.MaxLogLines-1, "last"), line("caps", 1, long), line("caps", 2, "a\xffb\x00c"),
	}))
	caps := must(w.Log(ctx, b.ID, "caps", 0, 10))(t)
	if len(caps) != 3 || caps[2].Text != "last" || len(caps[0].Text) > coordinator.MaxLogLine || !strings.HasSuffix(caps[0].Text, "ä…") || caps[1].Text != "a\uFFFDb\x00c" {
		t.Errorf("caps: %d lines, %+v", len(caps), caps[1:])
	}
	code(t, w.AppendLog(ctx, "no build", []coordinator.LogLine{line("", 0, "x")}), coordinator.CodeNotFound)
}

func TestDeletedWorkspaceIsGone(t *testing.T) {
	w := newWorld(t)
	other := worldIn2(t, w, "other")
	for _, x := range []world{w, other} {
		b := x.run(t, coordinator.Start, coordinator.Result{Status: coordinator.BuildSucceeded, Agents: []coordinator.AgentRecord{record("a1", "main")}})
		ok(t, x.AppendLog(ctx, b.ID, []coordinator.LogLine{{Text: "line"}, {Source: "main", Text: "line"}}))
		ok(t, x.PutState(ctx, state(x, "A", 1, 1)))
		_, hash := coordinator.NewAPIToken(coordinator.APITokenPrefix)
		ok(t, x.CreateToken(ctx, &coordinator.Token{UserID: x.user.ID, WorkspaceID: x.ws.ID}, hash))
		ok(t, x.OpenSession(ctx, coordinator.SessionRecord{ID: "s-" + x.ws.Name, WorkspaceID: x.ws.ID, UserID: x.user.ID, Via: agent.ViaDoor}))
	}
	tables := map[string]string{
		"workspaces": "id", "builds": "workspace_id", "workspace_agents": "workspace_id", "states": "workspace_id", "tokens": "workspace_id",
	}
	w.run(t, coordinator.Delete, coordinator.Result{Status: coordinator.BuildFailed})
	must(w.Workspace(ctx, w.ws.ID))(t) // a failed delete deletes nothing

	b := w.build(t, coordinator.Delete)
	must(w.ClaimBuild(ctx, noon))(t)
	if next := must(w.FinishBuild(ctx, b.ID, succeeded, noon))(t); next != nil {
		t.Errorf("next %+v", next)
	}
	for table, column := range tables {
		if n := rowCount(t, w.Store, "SELECT count(*) FROM "+table+" WHERE "+column+" = ?", w.ws.ID); n != 0 {
			t.Errorf("%s: %d rows are left", table, n)
		}
		if n := rowCount(t, w.Store, "SELECT count(*) FROM "+table+" WHERE "+column+" = ?", other.ws.ID); n == 0 {
			t.Errorf("%s: the rows of another workspace are gone", table)
		}
	}
	if n := rowCount(t, w.Store, `SELECT count(*) FROM log_lines`); n != 2 {
		t.Errorf("%d log lines of the other workspace, want 2", n)
	}
	if n := rowCount(t, w.Store, `SELECT count(*) FROM deleted_workspaces WHERE id = ? AND owner = 'alice' AND name = 'dev' AND template = 'local' AND builds = ?`, w.ws.ID, b.Number); n != 1 {
		t.Error("no summary is left")
	}
	if n := rowCount(t, w.Store, `SELECT count(*) FROM audit WHERE action = 'workspace.deleted' AND actor_name = 'alice' AND target = 'alice/dev'`); n != 1 {
		t.Error("no audit entry is left")
	}
	_, err := w.Build(ctx, b.ID)
	code(t, err, coordinator.CodeNotFound)
	// What comes late finds nothing and leaves nothing, but who was in stays known.
	ok(t, w.CloseSession(ctx, coordinator.SessionRecord{ID: "s-dev", Ended: noon, BytesIn: 7}))
	if n := rowCount(t, w.Store, `SELECT count(*) FROM sessions WHERE workspace_id = ? AND bytes_in = 7`, w.ws.ID); n != 1 {
		t.Error("the session went with its workspace")
	}
	code(t, w.PutState(ctx, state(w, "A", 2, 1)), coordinator.CodeNotFound)
	code(t, w.AppendLog(ctx, b.ID, []coordinator.LogLine{{Text: "late"}}), coordinator.CodeNotFound)
	// The name is free again.
	newWorkspace(t, w.Store, w.user, w.v, "dev")
}

// worldIn2 is w with another workspace of the same user.
func worldIn2(t *testing.T, w world, name string) world {
	w.ws = newWorkspace(t, w.Store, w.user, w.v, name)
	return w
}

func TestStopEndsTokens(t *testing.T) {
	w := newWorld(t)
	_, hash := coordinator.NewAPIToken(coordinator.APITokenPrefix)
	ok(t, w.CreateToken(ctx, &coordinator.Token{UserID: w.user.ID, WorkspaceID: w.ws.ID}, hash))
	w.run(t, coordinator.Stop, coordinator.Result{Status: coordinator.BuildFailed})
	_, _, err := w.TokenByHash(ctx, hash, noon)
	ok(t, err)
	w.run(t, coordinator.Stop, succeeded)
	_, _, err = w.TokenByHash(ctx, hash, noon)
	code(t, err, coordinator.CodeUnauthenticated)
}

func TestPrune(t *testing.T) {
	w := newWorld(t)
	day := 24 * time.Hour
	for name, ago := range map[string]time.Duration{"old": 91 * day, "young": 89 * day} {
		ok(t, w.OpenSession(ctx, coordinator.SessionRecord{ID: name, WorkspaceID: w.ws.ID, UserID: w.user.ID, Started: noon.Add(-ago)}))
	}
	ok(t, w.CloseSession(ctx, coordinator.SessionRecord{ID: "young", Ended: noon, BytesIn: 5, BytesOut: 7}))
	ok(t, w.CloseSession(ctx, coordinator.SessionRecord{ID: "old", Ended: noon.Add(-90 * day)}))
	for name, ago := range map[string]time.Duration{"old": 366 * day, "young": 364 * day} {
		ok(t, w.Audit(ctx, coordinator.AuditEntry{Time: noon.Add(-ago), ActorName: "alice", Action: "key.add", Target: name}))
		must(w.write.Exec(`INSERT INTO deleted_workspaces VALUES (?, 'o', 'n', 't', 1, 0, ?)`, name, ms(noon.Add(-ago))))(t)
	}
	for i, expires := range []time.Time{{}, noon.Add(-31 * day), noon.Add(-29 * day)} {
		ok(t, w.CreateToken(ctx, &coordinator.Token{UserID: w.user.ID, Name: fmt.Sprint("t", i), Expires: expires}, [32]byte{byte(i)}))
	}
	const builds = coordinator.KeepBuildLogs + 5
	for range builds {
		b := w.run(t, coordinator.Start, succeeded)
		ok(t, w.AppendLog(ctx, b.ID, []coordinator.LogLine{{Text: "a"}, {Source: "main", Text: "b"}}))
	}
	for range builds {
		v := newVersion(t, w.Store, "local")
		ok(t, w.AppendLog(ctx, coordinator.BuildID(v.ID), []coordinator.LogLine{{Text: "a"}}))
	}
	// A coordinator that begins ends what the one before it had open, and only that.
	ok(t, w.OpenSession(ctx, coordinator.SessionRecord{ID: "cut", WorkspaceID: w.ws.ID, UserID: w.user.ID, Started: noon}))
	ok(t, w.Activate(ctx, os.Getpid(), noon.Add(time.Minute)))
	ok(t, w.OpenSession(ctx, coordinator.SessionRecord{ID: "long", WorkspaceID: w.ws.ID, UserID: w.user.ID, Started: noon.Add(-91 * day)}))

	other := worldIn2(t, w, "other")
	b := other.run(t, coordinator.Start, succeeded)
	ok(t, w.AppendLog(ctx, b.ID, []coordinator.LogLine{{Text: "a"}}))

	for range 2 {
		ok(t, w.Prune(ctx, noon))
		for _, tt := range []struct {
			name, query string
			want        int
		}{
			{"sessions", `SELECT count(*) FROM sessions WHERE id = 'young' AND ended > 0 AND bytes_in = 5 AND bytes_out = 7`, 1},
			{"sessions that were cut", fmt.Sprintf(`SELECT count(*) FROM sessions WHERE id = 'cut' AND lost = 1 AND ended = %d`, ms(noon.Add(time.Minute))), 1},
			{"sessions of before", fmt.Sprintf(`SELECT count(*) FROM sessions WHERE id = 'young' AND lost = 0 AND ended = %d`, ms(noon)), 1},
			{"old sessions that go on", `SELECT count(*) FROM sessions WHERE id = 'long'`, 1},
			{"old sessions", `SELECT count(*) FROM sessions WHERE id = 'old'`, 0},
			{"audit", `SELECT count(*) FROM audit WHERE target = 'young'`, 1},
			{"old audit", `SELECT count(*) FROM audit WHERE target = 'old'`, 0},
			{"summaries", `SELECT count(*) FROM deleted_workspaces`, 1},
			{"tokens", `SELECT count(*) FROM tokens WHERE name IN ('t0', 't2')`, 2},
			{"old tokens", `SELECT count(*) FROM tokens WHERE name = 't1'`, 0},
			{"builds", `SELECT count(*) FROM builds`, builds + 1},
			{"builds with logs", `SELECT count(DISTINCT job_id) FROM log_lines WHERE job_id IN (SELECT id FROM builds)`, coordinator.KeepBuildLogs + 1},
			{"logs of old builds", fmt.Sprintf(`SELECT count(*) FROM log_lines WHERE job_id IN (SELECT id FROM builds WHERE workspace_id = '%s' AND number <= 5)`, w.ws.ID), 0},
			{"versions with logs", `SELECT count(DISTINCT job_id) FROM log_lines WHERE job_id IN (SELECT id FROM template_versions)`, coordinator.KeepBuildLogs},
		} {
			if got := rowCount(t, w.Store, tt.query); got != tt.want {
				t.Errorf("%s: %d, want %d", tt.name, got, tt.want)
			}
		}
	}
}
