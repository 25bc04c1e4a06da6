package link

import (
	"bytes"
	"context"
	"encoding/pem"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"berth/agent"
)

func TestLinkTellsAndServes(t *testing.T) {
	t.Parallel()
	d := newDouble(t, false)
	a := runAgent(t, d.server.URL, nil)
	a.outbox.Step(agent.StepReport{Name: agent.StepSecrets, Outcome: agent.OutcomeRunning})
	l := d.next(t)
	if m := a.manifest(t); m.Workspace != "dev" {
		t.Errorf("manifest of %q", m.Workspace)
	}
	l.next(t, agent.TypeHeartbeat)
	if m := l.next(t, agent.TypeStep); m.Step.Name != agent.StepSecrets {
		t.Errorf("step %+v", m.Step)
	}
	a.outbox.Log(agent.LogReport{Step: agent.StepConfigure, Seq: 0, Text: "hello"})
	a.outbox.Ready()
	if m := l.next(t, agent.TypeLog); m.Log.Text != "hello" {
		t.Errorf("log %+v", m.Log)
	}
	l.next(t, agent.TypeReady)

	d.mu.Lock()
	d.manifest.Workspace = "changed"
	d.mu.Unlock()
	agent.WriteLine(l.control, agent.Message{Type: "a type of the future"}, agent.MaxControlMessage)
	agent.WriteLine(l.control, agent.Message{Type: agent.TypeManifestChanged}, agent.MaxControlMessage)
	if m := a.manifest(t); m.Workspace != "changed" {
		t.Errorf("manifest of %q after a change", m.Workspace)
	}
	agent.WriteLine(l.control, agent.Message{Type: agent.TypeStopNotice, Text: "in 2 minutes"}, agent.MaxControlMessage)
	if got := <-a.notices; got != "in 2 minutes" {
		t.Errorf("notice %q", got)
	}
	checkEcho(t, l)
}

// checkEcho sends more than a window through a stream, half-closes it, and reads all of it back.
func checkEcho(t *testing.T, l *doubleLink) {
	t.Helper()
	st, err := l.mux.OpenStream()
	if err != nil {
		t.Fatal(err)
	}
	defer st.Close()
	if err := agent.WriteLine(st, agent.StreamHeader{Kind: agent.KindSSH, ID: "id7"}, agent.MaxStreamHeader); err != nil {
		t.Fatal(err)
	}
	want := bytes.Repeat([]byte("0123456789abcdef"), 2<<20/16)
	go func() {
		st.Write(want)
		st.Close() // yamux's half-close
	}()
	got, err := io.ReadAll(st)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, append([]byte("id7\n"), want...)) {
		t.Errorf("echo differs: %d bytes of %d", len(got), len(want))
	}
}

func TestStreamsRefused(t *testing.T) {
	t.Parallel()
	d := newDouble(t, false)
	runAgent(t, d.server.URL, nil)
	l := d.next(t)
	for _, tt := range []struct{ name, send, want string }{
		{"unknown kind", `{"kind":"resume","id":"x"}` + "\n", `does not know streams of kind \"resume\"`},
		{"the agent's own kind", `{"kind":"control","id":"x"}` + "\n", "does not know streams"},
		{"not JSON", "SSH-2.0-x\r\n", "header cannot be read"},
		{"beyond the cap", `{"kind":"` + strings.Repeat("x", agent.MaxStreamHeader), "header cannot be read"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			st, err := l.mux.OpenStream()
			if err != nil {
				t.Fatal(err)
			}
			defer st.Close()
			io.WriteString(st, tt.send)
			st.SetReadDeadline(time.Now().Add(5 * time.Second))
			got, err := io.ReadAll(st)
			if err != nil {
				t.Fatal(err)
			}
			if !strings.Contains(string(got), tt.want) || !strings.HasPrefix(string(got), `{"ok":false`) || strings.Count(string(got), "\n") != 1 {
				t.Errorf("got %q, want one line with %q", got, tt.want)
			}
		})
	}
	checkEcho(t, l) // the link is none the worse for it
}

func TestReconnectRepeats(t *testing.T) {
	t.Parallel()
	d := newDouble(t, false)
	a := runAgent(t, d.server.URL, nil)
	l := d.next(t)
	a.outbox.Log(agent.LogReport{Step: agent.StepConfigure, Seq: 0, Text: "before"})
	l.next(t, agent.TypeLog)
	l.mux.Close()
	a.outbox.Log(agent.LogReport{Step: agent.StepConfigure, Seq: 1, Text: "while away"})
	began := time.Now()
	second := d.next(t)
	if took := time.Since(began); took > 2*time.Second {
		t.Errorf("back after %s", took)
	}
	for _, want := range []string{"before", "while away"} {
		if m := second.next(t, agent.TypeLog); m.Log.Text != want {
			t.Errorf("got %q, want %q", m.Log.Text, want)
		}
	}
	if second.instance != l.instance {
		t.Error("the instance changed without a restart of the agent")
	}
}

func TestCoordinatorRestart(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	l.Close() // nobody listens
	a := runAgent(t, "http://"+address, nil)
	poll(t, func() bool { // so that the wait has grown
		select {
		case m := <-a.manifests:
			t.Fatalf("manifest %v from nobody", m)
		case <-time.After(1500 * time.Millisecond):
		}
		return true
	})
	again, err := net.Listen("tcp", address)
	if err != nil {
		t.Skip("the port was taken by somebody else")
	}
	d := &double{t: t, links: make(chan *doubleLink, 16)}
	server := &http.Server{Handler: http.HandlerFunc(d.serve)}
	defer server.Close()
	began := time.Now()
	go server.Serve(again)
	link := d.next(t)
	if took := time.Since(began); took > 2*time.Second {
		t.Errorf("back after %s", took)
	}
	a.stop()
	link.next(t, agent.TypeGoodbye)
}

func poll(t *testing.T, ok func() bool) {
	t.Helper()
	for limit := time.Now().Add(5 * time.Second); !ok(); {
		if time.Now().After(limit) {
			t.Fatal("it did not come to pass")
		}
		<-time.After(10 * time.Millisecond)
	}
}

func TestGoodbye(t *testing.T) {
	t.Parallel()
	d := newDouble(t, false)
	a := runAgent(t, d.server.URL, nil)
	l := d.next(t)
	a.manifest(t)
	began := time.Now()
	a.stop()
	l.next(t, agent.TypeGoodbye)
	if err := <-a.err; err != nil {
		t.Errorf("Run: %v", err)
	}
	if took := time.Since(began); took > time.Second {
		t.Errorf("Run took %s to end", took)
	}
}

func TestGoAway(t *testing.T) {
	t.Parallel()
	d := newDouble(t, false)
	runAgent(t, d.server.URL, nil)
	first := d.next(t)
	st, err := first.mux.OpenStream()
	if err != nil {
		t.Fatal(err)
	}
	defer st.Close()
	agent.WriteLine(st, agent.StreamHeader{Kind: agent.KindSSH, ID: "old"}, agent.MaxStreamHeader)
	agent.WriteLine(first.control, agent.Message{Type: agent.TypeGoAway}, agent.MaxControlMessage)
	second := d.next(t)
	checkEcho(t, second)
	io.WriteString(st, "still here")
	got := make([]byte, len("old\nstill here"))
	st.SetReadDeadline(time.Now().Add(5 * time.Second))
	if _, err := io.ReadFull(st, got); err != nil || string(got) != "old\nstill here" {
		t.Fatalf("the old link's stream: %q, %v", got, err)
	}
	st.Close()
	select { // the old link ends with its last stream
	case <-first.mux.CloseChan():
	case <-time.After(8 * time.Second):
		t.Error("the old link stays")
	}
	checkEcho(t, second)
}

func TestReplaced(t *testing.T) {
	t.Parallel()
	d := newDouble(t, false)
	d.set(func(w http.ResponseWriter, r *http.Request) bool {
		w.Header().Set(agent.HeaderCode, agent.CodeReplaced)
		w.WriteHeader(http.StatusConflict)
		return true
	})
	a := runAgent(t, d.server.URL, nil)
	if err := <-a.err; !errors.Is(err, ErrReplaced) {
		t.Errorf("Run: %v", err)
	}
}

func TestRetryAfter(t *testing.T) {
	t.Parallel()
	d := newDouble(t, false)
	var asked atomic.Int32
	d.set(func(w http.ResponseWriter, r *http.Request) bool {
		if asked.Add(1) > 1 {
			return false
		}
		w.Header().Set(agent.HeaderCode, agent.CodeTryAgain)
		w.Header().Set("Retry-After", "1")
		w.WriteHeader(http.StatusServiceUnavailable)
		return true
	})
	began := time.Now()
	runAgent(t, d.server.URL, nil)
	d.next(t)
	if took := time.Since(began); took < time.Second || took > 3*time.Second {
		t.Errorf("linked after %s", took)
	}
}

func TestCAFile(t *testing.T) {
	t.Parallel()
	d := newDouble(t, true)
	d.server.Config.ErrorLog = nil
	cert := filepath.Join(t.TempDir(), "ca.pem")
	err := os.WriteFile(cert, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: d.server.Certificate().Raw}), 0o600)
	if err != nil {
		t.Fatal(err)
	}
	runAgent(t, d.server.URL, func(c *Config) { c.CAFile = cert })
	checkEcho(t, d.next(t))

	// Without the pin the same server is not trusted.
	l, err := newLinker(Config{URL: d.server.URL, Token: testToken, Key: testKey()})
	if err != nil {
		t.Fatal(err)
	}
	defer l.transport.CloseIdleConnections()
	if _, err := l.connect(context.Background()); err == nil || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("connect without the CA: %v", err)
	}
	if err := os.WriteFile(cert, []byte("nothing"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := NewTransport(cert); err == nil {
		t.Error("a CA file without a certificate is accepted")
	}
}

func TestCheckURL(t *testing.T) {
	for _, tt := range []struct {
		url      string
		insecure bool
		want     string // "" an error
	}{
		{"https://berth.example.com", false, "https://berth.example.com/api/v1/agent/link"},
		{"https://berth.example.com/sub/?q#f", false, "https://berth.example.com/sub/api/v1/agent/link"},
		{"http://127.0.0.1:7080", false, "http://127.0.0.1:7080/api/v1/agent/link"},
		{"http://[::1]:7080", false, "http://[::1]:7080/api/v1/agent/link"},
		{"http://localhost:7080/", false, "http://localhost:7080/api/v1/agent/link"},
		{"http://10.0.0.1:7080", false, ""},
		{"http://localhost.example.com", false, ""},
		{"http://10.0.0.1:7080", true, "http://10.0.0.1:7080/api/v1/agent/link"},
		{"ftp://berth.example.com", true, ""},
		{"https://user:pw@berth.example.com", false, ""},
		{"berth.example.com", true, ""},
		{"", true, ""},
	} {
		got, err := checkURL(tt.url, tt.insecure)
		if got != tt.want || (err == nil) != (tt.want != "") {
			t.Errorf("checkURL(%q, %v) = %q, %v", tt.url, tt.insecure, got, err)
		}
	}
}

func TestTokenIsChecked(t *testing.T) {
	for _, token := range []agent.Secret{"", "x", "ba1_", "ba1_ws_agent", "ba1__a_b", "ba1_ws_a_b\r\nX: y", "bt1_ws_a_b"} {
		err := Run(context.Background(), Config{URL: "http://127.0.0.1:1", Token: token, Key: testKey()})
		if err == nil || (token != "" && strings.Contains(err.Error(), string(token)+" ")) {
			t.Errorf("token %q: %v", string(token), err)
		}
	}
}

func TestPacer(t *testing.T) {
	now := time.Unix(0, 0)
	refused := errors.New("connection refused")
	var p pacer
	if wait, say := p.failed(refused, now); wait != 0 || !say {
		t.Errorf("first failure: wait %s, say %v", wait, say)
	}
	for range 100 {
		now = now.Add(time.Second)
		if wait, say := p.failed(refused, now); wait > time.Second || say {
			t.Errorf("soon after: wait %s, say %v", wait, say)
		}
	}
	if _, say := p.failed(errTest, now); !say {
		t.Error("another kind of failure is not said")
	}
	now = now.Add(time.Hour)
	longest := time.Duration(0)
	for range 1000 {
		wait, _ := p.failed(refused, now)
		longest = max(longest, wait)
	}
	if longest > agent.ReconnectMax || longest < agent.ReconnectMax/2 {
		t.Errorf("long after: the longest wait was %s", longest)
	}
	p.connected()
	denied := &refusal{status: 403, code: agent.CodeNotRunning, text: "not now"}
	for i := range 20 {
		wait, _ := p.failed(denied, now)
		if wait < slowMin/2 || wait > agent.ReconnectMax {
			t.Errorf("refused %d times: wait %s", i+1, wait)
		}
	}
	busy := &refusal{status: 503, after: 24 * time.Hour}
	if wait, _ := p.failed(busy, now); wait < maxRetryAfter || wait > 2*maxRetryAfter {
		t.Errorf("Retry-After of a day: wait %s", wait)
	}
}
