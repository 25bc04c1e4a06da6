package link

import (
	"bufio"
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/yamux"
	"go.uber.org/goleak"

	"berth/agent"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const testToken = "ba1_wsabc_agent1_c2lnbmF0dXJl_x"

// A double is a coordinator as far as a link sees one: the handshake, yamux, manifests and the control stream.
type double struct {
	t      *testing.T
	server *httptest.Server

	mu       sync.Mutex
	answer   func(w http.ResponseWriter, r *http.Request) bool // answers instead of linking
	manifest agent.Manifest

	links chan *doubleLink
}

// A doubleLink is one link as the double sees it.
type doubleLink struct {
	instance string
	mux      *yamux.Session
	control  net.Conn
	messages chan agent.Message
}

func newDouble(t *testing.T, tls bool) *double {
	d := &double{t: t, links: make(chan *doubleLink, 16)}
	d.manifest = agent.Manifest{Workspace: "dev", StartBuild: "b1"}
	d.server = httptest.NewUnstartedServer(http.HandlerFunc(d.serve))
	if tls {
		d.server.StartTLS()
	} else {
		d.server.Start()
	}
	t.Cleanup(d.server.Close)
	return d
}

func (d *double) set(answer func(w http.ResponseWriter, r *http.Request) bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.answer = answer
}

func (d *double) serve(w http.ResponseWriter, r *http.Request) {
	d.mu.Lock()
	answer := d.answer
	d.mu.Unlock()
	if answer != nil && answer(w, r) {
		return
	}
	if r.URL.Path != agent.LinkPath || r.Header.Get("Upgrade") != agent.LinkUpgrade ||
		r.Header.Get("Authorization") != "Bearer "+testToken || len(r.Header.Get(agent.HeaderInstance)) != 32 {
		d.t.Errorf("unexpected request %s %v", r.URL, r.Header)
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	nonce, instance := r.Header.Get(agent.HeaderNonce), r.Header.Get(agent.HeaderInstance)
	if nonce == "" {
		w.Header().Set(agent.HeaderCode, agent.CodeChallenge)
		w.Header().Set(agent.HeaderNonce, "nonce-of-this-test")
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	key, _ := base64.StdEncoding.DecodeString(r.Header.Get(agent.HeaderKey))
	sig, _ := base64.StdEncoding.DecodeString(r.Header.Get(agent.HeaderSignature))
	if !agent.VerifyLink(key, sig, "nonce-of-this-test", "wsabc", instance) {
		d.t.Error("the signature does not verify")
		w.WriteHeader(http.StatusForbidden)
		return
	}
	conn, rw, err := w.(http.Hijacker).Hijack()
	if err != nil {
		d.t.Error(err)
		return
	}
	rw.WriteString("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: " + agent.LinkUpgrade + "\r\n\r\n")
	rw.Flush()
	d.link(instance, conn, rw.Reader)
}

type readConn struct {
	net.Conn
	r *bufio.Reader
}

func (c readConn) Read(b []byte) (int, error) { return c.r.Read(b) }

func (d *double) link(instance string, conn net.Conn, r *bufio.Reader) {
	config := yamux.DefaultConfig()
	config.EnableKeepAlive = false
	config.LogOutput = io.Discard
	config.MaxStreamWindowSize = agent.MaxWindow
	mux, err := yamux.Server(readConn{conn, r}, config)
	if err != nil {
		d.t.Error(err)
		return
	}
	defer mux.Close()
	l := &doubleLink{instance: instance, mux: mux, messages: make(chan agent.Message, 1024)}
	for {
		st, err := mux.AcceptStream()
		if err != nil {
			return
		}
		var hdr agent.StreamHeader
		if err := agent.ReadLine(st, &hdr, agent.MaxStreamHeader); err != nil {
			st.Close()
			continue
		}
		switch hdr.Kind {
		case agent.KindControl:
			l.control = st
			d.links <- l
			go l.read(st)
		case agent.KindManifest:
			d.mu.Lock()
			m := d.manifest
			d.mu.Unlock()
			agent.WriteManifest(st, &m)
			st.Close()
		}
	}
}

func (l *doubleLink) read(st net.Conn) {
	defer close(l.messages)
	r := agent.NewMessageReader(st, agent.MaxControlMessage)
	for {
		var m agent.Message
		if r.Next(&m) != nil {
			st.Close()
			return
		}
		l.messages <- m
	}
}

// next returns the next message of one of the types.
func (l *doubleLink) next(t *testing.T, types ...string) agent.Message {
	t.Helper()
	limit := time.After(5 * time.Second)
	for {
		select {
		case m, ok := <-l.messages:
			if !ok {
				t.Fatalf("control stream ended while waiting for %v", types)
			}
			for _, want := range types {
				if m.Type == want {
					return m
				}
			}
		case <-limit:
			t.Fatalf("no message of types %v", types)
		}
	}
}

func (d *double) next(t *testing.T) *doubleLink {
	t.Helper()
	select {
	case l := <-d.links:
		return l
	case <-time.After(5 * time.Second):
		t.Fatal("no link")
		return nil
	}
}

// An agentRun is a Run under test.
type agentRun struct {
	outbox    *Outbox
	manifests chan *agent.Manifest
	notices   chan string
	stop      context.CancelFunc
	err       chan error
}

func testKey() ed25519.PrivateKey { return ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize)) }

func runAgent(t *testing.T, url string, change func(*Config)) *agentRun {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	a := &agentRun{
		outbox: NewOutbox(), manifests: make(chan *agent.Manifest, 16), notices: make(chan string, 4),
		stop: cancel, err: make(chan error, 1),
	}
	c := Config{
		URL: url, Token: testToken, Key: testKey(), Version: "test", Outbox: a.outbox,
		OnStream:     echo,
		OnManifest:   func(m *agent.Manifest) { a.manifests <- m },
		OnStopNotice: func(text string) { a.notices <- text },
	}
	if change != nil {
		change(&c)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		a.err <- Run(ctx, c)
	}()
	t.Cleanup(func() {
		cancel()
		select {
		case <-done:
		case <-time.After(10 * time.Second):
			t.Error("Run does not return")
		}
	})
	return a
}

// echo answers a stream with its header's id, then with what it reads, then with an end.
func echo(_ context.Context, conn net.Conn, hdr agent.StreamHeader) {
	io.WriteString(conn, hdr.ID+"\n")
	io.Copy(conn, conn)
	conn.(interface{ CloseWrite() error }).CloseWrite()
	conn.Close()
}

func (a *agentRun) manifest(t *testing.T) *agent.Manifest {
	t.Helper()
	select {
	case m := <-a.manifests:
		return m
	case <-time.After(5 * time.Second):
		t.Fatal("no manifest")
		return nil
	}
}

var errTest = errors.New("test")
