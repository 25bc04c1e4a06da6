package main

import (
	"crypto/ed25519"
	"encoding/pem"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/crypto/ssh"

	"berth/agent"
	"berth/agent/shell"
	"berth/agent/sshd"
)

// straightAgent serves the agent's SSH server on loopback in this process, and returns an ssh_config for the host
// straight.
func (b *bed) straightAgent() (config string, stop func(), err error) {
	_, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		return "", nil, err
	}
	block, err := ssh.MarshalPrivateKey(private, "")
	if err != nil {
		return "", nil, err
	}
	host, err := ssh.NewSignerFromSigner(private)
	if err != nil {
		return "", nil, err
	}
	identity := filepath.Join(b.dir, "cli", "id_ed25519")
	public, err := os.ReadFile(identity + ".pub")
	if err != nil {
		return "", nil, err
	}
	me := agent.Person{ID: "bench", Name: "bench"}
	m := &agent.Manifest{Workspace: "straight", SSH: agent.SSH{
		HostKeys: []agent.HostKey{{PrivateKey: agent.Secret(pem.EncodeToMemory(block))}},
		People:   []agent.SSHUser{{Person: me, Keys: []string{strings.TrimSpace(string(public))}}},
	}}
	u, err := shell.Current()
	if err != nil {
		return "", nil, err
	}
	u.Shell = "/bin/sh" // as the bare server: what the user's own shell reads at its start is not the server's
	srv, err := sshd.New(sshd.Config{
		Manifest: func() *agent.Manifest { return m }, User: u, Env: func() []string { return []string{"PATH=" + os.Getenv("PATH")} },
		Exe: filepath.Join(b.bin, "berth-agent"),
	})
	if err != nil {
		return "", nil, err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", nil, err
	}
	go func() { // until the listener is closed
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				_ = srv.ServeConn(c, agent.StreamHeader{Kind: agent.KindSSH, ID: "b", User: me, Via: agent.ViaDoor, Peer: "127.0.0.1:1"})
			}()
		}
	}()
	dir := filepath.Join(b.dir, "straight")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", nil, err
	}
	known := filepath.Join(dir, "known_hosts")
	if err := os.WriteFile(known, fmt.Appendf(nil, "straight %s", ssh.MarshalAuthorizedKey(host.PublicKey())), 0o600); err != nil {
		return "", nil, err
	}
	addr, port, err := net.SplitHostPort(l.Addr().String())
	if err != nil {
		return "", nil, err
	}
	config = filepath.Join(dir, "ssh_config")
	text := fmt.Sprintf("Host straight\n  HostName %s\n  Port %s\n  HostKeyAlias straight\n  UserKnownHostsFile %s\n  IdentityFile %s\n  IdentitiesOnly yes\n", addr, port, known, identity)
	return config, func() { _ = l.Close(); srv.Close() }, os.WriteFile(config, []byte(text), 0o600)
}
