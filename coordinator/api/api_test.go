package api

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"berth/coordinator"
	"berth/coordinator/ca"
	"berth/coordinator/entry"
	"berth/coordinator/events"
	"berth/coordinator/rest"
	"berth/coordinator/seal"
	"berth/coordinator/sqlite"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// A world is an API on a real store, with doubles for what makes builds and links.
type world struct {
	*httptest.Server
	t       *testing.T
	store   *sqlite.Store
	bus     *events.Bus
	hub     *testHub
	entry   *testEntry
	builder *testBuilder
	setup   *testSetup
	routes  []route
	logs    *syncBuffer
	audits  []string // actor, action and target
	detail  string   // of the last one
	done    chan struct{}

	owner, member, other coordinator.User
	tokens               map[string]string // by who: owner, member, other, workspace
	dev                  coordinator.Workspace
}

type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

type testHub struct {
	mu        sync.Mutex
	changed   map[coordinator.WorkspaceID]int
	connected map[string]bool
}

func (h *testHub) Presence(coordinator.WorkspaceID) coordinator.Presence {
	return coordinator.Presence{Connected: h.connected}
}

func (h *testHub) ManifestChanged(ws coordinator.WorkspaceID) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.changed[ws]++
}

func (h *testHub) Ping(context.Context, coordinator.WorkspaceID, string) (time.Duration, error) {
	return 3 * time.Millisecond, nil
}

type testBuilder struct {
	store   *sqlite.Store
	request coordinator.BuildRequest
	imports []coordinator.TemplateVersion
}

func (b *testBuilder) Request(ctx context.Context, a coordinator.Actor, ws coordinator.Workspace, r coordinator.BuildRequest) (coordinator.Build, error) {
	b.request = r
	x := coordinator.Build{
		WorkspaceID: ws.ID, Transition: r.Transition, Reason: r.Reason, Initiator: a.User.ID, VersionID: ws.VersionID,
		Params: ws.Params, AllowDestroy: r.AllowDestroy,
	}
	if r.Restart {
		x.Transition, x.ThenStart = coordinator.Stop, &coordinator.Then{VersionID: ws.VersionID, Reason: r.Reason}
	}
	return x, b.store.CreateBuild(ctx, &x)
}

func (b *testBuilder) Cancel(ctx context.Context, _ coordinator.Actor, id coordinator.BuildID) (coordinator.Build, error) {
	return b.store.RequestCancel(ctx, id)
}

func (b *testBuilder) Import(_ context.Context, v coordinator.TemplateVersion) {
	b.imports = append(b.imports, v)
}

type testEntry struct {
	store *sqlite.Store
	enter func(ctx context.Context, r entry.Request) (Stream, error)
}

func (e *testEntry) Lookup(ctx context.Context, u coordinator.User, t coordinator.Target) (coordinator.Workspace, error) {
	if t.Owner != u.Name {
		return coordinator.Workspace{}, noWorkspace(t.Owner, t.Workspace)
	}
	ws, err := e.store.WorkspaceByName(ctx, u.ID, t.Workspace)
	return ws, replace(err, coordinator.CodeNotFound, noWorkspace(t.Owner, t.Workspace))
}

func (e *testEntry) Enter(ctx context.Context, r entry.Request) (Stream, error) {
	return e.enter(ctx, r)
}

type testIssuer struct{}

func (testIssuer) HostIdentity() (coordinator.HostIdentity, error) { return ca.NewHostIdentity() }

func (testIssuer) GitKey(comment string) (coordinator.GitKey, error) { return ca.NewGitKey(comment) }

// A testSetup is the setup token, which the store has to know as well.
type testSetup struct {
	store *sqlite.Store
	mu    sync.Mutex
	token coordinator.Secret // guarded by mu
}

func (s *testSetup) offer(t *testing.T) {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.token = "bs1_setup"
	if err := s.store.PutSealed(t.Context(), sqlite.SetupToken, []byte("x")); err != nil {
		t.Fatal(err)
	}
}

func (s *testSetup) Token(context.Context) (coordinator.Secret, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.token == "" {
		return "", coordinator.Errorf(coordinator.CodeNotFound, "no setup token")
	}
	return s.token, nil
}

func (s *testSetup) Done(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.token = ""
	return s.store.DeleteSealed(ctx, sqlite.SetupToken)
}

type testArchives struct{ dir string }

func (a testArchives) Put(_ context.Context, r io.Reader, record func(string, int64) error) (string, int64, error) {
	b, err := io.ReadAll(r)
	if err != nil {
		return "", 0, fmt.Errorf("read archive: %w", err)
	}
	sum := sha256.Sum256(b)
	sha := hex.EncodeToString(sum[:])
	if err := os.WriteFile(filepath.Join(a.dir, sha), b, 0o600); err != nil {
		return "", 0, fmt.Errorf("write archive: %w", err)
	}
	return sha, int64(len(b)), record(sha, int64(len(b)))
}

func (a testArchives) Open(sha string) (io.ReadCloser, error) {
	return os.Open(filepath.Join(a.dir, sha))
}

// auditing is the store, and remembers what was written down.
type auditing struct {
	*sqlite.Store
	w *world
}

func (a auditing) Audit(ctx context.Context, e coordinator.AuditEntry) error {
	a.written(e)
	return a.Store.Audit(ctx, e)
}

func (a auditing) Admit(ctx context.Context, n *coordinator.Admission) error {
	a.written(n.Entry)
	return a.Store.Admit(ctx, n)
}

func (a auditing) written(e coordinator.AuditEntry) {
	a.w.audits = append(a.w.audits, e.ActorName+" "+e.Action+" "+e.Target)
	a.w.detail = e.Detail
}

func newWorld(t *testing.T) *world {
	t.Helper()
	dir := t.TempDir()
	key, err := seal.LoadOrCreate(filepath.Join(dir, "key", "key"))
	if err != nil {
		t.Fatal(err)
	}
	store, err := sqlite.Open(t.Context(), dir, key, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := store.Close(); err != nil {
			t.Error(err)
		}
	})
	w := &world{
		t: t, store: store, bus: events.New(), hub: &testHub{changed: map[coordinator.WorkspaceID]int{}, connected: map[string]bool{}},
		entry: &testEntry{store: store}, builder: &testBuilder{store: store}, setup: &testSetup{store: store},
		logs: &syncBuffer{}, done: make(chan struct{}), tokens: map[string]string{},
	}
	h, routes := newServer(Config{
		Store: auditing{store, w}, Builder: w.builder, Entry: w.entry, Hub: w.hub, Events: w.bus, Archives: testArchives{t.TempDir()},
		Issuer: testIssuer{}, Setup: w.setup,
		Link: http.NotFoundHandler(), Dist: http.NotFoundHandler(),
		Script: func(os, arch string) (string, error) { return "#!/bin/sh\n# " + os + "/" + arch + "\n", nil },
		Server: rest.Server{Version: "test", URL: "http://127.0.0.1", Suffix: "berth", KnownHosts: "@cert-authority *.berth x"},
		Hosts:  []string{"berth.example.com"}, Done: w.done,
		Logger: slog.New(slog.NewTextHandler(w.logs, &slog.HandlerOptions{Level: slog.LevelDebug})),
	})
	w.routes = routes
	w.setup.offer(t)
	w.Server = httptest.NewServer(h)
	t.Cleanup(w.Close)
	return w
}

// populate makes three users, a template and the member's workspace dev, which runs.
func (w *world) populate() *world {
	w.t.Helper()
	ctx := w.t.Context()
	for _, x := range []struct {
		u    *coordinator.User
		name string
		role coordinator.Role
	}{{&w.owner, "olga", coordinator.RoleOwner}, {&w.member, "mary", coordinator.RoleMember}, {&w.other, "otto", coordinator.RoleMember}} {
		*x.u = coordinator.User{Name: x.name, Role: x.role}
		git, err := ca.NewGitKey(x.name)
		w.check(err)
		w.check(w.store.CreateUser(ctx, x.u, git))
	}
	w.tokens["owner"], w.tokens["member"], w.tokens["other"] = w.token(w.owner, ""), w.token(w.member, ""), w.token(w.other, "")
	w.version(coordinator.Import{})
	w.dev = w.workspace(w.member, "dev")
	w.tokens["workspace"] = w.token(w.member, w.dev.ID)
	return w
}

func (w *world) check(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) token(u coordinator.User, ws coordinator.WorkspaceID) string {
	w.t.Helper()
	secret, hash := coordinator.NewAPIToken(coordinator.APITokenPrefix)
	w.check(w.store.CreateToken(w.t.Context(), &coordinator.Token{UserID: u.ID, Name: "test", WorkspaceID: ws}, hash))
	return string(secret)
}

// version pushes a ready version of the template local.
func (w *world) version(found coordinator.Import) coordinator.TemplateVersion {
	w.t.Helper()
	v := coordinator.TemplateVersion{Archive: strings.Repeat("a", 64), Status: coordinator.VersionImporting, Activate: true, CreatedBy: w.owner.ID}
	_, err := w.store.CreateTemplateVersion(w.t.Context(), "local", "", &v)
	w.check(err)
	w.check(w.store.FinishImport(w.t.Context(), v.ID, coordinator.Result{Status: coordinator.BuildSucceeded, Imported: &found}))
	return v
}

// workspace makes a workspace with a finished start build.
func (w *world) workspace(u coordinator.User, name string) coordinator.Workspace {
	w.t.Helper()
	ctx := w.t.Context()
	tpl, err := w.store.Template(ctx, "local")
	w.check(err)
	id, err := ca.NewHostIdentity()
	w.check(err)
	ws := coordinator.Workspace{Name: name, OwnerID: u.ID, OwnerName: u.Name, TemplateID: tpl.ID, VersionID: tpl.Active}
	w.check(w.store.CreateWorkspace(ctx, &ws, id))
	w.finish(w.begin(ws, coordinator.Start), coordinator.BuildSucceeded)
	ws, err = w.store.Workspace(ctx, ws.ID)
	w.check(err)
	return ws
}

func (w *world) begin(ws coordinator.Workspace, tr coordinator.Transition) coordinator.Build {
	w.t.Helper()
	b := coordinator.Build{WorkspaceID: ws.ID, Transition: tr, Reason: coordinator.ReasonUser, Initiator: ws.OwnerID, VersionID: ws.VersionID}
	w.check(w.store.CreateBuild(w.t.Context(), &b))
	claimed, err := w.store.ClaimBuild(w.t.Context(), time.Now())
	w.check(err)
	return *claimed
}

func (w *world) finish(b coordinator.Build, status coordinator.BuildStatus) {
	w.t.Helper()
	r := coordinator.Result{Status: status, Agents: []coordinator.AgentRecord{{ID: "ag1", Name: "main", Address: "berth_agent.main"}}}
	_, err := w.store.FinishBuild(w.t.Context(), b.ID, r, time.Now())
	w.check(err)
	w.bus.Notify(b.WorkspaceID)
}

// An answer is a response, read whole.
type answer struct {
	status int
	body   string
	header http.Header
}

func (a answer) problem(t *testing.T) rest.Problem {
	t.Helper()
	var p rest.Problem
	if err := json.Unmarshal([]byte(a.body), &p); err != nil || a.header.Get("Content-Type") != "application/problem+json" {
		t.Fatalf("not a problem: %d %s %q", a.status, a.header.Get("Content-Type"), a.body)
	}
	if p.Status != a.status || p.Code == "" || p.Detail == "" || strings.Contains(p.Detail, "\n") {
		t.Errorf("problem %+v in an answer of %d", p, a.status)
	}
	return p
}

func (w *world) send(req *http.Request) answer {
	w.t.Helper()
	resp, err := w.Client().Do(req)
	w.check(err)
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	w.check(err)
	return answer{resp.StatusCode, string(b), resp.Header}
}

func (w *world) request(who, method, path string, body any) *http.Request {
	w.t.Helper()
	var r io.Reader
	switch b := body.(type) {
	case nil:
	case string:
		r = strings.NewReader(b)
	case []byte:
		r = bytes.NewReader(b)
	default:
		enc, err := json.Marshal(b)
		w.check(err)
		r = bytes.NewReader(enc)
	}
	if !strings.HasPrefix(path, "http") && !strings.HasPrefix(path, "/api") {
		path = rest.Prefix + path
	}
	req, err := http.NewRequestWithContext(w.t.Context(), method, w.URL+path, r)
	w.check(err)
	if t, ok := w.tokens[who]; ok {
		req.Header.Set("Authorization", "Bearer "+t)
	}
	if r != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	return req
}

func (w *world) do(who, method, path string, body any) answer {
	w.t.Helper()
	return w.send(w.request(who, method, path, body))
}

// get does a request that must succeed, and decodes the answer.
func get[T any](w *world, who, method, path string, body any) T {
	w.t.Helper()
	a := w.do(who, method, path, body)
	var v T
	if a.status/100 != 2 {
		w.t.Fatalf("%s %s: %d %s", method, path, a.status, a.body)
	}
	if a.body != "" {
		w.check(json.Unmarshal([]byte(a.body), &v))
	}
	return v
}

// pipe returns the two ends of a TCP connection.
func pipe(t *testing.T) (a, b *net.TCPConn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	s, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close(); s.Close() })
	return c.(*net.TCPConn), s.(*net.TCPConn)
}

type enterRequest = entry.Request

func (w *world) discard() *slog.Logger { return slog.New(slog.NewTextHandler(w.logs, nil)) }
