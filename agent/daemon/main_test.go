package daemon

import (
	"bufio"
	"bytes"
	"crypto/ed25519"
	"encoding/pem"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/yamux"
	"go.uber.org/goleak"
	"golang.org/x/crypto/ssh"

	"berth/agent"
)

// TestMain makes the test's program an agent where it is started as one.
func TestMain(m *testing.M) {
	if file := os.Getenv("BERTH_TEST_PANICS"); file != "" && slices.Contains(os.Args, "--worker") {
		if f, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600); err == nil {
			f.WriteString("x")
			f.Close()
		}
		panic("as the test asked")
	}
	if os.Getenv("BERTH_TEST_AGENT") != "" || len(os.Args) > 1 && os.Args[1] == "sftp" {
		os.Exit(Main(os.Args[1:]))
	}
	syscall.Umask(0o022)
	goleak.VerifyTestMain(m)
}

const testToken = "ba1_wsabc_agent1_c2lnbmF0dXJl"

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func newKey(t *testing.T) (pemText agent.Secret, signer ssh.Signer, line string) {
	t.Helper()
	_, private, err := ed25519.GenerateKey(nil)
	must(t, err)
	block, err := ssh.MarshalPrivateKey(private, "")
	must(t, err)
	signer, err = ssh.NewSignerFromSigner(private)
	must(t, err)
	line = strings.TrimSpace(string(ssh.MarshalAuthorizedKey(signer.PublicKey())))
	return agent.Secret(pem.EncodeToMemory(block)), signer, line
}

// A bed is a coordinator's double and what an agent of it needs.
type bed struct {
	t        *testing.T
	dir      string // others may pass through it
	home     string
	server   *httptest.Server
	links    chan *bedLink
	person   ssh.Signer
	host     ssh.PublicKey
	manifest agent.Manifest // set before an agent starts

	mu     sync.Mutex
	served agent.Manifest // guarded by mu: what manifest was when an agent was started
	refuse int            // guarded by mu: status of every answer, if not 0
	asked  int            // guarded by mu: requests that were refused
	code   string
}

type bedLink struct {
	ides    chan []agent.IDEServer
	mux     *yamux.Session
	goodbye chan struct{}
	ready   chan struct{}
}

func newBed(t *testing.T) *bed {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "berth-daemon-")
	must(t, err)
	must(t, os.Chmod(dir, 0o755))
	t.Cleanup(func() { os.RemoveAll(dir) })
	b := &bed{t: t, dir: dir, home: filepath.Join(dir, "home"), links: make(chan *bedLink, 16)}
	must(t, os.Mkdir(b.home, 0o755))
	hostPEM, hostSigner, _ := newKey(t)
	gitPEM, _, gitLine := newKey(t)
	_, person, personLine := newKey(t)
	b.person, b.host = person, hostSigner.PublicKey()
	b.server = httptest.NewServer(http.HandlerFunc(b.serve))
	t.Cleanup(b.server.Close)
	b.manifest = agent.Manifest{
		Workspace: "dev", WorkspaceID: "wsabc", StartBuild: "b1", URL: b.server.URL, Suffix: "berth", Token: "bt1_narrow",
		Owner: agent.Owner{ID: "u1", Name: "alice", FullName: "Alice", Email: "alice@example.com"},
		Agent: agent.AgentSpec{ID: "agent1", Name: "main"},
		SSH: agent.SSH{
			HostKeys: []agent.HostKey{{PrivateKey: hostPEM}},
			People:   []agent.SSHUser{{Person: agent.Person{ID: "u1", Name: "alice"}, Keys: []string{personLine}}},
		},
		Git: agent.Git{PrivateKey: gitPEM, PublicKey: gitLine},
	}
	return b
}

// setRefuse makes the double answer with a status, or link again with 0.
func (b *bed) setRefuse(status int, code string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.refuse, b.code, b.asked = status, code, 0
}

func (b *bed) refused() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.asked
}

func (b *bed) serve(w http.ResponseWriter, r *http.Request) {
	b.mu.Lock()
	status, code := b.refuse, b.code
	if status != 0 {
		b.asked++
	}
	b.mu.Unlock()
	switch {
	case status != 0:
		w.Header().Set(agent.HeaderCode, code)
		w.WriteHeader(status)
		return
	case r.Header.Get(agent.HeaderNonce) == "":
		w.Header().Set(agent.HeaderCode, agent.CodeChallenge)
		w.Header().Set(agent.HeaderNonce, "n")
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	conn, rw, err := w.(http.Hijacker).Hijack()
	if err != nil {
		b.t.Error(err)
		return
	}
	rw.WriteString("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: " + agent.LinkUpgrade + "\r\n\r\n")
	rw.Flush()
	b.link(conn, rw.Reader)
}

type readConn struct {
	net.Conn
	r *bufio.Reader
}

func (c readConn) Read(p []byte) (int, error) { return c.r.Read(p) }

func (b *bed) link(conn net.Conn, r *bufio.Reader) {
	config := yamux.DefaultConfig()
	config.EnableKeepAlive = false
	config.LogOutput = io.Discard
	mux, err := yamux.Server(readConn{conn, r}, config)
	if err != nil {
		b.t.Error(err)
		return
	}
	defer mux.Close()
	l := &bedLink{mux: mux, goodbye: make(chan struct{}), ready: make(chan struct{}), ides: make(chan []agent.IDEServer, 64)}
	for {
		st, err := mux.AcceptStream()
		if err != nil {
			return
		}
		var hdr agent.StreamHeader
		if agent.ReadLine(st, &hdr, agent.MaxStreamHeader) != nil {
			st.Close()
			continue
		}
		switch hdr.Kind {
		case agent.KindControl:
			b.links <- l
			go l.read(st)
		case agent.KindManifest:
			b.mu.Lock()
			m := b.served
			b.mu.Unlock()
			agent.WriteManifest(st, &m)
			st.Close()
		}
	}
}

func (l *bedLink) read(st net.Conn) {
	defer st.Close()
	r := agent.NewMessageReader(st, agent.MaxControlMessage)
	for {
		var m agent.Message
		if r.Next(&m) != nil {
			return
		}
		switch m.Type {
		case agent.TypeGoodbye:
			close(l.goodbye)
		case agent.TypeReady:
			close(l.ready)
		case agent.TypeIDEs:
			l.ides <- m.IDEs
		}
	}
}

func (b *bed) next() *bedLink {
	b.t.Helper()
	select {
	case l := <-b.links:
		return l
	case <-time.After(20 * time.Second):
		b.t.Fatal("no link")
		return nil
	}
}

func await(t *testing.T, what string, ch <-chan struct{}) {
	t.Helper()
	select {
	case <-ch:
	case <-time.After(20 * time.Second):
		t.Fatalf("not in time: %s", what)
	}
}

func poll(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for limit := time.Now().Add(20 * time.Second); !ok(); {
		if time.Now().After(limit) {
			t.Fatalf("not in time: %s", what)
		}
		<-time.After(20 * time.Millisecond)
	}
}

// command is an agent that has not been started.
func (b *bed) command(wrap []string, args ...string) *exec.Cmd {
	exe, err := os.Executable()
	must(b.t, err)
	argv := append(append(wrap, exe), args...)
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Env = []string{
		"BERTH_TEST_AGENT=1", "GORACE=atexit_sleep_ms=0", "PATH=" + os.Getenv("PATH"), "HOME=" + b.home, "GOCOVERDIR=" + b.t.TempDir(),
		agent.EnvURL + "=" + b.server.URL, agent.EnvToken + "=" + testToken,
		agent.EnvRuntimeDir + "=" + filepath.Join(b.dir, "run"), agent.EnvCoderDir + "=" + filepath.Join(b.dir, "coder"),
	}
	return cmd
}

// ordinary is an agent of an ordinary user, which has not been started.
func (b *bed) ordinary(uid uint32) *exec.Cmd {
	b.t.Helper()
	cmd := b.command(nil)
	if os.Geteuid() != 0 {
		return cmd
	}
	must(b.t, os.Chown(b.dir, int(uid), int(uid)))
	must(b.t, os.Chown(b.home, int(uid), int(uid)))
	exe, err := os.ReadFile("/proc/self/exe")
	must(b.t, err)
	must(b.t, os.WriteFile(b.dir+"/agent", exe, 0o755))
	cmd.Path, cmd.Args = b.dir+"/agent", []string{"agent"}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
	return cmd
}

// A process is an agent that runs.
type process struct {
	*exec.Cmd
	t    *testing.T
	log  bytes.Buffer // read after the end
	done chan struct{}
}

func (b *bed) start(wrap []string, args ...string) *process {
	b.t.Helper()
	return b.run(b.command(wrap, args...))
}

func (b *bed) run(cmd *exec.Cmd) *process {
	b.t.Helper()
	b.mu.Lock()
	b.served = b.manifest
	b.mu.Unlock()
	p := &process{Cmd: cmd, t: b.t, done: make(chan struct{})}
	cmd.Stderr = &p.log
	cmd.WaitDelay = 3 * time.Second // what a killed agent left behind holds the log
	must(b.t, cmd.Start())
	go func() {
		defer close(p.done)
		_ = cmd.Wait()
	}()
	b.t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		select {
		case <-p.done:
		case <-time.After(5 * time.Second):
			_ = cmd.Process.Kill()
			<-p.done
		}
		if b.t.Failed() {
			b.t.Logf("the agent's log:\n%s", p.log.String())
		}
		if strings.Contains(p.log.String(), testToken) || strings.Contains(p.log.String(), "PRIVATE KEY") {
			b.t.Error("a secret is in the agent's log")
		}
	})
	return p
}

// ssh logs in over a stream of a link.
func (b *bed) ssh(l *bedLink) *ssh.Client {
	b.t.Helper()
	st, err := l.mux.OpenStream()
	must(b.t, err)
	hdr := agent.StreamHeader{Kind: agent.KindSSH, ID: "s1", User: agent.Person{ID: "u1", Name: "alice"}, Peer: "192.0.2.7:5", Via: agent.ViaJump}
	must(b.t, agent.WriteLine(st, hdr, agent.MaxStreamHeader))
	conn, chans, reqs, err := ssh.NewClientConn(st, "dev.berth", &ssh.ClientConfig{
		User: "anybody", Auth: []ssh.AuthMethod{ssh.PublicKeys(b.person)}, HostKeyCallback: ssh.FixedHostKey(b.host),
	})
	must(b.t, err)
	client := ssh.NewClient(conn, chans, reqs)
	b.t.Cleanup(func() { client.Close() })
	return client
}

func (b *bed) exec(c *ssh.Client, line string) string {
	b.t.Helper()
	s, err := c.NewSession()
	must(b.t, err)
	defer s.Close()
	out, err := s.CombinedOutput(line)
	if err != nil {
		b.t.Errorf("%s: %v\n%s", line, err, out)
	}
	return string(out)
}
