package sshd

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
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/crypto/ssh"

	"berth/agent"
	"berth/agent/shell"
)

// The test program is its own sftp and scp, as the agent is.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && (os.Args[1] == "sftp" || os.Args[1] == "scp") {
		os.Exit(Main(os.Args[1:]))
	}
	goleak.VerifyTestMain(m)
}

// A workspace is a server on loopback with an ssh_config for it.
type workspace struct {
	t        *testing.T
	dir      string
	addr     string
	server   *Server
	manifest *agent.Manifest
	ca       ssh.Signer // of users
	key      ssh.Signer // alice's
	home     string
	log      *bytes.Buffer
	header   atomic.Pointer[agent.StreamHeader]
}

// from sets whom the coordinator lets through from now on.
func (w *workspace) from(p agent.Person) {
	w.header.Store(&agent.StreamHeader{Kind: agent.KindSSH, ID: "s1", User: p, Peer: "192.0.2.7:50122", Via: agent.ViaDoor})
}

func newKey(t *testing.T) (ssh.Signer, []byte) {
	t.Helper()
	_, priv, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return toSigner(t, priv)
}

func toSigner(t *testing.T, priv any) (ssh.Signer, []byte) {
	t.Helper()
	block, err := ssh.MarshalPrivateKey(priv, "")
	if err != nil {
		t.Fatal(err)
	}
	s, err := ssh.NewSignerFromKey(priv)
	if err != nil {
		t.Fatal(err)
	}
	return s, pem.EncodeToMemory(block)
}

func line(k ssh.PublicKey) string { return strings.TrimSpace(string(ssh.MarshalAuthorizedKey(k))) }

func certify(t *testing.T, ca ssh.Signer, c *ssh.Certificate) *ssh.Certificate {
	t.Helper()
	if c.ValidBefore == 0 {
		c.ValidBefore = uint64(time.Now().Add(time.Hour).Unix())
	}
	if err := c.SignCert(rand.Reader, ca); err != nil {
		t.Fatal(err)
	}
	return c
}

// serve makes a workspace of alice; edit may change its configuration before it starts.
func serve(t *testing.T, edit ...func(*Config, *workspace)) *workspace {
	t.Helper()
	t.Parallel()
	w := &workspace{t: t, dir: t.TempDir(), home: t.TempDir(), log: new(bytes.Buffer)}
	w.from(agent.Person{ID: "u-alice", Name: "alice"})
	hostCA, _ := newKey(t)
	w.ca, _ = newKey(t)
	var keyPEM []byte
	w.key, keyPEM = newKey(t)
	host, hostPEM := newKey(t)
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	host2, host2PEM := toSigner(t, ec)
	hostKey := func(s ssh.Signer, pem []byte) agent.HostKey {
		c := certify(t, hostCA, &ssh.Certificate{Key: s.PublicKey(), CertType: ssh.HostCert, KeyId: "dev", ValidPrincipals: []string{"dev.berth"}})
		return agent.HostKey{PrivateKey: agent.Secret(pem), Certificate: line(c)}
	}
	w.manifest = &agent.Manifest{
		Workspace: "dev", Suffix: "berth",
		SSH: agent.SSH{
			HostKeys: []agent.HostKey{hostKey(host, hostPEM), hostKey(host2, host2PEM)},
			UserCAs:  []string{line(w.ca.PublicKey())},
			People: []agent.SSHUser{
				{Person: agent.Person{ID: "u-bob", Name: "bob"}, Keys: []string{}},
				{Person: agent.Person{ID: "u-alice", Name: "alice"}, Keys: []string{line(w.key.PublicKey()) + " laptop"}},
			},
		},
	}
	u, err := shell.Current()
	if err != nil {
		t.Fatal(err)
	}
	u.Home, u.Shell = w.home, "/bin/bash"
	cfg := Config{
		Manifest: func() *agent.Manifest { return w.manifest }, User: u,
		Env:         func() []string { return []string{"PATH=" + os.Getenv("PATH"), "FROM_WORKSPACE=1"} },
		AgentSocket: "/run/berth/agent.sock",
		Logger:      slog.New(slog.NewTextHandler(&locked{w: w.log}, &slog.HandlerOptions{Level: slog.LevelDebug})),
	}
	for _, f := range edit {
		f(&cfg, w)
	}
	if w.server, err = New(cfg); err != nil {
		t.Fatal(err)
	}
	w.listen()
	w.write("id", keyPEM)
	w.write("known_hosts", []byte("@cert-authority *.berth "+line(hostCA.PublicKey())+"\n"))
	w.config("id")
	return w
}

// locked is a writer for several goroutines.
type locked struct {
	mu sync.Mutex
	w  io.Writer
}

func (l *locked) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.w.Write(b)
}

func (w *workspace) listen() {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		w.t.Fatal(err)
	}
	w.addr = l.Addr().String()
	var conns sync.WaitGroup
	conns.Go(func() {
		for {
			nc, err := l.Accept()
			if err != nil {
				return
			}
			conns.Go(func() { _ = w.server.ServeConn(nc, *w.header.Load()) })
		}
	})
	w.t.Cleanup(func() {
		l.Close()
		w.server.Close()
		conns.Wait()
		w.server.Wait()
		if w.t.Failed() {
			w.t.Logf("log:\n%s", w.log)
		}
	})
}

func (w *workspace) write(name string, b []byte) string {
	w.t.Helper()
	p := filepath.Join(w.dir, name)
	if err := os.WriteFile(p, b, 0o600); err != nil {
		w.t.Fatal(err)
	}
	return p
}

func (w *workspace) config(identities ...string) {
	w.t.Helper()
	host, port, err := net.SplitHostPort(w.addr)
	if err != nil {
		w.t.Fatal(err)
	}
	c := fmt.Sprintf("Host dev.berth\n HostName %s\n HostKeyAlias dev.berth\n Port %s\n User whoever\n StrictHostKeyChecking yes\n"+
		" UserKnownHostsFile %s/known_hosts\n GlobalKnownHostsFile /dev/null\n IdentitiesOnly yes\n IdentityAgent none\n"+
		" BatchMode yes\n ConnectTimeout 10\n PreferredAuthentications publickey\n", host, port, w.dir)
	for _, id := range identities {
		c += fmt.Sprintf(" IdentityFile %s/%s\n", w.dir, id)
	}
	w.write("config", []byte(c))
}

// command makes a client's command with the workspace's ssh_config, which ends with the test's time.
func (w *workspace) command(name string, args ...string) *exec.Cmd {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	w.t.Cleanup(cancel)
	cmd := exec.CommandContext(ctx, name, append([]string{"-F", filepath.Join(w.dir, "config")}, args...)...)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + w.dir, "TERM=xterm-256color", "LC_ALL=C"}
	cmd.WaitDelay = 5 * time.Second
	return cmd
}

// ssh runs a remote command and returns what came of it.
func (w *workspace) ssh(stdin io.Reader, args ...string) (stdout, stderr string, code int) {
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

// dial connects with the Go client, which says what OpenSSH hides.
func (w *workspace) dial(auth ...ssh.AuthMethod) (*ssh.Client, error) {
	w.t.Helper()
	c, err := ssh.Dial("tcp", w.addr, &ssh.ClientConfig{
		User: "anybody", Auth: auth, Timeout: 10 * time.Second,
		HostKeyCallback: func(string, net.Addr, ssh.PublicKey) error { return nil },
	})
	if err == nil {
		w.t.Cleanup(func() { c.Close() })
	}
	return c, err
}

func (w *workspace) client() *ssh.Client {
	w.t.Helper()
	c, err := w.dial(ssh.PublicKeys(w.key))
	if err != nil {
		w.t.Fatal(err)
	}
	return c
}

// eventually waits until ok, and fails the test if that does not come.
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

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}
