package client

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"berth/agent"
	"berth/coordinator"
	"berth/coordinator/rest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// serve returns a client of a server that answers with h.
func serve(t *testing.T, c Config, h http.HandlerFunc) *Client {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	cl, err := Open(s.URL, c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cl.Close)
	return cl
}

func TestParseURL(t *testing.T) {
	for _, tt := range []struct {
		raw      string
		insecure bool
		want     string // empty: refused
	}{
		{"https://berth.example.com", false, "https://berth.example.com"},
		{"berth.example.com", false, "https://berth.example.com"},
		{" berth.example.com:7080/ ", false, "https://berth.example.com:7080"},
		{"https://example.com/berth/", false, "https://example.com/berth"},
		{"https://example.com/api/v1", false, "https://example.com"},
		{"127.0.0.1:7080", false, "http://127.0.0.1:7080"},
		{"localhost:7080", false, "http://localhost:7080"},
		{"[::1]:7080", false, "http://[::1]:7080"},
		{"http://127.0.0.53", false, "http://127.0.0.53"},
		{"http://berth.example.com", false, ""},
		{"http://127.0.0.1.example.com", false, ""},
		{"http://localhost.example.com", false, ""},
		{"http://0.0.0.0:7080", false, ""},
		{"http://berth.example.com", true, "http://berth.example.com"},
		{"https://user:secret@berth.example.com", true, ""},
		{"https://berth.example.com?x=y", true, ""},
		{"ftp://berth.example.com", true, ""},
		{"https://", true, ""},
		{"", true, ""},
		{"https://exa mple.com", true, ""},
	} {
		u, err := ParseURL(tt.raw, tt.insecure)
		got := ""
		if err == nil {
			got = u.String()
		} else if coordinator.CodeOf(err) != coordinator.CodeInvalid {
			t.Errorf("%q: %v", tt.raw, err)
		}
		if got != tt.want {
			t.Errorf("%q is %q, want %q", tt.raw, got, tt.want)
		}
	}
}

func TestTokenStays(t *testing.T) {
	var stolen atomic.Bool
	thief := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { stolen.Store(true) }))
	defer thief.Close()
	c := serve(t, Config{Token: "bt1_x"}, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer bt1_x" || r.URL.RawQuery != "" {
			t.Errorf("asks with %q and %q", r.Header.Get("Authorization"), r.URL.RawQuery)
		}
		http.Redirect(w, r, thief.URL, http.StatusTemporaryRedirect)
	})
	if _, err := c.Whoami(t.Context()); err == nil || !strings.Contains(err.Error(), "redirect") {
		t.Errorf("%v", err)
	}
	if stolen.Load() {
		t.Error("the redirect was followed")
	}
	if _, err := Open("https://example.com", Config{Token: "a\r\nX: y"}); err == nil {
		t.Error("a token with a line break is taken")
	}
}

func TestProblems(t *testing.T) {
	long := strings.Repeat("x", maxProblem)
	for _, tt := range []struct {
		name   string
		status int
		body   string
		code   coordinator.Code
		msg    string
		hint   string
	}{
		{"problem", 409, `{"status":409,"detail":"busy","code":"conflict","hint":"wait"}`, "conflict", "busy", "wait"},
		{"its code decides", 422, `{"detail":"no","code":"failed"}`, "failed", "no", ""},
		{"no code", 403, `{"detail":"no"}`, "denied", "no", ""},
		{"another code", 418, `{"detail":"teapot","code":"teapot"}`, "teapot", "teapot", ""},
		{"unauthenticated", 401, `{"detail":"no token","code":"unauthenticated"}`, "unauthenticated", "no token", "berth login http://127"},
		{"not ours", 404, "<html>nginx</html>", "not-found", "has nothing at /api/v1/whoami", "Berth server"},
		{"a proxy's", 502, "Bad Gateway", "unavailable", "not available", "try again"},
		{"too much", 500, long + long, "internal", "500", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := serve(t, Config{}, func(w http.ResponseWriter, _ *http.Request) {
				w.WriteHeader(tt.status)
				io.WriteString(w, tt.body)
			})
			_, err := c.Whoami(t.Context())
			var e *coordinator.Error
			if !errors.As(err, &e) {
				t.Fatalf("%v", err)
			}
			if e.Code != tt.code || !strings.Contains(e.Msg, tt.msg) || !strings.Contains(e.Hint, tt.hint) || len(e.Msg) > maxMessage+8 {
				t.Errorf("%q %.200q %q", e.Code, e.Msg, e.Hint)
			}
		})
	}
}

func TestUnreachable(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	tls := httptest.NewTLSServer(http.NotFoundHandler())
	tls.Config.ErrorLog = log.New(io.Discard, "", 0)
	defer tls.Close()
	plain := httptest.NewServer(http.NotFoundHandler())
	defer plain.Close()
	for _, tt := range []struct{ name, url, msg string }{
		{"nobody listens", "http://" + l.Addr().String(), "connection refused"},
		{"an unknown authority", tls.URL, "authority"},
		{"no TLS", strings.Replace(plain.URL, "http:", "https:", 1), "TLS"},
	} {
		c, err := Open(tt.url, Config{})
		if err != nil {
			t.Fatal(err)
		}
		_, err = c.Whoami(t.Context())
		if coordinator.CodeOf(err) != coordinator.CodeUnavailable || !strings.Contains(err.Error(), tt.msg) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %v", tt.name, err)
		}
		c.Close()
	}
}

func TestCaps(t *testing.T) {
	for _, tt := range []struct {
		name string
		h    http.HandlerFunc
	}{
		{"a body without end", func(w http.ResponseWriter, _ *http.Request) {
			for {
				if _, err := w.Write(make([]byte, 1<<20)); err != nil {
					return
				}
			}
		}},
		{"a listing that comes back", func(w http.ResponseWriter, _ *http.Request) {
			io.WriteString(w, `{"items":[{}],"next":"again"}`)
		}},
		{"no JSON", func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "<html>") }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if _, err := serve(t, Config{}, tt.h).Users(t.Context()); err == nil {
				t.Error("it is taken")
			}
		})
	}
}

func TestPages(t *testing.T) {
	c := serve(t, Config{}, func(w http.ResponseWriter, r *http.Request) {
		page := rest.Page[rest.User]{Items: []rest.User{{Name: "u" + r.URL.Query().Get("cursor")}}}
		if n := r.URL.Query().Get("cursor"); len(n) < 3 {
			page.Next = n + "x"
		}
		json.NewEncoder(w).Encode(page)
	})
	users, err := c.Users(t.Context())
	if err != nil || len(users) != 4 || users[3].Name != "uxxx" {
		t.Errorf("%v, %v", users, err)
	}
}

func TestPatience(t *testing.T) {
	var asked atomic.Int32
	c := serve(t, Config{}, func(w http.ResponseWriter, r *http.Request) {
		if asked.Add(1) < 4 {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		io.WriteString(w, `{"name":"alice"}`)
	})
	if _, err := c.Whoami(t.Context()); coordinator.CodeOf(err) != coordinator.CodeUnavailable || asked.Load() != 1 {
		t.Errorf("without patience: %v after %d", err, asked.Load())
	}
	if me, err := c.Patient(time.Minute).Whoami(t.Context()); err != nil || me.Name != "alice" {
		t.Errorf("with patience: %v", err)
	}
	asked.Store(0)
	if _, err := c.Patient(time.Minute).Start(t.Context(), coordinator.Target{Workspace: "dev"}, rest.StartWorkspace{}); err == nil || asked.Load() != 1 {
		t.Errorf("what changes something is repeated: %d times, %v", asked.Load(), err)
	}
	asked.Store(-1 << 20)
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := c.Patient(time.Hour).Whoami(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("patience outlives its context: %v", err)
	}
}

// TestLogResumes breaks the stream off in every way, and has each line arrive once.
func TestLogResumes(t *testing.T) {
	for _, source := range []string{"build", "*"} {
		var asked atomic.Int32
		c := serve(t, Config{}, func(w http.ResponseWriter, r *http.Request) {
			n := int(asked.Add(1))
			var from int
			json.Unmarshal([]byte(r.URL.Query().Get("from")), &from)
			switch n {
			case 2:
				w.WriteHeader(http.StatusServiceUnavailable)
				return
			case 3:
				panic(http.ErrAbortHandler)
			}
			enc := json.NewEncoder(w)
			for i := range 10 {
				if i == 3*n {
					io.WriteString(w, `{"line":{"se`) // in mid-line
					http.NewResponseController(w).Flush()
					panic(http.ErrAbortHandler)
				}
				if source == "*" {
					enc.Encode(rest.LogEvent{Line: &coordinator.LogLine{Source: "build", Seq: i, Text: "b"}})
					enc.Encode(rest.LogEvent{Line: &coordinator.LogLine{Source: "main", Seq: i, Text: "m"}})
				} else if i >= from {
					enc.Encode(rest.LogEvent{Line: &coordinator.LogLine{Source: "build", Seq: i, Text: "b"}})
				}
				http.NewResponseController(w).Flush()
			}
			enc.Encode(rest.LogEvent{End: true})
		})
		got := map[string][]int{}
		err := c.BuildLog(coordinator.Target{Workspace: "dev"}, 1, source).Read(t.Context(), true, func(l coordinator.LogLine) error {
			got[l.Source] = append(got[l.Source], l.Seq)
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		for s, seqs := range got {
			for i, seq := range seqs {
				if seq != i {
					t.Fatalf("%s: %s has %v", source, s, seqs)
				}
			}
		}
		if len(got["build"]) != 10 || source == "*" && len(got["main"]) != 10 {
			t.Errorf("%s: %v", source, got)
		}
	}
}

func TestLogRefused(t *testing.T) {
	for _, tt := range []struct {
		name string
		h    http.HandlerFunc
		code coordinator.Code
	}{
		{"gone", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(404) }, coordinator.CodeNotFound},
		{"a line without end", func(w http.ResponseWriter, _ *http.Request) {
			io.WriteString(w, strings.Repeat("x", maxLogEvent+1))
		}, coordinator.CodeInternal},
	} {
		err := serve(t, Config{}, tt.h).VersionLog("t", 1).Read(t.Context(), true, nil)
		if coordinator.CodeOf(err) != tt.code {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
}

// upgrade answers an upgrade and hands over the connection.
func upgrade(t *testing.T, w http.ResponseWriter, r *http.Request) *net.TCPConn {
	if r.Header.Get("Upgrade") != agent.StreamUpgrade {
		t.Errorf("asks for %q", r.Header.Get("Upgrade"))
	}
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		t.Error(err)
		return nil
	}
	io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: "+agent.StreamUpgrade+"\r\n\r\n")
	return conn.(*net.TCPConn)
}

func TestConnect(t *testing.T) {
	c := serve(t, Config{Token: "bt1_x"}, func(w http.ResponseWriter, r *http.Request) {
		if got := r.URL.String(); got != "/api/v1/workspaces/alice/dev/connect?agent=main&no_start=true" {
			t.Errorf("asks for %s", got)
		}
		conn := upgrade(t, w, r)
		defer conn.Close()
		// Events and the first bytes in one packet: nothing may be lost between them.
		io.WriteString(conn, `{"progress":{"stage":"apply","elapsed":3000000000}}`+"\n"+`{"ok":true}`+"\nfirst\n")
		b, err := io.ReadAll(conn) // until the client's half-close
		if err != nil || string(b) != "hello" {
			t.Errorf("got %q, %v", b, err)
		}
		io.WriteString(conn, "last")
	})
	var seen []string
	s, err := c.Connect(t.Context(), Connect{
		Target: coordinator.Target{Owner: "alice", Workspace: "dev", Agent: "main"}, NoStart: true,
		Progress: func(p coordinator.Progress) { seen = append(seen, p.String()) },
	})
	if err != nil {
		t.Fatal(err)
	}
	var conn net.Conn = s
	defer conn.Close()
	if len(seen) != 1 || seen[0] != "apply (3 s)" {
		t.Errorf("progress %q", seen)
	}
	if conn.LocalAddr() == nil || conn.RemoteAddr() == nil || conn.SetDeadline(time.Now().Add(10*time.Second)) != nil {
		t.Error("addresses or deadlines are missing")
	}
	io.WriteString(conn, "hello")
	if err := s.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if b, err := io.ReadAll(conn); err != nil || string(b) != "first\nlast" {
		t.Errorf("got %q, %v", b, err)
	}
}

func TestConnectRefused(t *testing.T) {
	for _, tt := range []struct {
		name, events string
		code         coordinator.Code
	}{
		{"problem", `{"problem":{"status":422,"code":"failed","detail":"build 7 failed","hint":"berth logs dev"}}` + "\n", coordinator.CodeFailed},
		{"no JSON", "SSH-2.0-other\r\n", coordinator.CodeInternal},
		{"a line without end", strings.Repeat("x", 2*rest.MaxStreamEvent), coordinator.CodeInternal},
		{"nothing", "", coordinator.CodeUnavailable},
	} {
		c := serve(t, Config{}, func(w http.ResponseWriter, r *http.Request) {
			conn := upgrade(t, w, r)
			defer conn.Close()
			io.WriteString(conn, tt.events)
		})
		_, err := c.Connect(t.Context(), Connect{Target: coordinator.Target{Workspace: "dev"}})
		if coordinator.CodeOf(err) != tt.code {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
	c := serve(t, Config{}, func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "{}") })
	if _, err := c.Connect(t.Context(), Connect{}); coordinator.CodeOf(err) != coordinator.CodeUnavailable {
		t.Errorf("no upgrade: %v", err)
	}
}

// TestConnectResumes loses the server while the workspace starts.
func TestConnectResumes(t *testing.T) {
	var asked atomic.Int32
	c := serve(t, Config{}, func(w http.ResponseWriter, r *http.Request) {
		switch asked.Add(1) {
		case 1:
			conn := upgrade(t, w, r)
			io.WriteString(conn, `{"progress":{"stage":"apply"}}`+"\n")
			conn.Close()
		case 2:
			w.WriteHeader(http.StatusServiceUnavailable)
		default:
			conn := upgrade(t, w, r)
			io.WriteString(conn, `{"ok":true}`+"\n")
			conn.Close()
		}
	})
	s, err := c.Connect(t.Context(), Connect{Target: coordinator.Target{Workspace: "dev"}})
	if err != nil {
		t.Fatal(err)
	}
	s.Close()
}

func TestConnectInterrupted(t *testing.T) {
	gone := make(chan error, 1)
	c := serve(t, Config{}, func(w http.ResponseWriter, r *http.Request) {
		conn := upgrade(t, w, r)
		defer conn.Close()
		io.WriteString(conn, `{"progress":{"stage":"apply"}}`+"\n")
		_, err := conn.Read(make([]byte, 1))
		gone <- err
	})
	ctx, cancel := context.WithCancel(t.Context())
	_, err := c.Connect(ctx, Connect{Target: coordinator.Target{Workspace: "dev"}, Progress: func(coordinator.Progress) { cancel() }})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	select {
	case <-gone:
	case <-time.After(10 * time.Second):
		t.Error("the server is not told")
	}
}

func TestSkipGreeting(t *testing.T) {
	for _, tt := range []struct {
		name, in, rest string
		code           coordinator.Code
	}{
		{"its own", Greeting + "\x00\x00", "\x00\x00", ""},
		{"without CR", agent.SSHVersion + "\nx", "x", ""},
		{"another version", "SSH-2.0-OpenSSH_9.9-Berth_2\r\n", "", coordinator.CodeFailed},
		{"a refusal", `{"ok":false,"error":"not your workspace"}` + "\n", "", coordinator.CodeFailed},
		{"nothing", "", "", coordinator.CodeUnavailable},
		{"half", "SSH-2.0", "", coordinator.CodeUnavailable},
		{"no end", strings.Repeat("x", 1<<16), "", coordinator.CodeFailed},
		{"a refusal without end", strings.Repeat("{", 1<<16), "", coordinator.CodeFailed},
	} {
		r := strings.NewReader(tt.in)
		err := SkipGreeting(r)
		if coordinator.CodeOf(err) != tt.code {
			t.Errorf("%s: %v", tt.name, err)
		}
		if left, _ := io.ReadAll(r); err == nil && string(left) != tt.rest {
			t.Errorf("%s: leaves %q", tt.name, left)
		}
	}
}

func TestDisconnect(t *testing.T) {
	for n := range 40 {
		text := strings.Repeat("x", n)
		p := Disconnect(text)
		length, padding := int(binary.BigEndian.Uint32(p)), int(p[4])
		if len(p)%8 != 0 || length != len(p)-4 || padding < 4 || p[5] != 1 {
			t.Fatalf("%d: %d bytes, length %d, padding %d, message %d", n, len(p), length, padding, p[5])
		}
		payload := p[5 : len(p)-padding]
		if got := payload[9 : len(payload)-4]; string(got) != text || binary.BigEndian.Uint32(payload[5:]) != uint32(n) {
			t.Fatalf("%d: %q", n, got)
		}
	}
}
