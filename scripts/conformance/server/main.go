// Command server serves the agent's SSH server on loopback, without a coordinator, for scripts/conformance.
//
//	server --dir DIR --key FILE [--listen 127.0.0.1:0]
//
// It runs as the user who starts it, lets in who holds the key, and writes DIR/ssh_config, with the host dev.berth, once
// it can be reached. SIGTERM ends it.
package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"runtime/debug"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/crypto/ssh"

	"berth/agent"
	"berth/agent/keyring"
	"berth/agent/shell"
	"berth/agent/sshd"
)

var owner = agent.Person{ID: "conformance", Name: "conformance"}

func main() {
	if len(os.Args) > 1 && (os.Args[1] == "sftp" || os.Args[1] == "scp") {
		os.Exit(sshd.Main(os.Args[1:])) // the server starts itself for these, as the agent does
	}
	dir := flag.String("dir", "", "where ssh_config, known_hosts and the agent's socket go")
	key := flag.String("key", "", "public key of the user, in authorized_keys form")
	listen := flag.String("listen", "127.0.0.1:0", "address")
	flag.Parse()
	ctx, cancel := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer cancel()
	debug.SetGCPercent(200) // as the agent while it serves
	if err := run(ctx, *dir, *key, *listen); err != nil {
		fmt.Fprintln(os.Stderr, "server:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, dir, key, listen string) error {
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	public, err := os.ReadFile(key)
	if err != nil {
		return err
	}
	m, known, err := manifest(strings.TrimSpace(string(public)))
	if err != nil {
		return err
	}
	socket := filepath.Join(dir, "ssh-agent.sock")
	agentSocket, err := net.ListenUnix("unix", &net.UnixAddr{Name: socket, Net: "unix"})
	if err != nil {
		return err
	}
	keys := keyring.New(log)
	var parts sync.WaitGroup
	defer parts.Wait()
	parts.Go(func() { _ = keys.Serve(ctx, agentSocket) })
	user, err := shell.Current()
	if err != nil {
		return err
	}
	env, _, err := shell.Login(ctx, user, os.Environ(), 0)
	if err != nil {
		log.Warn("the profile is left out", "error", err)
	}
	srv, err := sshd.New(sshd.Config{
		Manifest: func() *agent.Manifest { return m }, User: user, Env: func() []string { return env }, AgentSocket: socket, Logger: log,
		ForwardAgent: func(open func() (io.ReadWriteCloser, error)) (stop func()) { return keys.Forward(open) },
	})
	if err != nil {
		return err
	}
	l, err := net.Listen("tcp", listen)
	if err != nil {
		return err
	}
	if err := writeConfig(dir, l.Addr().String(), known); err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { l.Close(); srv.Close() })
	defer stop()
	return serve(l, srv)
}

// serve serves each connection as the coordinator would hand it over.
func serve(l net.Listener, srv *sshd.Server) error {
	var conns sync.WaitGroup
	defer conns.Wait()
	for {
		c, err := l.Accept()
		if errors.Is(err, net.ErrClosed) {
			return nil
		}
		if err != nil {
			return err
		}
		hdr := agent.StreamHeader{Kind: agent.KindSSH, ID: "1", User: owner, Peer: c.RemoteAddr().String(), Via: agent.ViaConnect}
		conns.Go(func() { _ = srv.ServeConn(c, hdr) }) // logged by the server
	}
}

// manifest is that of a workspace whose owner has one key; known holds lines for known_hosts, without the host.
func manifest(public string) (m *agent.Manifest, known []string, err error) {
	_, ed, err := ed25519.GenerateKey(nil)
	if err != nil {
		return nil, nil, err
	}
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	m = &agent.Manifest{
		Workspace: "dev", Suffix: "berth", Owner: agent.Owner{ID: owner.ID, Name: owner.Name},
		SSH: agent.SSH{People: []agent.SSHUser{{Person: owner, Keys: []string{public}}}},
	}
	for _, private := range []any{ed, ec} {
		block, err := ssh.MarshalPrivateKey(private, "")
		if err != nil {
			return nil, nil, err
		}
		signer, err := ssh.NewSignerFromKey(private)
		if err != nil {
			return nil, nil, err
		}
		m.SSH.HostKeys = append(m.SSH.HostKeys, agent.HostKey{PrivateKey: agent.Secret(pem.EncodeToMemory(block))})
		known = append(known, string(ssh.MarshalAuthorizedKey(signer.PublicKey())))
	}
	return m, known, nil
}

func writeConfig(dir, addr string, known []string) error {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return err
	}
	path := filepath.Join(dir, "known_hosts")
	var lines strings.Builder
	for _, k := range known {
		fmt.Fprintf(&lines, "[%s]:%s %s", host, port, k)
	}
	if err := os.WriteFile(path, []byte(lines.String()), 0o600); err != nil {
		return err
	}
	user, err := shell.Current()
	if err != nil {
		return err
	}
	text := fmt.Sprintf("Host dev.berth\n\tHostName %s\n\tPort %s\n\tUser %s\n\tIdentitiesOnly yes\n\tUserKnownHostsFile %s\n", host, port, user.Name, path)
	tmp := filepath.Join(dir, "ssh_config.new")
	if err := os.WriteFile(tmp, []byte(text), 0o600); err != nil {
		return err
	}
	return os.Rename(tmp, filepath.Join(dir, "ssh_config")) // whole at once: its appearance is the sign
}
