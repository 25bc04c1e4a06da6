package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"
	"golang.org/x/crypto/ssh/knownhosts"

	"berth/cli/client"
	"berth/coordinator"
	"berth/coordinator/rest"
)

const (
	handshakeTime = 30 * time.Second // for the key exchange and the authentication, once the stream is open
	aliveInterval = 15 * time.Second // between two keep-alives; they count as no activity
	alivePatience = 45 * time.Second // without an answer to one, before the connection is given up
	maxOffers     = 20               // keys: more of them end a login
)

// A passage is the way of an SSH connection that berth opens itself, end to end, into one workspace: the same stream,
// keys and host key check as stock ssh has by the generated configuration, and no ssh program.
type passage struct {
	a      *app
	client *client.Client
	target coordinator.Target
	facts  rest.Server
	owner  string
	alias  string // the long host name that the host key is certified for
	check  ssh.HostKeyCallback
	shown  ssh.PublicKey // the host key of the last connection
}

// passage looks a workspace up and fetches what its host key is checked against.
func (a *app) passage(ctx context.Context, name string) (*passage, error) {
	c, srv, err := a.client()
	if err != nil {
		return nil, err
	}
	p := &passage{a: a, client: c}
	if p.target, err = a.target(ctx, c, srv, name); err != nil {
		return nil, err
	}
	if p.facts, err = c.Server(ctx); err != nil {
		return nil, err
	}
	w, err := c.Workspace(ctx, p.target)
	if err != nil {
		return nil, err
	}
	p.owner = w.Owner
	p.alias = coordinator.Target{Workspace: w.Name}.HostName(w.Owner, p.facts.Suffix)
	if err := a.writeKnownHosts(p.facts); err != nil {
		return nil, err
	}
	known, err := a.path(knownHostsFile)
	if err != nil {
		return nil, err
	}
	if p.check, err = knownhosts.New(known); err != nil {
		return nil, fmt.Errorf("read %s: %w", known, err)
	}
	return p, nil
}

// open opens an SSH connection, with progress where a stopped workspace has to start first. The caller closes it.
func (p *passage) open(ctx context.Context, noStart bool) (*ssh.Client, error) {
	show := p.a.progress(p.target.String()+": ", hesitate)
	defer show.stop()
	build := 0
	s, err := p.client.Connect(ctx, client.Connect{Target: p.target, NoStart: noStart, Progress: func(now coordinator.Progress) {
		build = max(build, now.Build)
		show.set(now)
	}})
	if err != nil {
		return nil, interrupted(coordinator.Target{Owner: p.target.Owner, Workspace: p.target.Workspace}, build, err)
	}
	c, err := p.shake(ctx, s)
	if err != nil {
		_ = s.Close() // given up
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		return nil, err
	}
	return c, nil
}

// shake makes an SSH connection of a stream.
func (p *passage) shake(ctx context.Context, s *client.Stream) (*ssh.Client, error) {
	stop := context.AfterFunc(ctx, func() { _ = s.Close() })
	defer stop()
	if err := s.SetDeadline(time.Now().Add(handshakeTime)); err != nil {
		return nil, fmt.Errorf("set deadline: %w", err)
	}
	// The workspace's own greeting, or its refusal, which would be skipped silently otherwise.
	if err := client.SkipGreeting(s); err != nil {
		return nil, err
	}
	signers, end := p.a.identities()
	defer end()
	var hostKey error // what is wrong with it
	config := &ssh.ClientConfig{
		User: "berth", // the login name means nothing
		Auth: []ssh.AuthMethod{ssh.PublicKeys(signers...)},
		HostKeyCallback: func(host string, remote net.Addr, key ssh.PublicKey) error {
			p.shown, hostKey = key, p.check(host, remote, key)
			return hostKey
		},
		HostKeyAlgorithms: []string{ssh.CertAlgoED25519v01, ssh.CertAlgoECDSA256v01},
	}
	conn, chans, reqs, err := ssh.NewClientConn(&greetedStream{Stream: s, head: strings.NewReader(client.Greeting)}, net.JoinHostPort(p.alias, "22"), config)
	if err != nil {
		return nil, p.explain(err, hostKey, len(signers))
	}
	if err := s.SetDeadline(time.Time{}); err != nil {
		return nil, errors.Join(fmt.Errorf("set deadline: %w", err), conn.Close())
	}
	return ssh.NewClient(conn, chans, reqs), nil
}

// explain says what to do about a handshake that failed.
func (p *passage) explain(err, hostKey error, keys int) error {
	switch text := err.Error(); {
	case hostKey != nil, strings.Contains(text, "no common algorithm for host key"):
		return coordinator.Errorf(coordinator.CodeFailed, "the host key of %s is not certified by this installation", p.alias).
			WithHint("somebody may be in between; berth doctor " + p.target.String() + " looks closer").WithCause(err)
	case strings.Contains(text, "unable to authenticate") && keys == 0:
		return coordinator.Errorf(coordinator.CodeDenied, "there is no key on this machine to enter %s with", p.target).
			WithHint("berth login makes one")
	case strings.Contains(text, "unable to authenticate"):
		return coordinator.Errorf(coordinator.CodeDenied, "%s accepts none of this machine's keys", p.target).
			WithHint("berth login registers one")
	}
	return coordinator.Errorf(coordinator.CodeUnavailable, "the connection to %s was lost while it began", p.target).
		WithHint("try again in a moment").WithCause(err)
}

// greetedStream is a stream whose greeting has been read already.
type greetedStream struct {
	*client.Stream
	head *strings.Reader
}

// Read reads the greeting, then the stream.
func (g *greetedStream) Read(p []byte) (int, error) {
	if g.head.Len() > 0 {
		return g.head.Read(p)
	}
	return g.Stream.Read(p)
}

// identities are the keys to enter with: the device key alone, where there is one; else those of the ssh-agent and the
// usual files without a passphrase, as ssh would offer them.
func (a *app) identities() ([]ssh.Signer, func()) {
	none := func() {}
	if path, err := a.path(identityFile); err == nil {
		if s := readSigner(path); s != nil {
			return []ssh.Signer{s}, none
		}
	}
	var signers []ssh.Signer
	end := none
	if socket := a.env("SSH_AUTH_SOCK"); socket != "" {
		if conn, err := net.Dial("unix", socket); err == nil {
			end = func() { _ = conn.Close() } // only talked to
			signers, _ = agent.NewClient(conn).Signers()
		}
	}
	if home, err := os.UserHomeDir(); err == nil {
		for _, name := range []string{"id_ed25519", "id_ecdsa", "id_rsa"} {
			if s := readSigner(filepath.Join(home, ".ssh", name)); s != nil {
				signers = append(signers, s)
			}
		}
	}
	return signers[:min(len(signers), maxOffers)], end
}

// readSigner reads a private key without a passphrase; nil if there is none.
func readSigner(path string) ssh.Signer {
	text, err := readSmall(path)
	if err != nil || text == "" {
		return nil
	}
	s, err := ssh.ParsePrivateKey([]byte(text))
	if err != nil {
		return nil
	}
	return s
}

// hold keeps a connection alive until it is lost, or ctx ends it. It returns once the connection has ended.
func hold(ctx context.Context, c *ssh.Client) {
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = c.Wait() // why it ended is not told by a lost network
	}()
	defer func() {
		_ = c.Close() // perhaps again
		<-ended
	}()
	t := time.NewTicker(aliveInterval)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ended:
			return
		case <-t.C:
			if !alive(ctx, c, alivePatience) {
				return
			}
		}
	}
}

// alive asks the other side for an answer.
func alive(ctx context.Context, c *ssh.Client, patience time.Duration) bool {
	answered := make(chan error, 1)
	go func() {
		_, _, err := c.SendRequest("keepalive@openssh.com", true, nil)
		answered <- err // also once the connection is closed
	}()
	t := time.NewTimer(patience)
	defer t.Stop()
	select {
	case err := <-answered:
		return err == nil
	case <-t.C:
	case <-ctx.Done():
	}
	return false
}

// closeWriter is a connection that can end one direction.
type closeWriter interface {
	io.ReadWriteCloser
	CloseWrite() error
}
