package entry

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"berth/agent"
	"berth/coordinator"
	"berth/coordinator/builder"
	"berth/coordinator/events"
	"berth/coordinator/seal"
	"berth/coordinator/sqlite"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var ctx = context.Background()

func ok(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func wantError(t testing.TB, err error, code coordinator.Code, part string) {
	t.Helper()
	if coordinator.CodeOf(err) != code || !strings.Contains(err.Error(), part) {
		t.Errorf("got %q (code %q), want %q with %q", err, coordinator.CodeOf(err), code, part)
	}
}

func eventually(t testing.TB, what string, f func() bool) {
	t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !f() {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within 10 s", what)
		}
		<-tick.C
	}
}

// A hubDouble has agents that echo.
type hubDouble struct {
	mu      sync.Mutex
	up      map[string]bool
	since   time.Time
	headers []agent.StreamHeader
	fails   int // opens that fail as if the link were lost just now
	changed chan struct{}
	serving sync.WaitGroup
}

func (h *hubDouble) set(id string, up bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.up[id] = up
	close(h.changed)
	h.changed = make(chan struct{})
}

func (h *hubDouble) Await(ctx context.Context, _ coordinator.WorkspaceID, id string) error {
	for {
		h.mu.Lock()
		up, changed := h.up[id], h.changed
		h.mu.Unlock()
		if up {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-changed:
		}
	}
}

func (h *hubDouble) Presence(coordinator.WorkspaceID) coordinator.Presence {
	h.mu.Lock()
	defer h.mu.Unlock()
	p := coordinator.Presence{Connected: map[string]bool{}, UpSince: h.since}
	for id, up := range h.up {
		p.Connected[id] = up
	}
	return p
}

func (h *hubDouble) Open(_ context.Context, _ coordinator.WorkspaceID, id string, hdr agent.StreamHeader) (net.Conn, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.fails > 0 || !h.up[id] {
		h.fails--
		return nil, coordinator.Errorf(coordinator.CodeUnavailable, "the agent is not connected")
	}
	h.headers = append(h.headers, hdr)
	l := must(net.Listen("tcp", "127.0.0.1:0"))
	defer l.Close()
	near := must(net.Dial("tcp", l.Addr().String()))
	far := must(l.Accept())
	h.serving.Go(func() {
		io.Copy(far, far)
		far.Close()
	})
	return near, nil
}

func (h *hubDouble) Drop(coordinator.WorkspaceID)            { h.set("agent-main", false) }
func (h *hubDouble) ManifestChanged(coordinator.WorkspaceID) {}

// A runnerDouble carries jobs as the test says.
type runnerDouble struct {
	mu     sync.Mutex
	jobs   map[string]coordinator.Job
	result func(coordinator.Job) coordinator.Result
	hold   chan struct{} // jobs end once it is closed
}

func (r *runnerDouble) Begin(j coordinator.Job, _ coordinator.Secret) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.jobs[j.ID] = j
	return nil
}

func (r *runnerDouble) Follow(ctx context.Context, id string, each func(coordinator.Update)) (coordinator.Result, error) {
	r.mu.Lock()
	j, ok := r.jobs[id]
	r.mu.Unlock()
	if !ok {
		return coordinator.Result{}, coordinator.ErrNeverBegan
	}
	each(coordinator.Update{Lines: []coordinator.LogLine{{Stage: "apply", Level: "info", Address: "berth_process.dev", Text: "creating"}}})
	select {
	case <-ctx.Done():
		return coordinator.Result{}, ctx.Err()
	case <-r.hold:
	}
	return r.result(j), nil
}

func (r *runnerDouble) Cancel(string) error { return nil }
func (r *runnerDouble) Wipe(string) error   { return nil }

func (r *runnerDouble) Jobs() ([]string, error) { return nil, nil }

type jobsDouble struct{}

func (jobsDouble) Job(_ context.Context, b coordinator.Build) (coordinator.Job, error) {
	return coordinator.Job{ID: string(b.ID), Transition: b.Transition}, nil
}

func (jobsDouble) ImportJob(context.Context, coordinator.TemplateVersion) (coordinator.Job, error) {
	return coordinator.Job{}, nil
}

type world struct {
	t       *testing.T
	store   *sqlite.Store
	hub     *hubDouble
	runner  *runnerDouble
	builder *builder.Builder
	entry   *Entry
	user    coordinator.User
	bob     coordinator.User
	ws      coordinator.Workspace
	agents  []coordinator.AgentRecord
}

func newWorld(t *testing.T) *world {
	t.Helper()
	store := must(sqlite.Open(ctx, t.TempDir(), must(seal.LoadOrCreate(filepath.Join(t.TempDir(), "key"))), slog.New(slog.DiscardHandler)))
	bus := events.New()
	w := &world{t: t, store: store}
	w.hub = &hubDouble{up: map[string]bool{}, since: time.Now(), changed: make(chan struct{})}
	w.agents = []coordinator.AgentRecord{{ID: "agent-main", Name: "main", ConnectionTimeout: 30 * time.Second}}
	w.runner = &runnerDouble{jobs: map[string]coordinator.Job{}, hold: make(chan struct{}), result: w.works}
	for name, u := range map[string]*coordinator.User{"alice": &w.user, "bob": &w.bob} {
		*u = coordinator.User{Name: name, Role: coordinator.RoleMember}
		ok(t, store.CreateUser(ctx, u, coordinator.GitKey{PrivateKey: "k", PublicKey: "ssh-ed25519 " + name}))
	}
	v := coordinator.TemplateVersion{Archive: "abc", Activate: true}
	must(store.CreateTemplateVersion(ctx, "local", "", &v))
	ok(t, store.FinishImport(ctx, v.ID, coordinator.Result{Status: coordinator.BuildSucceeded, Imported: &coordinator.Import{}}))
	w.ws = coordinator.Workspace{Name: "dev", OwnerID: w.user.ID, TemplateID: v.TemplateID, VersionID: v.ID}
	ok(t, store.CreateWorkspace(ctx, &w.ws, coordinator.HostIdentity{Ed25519: "a", ECDSA: "b"}))
	w.builder = builder.New(builder.Config{Store: store, Runner: w.runner, Jobs: jobsDouble{}, Events: bus, Hub: w.hub, Workers: 2})
	w.entry = New(Config{Store: store, Builder: w.builder, Hub: w.hub, Events: bus})
	run, cancel := context.WithCancel(ctx)
	done := make(chan error, 1)
	go func() { done <- w.builder.Run(run) }()
	t.Cleanup(func() {
		cancel()
		ok(t, <-done)
		w.hub.serving.Wait()
		store.Close()
	})
	return w
}

// works is a build that does what it should; the agent of a start connects.
func (w *world) works(j coordinator.Job) coordinator.Result {
	r := coordinator.Result{Status: coordinator.BuildSucceeded}
	if j.Transition == coordinator.Start {
		r.Agents = w.agents
		w.hub.set("agent-main", true)
	}
	return r
}

func (w *world) request() Request {
	return Request{User: w.user, Target: coordinator.Target{Workspace: "dev"}, Peer: "192.0.2.7:50122", Via: agent.ViaDoor}
}

func (w *world) enter(r Request) (*Stream, error) {
	c, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	return w.entry.Enter(c, r)
}

func (w *world) release() { close(w.runner.hold) }

func (w *world) ask(r coordinator.BuildRequest) coordinator.Build {
	return must(w.builder.Request(ctx, coordinator.Actor{}, w.ws, r))
}

func (w *world) latest() *coordinator.Build { return must(w.store.LatestBuild(ctx, w.ws.ID)) }

func (w *world) ended(b coordinator.Build) {
	eventually(w.t, "the build ends", func() bool { return !must(w.store.Build(ctx, b.ID)).Status.Open() })
}

// up has the workspace started.
func (w *world) up() *world {
	w.release()
	w.ended(w.ask(coordinator.BuildRequest{Transition: coordinator.Start}))
	return w
}

func TestLookup(t *testing.T) {
	w := newWorld(t)
	for _, tt := range []struct {
		name   string
		user   coordinator.User
		target coordinator.Target
		found  bool
	}{
		{"own", w.user, coordinator.Target{Workspace: "dev"}, true},
		{"own, in full", w.user, coordinator.Target{Owner: "alice", Workspace: "dev", Agent: "main"}, true},
		{"another name", w.user, coordinator.Target{Workspace: "prod"}, false},
		{"another's", w.bob, coordinator.Target{Owner: "alice", Workspace: "dev"}, false},
		{"another's, without saying so", w.bob, coordinator.Target{Workspace: "dev"}, false},
		{"an owner's reach ends here", coordinator.User{ID: w.bob.ID, Name: "bob", Role: coordinator.RoleOwner}, coordinator.Target{Owner: "alice", Workspace: "dev"}, false},
		{"an owner that is not there", w.user, coordinator.Target{Owner: "carol", Workspace: "dev"}, false},
		{"nobody", coordinator.User{}, coordinator.Target{Workspace: "dev"}, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			ws, err := w.entry.Lookup(ctx, tt.user, tt.target)
			if tt.found && (err != nil || ws.ID != w.ws.ID) {
				t.Errorf("got %v, %v", ws.ID, err)
			}
			if !tt.found {
				wantError(t, err, coordinator.CodeNotFound, fmt.Sprintf("you have no workspace %q", tt.target.String()))
			}
		})
	}
}

func TestEnterStarts(t *testing.T) {
	w := newWorld(t)
	var mu sync.Mutex
	var told []coordinator.Progress
	r := w.request()
	r.Progress = func(p coordinator.Progress) {
		mu.Lock()
		defer mu.Unlock()
		told = append(told, p)
		if p.Address == "berth_process.dev" && p.Elapsed >= 2*time.Second {
			select {
			case <-w.runner.hold:
			default:
				w.release()
			}
		}
	}
	s, err := w.enter(r)
	ok(t, err)
	if b := w.latest(); b.Number != 1 || b.Reason != coordinator.ReasonConnect || b.Initiator != w.user.ID {
		t.Errorf("the build is %+v", b)
	}
	mu.Lock()
	seconds := map[int]bool{}
	for _, p := range told {
		if p.Address == "berth_process.dev" {
			seconds[int(p.Elapsed/time.Second)] = true
		}
		if p.Build != 1 {
			t.Errorf("progress of build %d", p.Build)
		}
	}
	if len(seconds) < 3 || len(told) > 20 {
		t.Errorf("progress was %v", told)
	}
	mu.Unlock()

	fmt.Fprint(s, "hello")
	got := make([]byte, 5)
	if _, err := io.ReadFull(s, got); err != nil || string(got) != "hello" {
		t.Errorf("through the stream came %q, %v", got, err)
	}
	ok(t, s.CloseWrite())
	if _, err := io.ReadAll(s); err != nil {
		t.Error(err)
	}
	ok(t, s.Close())
	s.Close() // again does no harm
	h := w.hub.headers[0]
	if h.Kind != agent.KindSSH || h.ID != s.ID || h.User.ID != string(w.user.ID) || h.User.Name != "alice" || h.Peer != r.Peer || h.Via != agent.ViaDoor {
		t.Errorf("the header is %+v", h)
	}
	if ws := must(w.store.Workspace(ctx, w.ws.ID)); ws.LastUsed.IsZero() {
		t.Error("its use is not recorded")
	}
}

// recorded notes sessions on their way to the store.
type recorded struct {
	Store
	mu             sync.Mutex
	opened, closed []coordinator.SessionRecord
	fail           error
}

func (r *recorded) OpenSession(ctx context.Context, s coordinator.SessionRecord) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.opened = append(r.opened, s)
	if r.fail != nil {
		return r.fail
	}
	return r.Store.OpenSession(ctx, s)
}

func (r *recorded) CloseSession(ctx context.Context, s coordinator.SessionRecord) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.closed = append(r.closed, s)
	return r.Store.CloseSession(ctx, s)
}

func TestSessionRecord(t *testing.T) {
	w := newWorld(t).up()
	rec := &recorded{Store: w.store}
	w.entry.store = rec
	s, err := w.enter(w.request())
	ok(t, err)
	fmt.Fprint(s, "hello")
	io.ReadFull(s, make([]byte, 3))
	s.Close()
	s.Close()
	if len(rec.opened) != 1 || len(rec.closed) != 1 {
		t.Fatalf("%d opened, %d closed", len(rec.opened), len(rec.closed))
	}
	c := rec.closed[0]
	if c.ID != s.ID || c.BytesIn != 5 || c.BytesOut != 3 || c.Agent != "main" || c.Peer != "192.0.2.7:50122" || c.Ended.Before(c.Started) {
		t.Errorf("the record is %+v", c)
	}
	rec.fail = fmt.Errorf("no space left on device")
	if _, err := w.enter(w.request()); err == nil {
		t.Error("a session began unrecorded")
	}
}

func TestNoStart(t *testing.T) {
	w := newWorld(t)
	r := w.request()
	r.NoStart = true
	_, err := w.enter(r)
	wantError(t, err, coordinator.CodeConflict, "dev is not running")
	if w.latest() != nil {
		t.Error("it was started nevertheless")
	}
	b := w.ask(coordinator.BuildRequest{Transition: coordinator.Start})
	go func() {
		w.release()
		w.ended(b)
	}()
	s, err := w.enter(r) // a build under way is joined
	ok(t, err)
	s.Close()
}

func TestTwoJoinOneBuild(t *testing.T) {
	w := newWorld(t)
	var all sync.WaitGroup
	for range 10 {
		all.Go(func() {
			s, err := w.enter(w.request())
			if err != nil {
				t.Error(err)
				return
			}
			s.Close()
		})
	}
	eventually(t, "a build", func() bool { return w.latest() != nil })
	w.release()
	all.Wait()
	if n := w.latest().Number; n != 1 {
		t.Errorf("%d builds were made", n)
	}
}

func TestFailedBuild(t *testing.T) {
	w := newWorld(t)
	w.runner.result = func(coordinator.Job) coordinator.Result {
		return coordinator.Result{Status: coordinator.BuildFailed, Error: "no space", Address: "docker_container.dev"}
	}
	w.release()
	_, err := w.enter(w.request())
	wantError(t, err, coordinator.CodeFailed, "build 1 failed: docker_container.dev: no space")
	if e := err.(*coordinator.Error); e.Hint != "berth logs dev" {
		t.Errorf("the hint is %q", e.Hint)
	}
	w.runner.result = func(coordinator.Job) coordinator.Result { return coordinator.Result{Status: coordinator.BuildCanceled} }
	_, err = w.enter(w.request()) // fresh intent tries again
	wantError(t, err, coordinator.CodeFailed, "build 2 was canceled")
	w.runner.result = w.works
	s, err := w.enter(w.request())
	ok(t, err)
	s.Close()
}

// TestFailedUpdateLetsIn: a build that the guard refused must not lock anybody out of what still runs.
func TestFailedUpdateLetsIn(t *testing.T) {
	w := newWorld(t).up()
	w.runner.result = func(coordinator.Job) coordinator.Result {
		return coordinator.Result{Status: coordinator.BuildFailed, Error: "guard"}
	}
	w.ended(w.ask(coordinator.BuildRequest{Transition: coordinator.Start, Params: map[string]string{"cpu": "8"}}))
	s, err := w.enter(w.request())
	ok(t, err)
	s.Close()
	if n := w.latest().Number; n != 2 {
		t.Errorf("%d builds were made", n)
	}
}

func TestStoppingWorkspaceIsWaitedFor(t *testing.T) {
	w := newWorld(t).up()
	w.runner.mu.Lock()
	w.runner.hold = make(chan struct{})
	w.runner.mu.Unlock()
	stop := w.ask(coordinator.BuildRequest{Transition: coordinator.Stop})
	r := w.request()
	r.NoStart = true
	_, err := w.enter(r)
	wantError(t, err, coordinator.CodeConflict, "is being stopped")
	told := make(chan struct{})
	r = w.request()
	var once sync.Once
	r.Progress = func(coordinator.Progress) { once.Do(func() { close(told) }) }
	go func() {
		<-told
		w.release()
	}()
	s, err := w.enter(r)
	ok(t, err)
	s.Close()
	if b := w.latest(); b.Number != stop.Number+1 || b.Transition != coordinator.Start {
		t.Errorf("it was let in by %s build %d", b.Transition, b.Number)
	}
}

func TestRestartIsJoined(t *testing.T) {
	w := newWorld(t).up()
	w.runner.mu.Lock()
	w.runner.hold = make(chan struct{})
	w.runner.mu.Unlock()
	b := w.ask(coordinator.BuildRequest{Restart: true})
	told := make(chan struct{})
	r := w.request()
	r.NoStart = true // the start is the restart's
	var once sync.Once
	r.Progress = func(coordinator.Progress) { once.Do(func() { close(told) }) }
	go func() {
		<-told
		w.release()
	}()
	s, err := w.enter(r)
	ok(t, err)
	s.Close()
	if n := w.latest().Number; n != b.Number+1 {
		t.Errorf("let in by build %d", n)
	}
}

func TestDeletingWorkspace(t *testing.T) {
	w := newWorld(t)
	w.ask(coordinator.BuildRequest{Transition: coordinator.Delete})
	_, err := w.enter(w.request())
	wantError(t, err, coordinator.CodeConflict, "is being deleted")
	w.release()
	eventually(t, "deleted", func() bool {
		_, err := w.entry.Lookup(ctx, w.user, coordinator.Target{Workspace: "dev"})
		return coordinator.CodeOf(err) == coordinator.CodeNotFound
	})
}

func TestAgents(t *testing.T) {
	w := newWorld(t)
	w.agents = append(w.agents, coordinator.AgentRecord{ID: "agent-db", Name: "db", ConnectionTimeout: time.Millisecond})
	w.up()
	s, err := w.enter(w.request())
	ok(t, err)
	if s.Agent.Name != "main" || s.Workspace.ID != w.ws.ID {
		t.Errorf("entered %s of %s", s.Agent.Name, s.Workspace.Name)
	}
	s.Close()
	r := w.request()
	r.Target.Agent = "web"
	_, err = w.enter(r)
	wantError(t, err, coordinator.CodeNotFound, `no agent "web"`)

	one := coordinator.WorkspaceAgent{AgentRecord: coordinator.AgentRecord{Name: "one"}}
	two := coordinator.WorkspaceAgent{AgentRecord: coordinator.AgentRecord{Name: "two"}}
	if a, err := pick([]coordinator.WorkspaceAgent{one}, ""); err != nil || a.Name != "one" {
		t.Errorf("of one: %v %v", a.Name, err)
	}
	_, err = pick([]coordinator.WorkspaceAgent{one, two}, "")
	wantError(t, err, coordinator.CodeNotFound, "several agents: one, two")
	_, err = pick(nil, "")
	wantError(t, err, coordinator.CodeUnavailable, "no agent")
}

func TestWaitsEnd(t *testing.T) {
	t.Run("in a build", func(t *testing.T) {
		w := newWorld(t)
		c, cancel := context.WithCancel(ctx)
		r := w.request()
		r.Progress = func(coordinator.Progress) { cancel() }
		if _, err := w.entry.Enter(c, r); err != context.Canceled {
			t.Errorf("got %v", err)
		}
		w.release()
	})
	t.Run("for an agent", func(t *testing.T) {
		w := newWorld(t)
		w.runner.result = func(coordinator.Job) coordinator.Result {
			return coordinator.Result{Status: coordinator.BuildSucceeded, Agents: w.agents}
		}
		w.release()
		c, cancel := context.WithCancel(ctx)
		r := w.request()
		r.Progress = func(p coordinator.Progress) {
			if p.Stage == "connect" {
				if p.Text != "waiting for agent main to connect" {
					t.Errorf("progress is %+v", p)
				}
				cancel()
			}
		}
		if _, err := w.entry.Enter(c, r); err != context.Canceled {
			t.Errorf("got %v", err)
		}
	})
	t.Run("for an agent, by a stop", func(t *testing.T) {
		w := newWorld(t)
		w.runner.result = func(coordinator.Job) coordinator.Result {
			return coordinator.Result{Status: coordinator.BuildSucceeded, Agents: w.agents}
		}
		w.release()
		r := w.request()
		var once sync.Once
		r.Progress = func(p coordinator.Progress) {
			if p.Stage == "connect" {
				once.Do(func() { w.ask(coordinator.BuildRequest{Transition: coordinator.Stop}) })
			}
		}
		_, err := w.enter(r)
		wantError(t, err, coordinator.CodeConflict, "was asked to stop meanwhile")
	})
}

// TestAgentConnectsLate: who waits is let in when the agent comes, and a link lost in between is waited for.
func TestAgentConnectsLate(t *testing.T) {
	w := newWorld(t)
	w.runner.result = func(coordinator.Job) coordinator.Result {
		return coordinator.Result{Status: coordinator.BuildSucceeded, Agents: w.agents}
	}
	w.hub.fails = 1
	w.release()
	r := w.request()
	var once sync.Once
	r.Progress = func(p coordinator.Progress) {
		if p.Stage == "connect" {
			once.Do(func() { w.hub.set("agent-main", true) })
		}
	}
	s, err := w.enter(r)
	ok(t, err)
	s.Close()
}

// TestLostAgentIsStartedAgain: an agent that has gone for good does not keep its owner out.
func TestLostAgentIsStartedAgain(t *testing.T) {
	w := newWorld(t).up()
	a := must(w.store.Agents(ctx, w.ws.ID))[0]
	a.FirstConnected = time.Now()
	ok(t, w.store.UpdateAgent(ctx, a))
	w.hub.set("agent-main", false)
	w.hub.mu.Lock()
	w.hub.since = time.Now().Add(-time.Hour)
	w.hub.mu.Unlock()
	s, err := w.enter(w.request())
	ok(t, err)
	s.Close()
	if n := w.latest().Number; n != 2 {
		t.Errorf("let in by build %d", n)
	}
}
