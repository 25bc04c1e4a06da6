package cli

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"berth/agent"
	"berth/coordinator"
	"berth/coordinator/rest"
)

func (d *double) workspaceRoutes(handle func(string, func(http.ResponseWriter, *http.Request))) {
	handle("GET /workspaces", func(w http.ResponseWriter, r *http.Request) {
		d.mu.Lock()
		defer d.mu.Unlock()
		page := rest.Page[rest.Workspace]{}
		for _, m := range d.workspaces {
			if m.Owner == "alice" || r.URL.Query().Get("all") == "true" {
				page.Items = append(page.Items, d.derive(m))
			}
		}
		slices.SortFunc(page.Items, func(a, b rest.Workspace) int { return strings.Compare(a.Owner+a.Name, b.Owner+b.Name) })
		answer(w, page)
	})
	handle("POST /workspaces", func(w http.ResponseWriter, r *http.Request) {
		in, ok := decode[rest.CreateWorkspace](w, r)
		if !ok {
			return
		}
		d.mu.Lock()
		defer d.mu.Unlock()
		if d.workspaces["alice/"+in.Name] != nil {
			problem(w, coordinator.Errorf(coordinator.CodeConflict, "there is a workspace %s already", in.Name))
			return
		}
		m := &machine{}
		m.Name, m.Owner, m.Template, m.Version, m.Params, m.Created = in.Name, "alice", in.Template, max(in.Version, 1), in.Params, time.Now()
		m.HostNames = []string{in.Name + ".berth", in.Name + ".alice.berth"}
		d.workspaces["alice/"+in.Name] = m
		if !in.Stopped {
			m.begin(coordinator.Start)
		}
		w.WriteHeader(http.StatusCreated)
		answer(w, d.derive(m))
	})
	handle("GET /workspaces/{o}/{n}", func(w http.ResponseWriter, r *http.Request) {
		d.with(w, r, func(m *machine) { answer(w, d.derive(m)) })
	})
	change := func(t coordinator.Transition, then bool) func(http.ResponseWriter, *http.Request) {
		return func(w http.ResponseWriter, r *http.Request) {
			in := rest.StartWorkspace{}
			if r.ContentLength > 0 {
				var ok bool
				if in, ok = decode[rest.StartWorkspace](w, r); !ok {
					return
				}
			}
			d.with(w, r, func(m *machine) {
				if b := m.latest(); b != nil && b.Status.Open() && b.Transition != t {
					problem(w, coordinator.Errorf(coordinator.CodeConflict, "%s build %d of %s is under way", b.Transition, b.Number, m.Name).WithHint("berth cancel "+m.Name))
					return
				}
				for k, v := range in.Params {
					if m.Params == nil {
						m.Params = map[string]string{}
					}
					m.Params[k] = v
				}
				if in.Version > 0 {
					m.Version = in.Version
				}
				if b := m.latest(); t == coordinator.Start && b != nil && b.Transition == t && b.Status == coordinator.BuildSucceeded && len(in.Params) == 0 {
					answer(w, b)
					return
				}
				b := m.begin(t)
				b.ThenStart = then
				answer(w, b)
			})
		}
	}
	handle("POST /workspaces/{o}/{n}/start", change(coordinator.Start, false))
	handle("POST /workspaces/{o}/{n}/restart", change(coordinator.Stop, true))
	handle("POST /workspaces/{o}/{n}/stop", change(coordinator.Stop, false))
	handle("DELETE /workspaces/{o}/{n}", change(coordinator.Delete, false))
	handle("GET /workspaces/{o}/{n}/builds", func(w http.ResponseWriter, r *http.Request) {
		d.with(w, r, func(m *machine) {
			page := rest.Page[*rest.Build]{}
			for _, b := range slices.Backward(m.builds) {
				page.Items = append(page.Items, b)
			}
			answer(w, page)
		})
	})
	handle("GET /workspaces/{o}/{n}/builds/{b}", func(w http.ResponseWriter, r *http.Request) {
		d.withBuild(w, r, func(m *machine, b *rest.Build) {
			if b.Status == coordinator.BuildQueued {
				b.Ahead = 2
			}
			answer(w, b)
		})
	})
	handle("POST /workspaces/{o}/{n}/builds/{b}/cancel", func(w http.ResponseWriter, r *http.Request) {
		d.withBuild(w, r, func(m *machine, b *rest.Build) {
			if b.Status.Open() {
				b.CancelRequested = true
			}
			answer(w, b)
		})
	})
	handle("GET /workspaces/{o}/{n}/builds/{b}/log", d.log)
	handle("GET /workspaces/{o}/{n}/ping", func(w http.ResponseWriter, r *http.Request) {
		d.with(w, r, func(*machine) { answer(w, rest.Ping{Agent: "main", RTT: 1500 * time.Microsecond}) })
	})
	handle("GET /workspaces/{o}/{n}/connect", d.connect)
}

func (d *double) with(w http.ResponseWriter, r *http.Request, f func(*machine)) {
	d.mu.Lock()
	defer d.mu.Unlock()
	owner := r.PathValue("o")
	if owner == "me" {
		owner = "alice"
	}
	m := d.workspaces[owner+"/"+r.PathValue("n")]
	if m == nil {
		problem(w, coordinator.Errorf(coordinator.CodeNotFound, "there is no workspace %s/%s", owner, r.PathValue("n")).WithHint("berth list"))
		return
	}
	f(m)
}

func (d *double) withBuild(w http.ResponseWriter, r *http.Request, f func(*machine, *rest.Build)) {
	d.with(w, r, func(m *machine) {
		n := len(m.builds)
		if b := r.PathValue("b"); b != "latest" {
			n, _ = strconv.Atoi(b)
		}
		if n < 1 || n > len(m.builds) {
			problem(w, coordinator.Errorf(coordinator.CodeNotFound, "there is no such build"))
			return
		}
		f(m, m.builds[n-1])
	})
}

func (m *machine) latest() *rest.Build {
	if len(m.builds) == 0 {
		return nil
	}
	return m.builds[len(m.builds)-1]
}

func (m *machine) begin(t coordinator.Transition) *rest.Build {
	b := &rest.Build{
		Number: len(m.builds) + 1, Workspace: m.Owner + "/" + m.Name, Transition: t, Reason: coordinator.ReasonUser, Initiator: "alice",
		Version: m.Version, Status: coordinator.BuildRunning, Created: time.Now(), Started: time.Now(),
	}
	if m.Name == "queued" {
		b.Status, b.Ahead, b.Started = coordinator.BuildQueued, 2, time.Time{}
	}
	m.builds = append(m.builds, b)
	return b
}

func (m *machine) finish(b *rest.Build) {
	b.Started, b.Ended, b.Status = b.Created, b.Created.Add(2*time.Second), coordinator.BuildSucceeded
	b.Timings = []coordinator.Timing{
		{Stage: "queue", Start: b.Created, Duration: 500 * time.Millisecond},
		{Stage: "apply", Name: "berth_process.dev", Start: b.Created.Add(time.Second), Duration: time.Second},
	}
	switch {
	case b.CancelRequested:
		b.Status = coordinator.BuildCanceled
	case m.Name == "broken" && b.Transition == coordinator.Start:
		b.Status, b.Error, b.Address = coordinator.BuildFailed, "no space left on device", "docker_container.dev"
	}
	m.ended = time.Now()
}

// derive is the status of a workspace. A start takes a moment to connect after its build.
func (d *double) derive(m *machine) rest.Workspace {
	w := m.Workspace
	b := m.latest()
	if b == nil {
		w.Status, w.Reason = coordinator.StatusPending, "no build yet"
		return w
	}
	w.Build = b
	switch {
	case b.Status == coordinator.BuildQueued:
		w.Status = coordinator.StatusPending
	case b.Status == coordinator.BuildRunning:
		w.Status = coordinator.StatusStarting
	case b.Status == coordinator.BuildFailed:
		w.Status, w.Reason = coordinator.StatusFailed, "start build failed at "+b.Address
	case b.Status == coordinator.BuildCanceled:
		w.Status = coordinator.StatusCanceled
	case b.Transition == coordinator.Stop:
		w.Status = coordinator.StatusStopped
	default:
		d.started(m, &w)
	}
	if d.evil {
		w.Reason = "evil \x1b]0;title\x07 \u202egnp.exe \u009b31m"
	}
	return w
}

func (d *double) started(m *machine, w *rest.Workspace) {
	up := time.Since(m.ended) > 50*time.Millisecond
	w.Agents = []rest.Agent{{Name: "main", Resource: "berth_process.dev", Connected: up, Version: "v9", Ready: up, Steps: []agent.StepReport{{Name: "configure", Outcome: "ok", Started: m.ended, Duration: time.Second}}}}
	w.Status = coordinator.StatusRunning
	if up {
		w.Agents[0].IDEs = []agent.IDEServer{{PID: 4711, Product: "VS Code", Command: "node server-main.js", Started: time.Now().Add(-50 * time.Hour), Memory: 300 << 20}}
	}
	switch {
	case !up:
		w.Status, w.Reason = coordinator.StatusStarting, "waiting for agent main to connect"
	case m.Name == "sick":
		w.Status, w.Reason = coordinator.StatusUnhealthy, "startup step configure failed: exit status 9"
	case m.Name == "lost":
		w.Agents[0].Connected = false
		w.Status, w.Reason = coordinator.StatusUnhealthy, "agent main did not connect within 2m0s"
	}
}

// log writes a build's log; the build ends with it.
func (d *double) log(w http.ResponseWriter, r *http.Request) {
	var build *rest.Build
	var m *machine
	d.withBuild(w, r, func(mm *machine, b *rest.Build) { m, build = mm, b })
	if build == nil {
		return
	}
	follow, source := r.URL.Query().Get("follow") == "true", r.URL.Query().Get("source")
	from, _ := strconv.Atoi(r.URL.Query().Get("from"))
	flush := func() { http.NewResponseController(w).Flush() }
	flush()
	enc := json.NewEncoder(w)
	if follow && m.Name == "queued" {
		time.Sleep(1200 * time.Millisecond) // the double plays a server that is busy
		d.mu.Lock()
		build.Status = coordinator.BuildRunning
		d.mu.Unlock()
	}
	lines := []coordinator.LogLine{
		{Source: "build", Stage: "plan", Level: "info", Text: "Planning"},
		{Source: "build", Stage: "apply", Level: "info", Address: "berth_process.dev", Text: "Creating"},
		{Source: "build", Stage: "apply", Level: "warn", Text: "deprecated \x1b[31mthing"},
		{Source: "build", Stage: "apply", Level: "info", Address: "berth_process.dev", Text: "Creation complete", Elapsed: 2 * time.Second},
		{Source: "main", Stage: "configure", Level: "info", Text: "configured"},
	}
	seq := map[string]int{}
	for i, l := range lines {
		l.Seq = seq[l.Source]
		seq[l.Source]++
		if source != "*" && l.Source != source || l.Source == "build" && l.Seq < from {
			continue
		}
		enc.Encode(rest.LogEvent{Line: &l})
		flush()
		if i == 1 && follow && m.Name == "flaky" && d.cutOnce(m.Name) {
			panic(http.ErrAbortHandler)
		}
		for i == 1 && follow && m.Name == "slow" {
			d.mu.Lock()
			canceled := build.CancelRequested
			d.mu.Unlock()
			if canceled || r.Context().Err() != nil {
				break
			}
			time.Sleep(20 * time.Millisecond) // polls what another request sets
		}
	}
	if r.Context().Err() != nil {
		return
	}
	d.mu.Lock()
	if build.Status.Open() && follow {
		m.finish(build)
		if build.Transition == coordinator.Delete {
			delete(d.workspaces, build.Workspace)
		}
		if build.ThenStart {
			m.begin(coordinator.Start)
		}
	}
	d.mu.Unlock()
	if follow {
		enc.Encode(rest.LogEvent{End: true})
	}
}

func (d *double) cutOnce(name string) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	was := d.cut[name]
	d.cut[name] = true
	return !was
}

// connect starts a stopped workspace, tells of it, and serves SSH.
func (d *double) connect(w http.ResponseWriter, r *http.Request) {
	var status coordinator.Status
	d.with(w, r, func(m *machine) { status = d.derive(m).Status })
	if status == "" {
		return
	}
	if r.Header.Get("Upgrade") != agent.StreamUpgrade {
		problem(w, coordinator.Errorf(coordinator.CodeInvalid, "no upgrade"))
		return
	}
	if status == coordinator.StatusStopped && r.URL.Query().Get("no_start") == "true" {
		problem(w, coordinator.Errorf(coordinator.CodeConflict, "the workspace %s is stopped", r.PathValue("n")).WithHint("berth start "+r.PathValue("n")))
		return
	}
	conn, rw, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return
	}
	defer conn.Close()
	fmt.Fprintf(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: %s\r\n\r\n", agent.StreamUpgrade)
	if status == coordinator.StatusStopped {
		for i, text := range []string{"Creating", "Still creating"} {
			agent.WriteLine(conn, rest.StreamEvent{Progress: &coordinator.Progress{Build: 7, Stage: "apply", Address: "berth_process.dev", Text: text, Elapsed: time.Duration(i) * time.Second}}, rest.MaxStreamEvent)
		}
	}
	switch r.PathValue("n") {
	case "slow": // waits for a client that goes away
		agent.WriteLine(conn, rest.StreamEvent{Progress: &coordinator.Progress{Build: 7, Stage: "apply", Text: "Creating"}}, rest.MaxStreamEvent)
		conn.Read(make([]byte, 1))
		return
	case "broken":
		agent.WriteLine(conn, rest.StreamEvent{Problem: &rest.Problem{Status: 422, Code: coordinator.CodeFailed, Detail: "build 7 failed: docker_container.dev: no space", Hint: "berth logs broken"}}, rest.MaxStreamEvent)
		return
	case "flaky":
		if d.cutOnce("connect") {
			agent.WriteLine(conn, rest.StreamEvent{Progress: &coordinator.Progress{Build: 7, Stage: "apply", Text: "Creating"}}, rest.MaxStreamEvent)
			return // as a server that restarts
		}
	}
	agent.WriteLine(conn, rest.StreamEvent{OK: true}, rest.MaxStreamEvent)
	if r.PathValue("n") == "full" { // an agent that takes no more streams, and says so after it has heard the client
		rw.Reader.ReadString('\n')
		agent.WriteLine(conn, agent.Reply{Error: "too many streams"}, agent.MaxStreamHeader)
		return
	}
	d.serveSSH(&buffered{conn, rw.Reader}, r.PathValue("n") == "real")
}
