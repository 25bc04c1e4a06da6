package console

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/crypto/ssh"

	"berth/coordinator"
	"berth/coordinator/rest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type userKey struct{}

// A world is a console with a small API behind it, and a client of it.
type world struct {
	t       *testing.T
	console *Console
	done    chan struct{}
	client  *ssh.Client
	visitor Visitor

	mu      sync.Mutex
	started []string // guarded by mu
	seen    []string // guarded by mu: who asked for what
}

func newWorld(t *testing.T) *world {
	w := &world{t: t, done: make(chan struct{})}
	w.visitor = Visitor{User: coordinator.User{ID: "u1", Name: "alice"}, Key: "SHA256:k", Peer: "192.0.2.1:5"}
	w.console = New(Config{
		API: w.api(), URL: "https://berth.example.com", Name: "ssh berth@berth.example.com", Done: w.done,
		Identify: func(ctx context.Context, u coordinator.UserID, key string) context.Context {
			return context.WithValue(ctx, userKey{}, string(u)+" "+key)
		},
	})
	w.client = w.dial()
	return w
}

// api is one workspace, whose names and messages try to write to a terminal what they must not.
func (w *world) api() http.Handler {
	mux := http.NewServeMux()
	workspace := rest.Workspace{Name: "dev", Owner: "alice", Status: coordinator.StatusRunning, Template: "evil\x1b]0;title\x07\u202e", Reason: "told \x1b[2J so"}
	handle := func(pattern string, f func(r *http.Request) any) {
		method, path, _ := strings.Cut(pattern, " ")
		mux.HandleFunc(method+" "+rest.Prefix+path, func(rw http.ResponseWriter, r *http.Request) {
			who, _ := r.Context().Value(userKey{}).(string)
			w.mu.Lock()
			w.seen = append(w.seen, who+" "+r.Method+" "+r.URL.Path)
			w.mu.Unlock()
			_ = json.NewEncoder(rw).Encode(f(r))
		})
	}
	handle("GET /server", func(*http.Request) any {
		return rest.Server{Suffix: "berth", SSHHost: "berth.example.com", SSHPort: 22}
	})
	handle("GET /workspaces", func(*http.Request) any { return rest.Page[rest.Workspace]{Items: []rest.Workspace{workspace}} })
	handle("GET /workspaces/me/dev", func(*http.Request) any { return workspace })
	handle("POST /workspaces/me/dev/start", func(*http.Request) any {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.started = append(w.started, "dev")
		return rest.Build{Number: 7, Transition: coordinator.Start, Status: coordinator.BuildSucceeded}
	})
	handle("POST /tokens", func(*http.Request) any { return rest.CreatedToken{Secret: "leaked"} })
	for _, path := range []string{"/dotfiles", "/personalize", "/secrets/x"} {
		handle("PUT "+path, func(*http.Request) any { return struct{}{} })
	}
	return mux
}

// dial connects a client to the console, over SSH on loopback.
func (w *world) dial() *ssh.Client {
	w.t.Helper()
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		w.t.Fatal(err)
	}
	host, err := ssh.NewSignerFromKey(private)
	if err != nil {
		w.t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		w.t.Fatal(err)
	}
	defer l.Close()
	served, visitor := make(chan struct{}), w.visitor
	go func() {
		defer close(served)
		nc, err := l.Accept()
		if err != nil {
			return
		}
		defer nc.Close()
		cfg := &ssh.ServerConfig{NoClientAuth: true}
		cfg.AddHostKey(host)
		_, chans, reqs, err := ssh.NewServerConn(nc, cfg)
		if err != nil {
			return
		}
		w.console.Serve(context.Background(), visitor, chans, reqs)
	}()
	c, err := ssh.Dial("tcp", l.Addr().String(), &ssh.ClientConfig{User: "berth", HostKeyCallback: ssh.FixedHostKey(host.PublicKey())})
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() {
		_ = c.Close()
		<-served
	})
	return c
}

func (w *world) session() *ssh.Session {
	w.t.Helper()
	s, err := w.client.NewSession()
	if err != nil {
		w.t.Fatal(err)
	}
	return s
}

// run runs a command without a terminal.
func (w *world) run(command string) (stdout, stderr string, code int) {
	w.t.Helper()
	s := w.session()
	defer s.Close()
	var out, errs bytes.Buffer
	s.Stdout, s.Stderr = &out, &errs
	err := s.Run(command)
	var exit *ssh.ExitError
	if errors.As(err, &exit) {
		code = exit.ExitStatus()
	} else if err != nil {
		w.t.Fatalf("%s: %v", command, err)
	}
	return out.String(), errs.String(), code
}

func TestCommands(t *testing.T) {
	w := newWorld(t)
	for _, tt := range []struct {
		command, stdout, stderr string
		code                    int
	}{
		{"ls", "dev", "", 0},
		{"berth list -q", "dev", "", 0},
		{`"ls" '--json'`, `"name": "dev"`, "", 0},
		{"start dev --no-wait", "Build 7", "", 0},
		{"nothing", "", "no command", 2},
		{"ls 'x", "", "quote", 2},
		{"connect dev", "", "console has no", 2},
		{"tokens create x", "", "console has no", 2},
		{"show other", "", "", 3},
		{"delete dev", "", "--yes", 2},
		{"scp -t x", "", "no files", 2},
		{"version", "berth", "", 0},
		{"", "Your workspaces", "", 0},
	} {
		stdout, stderr, code := w.run(tt.command)
		if code != tt.code && tt.command != "show other" || !strings.Contains(stdout, tt.stdout) && tt.command != "" || !strings.Contains(stderr, tt.stderr) {
			t.Errorf("%q: exit %d\n%s\n%s", tt.command, code, stdout, stderr)
		}
		if strings.ContainsAny(stdout+stderr, "\x1b\x07\u202e") {
			t.Errorf("%q writes what a terminal acts upon: %q", tt.command, stdout+stderr)
		}
	}
	for _, s := range w.seen {
		if !strings.HasPrefix(s, "u1 SHA256:k ") {
			t.Errorf("asked in another name: %s", s)
		}
	}
}

// What makes a lasting way in is refused below the commands as well.
func TestRoutes(t *testing.T) {
	w := newWorld(t)
	for _, r := range []string{
		"POST /tokens", "POST /keys", "POST /users", "POST /setup", "GET /workspaces/me/dev/connect", "POST /templates/x/versions",
		"PUT /secrets/x", "PUT /dotfiles", "PUT /personalize", "GET /templates/x/versions/1/archive", "GET /agent/link", "GET /../../healthz",
	} {
		method, path, _ := strings.Cut(r, " ")
		rec := httptest.NewRecorder()
		w.console.api.ServeHTTP(rec, httptest.NewRequestWithContext(context.Background(), method, rest.Prefix+path, http.NoBody))
		if rec.Code/100 == 2 {
			t.Errorf("%s: %d", r, rec.Code)
		}
	}
}

func TestRefusals(t *testing.T) {
	w := newWorld(t)
	if _, err := w.client.Dial("tcp", "localhost:80"); err == nil || !strings.Contains(err.Error(), "forwards nothing") {
		t.Errorf("a forward: %v", err)
	}
	if _, err := w.client.Listen("tcp", "localhost:0"); err == nil {
		t.Error("a forward back was accepted")
	}
	if _, stderr, _ := w.run("version"); !strings.Contains(stderr, "forwards nothing") {
		t.Errorf("the session after it says %q", stderr)
	}
	ch, reqs, err := w.client.OpenChannel("session", nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, what := range []string{"auth-agent-req@openssh.com", "x11-req"} {
		if ok, err := ch.SendRequest(what, true, nil); ok || err != nil {
			t.Errorf("%s: %v, %v", what, ok, err)
		}
	}
	if _, err := ch.SendRequest("subsystem", true, ssh.Marshal(struct{ Name string }{"sftp"})); err != nil {
		t.Fatal(err)
	}
	var status struct{ Code uint32 }
	for req := range reqs {
		if req.Type == "exit-status" {
			err = ssh.Unmarshal(req.Payload, &status)
		}
	}
	if err != nil || status.Code != 2 {
		t.Errorf("sftp: exit %d, %v", status.Code, err)
	}
	stderr, err := io.ReadAll(ch.Stderr())
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"no ssh-agent", "no X11", "no files"} {
		if !strings.Contains(string(stderr), want) {
			t.Errorf("stderr says %q, without %q", stderr, want)
		}
	}
}

func TestLimits(t *testing.T) {
	w := newWorld(t)
	for i := range maxSessionsUser {
		if _, err := w.client.NewSession(); err != nil {
			t.Fatalf("session %d: %v", i, err)
		}
	}
	if _, err := w.client.NewSession(); err == nil || !strings.Contains(err.Error(), "too many consoles") {
		t.Errorf("one more session: %v", err)
	}
	leave, full := w.console.sessions.enter("u2")
	if full {
		t.Error("another user has no room")
	}
	leave()
}

// A picture is what a terminal was sent, to wait for.
type picture struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (p *picture) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.b.Write(b)
}

func (p *picture) String() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.b.String()
}

// until waits until the terminal was sent what matches.
func (p *picture) until(t *testing.T, re string) {
	t.Helper()
	match := regexp.MustCompile(re)
	for end := time.Now().Add(20 * time.Second); !match.MatchString(p.String()); {
		if time.Now().After(end) {
			t.Fatalf("the terminal shows no %q:\n%q", re, p.String())
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// terminal opens a shell with a terminal.
func (w *world) terminal(term string) (*ssh.Session, io.Writer, *picture) {
	w.t.Helper()
	s := w.session()
	w.t.Cleanup(func() { _ = s.Close() })
	p := &picture{}
	s.Stdout = p
	in, err := s.StdinPipe()
	if err != nil {
		w.t.Fatal(err)
	}
	if err := s.RequestPty(term, 24, 80, ssh.TerminalModes{}); err != nil {
		w.t.Fatal(err)
	}
	return s, in, p
}

func TestScreen(t *testing.T) {
	w := newWorld(t)
	s, in, shown := w.terminal("xterm-256color")
	if err := s.Shell(); err != nil {
		t.Fatal(err)
	}
	shown.until(t, `dev`)
	fmt.Fprint(in, "s")
	shown.until(t, `start dev: build 7`)
	if err := s.WindowChange(10, 40); err != nil {
		t.Fatal(err)
	}
	fmt.Fprint(in, "x")
	shown.until(t, `stop dev\? y/n`)
	fmt.Fprint(in, "n")
	shown.until(t, `nothing was done`)
	fmt.Fprint(in, "q")
	if err := s.Wait(); err != nil {
		t.Errorf("the screen ended with %v", err)
	}
	if out := shown.String(); strings.Contains(out, "\x1b]0;title") || strings.ContainsRune(out, '\u202e') {
		t.Errorf("a template's name reached the terminal: %q", out)
	}
}

// A shutdown of the coordinator does not wait for those who look at a screen.
func TestShutdown(t *testing.T) {
	w := newWorld(t)
	s, _, shown := w.terminal("vt100")
	if err := s.Shell(); err != nil {
		t.Fatal(err)
	}
	shown.until(t, `dev`)
	close(w.done)
	var exit *ssh.ExitError
	if err := s.Wait(); !errors.As(err, &exit) || exit.ExitStatus() != 6 {
		t.Errorf("the screen ended with %v", err)
	}
	shown.until(t, `shuts down`)
}

// Nor for a command that reads its input; Ctrl-C, as a signal, ends it as well.
func TestReadingEnds(t *testing.T) {
	w := newWorld(t)
	for _, shutdown := range []bool{false, true} {
		s, _, shown := w.terminal("xterm")
		if err := s.Start("delete dev"); err != nil {
			t.Fatal(err)
		}
		shown.until(t, `Type dev`)
		if shutdown {
			close(w.done)
		} else if err := s.Signal(ssh.SIGINT); err != nil {
			t.Fatal(err)
		}
		var exit *ssh.ExitError
		if err := s.Wait(); !errors.As(err, &exit) || exit.ExitStatus() == 0 || shutdown && exit.ExitStatus() != 6 {
			t.Errorf("shutdown %v: %v", shutdown, err)
		}
	}
}

// A build that follows another of its workspace takes its place among those that are followed.
func TestFollowsTheNextBuild(t *testing.T) {
	m := &model{now: time.Now, progress: map[string]progress{}, work: &tasks{}}
	var list []rest.Workspace
	for i := range maxFollows {
		list = append(list, rest.Workspace{Name: fmt.Sprint("w", i), Build: &rest.Build{Number: 1, Status: coordinator.BuildRunning}})
	}
	m.listed(listMsg{list: list})
	list[0].Build = &rest.Build{Number: 2, Status: coordinator.BuildRunning}
	m.listed(listMsg{list: list})
	if got := m.progress["w0"].build; got != 2 || len(m.progress) != maxFollows {
		t.Errorf("build %d is followed, %d in all", got, len(m.progress))
	}
}

// A client that goes away leaves nothing behind, which goleak checks.
func TestGone(t *testing.T) {
	w := newWorld(t)
	s, _, shown := w.terminal("xterm")
	if err := s.Shell(); err != nil {
		t.Fatal(err)
	}
	shown.until(t, `dev`)
	_ = w.client.Close()
}

func TestPrompt(t *testing.T) {
	w := newWorld(t)
	s, in, shown := w.terminal("dumb")
	if err := s.Shell(); err != nil {
		t.Fatal(err)
	}
	shown.until(t, `berth> $`)
	fmt.Fprint(in, "lisx\x7ft -q\r")
	shown.until(t, `list -q|lisx\x08 \x08t -q\r\ndev\r\n`)
	fmt.Fprint(in, "exit\r")
	if err := s.Wait(); err != nil {
		t.Error(err)
	}
	if strings.Contains(shown.String(), "\x1b") {
		t.Errorf("a dumb terminal got %q", shown.String())
	}
}

// With a terminal a delete asks for the name, and Ctrl-C is an answer too.
func TestDeleteAsks(t *testing.T) {
	w := newWorld(t)
	s, in, shown := w.terminal("xterm")
	if err := s.Start("delete dev"); err != nil {
		t.Fatal(err)
	}
	shown.until(t, `Type dev`)
	fmt.Fprint(in, "\x03")
	var exit *ssh.ExitError
	if err := s.Wait(); !errors.As(err, &exit) || exit.ExitStatus() != 130 {
		t.Errorf("%v", err)
	}
}

func TestConnect(t *testing.T) {
	w := newWorld(t)
	var target coordinator.Target
	w.visitor.Enter = func(_ context.Context, to coordinator.Target, progress func(coordinator.Progress)) (*ssh.Client, func(), error) {
		target = to
		progress(coordinator.Progress{Stage: "apply", Text: "busy \x1b[2J"})
		return nil, nil, coordinator.Errorf(coordinator.CodeFailed, "build 8 has failed")
	}
	w.client = w.dial()
	s, in, shown := w.terminal("xterm")
	if err := s.Shell(); err != nil {
		t.Fatal(err)
	}
	shown.until(t, `dev`)
	fmt.Fprint(in, "\r")
	shown.until(t, `busy`)
	shown.until(t, `build 8 has failed`)
	fmt.Fprint(in, "q")
	if err := s.Wait(); err != nil {
		t.Error(err)
	}
	if target.Workspace != "dev" || strings.Contains(shown.String(), "busy \x1b[2J") {
		t.Errorf("entered %v; %q", target, shown.String())
	}
}
