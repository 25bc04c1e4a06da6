package door

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/crypto/ssh"

	"berth/agent"
	"berth/agent/shell"
	"berth/agent/sshd"
	"berth/coordinator"
	"berth/coordinator/ca"
	"berth/coordinator/entry"
)

// The test program is the agent's sftp, as the agent is.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && (os.Args[1] == "sftp" || os.Args[1] == "scp") {
		os.Exit(sshd.Main(os.Args[1:]))
	}
	goleak.VerifyTestMain(m)
}

// A world is an installation with a real door, a real entry and a real workspace's SSH server, over doubles of store,
// builder and hub.
type world struct {
	t          *testing.T
	dir        string
	addr       string
	door       *Server
	ca         *ca.CA
	hostCA     *ca.CA       // that signs the workspace's host key
	principals []string     // of that
	key        ssh.Signer   // alice's
	plain      []ssh.Signer // the door's host keys
	log        *lockedBuffer

	buildTime time.Duration
	grace     time.Duration
	tune      func(*Server) // of the door, before it serves
	now       func() time.Time
	from      string // where clients seem to come from; empty: loopback, as they do
	buildErr  string // why builds fail; empty: they succeed

	mu       sync.Mutex
	users    map[string]coordinator.User      // by fingerprint
	spaces   map[string]coordinator.Workspace // by name; alice's but for "other"
	builds   []coordinator.Build
	requests int // of builds
	touched  int // keys
	waiting  int // in Enter, for a build
	sessions []coordinator.SessionRecord
	closed   int // sessions
	conns    sync.WaitGroup
	server   *sshd.Server
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(b)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

var (
	alice = coordinator.User{ID: "u-alice", Name: "alice"}
	bob   = coordinator.User{ID: "u-bob", Name: "bob"}
)

func generateKey() (ed25519.PrivateKey, ssh.Signer, error) {
	_, priv, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	s, err := ssh.NewSignerFromKey(priv)
	return priv, s, err
}

func newKey(t *testing.T) (ssh.Signer, []byte) {
	t.Helper()
	priv, s, err := generateKey()
	if err != nil {
		t.Fatal(err)
	}
	block, err := ssh.MarshalPrivateKey(priv, "")
	if err != nil {
		t.Fatal(err)
	}
	return s, pem.EncodeToMemory(block)
}

func hostIdentity(t *testing.T, c *ca.CA, principals ...string) (agent.HostKey, ssh.Signer) {
	t.Helper()
	signer, pem := newKey(t)
	line, err := c.HostCertificate(agent.Secret(pem), "test", principals, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	pub, _, _, _, err := ssh.ParseAuthorizedKey([]byte(line))
	if err != nil {
		t.Fatal(err)
	}
	cert, err := ssh.NewCertSigner(pub.(*ssh.Certificate), signer)
	if err != nil {
		t.Fatal(err)
	}
	return agent.HostKey{PrivateKey: agent.Secret(pem), Certificate: line}, cert
}

// newWorld makes an installation in which alice has the workspace dev, which runs, and stopped, which does not; bob
// has other.
func newWorld(t *testing.T, edit ...func(*world)) *world {
	t.Helper()
	t.Parallel()
	w := &world{
		t: t, dir: t.TempDir(), log: new(lockedBuffer), principals: []string{"dev.berth", "stopped.berth", "dev.alice.berth", "stopped.alice.berth"},
		users: map[string]coordinator.User{},
		spaces: map[string]coordinator.Workspace{
			"dev":     {ID: "w-dev", Name: "dev", OwnerID: alice.ID, OwnerName: "alice"},
			"stopped": {ID: "w-stopped", Name: "stopped", OwnerID: alice.ID, OwnerName: "alice"},
			"other":   {ID: "w-other", Name: "other", OwnerID: bob.ID, OwnerName: "bob"},
		},
		builds: []coordinator.Build{{ID: "b1", WorkspaceID: "w-dev", Number: 1, Transition: coordinator.Start, Status: coordinator.BuildSucceeded, Ended: time.Now()}},
	}
	var err error
	if w.ca, err = ca.New(); err != nil {
		t.Fatal(err)
	}
	w.hostCA = w.ca
	var keyPEM []byte
	w.key, keyPEM = newKey(t)
	w.users[ssh.FingerprintSHA256(w.key.PublicKey())] = alice
	w.write("id", keyPEM)
	for _, f := range edit {
		f(w)
	}
	w.serveWorkspace()
	w.serveDoor()
	return w
}

// serveWorkspace makes the SSH server that every workspace of the world has.
func (w *world) serveWorkspace() {
	host, _ := hostIdentity(w.t, w.hostCA, w.principals...)
	m := &agent.Manifest{SSH: agent.SSH{
		HostKeys: []agent.HostKey{host}, UserCAs: []string{w.ca.UserCALine()},
		People: []agent.SSHUser{{Person: agent.Person{ID: "u-alice", Name: "alice"}, Keys: []string{string(ssh.MarshalAuthorizedKey(w.key.PublicKey()))}}},
	}}
	u, err := shell.Current()
	if err != nil {
		w.t.Fatal(err)
	}
	u.Home, u.Shell = w.t.TempDir(), "/bin/bash"
	w.server, err = sshd.New(sshd.Config{
		Manifest: func() *agent.Manifest { return m }, User: u,
		Env: func() []string { return []string{"PATH=" + os.Getenv("PATH")} },
	})
	if err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) serveDoor() {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		w.t.Fatal(err)
	}
	w.addr = l.Addr().String()
	id, host := hostIdentity(w.t, w.ca, "127.0.0.1")
	ed, err := ssh.ParsePrivateKey([]byte(id.PrivateKey))
	if err != nil {
		w.t.Fatal(err)
	}
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		w.t.Fatal(err)
	}
	ec, err := ssh.NewSignerFromKey(k)
	if err != nil {
		w.t.Fatal(err)
	}
	w.plain = []ssh.Signer{ed, ec}
	e := entry.New(entry.Config{Store: w, Builder: w, Hub: w})
	w.door, err = New(Config{
		Entry: watchedEntry{e, w}, Store: w, Certs: w.ca, HostSigners: append([]ssh.Signer{host}, w.plain...), HostCAs: []string{w.ca.HostCALine()},
		Logger: slog.New(slog.NewTextHandler(w.log, &slog.HandlerOptions{Level: slog.LevelDebug})), Now: w.now,
	})
	if err != nil {
		w.t.Fatal(err)
	}
	if w.grace > 0 {
		w.door.grace = w.grace
	}
	if w.tune != nil {
		w.tune(w.door)
	}
	if w.from != "" {
		l = elsewhere{l, w.from}
	}
	served := make(chan error, 1)
	go func() { served <- w.door.Serve(l) }()
	w.t.Cleanup(func() {
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		_ = w.door.Shutdown(ctx)
		if err := <-served; !errors.Is(err, ErrClosed) {
			w.t.Error("Serve:", err)
		}
		w.server.Close()
		w.conns.Wait()
		w.server.Wait()
		if w.t.Failed() {
			w.t.Logf("log:\n%s", w.log)
		}
	})
	w.write("known_hosts", []byte(ca.KnownHostsLine(w.ca.HostCALine(), "berth", []string{w.addr})+"\n"))
	w.config("id")
}

// config writes the ssh_config that Berth writes for its users.
func (w *world) config(identities ...string) {
	w.t.Helper()
	host, port, err := net.SplitHostPort(w.addr)
	if err != nil {
		w.t.Fatal(err)
	}
	common := fmt.Sprintf(" StrictHostKeyChecking yes\n UserKnownHostsFile %s/known_hosts\n GlobalKnownHostsFile /dev/null\n"+
		" IdentitiesOnly yes\n IdentityAgent none\n BatchMode yes\n ConnectTimeout 5\n", w.dir)
	for _, id := range identities {
		common += fmt.Sprintf(" IdentityFile %s/%s\n", w.dir, id)
	}
	door := fmt.Sprintf("Host door\n HostName %s\n Port %s\n", host, port)
	through := fmt.Sprintf("Host *.berth\n ProxyCommand ssh -F %s/config -W [%%h]:%%p %%n@door\n", w.dir)
	w.write("config", []byte(door+through+"Host *\n"+common))
	w.write("plain", []byte(door+"Host *\n"+common))
}

func (w *world) write(name string, b []byte) string {
	w.t.Helper()
	p := filepath.Join(w.dir, name)
	if err := os.WriteFile(p, b, 0o600); err != nil {
		w.t.Fatal(err)
	}
	return p
}

func (w *world) command(name string, args ...string) *exec.Cmd {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	w.t.Cleanup(cancel)
	cmd := exec.CommandContext(ctx, name, append([]string{"-F", filepath.Join(w.dir, "config")}, args...)...)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + w.dir, "TERM=xterm-256color", "LC_ALL=C"}
	cmd.WaitDelay = 5 * time.Second
	return cmd
}

func (w *world) ssh(stdin io.Reader, args ...string) (stdout, stderr string, code int) {
	w.t.Helper()
	cmd := w.command("ssh", args...)
	var out, errOut bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = stdin, &out, &errOut
	err := cmd.Run()
	var exit *exec.ExitError
	switch {
	case err == nil:
	case errors.As(err, &exit):
		code = exit.ExitCode()
	default:
		w.t.Fatalf("ssh %q: %v (stderr %q)", args, err, errOut.String())
	}
	return out.String(), errOut.String(), code
}

// dial connects with Go's client, which says what OpenSSH hides.
func (w *world) dial(name string, auth ...ssh.AuthMethod) (*ssh.Client, error) {
	w.t.Helper()
	c, err := ssh.Dial("tcp", w.addr, &ssh.ClientConfig{
		User: name, Auth: auth, Timeout: 10 * time.Second,
		HostKeyCallback: func(string, net.Addr, ssh.PublicKey) error { return nil },
	})
	if err == nil {
		w.t.Cleanup(func() { c.Close() })
	}
	return c, err
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); <-tick.C {
		if ok() {
			return
		}
	}
	t.Fatalf("not within 10 s: %s", what)
}

// watchedEntry counts who waits.
type watchedEntry struct {
	*entry.Entry
	w *world
}

func (e watchedEntry) Enter(ctx context.Context, r entry.Request) (*entry.Stream, error) {
	e.w.count(&e.w.waiting, 1)
	defer e.w.count(&e.w.waiting, -1)
	return e.Entry.Enter(ctx, r)
}

func (w *world) count(n *int, by int) {
	w.mu.Lock()
	*n += by
	w.mu.Unlock()
}

func (w *world) get(n *int) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return *n
}

// abroad has clients come from another machine, and the clock stand still, so that no penalty ends on a slow one.
func abroad(w *world) {
	at := time.Now()
	w.from, w.now = "192.0.2.1:1234", func() time.Time { return at }
}

// An elsewhere makes clients seem to come from another address.
type elsewhere struct {
	net.Listener
	addr string
}

type elsewhereConn struct {
	*net.TCPConn
	addr net.Addr
}

func (e elsewhere) Accept() (net.Conn, error) {
	nc, err := e.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return elsewhereConn{nc.(*net.TCPConn), net.TCPAddrFromAddrPort(netip.MustParseAddrPort(e.addr))}, nil
}

func (c elsewhereConn) RemoteAddr() net.Addr { return c.addr }
