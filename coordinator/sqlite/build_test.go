package sqlite

import (
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"berth/coordinator"
)

func TestBuildLife(t *testing.T) {
	w := newWorld(t)
	for name, got := range map[string]func() (*coordinator.Build, error){
		"open":         func() (*coordinator.Build, error) { return w.OpenBuild(ctx, w.ws.ID) },
		"latest":       func() (*coordinator.Build, error) { return w.LatestBuild(ctx, w.ws.ID) },
		"latest start": func() (*coordinator.Build, error) { return w.LatestStart(ctx, w.ws.ID) },
		"claim":        func() (*coordinator.Build, error) { return w.ClaimBuild(ctx, noon) },
	} {
		if b, err := got(); b != nil || err != nil {
			t.Errorf("%s before any build: %v, %v", name, b, err)
		}
	}
	b := coordinator.Build{
		WorkspaceID: w.ws.ID, Transition: coordinator.Start, Reason: coordinator.ReasonConnect, Initiator: w.user.ID, VersionID: w.v.ID,
		Params: map[string]string{"cpu": "4"}, AllowDestroy: []string{"berth_home.home"}, Created: noon,
	}
	ok(t, w.CreateBuild(ctx, &b))
	if b.Number != 1 || b.Status != coordinator.BuildQueued || b.ID == "" || b.InitiatorName != "alice" {
		t.Errorf("created %+v", b)
	}
	if diff := cmp.Diff(b, must(w.Build(ctx, b.ID))(t)); diff != "" {
		t.Error(diff)
	}
	if ws := must(w.Workspace(ctx, w.ws.ID))(t); ws.Params["cpu"] != "4" {
		t.Errorf("a start did not set the workspace's parameters: %v", ws.Params)
	}
	claimed := must(w.ClaimBuild(ctx, noon.Add(time.Second)))(t)
	if claimed.Status != coordinator.BuildRunning || !claimed.Started.Equal(noon.Add(time.Second)) {
		t.Errorf("claimed %+v", claimed)
	}
	if again := must(w.ClaimBuild(ctx, noon))(t); again != nil {
		t.Errorf("claimed twice: %+v", again)
	}
	if running := must(w.RunningBuilds(ctx))(t); len(running) != 1 || running[0].ID != b.ID {
		t.Errorf("running %+v", running)
	}
	r := coordinator.Result{
		Status: coordinator.BuildFailed, Error: "no space", Address: "berth_process.dev[0]", Resources: []string{"berth_home.home"}, Serial: 3,
		Timings: []coordinator.Timing{{Stage: "apply", Start: noon, Duration: 1234567 * time.Nanosecond}},
	}
	if next := must(w.FinishBuild(ctx, b.ID, r, noon.Add(time.Minute)))(t); next != nil {
		t.Errorf("next %+v", next)
	}
	want := *claimed
	want.Status, want.Error, want.Address, want.Resources, want.StateSerial = r.Status, r.Error, r.Address, r.Resources, r.Serial
	want.Timings, want.Ended = r.Timings, noon.Add(time.Minute)
	if diff := cmp.Diff(want, must(w.BuildByNumber(ctx, w.ws.ID, 1))(t)); diff != "" {
		t.Error(diff)
	}
	_, err := w.FinishBuild(ctx, b.ID, succeeded, noon)
	code(t, err, coordinator.CodeConflict)
	_, err = w.RequestCancel(ctx, b.ID)
	code(t, err, coordinator.CodeConflict)
	if s := must(w.LatestStart(ctx, w.ws.ID))(t); s != nil {
		t.Errorf("a failed start is the latest one: %+v", s)
	}
	_, err = w.FinishBuild(ctx, "nobody", succeeded, noon)
	code(t, err, coordinator.CodeNotFound)
	if _, err = w.FinishBuild(ctx, b.ID, coordinator.Result{Status: coordinator.BuildRunning}, noon); err == nil {
		t.Error("a build ended as running")
	}
	_, err = w.BuildByNumber(ctx, w.ws.ID, 2)
	code(t, err, coordinator.CodeNotFound)
}

func TestOneOpenBuild(t *testing.T) {
	w := newWorld(t)
	const n = 16
	var wg sync.WaitGroup
	errs := make([]error, n)
	for i := range n {
		wg.Go(func() {
			errs[i] = w.CreateBuild(ctx, &coordinator.Build{WorkspaceID: w.ws.ID, Transition: coordinator.Start, VersionID: w.v.ID})
		})
	}
	wg.Wait()
	made := 0
	for _, err := range errs {
		if err == nil {
			made++
			continue
		}
		code(t, err, coordinator.CodeConflict)
		if !strings.Contains(err.Error(), "start build 1 ") {
			t.Errorf("the conflict does not name the open build: %v", err)
		}
	}
	if made != 1 {
		t.Errorf("%d of %d parallel requests made a build, want 1", made, n)
	}
	if bs := must(w.Builds(ctx, w.ws.ID, 0, 0))(t); len(bs) != 1 {
		t.Errorf("%d builds", len(bs))
	}
	// Running is open as well; the schema holds even against the code.
	must(w.ClaimBuild(ctx, noon))(t)
	code(t, w.CreateBuild(ctx, &coordinator.Build{WorkspaceID: w.ws.ID, Transition: coordinator.Stop, VersionID: w.v.ID}), coordinator.CodeConflict)
	code(t, w.CreateBuild(ctx, &coordinator.Build{WorkspaceID: "nowhere", Transition: coordinator.Stop, VersionID: w.v.ID}), coordinator.CodeNotFound)
}

func TestClaimsAreExclusive(t *testing.T) {
	w := newWorld(t)
	var want []coordinator.BuildID
	for _, name := range []string{"a", "b", "c", "d", "e", "f"} {
		ws := newWorkspace(t, w.Store, w.user, w.v, name)
		b := coordinator.Build{WorkspaceID: ws.ID, Transition: coordinator.Start, VersionID: w.v.ID, Created: noon}
		ok(t, w.CreateBuild(ctx, &b))
		want = append(want, b.ID)
	}
	if n := must(w.QueuedBefore(ctx, want[4]))(t); n != 4 {
		t.Errorf("%d before the fifth", n)
	}
	first := must(w.ClaimBuild(ctx, noon))(t)
	if first.ID != want[0] {
		t.Error("the first claimed is not the oldest")
	}
	if n := must(w.QueuedBefore(ctx, want[0]))(t); n != 0 {
		t.Errorf("%d before a running build", n)
	}
	var mu sync.Mutex
	got := []coordinator.BuildID{first.ID}
	var wg sync.WaitGroup
	for range 10 {
		wg.Go(func() {
			b, err := w.ClaimBuild(ctx, noon)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				t.Error(err)
			} else if b != nil {
				got = append(got, b.ID)
			}
		})
	}
	wg.Wait()
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("claimed %v, want each once: %v", got, want)
	}
}

func TestCancel(t *testing.T) {
	w := newWorld(t)
	b := w.build(t, coordinator.Start)
	got := must(w.RequestCancel(ctx, b.ID))(t)
	if got.Status != coordinator.BuildCanceled || got.Ended.IsZero() {
		t.Errorf("a queued build was not canceled at once: %+v", got)
	}
	if c := must(w.ClaimBuild(ctx, noon))(t); c != nil {
		t.Errorf("a canceled build was claimed: %+v", c)
	}
	b = w.build(t, coordinator.Start)
	must(w.ClaimBuild(ctx, noon))(t)
	for range 2 {
		if got := must(w.RequestCancel(ctx, b.ID))(t); got.Status != coordinator.BuildRunning || !got.CancelRequested {
			t.Errorf("a running build got no flag: %+v", got)
		}
	}
	must(w.FinishBuild(ctx, b.ID, coordinator.Result{Status: coordinator.BuildCanceled}, noon))(t)
	_, err := w.RequestCancel(ctx, "nothing")
	code(t, err, coordinator.CodeNotFound)
}

// What the plan guard refuses leaves the workspace on what its state was made with, and up if it was.
func TestGuardRefusal(t *testing.T) {
	w := newWorld(t)
	first := w.run(t, coordinator.Start, succeeded)
	ok(t, w.PutState(ctx, coordinator.State{WorkspaceID: w.ws.ID, BuildID: first.ID, VersionID: w.v.ID, Serial: 1, Data: `{"lineage":"l","serial":1}`}))
	v2 := newVersion(t, w.Store, "local")
	refusal := coordinator.Result{Status: coordinator.BuildFailed, Guard: []coordinator.Violation{{Address: "disk.a"}}}
	start := coordinator.Build{WorkspaceID: w.ws.ID, Transition: coordinator.Start, Initiator: w.user.ID, VersionID: v2.ID, Params: map[string]string{"cpu": "8"}}
	plain := start
	ok(t, w.CreateBuild(ctx, &plain))
	must(w.ClaimBuild(ctx, noon))(t)
	if next := must(w.FinishBuild(ctx, plain.ID, refusal, noon))(t); next != nil {
		t.Errorf("a refused start of a stopped workspace went on to %+v", next)
	}
	back := func() {
		t.Helper()
		if ws := must(w.Workspace(ctx, w.ws.ID))(t); ws.VersionID != w.v.ID || len(ws.Params) != 0 {
			t.Errorf("the workspace stays on %s with %v", ws.VersionID, ws.Params)
		}
	}
	back()

	stop := coordinator.Build{
		WorkspaceID: w.ws.ID, Transition: coordinator.Stop, Initiator: w.user.ID, VersionID: w.v.ID,
		ThenStart: &coordinator.Then{VersionID: v2.ID, Params: start.Params, Reason: coordinator.ReasonUpdate},
	}
	ok(t, w.CreateBuild(ctx, &stop))
	must(w.ClaimBuild(ctx, noon))(t)
	second := must(w.FinishBuild(ctx, stop.ID, succeeded, noon))(t)
	must(w.ClaimBuild(ctx, noon))(t)
	again := must(w.FinishBuild(ctx, second.ID, refusal, noon))(t)
	if again == nil || again.Transition != coordinator.Start || again.Reason != coordinator.ReasonRecovery || again.VersionID != w.v.ID || again.Status != coordinator.BuildQueued {
		t.Fatalf("after a refused restart: %+v", again)
	}
	back()
	must(w.ClaimBuild(ctx, noon))(t)
	if next := must(w.FinishBuild(ctx, again.ID, refusal, noon))(t); next != nil {
		t.Errorf("a refusal of what was there before went on to %+v", next)
	}
}

func TestRestart(t *testing.T) {
	w := newWorld(t)
	w.run(t, coordinator.Start, succeeded)
	v2 := newVersion(t, w.Store, "local")
	then := &coordinator.Then{VersionID: v2.ID, Params: map[string]string{"cpu": "8"}, AllowDestroy: []string{"x.y"}, Reason: coordinator.ReasonUpdate}
	stop := func() coordinator.Build {
		b := coordinator.Build{WorkspaceID: w.ws.ID, Transition: coordinator.Stop, Initiator: w.user.ID, VersionID: w.v.ID, ThenStart: then}
		ok(t, w.CreateBuild(ctx, &b))
		must(w.ClaimBuild(ctx, noon))(t)
		return b
	}
	// A stop that fails, and one that was canceled, start nothing.
	b := stop()
	if next := must(w.FinishBuild(ctx, b.ID, coordinator.Result{Status: coordinator.BuildFailed}, noon))(t); next != nil {
		t.Errorf("a failed stop went on to %+v", next)
	}
	b = stop()
	must(w.RequestCancel(ctx, b.ID))(t)
	if next := must(w.FinishBuild(ctx, b.ID, succeeded, noon))(t); next != nil {
		t.Errorf("a canceled restart went on to %+v", next)
	}

	b = stop()
	if diff := cmp.Diff(then, must(w.Build(ctx, b.ID))(t).ThenStart); diff != "" {
		t.Error(diff)
	}
	r := coordinator.Result{Status: coordinator.BuildSucceeded, Resources: []string{"berth_home.home"}}
	next := must(w.FinishBuild(ctx, b.ID, r, noon.Add(time.Hour)))(t)
	if next == nil {
		t.Fatal("no start after the stop")
	}
	want := coordinator.Build{
		ID: next.ID, WorkspaceID: w.ws.ID, Number: b.Number + 1, Transition: coordinator.Start, Reason: coordinator.ReasonUpdate, Initiator: w.user.ID, InitiatorName: "alice",
		VersionID: v2.ID, Params: then.Params, AllowDestroy: then.AllowDestroy, Status: coordinator.BuildQueued, Created: noon.Add(time.Hour),
	}
	if diff := cmp.Diff(want, *next); diff != "" {
		t.Error(diff)
	}
	if ws := must(w.Workspace(ctx, w.ws.ID))(t); ws.VersionID != v2.ID || ws.Params["cpu"] != "8" {
		t.Errorf("the workspace did not follow: %+v", ws)
	}
	if got := must(w.LastStopResources(ctx, w.ws.ID))(t); !slices.Equal(got, r.Resources) {
		t.Errorf("last stop left %v", got)
	}
	if s := must(w.LatestStart(ctx, w.ws.ID))(t); s == nil || s.ID != next.ID {
		t.Errorf("latest start %+v", s)
	}
}

func TestBuildListings(t *testing.T) {
	w := newWorld(t)
	for range 5 {
		w.run(t, coordinator.Start, succeeded)
	}
	other := newWorkspace(t, w.Store, w.user, w.v, "other")
	empty := newWorkspace(t, w.Store, w.user, w.v, "empty")
	ok(t, w.CreateBuild(ctx, &coordinator.Build{WorkspaceID: other.ID, Transition: coordinator.Stop, VersionID: w.v.ID}))
	numbers := func(bs []coordinator.Build) string {
		return names(bs, func(b coordinator.Build) string { return string(rune('0' + b.Number)) })
	}
	if got := numbers(must(w.Builds(ctx, w.ws.ID, 0, 2))(t)); got != "5 4" {
		t.Errorf("first page %s", got)
	}
	if got := numbers(must(w.Builds(ctx, w.ws.ID, 4, 10))(t)); got != "3 2 1" {
		t.Errorf("second page %s", got)
	}
	got := must(w.LatestBuilds(ctx, []coordinator.WorkspaceID{w.ws.ID, other.ID, empty.ID}))(t)
	if len(got) != 2 || got[w.ws.ID].Number != 5 || got[other.ID].Transition != coordinator.Stop {
		t.Errorf("latest builds %+v", got)
	}
	if got := must(w.LatestBuilds(ctx, nil))(t); len(got) != 0 {
		t.Errorf("latest builds of nothing: %+v", got)
	}
}

func TestStartWithoutAgents(t *testing.T) {
	w := newWorld(t)
	finish := func(r coordinator.Result) int {
		b := w.build(t, coordinator.Start)
		must(w.ClaimBuild(ctx, noon))(t)
		must(w.FinishBuild(ctx, b.ID, r, noon))(t)
		return len(must(w.Agents(ctx, w.ws.ID))(t))
	}
	if n := finish(coordinator.Result{Status: coordinator.BuildSucceeded, Serial: 1, Agents: []coordinator.AgentRecord{record("a", "a")}}); n != 1 {
		t.Errorf("%d agents after the first start", n)
	}
	if n := finish(coordinator.Result{Status: coordinator.BuildFailed, Serial: 2}); n != 1 {
		t.Errorf("%d agents after a failed start", n)
	}
	if n := finish(coordinator.Result{Status: coordinator.BuildSucceeded, Serial: 3}); n != 0 {
		t.Errorf("%d agents after a start that has none", n)
	}
}
