package hub

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/yamux"

	"berth/agent"
	"berth/coordinator"
	"berth/coordinator/events"
	"berth/coordinator/seal"
	"berth/coordinator/sqlite"
)

var ctx = context.Background()

func ok(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// eventually polls until f holds.
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

// A world is a hub on a real store, behind a real HTTP server, with one workspace.
type world struct {
	t      testing.TB
	store  *sqlite.Store
	faults *faults
	bus    *events.Bus
	hub    *Hub
	server *httptest.Server
	ws     coordinator.Workspace
	start  coordinator.Build // the latest start build
	key    []byte            // of the workspace's agents' tokens

	mu       sync.Mutex
	now      time.Time // zero: the real one
	manifest func() (*agent.Manifest, error)
}

const agentID = "agent-1"

// faults makes writes to the store fail.
type faults struct {
	Store
	mu   sync.Mutex
	fail error
}

func (f *faults) set(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.fail = err
}

func (f *faults) err() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.fail
}

func (f *faults) UpdateAgent(ctx context.Context, a coordinator.WorkspaceAgent) error {
	if err := f.err(); err != nil {
		return err
	}
	return f.Store.UpdateAgent(ctx, a)
}

func (f *faults) AppendLog(ctx context.Context, b coordinator.BuildID, l []coordinator.LogLine) error {
	if err := f.err(); err != nil {
		return err
	}
	return f.Store.AppendLog(ctx, b, l)
}

func newWorld(t testing.TB) *world {
	t.Helper()
	key, err := seal.LoadOrCreate(filepath.Join(t.TempDir(), "key"))
	ok(t, err)
	store, err := sqlite.Open(ctx, t.TempDir(), key, slog.New(slog.DiscardHandler))
	ok(t, err)
	w := &world{t: t, store: store, faults: &faults{Store: store}, bus: events.New()}
	user := coordinator.User{Name: "alice", Role: coordinator.RoleMember}
	ok(t, store.CreateUser(ctx, &user, coordinator.GitKey{PrivateKey: "k", PublicKey: "ssh-ed25519 AAAA"}))
	v := coordinator.TemplateVersion{Archive: "abc", Activate: true}
	_, err = store.CreateTemplateVersion(ctx, "local", "", &v)
	ok(t, err)
	ok(t, store.FinishImport(ctx, v.ID, coordinator.Result{Status: coordinator.BuildSucceeded, Imported: &coordinator.Import{}}))
	w.ws = coordinator.Workspace{Name: "dev", OwnerID: user.ID, TemplateID: v.TemplateID, VersionID: v.ID}
	ok(t, store.CreateWorkspace(ctx, &w.ws, coordinator.HostIdentity{Ed25519: "a", ECDSA: "b"}))
	w.key, err = store.AgentKey(ctx, w.ws.ID)
	ok(t, err)
	w.manifest = func() (*agent.Manifest, error) {
		return &agent.Manifest{Workspace: "dev", StartBuild: string(w.start.ID)}, nil
	}
	w.hub = New(Config{Store: w.faults, Manifests: w, Events: w.bus, Now: w.time})
	w.server = httptest.NewServer(w.hub)
	t.Cleanup(func() {
		w.hub.Close()
		w.server.Close()
		store.Close()
	})
	return w
}

func (w *world) time() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.now.IsZero() {
		return time.Now()
	}
	return w.now
}

func (w *world) Manifest(context.Context, coordinator.WorkspaceID, string) (*agent.Manifest, error) {
	w.mu.Lock()
	f := w.manifest
	w.mu.Unlock()
	return f()
}

// begin queues and claims a build.
func (w *world) begin(tr coordinator.Transition) coordinator.Build {
	w.t.Helper()
	b := coordinator.Build{WorkspaceID: w.ws.ID, Transition: tr, Reason: coordinator.ReasonUser, VersionID: w.ws.VersionID}
	ok(w.t, w.store.CreateBuild(ctx, &b))
	claimed, err := w.store.ClaimBuild(ctx, time.Now())
	ok(w.t, err)
	if tr == coordinator.Start {
		w.mu.Lock()
		w.start = *claimed
		w.mu.Unlock()
	}
	return *claimed
}

func (w *world) record() coordinator.AgentRecord {
	return coordinator.AgentRecord{ID: agentID, Name: "main", Address: "berth_agent.main", Resource: "berth_process.dev[0]"}
}

// finish ends a build; a start that succeeds leaves the agent.
func (w *world) finish(b coordinator.Build, status coordinator.BuildStatus, resources ...string) {
	w.t.Helper()
	r := coordinator.Result{Status: status, Resources: resources}
	if b.Transition == coordinator.Start && status == coordinator.BuildSucceeded {
		r.Agents = []coordinator.AgentRecord{w.record()}
	}
	_, err := w.store.FinishBuild(ctx, b.ID, r, time.Now())
	ok(w.t, err)
	w.bus.Notify(w.ws.ID)
}

// up has the workspace started.
func (w *world) up() *world {
	w.finish(w.begin(coordinator.Start), coordinator.BuildSucceeded, "berth_agent.main", "berth_process.dev[0]")
	return w
}

// A dialer is an agent, as far as its link goes.
type dialer struct {
	w        *world
	token    coordinator.Secret
	key      ed25519.PrivateKey
	instance string
}

func (w *world) agent() *dialer {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	ok(w.t, err)
	d := &dialer{w: w, key: key, token: coordinator.AgentToken(w.key, w.ws.ID, agentID, w.ws.Generation)}
	return d.restarted()
}

// restarted is another instance with the same key.
func (d *dialer) restarted() *dialer {
	n := *d
	var b [16]byte
	rand.Read(b[:])
	n.instance = hex.EncodeToString(b[:])
	return &n
}

// get sends one GET and returns the answer, and the connection where it was upgraded.
func (d *dialer) get(nonce string, change func(*http.Request)) (*http.Response, net.Conn) {
	d.w.t.Helper()
	r, err := http.NewRequest("GET", d.w.server.URL+agent.LinkPath, nil)
	ok(d.w.t, err)
	r.Header.Set("Connection", "Upgrade")
	r.Header.Set("Upgrade", agent.LinkUpgrade)
	r.Header.Set("Authorization", "Bearer "+string(d.token))
	r.Header.Set(agent.HeaderInstance, d.instance)
	r.Header.Set(agent.HeaderVersion, "1.0")
	if nonce != "" {
		sig := ed25519.Sign(d.key, agent.LinkMessage(nonce, string(d.w.ws.ID), d.instance))
		r.Header.Set(agent.HeaderNonce, nonce)
		r.Header.Set(agent.HeaderKey, base64.StdEncoding.EncodeToString(d.key.Public().(ed25519.PublicKey)))
		r.Header.Set(agent.HeaderSignature, base64.StdEncoding.EncodeToString(sig))
	}
	if change != nil {
		change(r)
	}
	var conn net.Conn
	tr := &http.Transport{DisableKeepAlives: r.Header.Get("Upgrade") == "", DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
		c, err := (&net.Dialer{}).DialContext(ctx, network, addr)
		conn = c
		return c, err
	}}
	defer tr.CloseIdleConnections()
	resp, err := tr.RoundTrip(r)
	ok(d.w.t, err)
	if resp.StatusCode != http.StatusSwitchingProtocols {
		resp.Body.Close()
		return resp, nil
	}
	return resp, &upgraded{Conn: conn, rw: resp.Body.(interface {
		Read([]byte) (int, error)
		Write([]byte) (int, error)
		Close() error
	})}
}

type upgraded struct {
	net.Conn
	rw interface {
		Read([]byte) (int, error)
		Write([]byte) (int, error)
		Close() error
	}
}

func (u *upgraded) Read(p []byte) (int, error)  { return u.rw.Read(p) }
func (u *upgraded) Write(p []byte) (int, error) { return u.rw.Write(p) }
func (u *upgraded) Close() error                { return u.rw.Close() }

// dial goes through the whole handshake.
func (d *dialer) dial() (*http.Response, net.Conn) {
	d.w.t.Helper()
	resp, conn := d.get("", nil)
	if resp.Header.Get(agent.HeaderCode) != agent.CodeChallenge {
		return resp, conn
	}
	return d.get(resp.Header.Get(agent.HeaderNonce), nil)
}

// refused dials and wants that refusal.
func (d *dialer) refused(status int, code string) {
	d.w.t.Helper()
	resp, conn := d.dial()
	if conn != nil {
		conn.Close()
	}
	if resp.StatusCode != status || resp.Header.Get(agent.HeaderCode) != code {
		d.w.t.Errorf("got %d %q, want %d %q", resp.StatusCode, resp.Header.Get(agent.HeaderCode), status, code)
	}
}

// A fakeAgent is a live link from the agent's side.
type fakeAgent struct {
	t       testing.TB
	session *yamux.Session
	control net.Conn
	serve   sync.WaitGroup
}

// link dials, and serves streams: ssh streams echo.
func (d *dialer) link() *fakeAgent {
	d.w.t.Helper()
	resp, conn := d.dial()
	if conn == nil {
		d.w.t.Fatalf("link refused: %d %s", resp.StatusCode, resp.Header.Get(agent.HeaderCode))
	}
	session, err := yamux.Client(conn, quiet())
	ok(d.w.t, err)
	a := &fakeAgent{t: d.w.t, session: session}
	d.w.t.Cleanup(a.close)
	a.control = a.open(agent.KindControl)
	return a
}

func (a *fakeAgent) close() {
	a.session.Close()
	a.serve.Wait()
}

func (a *fakeAgent) open(kind agent.Kind) net.Conn {
	a.t.Helper()
	s, err := a.session.Open()
	ok(a.t, err)
	ok(a.t, agent.WriteLine(s, agent.StreamHeader{Kind: kind}, agent.MaxStreamHeader))
	return s
}

// each serves every stream of the coordinator with f.
func (a *fakeAgent) each(f func(s net.Conn, hdr agent.StreamHeader)) *fakeAgent {
	a.serve.Go(func() {
		for {
			s, err := a.session.Accept()
			if err != nil {
				return
			}
			a.serve.Go(func() {
				var hdr agent.StreamHeader
				if agent.ReadLine(s, &hdr, agent.MaxStreamHeader) == nil {
					f(s, hdr)
				}
			})
		}
	})
	return a
}

func (a *fakeAgent) say(m agent.Message) {
	a.t.Helper()
	ok(a.t, agent.WriteLine(a.control, m, agent.MaxControlMessage))
}

// gone waits until the coordinator has ended the link.
func (a *fakeAgent) gone() {
	a.t.Helper()
	select {
	case <-a.session.CloseChan():
	case <-time.After(10 * time.Second):
		a.t.Fatal("the link still stands after 10 s")
	}
}

func (w *world) connected() {
	w.t.Helper()
	c, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	ok(w.t, w.hub.Await(c, w.ws.ID, agentID))
}

func (w *world) stored() coordinator.WorkspaceAgent {
	w.t.Helper()
	as, err := w.store.Agents(ctx, w.ws.ID)
	ok(w.t, err)
	if len(as) != 1 {
		w.t.Fatalf("%d agents are recorded", len(as))
	}
	return as[0]
}

func (w *world) ssh() (net.Conn, error) {
	c, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	return w.hub.Open(c, w.ws.ID, agentID, agent.StreamHeader{Kind: agent.KindSSH, ID: "s1", User: agent.Person{ID: "u1", Name: "alice"}})
}

var errDisk = errors.New("no space left on device")

func contains(s, part string) bool { return strings.Contains(s, part) }
