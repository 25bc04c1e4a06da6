package hub

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"fmt"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"berth/agent"
	"berth/coordinator"
	"berth/coordinator/events"
)

func TestEnrolment(t *testing.T) {
	w := newWorld(t).up()
	d := w.agent()
	resp, _ := d.get("", nil)
	if resp.StatusCode != 401 || resp.Header.Get(agent.HeaderCode) != agent.CodeChallenge || resp.Header.Get(agent.HeaderNonce) == "" {
		t.Fatalf("the first GET is answered by %d %v", resp.StatusCode, resp.Header)
	}
	if p := w.hub.Presence(w.ws.ID); len(p.Connected) != 0 {
		t.Error("present before it has proved anything")
	}
	d.link()
	w.connected()
	if p := w.hub.Presence(w.ws.ID); !p.Connected[agentID] || p.UpSince.IsZero() {
		t.Errorf("presence is %+v", p)
	}
	eventually(t, "first connect stored", func() bool { return !w.stored().FirstConnected.IsZero() })
	if a := w.stored(); !bytes.Equal(a.PinnedKey, d.key.Public().(ed25519.PublicKey)) {
		t.Error("the key is not pinned")
	}
}

func TestRefusedRequests(t *testing.T) {
	w := newWorld(t).up()
	good := w.agent()
	stale := coordinator.AgentToken(w.key, w.ws.ID, agentID, w.ws.Generation+1)
	stranger := coordinator.AgentToken(w.key, w.ws.ID, "agent-2", w.ws.Generation)
	elsewhere := coordinator.AgentToken(w.key, coordinator.WorkspaceID(coordinator.NewID()), agentID, w.ws.Generation)
	bearer := func(s string) func(*http.Request) {
		return func(r *http.Request) { r.Header.Set("Authorization", s) }
	}
	header := func(k, v string) func(*http.Request) {
		return func(r *http.Request) { r.Header.Set(k, v) }
	}
	for _, tt := range []struct {
		name   string
		change func(*http.Request)
		status int
		code   string
	}{
		{"POST", func(r *http.Request) { r.Method = "POST" }, 400, ""},
		{"no upgrade", func(r *http.Request) { r.Header.Del("Upgrade"); r.Header.Del("Connection") }, 400, ""},
		{"another upgrade", header("Upgrade", "websocket"), 400, ""},
		{"an older link", header("Upgrade", "berth-link/0"), 426, agent.CodeTooOld},
		{"no instance", header(agent.HeaderInstance, ""), 400, ""},
		{"a short instance", header(agent.HeaderInstance, "abc"), 400, ""},
		{"an odd instance", header(agent.HeaderInstance, strings.Repeat("Z", 32)), 400, ""},
		{"no token", func(r *http.Request) { r.Header.Del("Authorization") }, 401, agent.CodeUnknownToken},
		{"basic", bearer("Basic " + string(good.token)), 401, agent.CodeUnknownToken},
		{"nonsense", bearer("Bearer ba1_x"), 401, agent.CodeUnknownToken},
		{"a long token", bearer("Bearer ba1_a_b_" + strings.Repeat("x", 1000)), 401, agent.CodeUnknownToken},
		{"a forged token", bearer("Bearer " + string(good.token[:len(good.token)-2]) + "AA"), 401, agent.CodeUnknownToken},
		{"a revoked token", bearer("Bearer " + string(stale)), 401, agent.CodeUnknownToken},
		{"another workspace", bearer("Bearer " + string(elsewhere)), 401, agent.CodeUnknownToken},
		{"an agent that is not in the state", bearer("Bearer " + string(stranger)), 401, agent.CodeUnknownToken},
		{"lower case scheme", bearer("bearer " + string(good.token)), 401, agent.CodeChallenge},
	} {
		t.Run(tt.name, func(t *testing.T) {
			resp, conn := good.get("", tt.change)
			if conn != nil {
				conn.Close()
			}
			if resp.StatusCode != tt.status || resp.Header.Get(agent.HeaderCode) != tt.code {
				t.Errorf("got %d %q, want %d %q", resp.StatusCode, resp.Header.Get(agent.HeaderCode), tt.status, tt.code)
			}
		})
	}
}

func TestStateOfTheWorkspaceDecides(t *testing.T) {
	const runs, process = "berth_agent.main", "berth_process.dev[0]"
	for _, tt := range []struct {
		name   string
		lay    func(w *world)
		status int
		code   string
	}{
		{"never built", func(*world) {}, 403, agent.CodeNotRunning},
		{"started", func(w *world) { w.up() }, 101, ""},
		{"stop runs", func(w *world) { w.up().begin(coordinator.Stop) }, 101, ""},
		{"stopped", func(w *world) { w.finish(w.up().begin(coordinator.Stop), coordinator.BuildSucceeded, runs) }, 403, agent.CodeNotRunning},
		{"stop failed, process stands", func(w *world) { w.finish(w.up().begin(coordinator.Stop), coordinator.BuildFailed, runs, process) }, 101, ""},
		{"stop failed, process gone", func(w *world) { w.finish(w.up().begin(coordinator.Stop), coordinator.BuildFailed, runs) }, 403, agent.CodeNotRunning},
		{"delete failed, nothing known", func(w *world) { w.finish(w.up().begin(coordinator.Delete), coordinator.BuildFailed) }, 101, ""},
		{"update failed, process stands", func(w *world) { w.finish(w.up().begin(coordinator.Start), coordinator.BuildFailed, runs, process) }, 101, ""},
		{"canceled in the queue after a stop", func(w *world) {
			w.finish(w.up().begin(coordinator.Stop), coordinator.BuildSucceeded, runs)
			b := coordinator.Build{WorkspaceID: w.ws.ID, Transition: coordinator.Start, VersionID: w.ws.VersionID}
			ok(w.t, w.store.CreateBuild(ctx, &b))
			_, err := w.store.RequestCancel(ctx, b.ID)
			ok(w.t, err)
		}, 403, agent.CodeNotRunning},
		{"canceled in the queue while it runs", func(w *world) {
			w.up()
			b := coordinator.Build{WorkspaceID: w.ws.ID, Transition: coordinator.Stop, VersionID: w.ws.VersionID}
			ok(w.t, w.store.CreateBuild(ctx, &b))
			_, err := w.store.RequestCancel(ctx, b.ID)
			ok(w.t, err)
		}, 101, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t)
			tt.lay(w)
			w.agent().refused(tt.status, tt.code)
		})
	}
}

func TestNonces(t *testing.T) {
	w := newWorld(t).up()
	d := w.agent()
	challenge := func(d *dialer) string {
		resp, _ := d.get("", nil)
		return resp.Header.Get(agent.HeaderNonce)
	}
	want := func(name string, resp *http.Response, status int) {
		t.Helper()
		if resp.StatusCode != status {
			t.Errorf("%s: got %d, want %d", name, resp.StatusCode, status)
		}
		if status == 401 && (resp.Header.Get(agent.HeaderCode) != agent.CodeChallenge || resp.Header.Get(agent.HeaderNonce) == "") {
			t.Errorf("%s: no new challenge", name)
		}
	}
	nonce := challenge(d)
	resp, conn := d.get(nonce, nil)
	want("the right answer", resp, 101)
	conn.Close()
	resp, _ = d.get(nonce, nil)
	want("the same answer again", resp, 401)

	older, newer := challenge(d), challenge(d)
	resp, conn = d.get(newer, nil)
	want("the newer of two", resp, 101)
	conn.Close()
	resp, _ = d.get(older, nil)
	want("the older after it", resp, 401)

	resp, _ = d.get(challenge(d.restarted()), nil)
	want("another instance's nonce", resp, 401)
	resp, _ = d.get(strings.Repeat("A", 43), nil)
	want("a made-up nonce", resp, 401)
	resp, _ = d.get(challenge(d), func(r *http.Request) {
		r.Header.Set(agent.HeaderKey, base64.StdEncoding.EncodeToString(w.agent().key.Public().(ed25519.PublicKey)))
	})
	want("another's key", resp, 401)

	nonce = challenge(d)
	w.mu.Lock()
	w.now = time.Now().Add(nonceLife + time.Second)
	w.mu.Unlock()
	resp, _ = d.get(nonce, nil)
	want("an answer that comes late", resp, 401)
}

func TestNoncesForgets(t *testing.T) {
	n := newNonces(bytes.NewReader(make([]byte, 1<<20)))
	now := time.Unix(1000, 0)
	for i := range 1000 {
		o := nonceOwner{coordinator.WorkspaceID(fmt.Sprint(i)), "a"}
		now = now.Add(time.Second)
		if !n.use(n.make(o, "i", now), o, "i", now) {
			t.Fatal("a fresh nonce is not taken")
		}
	}
	if len(n.used) > 256+int(nonceLife/time.Second) {
		t.Errorf("%d used nonces are remembered", len(n.used))
	}
}

func TestFreshAgentIsHeld(t *testing.T) {
	w := newWorld(t)
	build := w.begin(coordinator.Start)
	d := w.agent()
	linked := make(chan int, 1)
	go func() {
		resp, conn := d.dial()
		if conn != nil {
			conn.Close()
		}
		linked <- resp.StatusCode
	}()
	eventually(t, "held", func() bool { return len(w.hub.holds) == 1 })
	ok(t, w.store.RecordAgents(ctx, w.ws.ID, build.ID, []coordinator.AgentRecord{w.record()}))
	w.bus.Notify(w.ws.ID)
	if status := <-linked; status != 101 {
		t.Errorf("after the record came it got %d", status)
	}
	eventually(t, "let go", func() bool { return len(w.hub.holds) == 0 })
}

// TestRebuiltAgentIsHeld: the record of the run before is not good for a machine that was made anew.
func TestRebuiltAgentIsHeld(t *testing.T) {
	w := newWorld(t).up()
	stayed := w.agent()
	a := stayed.link()
	w.connected()
	build := w.begin(coordinator.Start)
	a.close()
	stayed.refused(101, "") // it was there before, and may come back during an update
	linked := make(chan int, 1)
	go func() {
		resp, conn := w.agent().dial()
		if conn != nil {
			conn.Close()
		}
		linked <- resp.StatusCode
	}()
	eventually(t, "held", func() bool { return len(w.hub.holds) == 1 })
	eventually(t, "the old one gone", func() bool { return len(w.hub.Presence(w.ws.ID).Connected) == 0 })
	ok(t, w.store.RecordAgents(ctx, w.ws.ID, build.ID, []coordinator.AgentRecord{w.record()}))
	w.bus.Notify(w.ws.ID)
	if status := <-linked; status != 101 {
		t.Errorf("the new machine's agent got %d", status)
	}
}

// scripted is a store that knows one workspace with an open start build and no agent.
type scripted struct {
	Store
	key []byte
}

func (s scripted) Workspace(_ context.Context, id coordinator.WorkspaceID) (coordinator.Workspace, error) {
	return coordinator.Workspace{ID: id, Generation: 1}, nil
}

func (s scripted) AgentKey(context.Context, coordinator.WorkspaceID) ([]byte, error) {
	return s.key, nil
}

func (s scripted) LatestBuild(context.Context, coordinator.WorkspaceID) (*coordinator.Build, error) {
	return &coordinator.Build{ID: "b1", Transition: coordinator.Start, Status: coordinator.BuildRunning, Started: time.Now()}, nil
}

func (s scripted) Builds(context.Context, coordinator.WorkspaceID, int, int) ([]coordinator.Build, error) {
	return nil, nil
}

func (s scripted) Agents(context.Context, coordinator.WorkspaceID) ([]coordinator.WorkspaceAgent, error) {
	return nil, nil
}

func TestHoldEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		key := []byte("0123456789abcdef0123456789abcdef")
		h := New(Config{Store: scripted{key: key}, Events: events.New()})
		defer h.Close()
		_, priv, _ := ed25519.GenerateKey(nil)
		ask := func(ctx context.Context, nonce string) *httptest.ResponseRecorder {
			r := httptest.NewRequestWithContext(ctx, "GET", agent.LinkPath, nil)
			r.Header.Set("Connection", "keep-alive, Upgrade")
			r.Header.Set("Upgrade", agent.LinkUpgrade)
			r.Header.Set("Authorization", "Bearer "+string(coordinator.AgentToken(key, "w1", "a1", 1)))
			instance := strings.Repeat("ab", 16)
			r.Header.Set(agent.HeaderInstance, instance)
			r.Header.Set(agent.HeaderNonce, nonce)
			r.Header.Set(agent.HeaderKey, base64.StdEncoding.EncodeToString(priv.Public().(ed25519.PublicKey)))
			r.Header.Set(agent.HeaderSignature, base64.StdEncoding.EncodeToString(ed25519.Sign(priv, agent.LinkMessage(nonce, "w1", instance))))
			rec := httptest.NewRecorder()
			h.ServeHTTP(rec, r)
			return rec
		}
		begun := time.Now()
		rec := ask(t.Context(), ask(t.Context(), "").Header().Get(agent.HeaderNonce))
		if rec.Code != 503 || rec.Header().Get("Retry-After") != "1" || rec.Header().Get(agent.HeaderCode) != agent.CodeTryAgain {
			t.Errorf("got %d %v", rec.Code, rec.Header())
		}
		if took := time.Since(begun); took != holdLimit {
			t.Errorf("held for %v, want %v", took, holdLimit)
		}
		// A client that goes away is let go at once.
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		begun = time.Now()
		ask(ctx, ask(t.Context(), "").Header().Get(agent.HeaderNonce))
		if took := time.Since(begun); took != time.Second {
			t.Errorf("held for %v after the client had gone", took)
		}
		if len(h.holds) != 0 || len(h.slots) != 0 {
			t.Error("holds or slots leak")
		}
	})
}

func TestFencing(t *testing.T) {
	w := newWorld(t).up()
	d := w.agent()
	first := d.link()
	w.connected()
	second := d.link() // the same instance overlaps
	eventually(t, "two links", func() bool { return len(w.hub.linksOf(w.ws.ID)) == 2 })
	if first.session.IsClosed() || second.session.IsClosed() {
		t.Fatal("links of one instance do not overlap")
	}
	newer := d.restarted()
	third := newer.link()
	first.gone()
	second.gone()
	eventually(t, "one link", func() bool { return len(w.hub.linksOf(w.ws.ID)) == 1 })
	if third.session.IsClosed() {
		t.Fatal("the newer instance was cut")
	}
	d.refused(409, agent.CodeReplaced)
	third.close()
	eventually(t, "no link", func() bool { return len(w.hub.linksOf(w.ws.ID)) == 0 })
	d.refused(409, agent.CodeReplaced) // for good
	newer.link()
	w.connected()
}

func TestOverlapIsCapped(t *testing.T) {
	w := newWorld(t).up()
	d := w.agent()
	first := d.link()
	w.connected()
	for range maxOverlap {
		d.link()
	}
	first.gone()
	eventually(t, "capped", func() bool { return len(w.hub.linksOf(w.ws.ID)) == maxOverlap })
}

func TestOtherKey(t *testing.T) {
	w := newWorld(t).up()
	pinned, thief := w.agent(), w.agent()
	a := pinned.link()
	w.connected()
	thief.refused(403, agent.CodeOtherKey)
	if a.session.IsClosed() {
		t.Fatal("the pinned agent lost its link")
	}
	a.close()
	eventually(t, "gone", func() bool { return len(w.hub.Presence(w.ws.ID).Connected) == 0 })
	thief.link()
	w.connected()
	if got := w.stored().PinnedKey; !bytes.Equal(got, thief.key.Public().(ed25519.PublicKey)) {
		t.Error("the new key is not pinned")
	}
	pinned.refused(409, agent.CodeReplaced)
	pinned.restarted().refused(403, agent.CodeOtherKey)
}

// TestSilentLinkGivesWay: a link that neither answers nor sends heartbeats does not keep its successor out.
func TestSilentLinkGivesWay(t *testing.T) {
	w := newWorld(t)
	w.hub.limits.probe = 200 * time.Millisecond
	w.up()
	resp, conn := w.agent().dial() // and never a yamux frame
	if conn == nil {
		t.Fatal(resp.Status)
	}
	defer conn.Close()
	w.connected()
	l, err := w.hub.newest(w.ws.ID, agentID)
	ok(t, err)
	next := w.agent()
	next.refused(503, agent.CodeTryAgain)
	if l.session.IsClosed() {
		t.Fatal("it was ended though it may be slow only")
	}
	l.heard.Store(time.Now().Add(-agent.HeartbeatTimeout).UnixNano())
	next.link()
	eventually(t, "one link", func() bool {
		links := w.hub.linksOf(w.ws.ID)
		return len(links) == 1 && links[0] != l
	})
}

// TestNothingProvedEndsNoLink: a stranger with the token who hangs up, or comes while pings are under way, changes
// nothing, however long the link has sent nothing.
func TestNothingProvedEndsNoLink(t *testing.T) {
	w := newWorld(t)
	w.hub.limits.probe = 200 * time.Millisecond
	w.up()
	a := w.agent().link()
	w.connected()
	l, err := w.hub.newest(w.ws.ID, agentID)
	ok(t, err)
	l.heard.Store(time.Now().Add(-agent.HeartbeatTimeout).UnixNano())
	who := claim{ws: w.ws.ID, agentID: agentID, name: "alice/dev", key: []byte("another")}
	gone, hangUp := context.WithCancel(ctx)
	hangUp()
	rec := w.stored()
	if err := w.hub.pin(gone, who, &rec); err != errOtherKey {
		t.Errorf("one that hung up: %v", err)
	}
	for range pingsAtOnce {
		l.pings <- struct{}{}
	}
	for name, c := range map[string]context.Context{"one that waits": ctx, "one that hung up": gone} {
		if err := w.hub.pin(c, who, &rec); err != errUnsure {
			t.Errorf("%s, no ping is free: %v", name, err)
		}
	}
	for range pingsAtOnce {
		<-l.pings
	}
	if a.session.IsClosed() || l.session.IsClosed() || bytes.Equal(w.stored().PinnedKey, who.key) {
		t.Error("the pinned agent was put out")
	}
}

func TestStrangersAreCheap(t *testing.T) {
	w := newWorld(t).up()
	d := w.agent()
	d.token = "ba1_nobody_nothing_AAAA"
	for range 20 {
		d.refused(401, agent.CodeUnknownToken)
	}
	before := runtime.NumGoroutine()
	for range 300 {
		d.refused(401, agent.CodeUnknownToken)
	}
	eventually(t, "goroutines back", func() bool { return runtime.NumGoroutine() <= before+3 })
	if n := len(w.hub.seats) + len(w.hub.waits) + len(w.hub.nonces.used); n != 0 {
		t.Errorf("%d things are remembered of strangers", n)
	}
}
