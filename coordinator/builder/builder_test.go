package builder

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"berth/coordinator"
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

func wantCode(t testing.TB, err error, want coordinator.Code) {
	t.Helper()
	if got := coordinator.CodeOf(err); got != want {
		t.Errorf("got %v (code %q), want code %q", err, got, want)
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

// A script is what a runner's files say, one after the other.
type script struct {
	updates []coordinator.Update
	result  coordinator.Result
	hold    chan struct{} // not nil: the result comes once it is closed, or a cancel came
}

// A runner double keeps what a runner would have on disk, and outlives builders.
type runnerDouble struct {
	mu       sync.Mutex
	script   func(job coordinator.Job) script
	begun    map[string]script
	jobs     map[string]coordinator.Job
	states   map[string]coordinator.Secret
	canceled map[string]chan struct{}
	cancels  int
	wiped    []string
	refuse   error // of Begin
	lost     int   // begins that leave no trace
}

func newRunner(f func(coordinator.Job) script) *runnerDouble {
	return &runnerDouble{
		script: f, begun: make(map[string]script), jobs: make(map[string]coordinator.Job),
		states: make(map[string]coordinator.Secret), canceled: make(map[string]chan struct{}),
	}
}

func (r *runnerDouble) Begin(job coordinator.Job, state coordinator.Secret) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.jobs[job.ID], r.states[job.ID] = job, state
	switch {
	case r.refuse != nil:
		return r.refuse
	case r.lost > 0:
		r.lost--
		return nil
	}
	r.begun[job.ID] = r.script(job)
	r.canceled[job.ID] = make(chan struct{})
	return nil
}

func (r *runnerDouble) Follow(ctx context.Context, id string, each func(coordinator.Update)) (coordinator.Result, error) {
	r.mu.Lock()
	s, ok := r.begun[id]
	canceled := r.canceled[id]
	r.mu.Unlock()
	if !ok {
		return coordinator.Result{}, coordinator.ErrNeverBegan
	}
	for _, u := range s.updates {
		each(u)
	}
	if s.hold != nil {
		select {
		case <-ctx.Done():
			return coordinator.Result{}, ctx.Err()
		case <-canceled:
			return coordinator.Result{Status: coordinator.BuildCanceled, Error: "canceled"}, nil
		case <-s.hold:
		}
	}
	return s.result, ctx.Err()
}

func (r *runnerDouble) Cancel(id string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	c, ok := r.canceled[id]
	if !ok {
		return errors.New("no such runner")
	}
	r.cancels++
	close(c)
	return nil
}

func (r *runnerDouble) Wipe(id string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.wiped = append(r.wiped, id)
	delete(r.begun, id)
	return nil
}

func (r *runnerDouble) Jobs() ([]string, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Collect(maps.Keys(r.begun)), nil
}

func (r *runnerDouble) job(id coordinator.BuildID) (coordinator.Job, coordinator.Secret, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	j, ok := r.jobs[string(id)]
	return j, r.states[string(id)], ok
}

// hubDouble notes what it is told.
type hubDouble struct {
	mu       sync.Mutex
	dropped  []coordinator.WorkspaceID
	changed  []coordinator.WorkspaceID
	presence map[string]bool
	since    time.Time
}

func (h *hubDouble) Drop(ws coordinator.WorkspaceID) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.dropped = append(h.dropped, ws)
}

func (h *hubDouble) ManifestChanged(ws coordinator.WorkspaceID) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.changed = append(h.changed, ws)
}

func (h *hubDouble) Presence(coordinator.WorkspaceID) coordinator.Presence {
	h.mu.Lock()
	defer h.mu.Unlock()
	return coordinator.Presence{Connected: h.presence, UpSince: h.since}
}

type jobsDouble struct{ err error }

func (j *jobsDouble) Job(_ context.Context, b coordinator.Build) (coordinator.Job, error) {
	return coordinator.Job{ID: string(b.ID), Transition: b.Transition, WorkspaceID: b.WorkspaceID, Params: b.Params, AllowDestroy: b.AllowDestroy}, j.err
}

func (j *jobsDouble) ImportJob(_ context.Context, v coordinator.TemplateVersion) (coordinator.Job, error) {
	return coordinator.Job{ID: string(v.ID), Import: true}, j.err
}

// faulty makes the store fail for a while.
type faulty struct {
	Store
	mu    sync.Mutex
	fails map[string]int
	calls map[string]int
}

func (f *faulty) fault(name string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.calls == nil {
		f.calls = make(map[string]int)
	}
	f.calls[name]++
	if f.fails[name] > 0 {
		f.fails[name]--
		return errors.New("no space left on device")
	}
	return nil
}

func (f *faulty) AppendLog(ctx context.Context, b coordinator.BuildID, l []coordinator.LogLine) error {
	if err := f.fault("log"); err != nil {
		return err
	}
	return f.Store.AppendLog(ctx, b, l)
}

func (f *faulty) PutState(ctx context.Context, s coordinator.State) error {
	if err := f.fault("state"); err != nil {
		return err
	}
	return f.Store.PutState(ctx, s)
}

func (f *faulty) FinishBuild(ctx context.Context, id coordinator.BuildID, r coordinator.Result, now time.Time) (*coordinator.Build, error) {
	if err := f.fault("finish"); err != nil {
		return nil, err
	}
	return f.Store.FinishBuild(ctx, id, r, now)
}

func (f *faulty) ClaimBuild(ctx context.Context, now time.Time) (*coordinator.Build, error) {
	if err := f.fault("claim"); err != nil {
		return nil, err
	}
	return f.Store.ClaimBuild(ctx, now)
}

type world struct {
	t       testing.TB
	store   *sqlite.Store
	faulty  *faulty
	bus     *events.Bus
	runner  *runnerDouble
	hub     *hubDouble
	jobs    *jobsDouble
	builder *Builder
	user    coordinator.User
	v       coordinator.TemplateVersion
	ws      coordinator.Workspace
	stop    func()
}

const stateJSON = `{"version":4,"serial":3,"lineage":"l1","resources":[{}]}`

func record() coordinator.AgentRecord {
	return coordinator.AgentRecord{ID: "agent-1", Name: "main", Address: "berth_agent.main", Resource: "berth_process.dev"}
}

// plain is the script of a build that works.
func plain(job coordinator.Job) script {
	s := script{result: coordinator.Result{
		Status: coordinator.BuildSucceeded, Resources: []string{"berth_agent.main", "berth_home.home"}, Serial: 3,
		Timings: []coordinator.Timing{{Stage: "apply", Duration: time.Second}},
	}}
	s.updates = []coordinator.Update{
		{Lines: []coordinator.LogLine{{Seq: 0, Stage: "plan", Level: "info", Text: "planning"}}},
		{State: stateJSON, Serial: 3, Agents: []coordinator.AgentRecord{record()}},
		{Lines: []coordinator.LogLine{{Seq: 1, Stage: "apply", Level: "info", Address: "berth_home.home", Text: "berth_home.home: creating", Elapsed: 3 * time.Second}}},
	}
	if job.Transition == coordinator.Start {
		s.result.Agents = []coordinator.AgentRecord{record()}
	}
	if job.Import {
		s.updates = s.updates[:1]
		s.result.Imported = &coordinator.Import{Persistent: []string{"berth_home.home"}}
	}
	return s
}

func newWorld(t testing.TB, f func(coordinator.Job) script) *world {
	t.Helper()
	key, err := seal.LoadOrCreate(filepath.Join(t.TempDir(), "key"))
	ok(t, err)
	store, err := sqlite.Open(ctx, t.TempDir(), key, slog.New(slog.DiscardHandler))
	ok(t, err)
	t.Cleanup(func() { store.Close() })
	w := &world{
		t: t, store: store, faulty: &faulty{Store: store, fails: make(map[string]int)}, bus: events.New(),
		runner: newRunner(f), hub: &hubDouble{since: time.Now(), presence: make(map[string]bool)}, jobs: &jobsDouble{}, stop: func() {},
	}
	w.user = coordinator.User{Name: "alice", Role: coordinator.RoleMember}
	ok(t, store.CreateUser(ctx, &w.user, coordinator.GitKey{PrivateKey: "k", PublicKey: "ssh-ed25519 AAAA"}))
	w.v = w.version("berth_home.home")
	w.ws = coordinator.Workspace{Name: "dev", OwnerID: w.user.ID, TemplateID: w.v.TemplateID, VersionID: w.v.ID}
	ok(t, store.CreateWorkspace(ctx, &w.ws, coordinator.HostIdentity{Ed25519: "a", ECDSA: "b"}))
	w.start()
	t.Cleanup(func() { w.stop() })
	return w
}

func (w *world) version(persistent ...string) coordinator.TemplateVersion {
	w.t.Helper()
	v := coordinator.TemplateVersion{Archive: "abc", Activate: true}
	_, err := w.store.CreateTemplateVersion(ctx, "local", "", &v)
	ok(w.t, err)
	ok(w.t, w.store.FinishImport(ctx, v.ID, coordinator.Result{Status: coordinator.BuildSucceeded, Imported: &coordinator.Import{Persistent: persistent}}))
	return v
}

// start runs a builder, as a coordinator's start does.
func (w *world) start() {
	w.builder = New(Config{Store: w.faulty, Runner: w.runner, Jobs: w.jobs, Events: w.bus, Hub: w.hub, Workers: 2})
	run, cancel := context.WithCancel(ctx)
	done := make(chan error, 1)
	go func() { done <- w.builder.Run(run) }()
	w.stop = func() {
		cancel()
		if err := <-done; err != nil {
			w.t.Errorf("Run: %v", err)
		}
		w.stop = func() {}
	}
}

func (w *world) actor() coordinator.Actor { return coordinator.Actor{User: w.user} }

func (w *world) ask(r Request) coordinator.Build {
	w.t.Helper()
	b, err := w.builder.Request(ctx, w.actor(), w.ws, r)
	ok(w.t, err)
	return b
}

// ends waits for the end of a build.
func (w *world) ends(id coordinator.BuildID) coordinator.Build {
	w.t.Helper()
	var b coordinator.Build
	eventually(w.t, "the build ends", func() bool {
		var err error
		b, err = w.store.Build(ctx, id)
		ok(w.t, err)
		return !b.Status.Open()
	})
	return b
}

func (w *world) succeed(r Request) coordinator.Build {
	w.t.Helper()
	b := w.ends(w.ask(r).ID)
	if b.Status != coordinator.BuildSucceeded {
		w.t.Fatalf("%s build %d: %s %s", b.Transition, b.Number, b.Status, b.Error)
	}
	return b
}

var startIt, stopIt = Request{Transition: coordinator.Start}, Request{Transition: coordinator.Stop}

func TestStart(t *testing.T) {
	w := newWorld(t, plain)
	b := w.succeed(startIt)
	if b.Number != 1 || b.InitiatorName != "alice" || b.Reason != coordinator.ReasonUser || b.StateSerial != 3 {
		t.Errorf("the build is %+v", b)
	}
	if len(b.Timings) != 2 || b.Timings[0].Stage != "queue" || b.Timings[1].Stage != "apply" {
		t.Errorf("timings are %+v", b.Timings)
	}
	lines, err := w.store.Log(ctx, b.ID, coordinator.SourceBuild, 0, 100)
	if err != nil || len(lines) != 2 || lines[0].Text != "planning" {
		t.Errorf("the log is %+v, %v", lines, err)
	}
	s, err := w.store.State(ctx, w.ws.ID)
	if err != nil || s.Data != stateJSON || s.Serial != 3 || s.BuildID != b.ID || s.VersionID != w.v.ID {
		t.Errorf("the state is %+v, %v", s, err)
	}
	as, err := w.store.Agents(ctx, w.ws.ID)
	if err != nil || len(as) != 1 || as[0].BuildID != b.ID {
		t.Errorf("the agents are %+v, %v", as, err)
	}
	eventually(t, "wiped", func() bool {
		w.runner.mu.Lock()
		defer w.runner.mu.Unlock()
		return slices.Contains(w.runner.wiped, string(b.ID))
	})
	if len(w.hub.changed) != 1 || len(w.hub.dropped) != 0 {
		t.Errorf("the hub was told %v, %v", w.hub.changed, w.hub.dropped)
	}
	if _, ok := w.builder.Progress(w.ws.ID); ok {
		t.Error("progress of a build that has ended")
	}
}

func TestStopDeleteAndWhatTheHubHears(t *testing.T) {
	w := newWorld(t, plain)
	w.succeed(startIt)
	if b := w.ask(startIt); b.Number != 1 {
		t.Errorf("a start of what runs made build %d", b.Number)
	}
	w.succeed(stopIt)
	if b := w.ask(stopIt); b.Number != 2 {
		t.Errorf("a stop of what is stopped made build %d", b.Number)
	}
	if len(w.hub.dropped) != 1 {
		t.Errorf("dropped %v", w.hub.dropped)
	}
	d := w.ask(Request{Transition: coordinator.Delete})
	eventually(t, "deleted", func() bool {
		_, err := w.store.Build(ctx, d.ID)
		return coordinator.CodeOf(err) == coordinator.CodeNotFound
	})
	eventually(t, "dropped", func() bool {
		w.hub.mu.Lock()
		defer w.hub.mu.Unlock()
		return len(w.hub.dropped) == 2
	})
	_, err := w.builder.Request(ctx, w.actor(), w.ws, startIt)
	wantCode(t, err, coordinator.CodeNotFound)
}

func TestJoinsAndConflicts(t *testing.T) {
	hold := make(chan struct{})
	w := newWorld(t, func(j coordinator.Job) script { s := plain(j); s.hold = hold; return s })
	newer := w.version()
	b := w.ask(startIt)
	if again := w.ask(startIt); again.ID != b.ID {
		t.Error("the same request makes another build")
	}
	for _, r := range []Request{
		stopIt,
		{Transition: coordinator.Delete},
		{Transition: coordinator.Start, Restart: true},
		{Transition: coordinator.Start, VersionID: newer.ID},
		{Transition: coordinator.Start, Params: map[string]string{"cpu": "8"}},
		{Transition: coordinator.Start, AllowDestroy: []string{"berth_home.home"}},
	} {
		_, err := w.builder.Request(ctx, w.actor(), w.ws, r)
		wantCode(t, err, coordinator.CodeConflict)
		if err == nil || err.Error() != "start build 1 of dev is running" && err.Error() != "start build 1 of dev waits in the queue" {
			t.Errorf("%+v: %v", r, err)
		}
	}
	close(hold)
	w.ends(b.ID)
	if got := w.succeed(Request{Transition: coordinator.Start, Params: map[string]string{"cpu": "8"}}); got.Number != 2 || got.Params["cpu"] != "8" {
		t.Errorf("an update is %+v", got)
	}
}

// TestAtOnce: many who ask at once get one build.
func TestAtOnce(t *testing.T) {
	w := newWorld(t, plain)
	var all sync.WaitGroup
	for range 20 {
		all.Go(func() {
			if b, err := w.builder.Request(ctx, w.actor(), w.ws, startIt); err != nil || b.Number != 1 {
				t.Errorf("got build %d, %v", b.Number, err)
			}
		})
	}
	all.Wait()
	w.ends(must(w.store.LatestBuild(ctx, w.ws.ID)).ID)
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func TestRestart(t *testing.T) {
	w := newWorld(t, plain)
	newer := w.version("berth_home.other")
	if b := w.ask(Request{Restart: true}); b.Transition != coordinator.Start {
		t.Errorf("a restart of what never ran begins with a %s", b.Transition)
	} else {
		w.ends(b.ID)
	}
	b := w.ask(Request{Restart: true, VersionID: newer.ID, Reason: coordinator.ReasonUpdate})
	if b.Transition != coordinator.Stop || b.VersionID != w.v.ID || b.ThenStart == nil || b.ThenStart.VersionID != newer.ID {
		t.Fatalf("the stop half is %+v", b)
	}
	w.ends(b.ID)
	var next *coordinator.Build
	eventually(t, "the start half", func() bool {
		next = must(w.store.LatestBuild(ctx, w.ws.ID))
		return next.Number == b.Number+1 && !next.Status.Open()
	})
	if next.Status != coordinator.BuildSucceeded || next.VersionID != newer.ID || next.Reason != coordinator.ReasonUpdate {
		t.Errorf("the start half is %+v", next)
	}
	job, state, _ := w.runner.job(next.ID)
	want := []string{"berth_agent.main", "berth_home.home", "berth_home.other"} // the last stop's, both versions'
	if !slices.Equal(job.Persistent, want) || state != stateJSON {
		t.Errorf("the job protects %v and begins with %q", job.Persistent, string(state))
	}
}

func TestWhoMayAsk(t *testing.T) {
	w := newWorld(t, plain)
	bob := coordinator.User{ID: "u2", Name: "bob", Role: coordinator.RoleMember}
	_, err := w.builder.Request(ctx, coordinator.Actor{User: bob}, w.ws, stopIt)
	wantCode(t, err, coordinator.CodeNotFound)
	own := coordinator.Actor{User: w.user, Workspace: w.ws.ID}
	_, err = w.builder.Request(ctx, own, w.ws, startIt)
	wantCode(t, err, coordinator.CodeDenied)
	_, err = w.builder.Request(ctx, own, w.ws, Request{Transition: coordinator.Stop, Restart: true})
	wantCode(t, err, coordinator.CodeDenied)
	_, err = w.builder.Request(ctx, coordinator.Actor{User: w.user, Workspace: "another"}, w.ws, stopIt)
	wantCode(t, err, coordinator.CodeDenied)
	b, err := w.builder.Request(ctx, own, w.ws, stopIt)
	ok(t, err)
	_, err = w.builder.Cancel(ctx, coordinator.Actor{User: bob}, b.ID)
	wantCode(t, err, coordinator.CodeNotFound)
	w.ends(b.ID)
	_, err = w.builder.Request(ctx, coordinator.Actor{}, w.ws, Request{Transition: "explode"})
	wantCode(t, err, coordinator.CodeInvalid)
}

func TestUnreadyVersion(t *testing.T) {
	w := newWorld(t, plain)
	v := coordinator.TemplateVersion{Archive: "abc"}
	must(w.store.CreateTemplateVersion(ctx, "local", "", &v))
	_, err := w.builder.Request(ctx, w.actor(), w.ws, Request{Transition: coordinator.Start, VersionID: v.ID})
	wantCode(t, err, coordinator.CodeConflict)
	if err := w.store.FinishImport(ctx, v.ID, coordinator.Result{Status: coordinator.BuildFailed, Error: "bad HCL"}); err != nil {
		wantCode(t, err, coordinator.CodeConflict) // a builder that began late has adopted the import, and ended it
	}
	_, err = w.builder.Request(ctx, w.actor(), w.ws, Request{Transition: coordinator.Start, VersionID: v.ID})
	wantCode(t, err, coordinator.CodeConflict)
}

// TestUnhealthyStartsAgain: what has lost its machine is built again; what is merely coming up is not.
func TestUnhealthyStartsAgain(t *testing.T) {
	w := newWorld(t, plain)
	w.succeed(startIt)
	if b := w.ask(startIt); b.Number != 1 {
		t.Errorf("a workspace that is coming up got build %d", b.Number)
	}
	w.hub.mu.Lock()
	w.hub.since = time.Now().Add(-time.Hour)
	w.hub.mu.Unlock()
	a := must(w.store.Agents(ctx, w.ws.ID))[0]
	a.FirstConnected = time.Now()
	ok(t, w.store.UpdateAgent(ctx, a))
	if b := w.ask(startIt); b.Number != 2 {
		t.Errorf("a workspace that lost its agent got build %d", b.Number)
	} else {
		w.ends(b.ID)
	}
}

func TestCancel(t *testing.T) {
	hold := make(chan struct{})
	defer close(hold)
	w := newWorld(t, func(j coordinator.Job) script { s := plain(j); s.hold = hold; return s })
	b := w.ask(startIt)
	eventually(t, "running", func() bool { _, _, ok := w.runner.job(b.ID); return ok })
	got, err := w.builder.Cancel(ctx, w.actor(), b.ID)
	if err != nil || !got.CancelRequested {
		t.Fatalf("%+v %v", got, err)
	}
	w.builder.Cancel(ctx, w.actor(), b.ID)
	if b := w.ends(b.ID); b.Status != coordinator.BuildCanceled {
		t.Errorf("it ended as %s", b.Status)
	}
	if w.runner.cancels != 1 {
		t.Errorf("the runner was interrupted %d times", w.runner.cancels)
	}
	_, err = w.builder.Cancel(ctx, w.actor(), b.ID)
	if coordinator.CodeOf(err) != "" && coordinator.CodeOf(err) != coordinator.CodeConflict {
		t.Errorf("a second cancel: %v", err)
	}
}

func TestCancelWhileQueued(t *testing.T) {
	w := newWorld(t, plain)
	w.stop() // nobody claims
	b := w.ask(startIt)
	got, err := w.builder.Cancel(ctx, w.actor(), b.ID)
	if err != nil || got.Status != coordinator.BuildCanceled {
		t.Errorf("%+v %v", got, err)
	}
}

func TestFailures(t *testing.T) {
	w := newWorld(t, func(j coordinator.Job) script {
		s := plain(j)
		s.result.Status, s.result.Error, s.result.Address = coordinator.BuildFailed, "no space", "docker_container.dev"
		return s
	})
	b := w.ends(w.ask(startIt).ID)
	if b.Status != coordinator.BuildFailed || b.Error != "no space" || b.Address != "docker_container.dev" {
		t.Errorf("%+v", b)
	}
	w.jobs.err = coordinator.Errorf(coordinator.CodeFailed, "the template's\narchive is gone")
	b = w.ends(w.ask(startIt).ID)
	if b.Status != coordinator.BuildFailed || b.Error != "the template's archive is gone" || !slices.Equal(b.Resources, []string{"berth_agent.main", "berth_home.home"}) {
		t.Errorf("%+v", b)
	}
	w.jobs.err = nil
	w.runner.refuse = errors.New("fork: cannot allocate memory")
	b = w.ends(w.ask(startIt).ID)
	if b.Status != coordinator.BuildFailed || b.Error != "cannot start the build's runner: fork: cannot allocate memory" {
		t.Errorf("%+v", b)
	}
	w.runner.mu.Lock()
	w.runner.refuse, w.runner.lost = nil, maxBegins
	w.runner.mu.Unlock()
	b = w.ends(w.ask(startIt).ID)
	if b.Status != coordinator.BuildFailed || b.Error != "the build's runner does not start" {
		t.Errorf("%+v", b)
	}
	if _, err := w.store.Agents(ctx, w.ws.ID); err != nil {
		t.Error(err)
	}
}

// TestFullDisk: writes that fail are made again, none is dropped, and the runner's files stay until all is committed.
func TestFullDisk(t *testing.T) {
	w := newWorld(t, plain)
	w.faulty.mu.Lock()
	w.faulty.fails = map[string]int{"log": 1, "state": 2, "finish": 1}
	w.faulty.mu.Unlock()
	b := w.succeed(startIt)
	lines, err := w.store.Log(ctx, b.ID, coordinator.SourceBuild, 0, 100)
	if err != nil || len(lines) != 2 {
		t.Errorf("%d lines, %v", len(lines), err)
	}
	if s, err := w.store.State(ctx, w.ws.ID); err != nil || s.Serial != 3 {
		t.Errorf("state %+v, %v", s, err)
	}
}

// TestAdoption ends the coordinator at every stage of a build, and starts another.
func TestAdoption(t *testing.T) {
	t.Run("while the runner works", func(t *testing.T) {
		hold := make(chan struct{})
		w := newWorld(t, func(j coordinator.Job) script { s := plain(j); s.hold = hold; return s })
		b := w.ask(startIt)
		eventually(t, "running", func() bool { _, _, ok := w.runner.job(b.ID); return ok })
		w.stop()
		if got := must(w.store.Build(ctx, b.ID)); got.Status != coordinator.BuildRunning || len(w.runner.wiped) != 0 {
			t.Fatalf("a shutdown left %s, wiped %v", got.Status, w.runner.wiped)
		}
		w.start()
		close(hold)
		if got := w.ends(b.ID); got.Status != coordinator.BuildSucceeded {
			t.Errorf("adopted, it ended as %s: %s", got.Status, got.Error)
		}
		if lines := must(w.store.Log(ctx, b.ID, coordinator.SourceBuild, 0, 100)); len(lines) != 2 {
			t.Errorf("%d lines", len(lines))
		}
	})
	t.Run("after the claim, before the runner", func(t *testing.T) {
		w := newWorld(t, plain)
		w.stop()
		b := w.ask(startIt)
		must(w.store.ClaimBuild(ctx, time.Now()))
		w.start()
		if got := w.ends(b.ID); got.Status != coordinator.BuildSucceeded {
			t.Errorf("begun now, it ended as %s: %s", got.Status, got.Error)
		}
	})
	t.Run("after the cancel, before the signal", func(t *testing.T) {
		hold := make(chan struct{})
		defer close(hold)
		w := newWorld(t, func(j coordinator.Job) script { s := plain(j); s.hold = hold; return s })
		b := w.ask(startIt)
		eventually(t, "running", func() bool { _, _, ok := w.runner.job(b.ID); return ok })
		w.stop()
		must(w.store.RequestCancel(ctx, b.ID))
		w.start()
		if got := w.ends(b.ID); got.Status != coordinator.BuildCanceled {
			t.Errorf("it ended as %s", got.Status)
		}
	})
	t.Run("after the result, before the wipe", func(t *testing.T) {
		hold := make(chan struct{})
		w := newWorld(t, func(j coordinator.Job) script { s := plain(j); s.hold = hold; return s })
		b := w.ask(startIt)
		eventually(t, "running", func() bool { _, _, ok := w.runner.job(b.ID); return ok })
		w.stop()
		w.runner.mu.Lock()
		w.runner.begun["ended"] = script{}
		w.runner.mu.Unlock()
		w.start()
		wiped := func() []string {
			w.runner.mu.Lock()
			defer w.runner.mu.Unlock()
			return slices.Clone(w.runner.wiped)
		}
		eventually(t, "wiped", func() bool { return len(wiped()) > 0 })
		if got := wiped(); !slices.Equal(got, []string{"ended"}) {
			t.Errorf("wiped %v", got)
		}
		close(hold)
		if got := w.ends(b.ID); got.Status != coordinator.BuildSucceeded {
			t.Errorf("it ended as %s", got.Status)
		}
	})
	t.Run("a full disk until the shutdown", func(t *testing.T) {
		w := newWorld(t, plain)
		w.faulty.mu.Lock()
		w.faulty.fails["finish"] = 1 << 30
		w.faulty.mu.Unlock()
		b := w.ask(startIt)
		eventually(t, "tried", func() bool {
			w.faulty.mu.Lock()
			defer w.faulty.mu.Unlock()
			return w.faulty.calls["finish"] > 0
		})
		w.stop()
		if len(w.runner.wiped) != 0 {
			t.Fatal("wiped before it was committed")
		}
		w.faulty.mu.Lock()
		w.faulty.fails["finish"] = 0
		w.faulty.mu.Unlock()
		w.start()
		if got := w.ends(b.ID); got.Status != coordinator.BuildSucceeded {
			t.Errorf("it ended as %s", got.Status)
		}
	})
}

func TestImport(t *testing.T) {
	w := newWorld(t, plain)
	v := coordinator.TemplateVersion{Archive: "abc"}
	must(w.store.CreateTemplateVersion(ctx, "local", "", &v))
	ready := func(id coordinator.VersionID) {
		t.Helper()
		eventually(t, "ready", func() bool { return must(w.store.Version(ctx, id)).Status == coordinator.VersionReady })
	}
	w.builder.Import(ctx, v)
	w.builder.Import(ctx, v)
	ready(v.ID)
	if got := must(w.store.Version(ctx, v.ID)); !slices.Equal(got.Import.Persistent, []string{"berth_home.home"}) {
		t.Errorf("the import is %+v", got.Import)
	}
	if lines := must(w.store.Log(ctx, coordinator.BuildID(v.ID), coordinator.SourceBuild, 0, 100)); len(lines) != 1 {
		t.Errorf("%d lines of log", len(lines))
	}
	// One that was pushed just before the coordinator died is found again.
	w.stop()
	v = coordinator.TemplateVersion{Archive: "abc"}
	must(w.store.CreateTemplateVersion(ctx, "local", "", &v))
	w.start()
	ready(v.ID)
}

// TestWorkers: no more jobs run at once than there are workers, and none waits for ever.
func TestWorkers(t *testing.T) {
	hold := make(chan struct{})
	w := newWorld(t, func(j coordinator.Job) script { s := plain(j); s.hold = hold; return s })
	var builds []coordinator.BuildID
	for _, name := range []string{"a", "b", "c", "d"} {
		ws := coordinator.Workspace{Name: name, OwnerID: w.user.ID, TemplateID: w.v.TemplateID, VersionID: w.v.ID}
		ok(t, w.store.CreateWorkspace(ctx, &ws, coordinator.HostIdentity{Ed25519: "a", ECDSA: "b"}))
		b, err := w.builder.Request(ctx, w.actor(), ws, startIt)
		ok(t, err)
		builds = append(builds, b.ID)
	}
	eventually(t, "two run", func() bool { return len(must(w.store.RunningBuilds(ctx))) == 2 })
	w.builder.poke()
	if n := len(must(w.store.RunningBuilds(ctx))); n != 2 {
		t.Errorf("%d run", n)
	}
	if n := must(w.store.QueuedBefore(ctx, builds[3])); n != 1 {
		t.Errorf("%d are ahead of the last", n)
	}
	close(hold)
	for _, id := range builds {
		w.ends(id)
	}
}

func TestClaimFailsForAWhile(t *testing.T) {
	w := newWorld(t, plain)
	w.faulty.mu.Lock()
	w.faulty.fails["claim"] = 1
	w.faulty.mu.Unlock()
	w.succeed(startIt)
}

func TestProgress(t *testing.T) {
	hold := make(chan struct{})
	w := newWorld(t, func(j coordinator.Job) script { s := plain(j); s.hold = hold; return s })
	woken, cancel := w.bus.Watch(w.ws.ID)
	defer cancel()
	b := w.ask(startIt)
	var p coordinator.Progress
	eventually(t, "the resource", func() bool {
		var ok bool
		p, ok = w.builder.Progress(w.ws.ID)
		return ok && p.Stage == "apply"
	})
	if p.Build != 1 || p.Address != "berth_home.home" || p.Text != "creating" || p.Elapsed < 3*time.Second || p.Elapsed > time.Minute {
		t.Errorf("progress is %+v", p)
	}
	later, _ := w.builder.Progress(w.ws.ID)
	if later.Elapsed <= p.Elapsed {
		t.Error("elapsed does not count up")
	}
	<-woken
	close(hold)
	w.ends(b.ID)
}

// TestAgentsAreRecordedEarly: an agent can link before the build ends.
func TestAgentsAreRecordedEarly(t *testing.T) {
	hold := make(chan struct{})
	w := newWorld(t, func(j coordinator.Job) script { s := plain(j); s.hold = hold; return s })
	b := w.ask(startIt)
	eventually(t, "recorded", func() bool { return len(must(w.store.Agents(ctx, w.ws.ID))) == 1 })
	if got := must(w.store.Build(ctx, b.ID)); got.Status != coordinator.BuildRunning {
		t.Errorf("the build is %s", got.Status)
	}
	close(hold)
	w.ends(b.ID)
}
