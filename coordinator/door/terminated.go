package door

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"

	"berth/agent"
	"berth/coordinator"
	"berth/coordinator/entry"
	"berth/coordinator/sshproxy"
)

const (
	certLife       = 2 * time.Minute  // of the certificate that opens one connection
	handshakeLimit = 20 * time.Second // with the workspace's SSH server
)

// An inside is the door's own connection to a workspace.
type inside struct {
	stream *entry.Stream
	side   sshproxy.Side
}

// connect opens SSH over a stream, in the user's name, and checks that it is this workspace that answers.
func (c *conn) connect(ctx context.Context, stream *entry.Stream, version string) (*inside, error) {
	signer, err := c.door.cfg.Certs.UserSigner(agent.Person{ID: string(c.user.ID), Name: c.user.Name}, c.door.now(), certLife)
	if err != nil {
		return nil, fmt.Errorf("make certificate: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, handshakeLimit)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { stream.Close() })
	defer stop()
	host := coordinator.Target{Workspace: c.ws.Name}.HostName(c.ws.OwnerName, c.door.cfg.Suffix)
	sc, chans, reqs, err := ssh.NewClientConn(stream, host+":22", &ssh.ClientConfig{
		Config:            algorithms,
		User:              c.user.Name,
		Auth:              []ssh.AuthMethod{ssh.PublicKeys(signer)},
		HostKeyCallback:   c.door.hostKeys().CheckHostKey,
		HostKeyAlgorithms: []string{ssh.CertAlgoED25519v01, ssh.CertAlgoECDSA256v01},
		ClientVersion:     version,
	})
	if err != nil {
		c.log.Warn("cannot open ssh to workspace", "workspace", c.ws.Name, "error", err)
		return nil, coordinator.Errorf(coordinator.CodeUnavailable, "the SSH server of workspace %s does not answer as it should: %w", c.ws.Name, err).
			WithHint("berth show " + c.ws.Name + " tells how it is")
	}
	return &inside{stream: stream, side: sshproxy.Side{Conn: sc, Channels: chans, Requests: reqs}}, nil
}

// hostKeys checks a workspace's host key: a certificate of the installation's authority in the workspace's long name.
func (d *Server) hostKeys() *ssh.CertChecker {
	return &ssh.CertChecker{
		Clock: d.now,
		IsHostAuthority: func(auth ssh.PublicKey, _ string) bool {
			for _, ca := range d.hostCAs {
				if bytes.Equal(ca.Marshal(), auth.Marshal()) {
					return true
				}
			}
			return false
		},
	}
}

// clientVersion passes the client's own version on, so that the workspace sees whom it serves.
func clientVersion(m ssh.ConnMetadata) string {
	v := string(m.ClientVersion())
	odd := func(r rune) bool { return r < ' ' || r > '~' }
	if !strings.HasPrefix(v, "SSH-2.0-") || len(v) > 200 || strings.ContainsFunc(v, odd) {
		return agent.SSHVersion
	}
	return v
}

// serveTerminated joins the client to its workspace, once that is there. A channel to another workspace's SSH port,
// which "ssh -J door" opens where the local login name happens to be a workspace's, leads there.
func (c *conn) serveTerminated(sc *ssh.ServerConn, chans <-chan ssh.NewChannel, reqs <-chan *ssh.Request) error {
	reqs = c.arrival.hold(reqs)
	<-c.arrival.done
	if c.problem = c.arrival.err; c.problem != nil {
		c.serveJump(sc, chans, reqs) // which says why
		return c.problem
	}
	through := make(chan ssh.NewChannel)
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer close(through)
		c.split(chans, through)
	}()
	// Not c.ctx: a client that has gone is Join's to see, after what it sent last.
	err := sshproxy.Join(c.door.ctx, sshproxy.Side{Conn: sc, Channels: through, Requests: reqs}, c.arrival.inside.side)
	<-done
	return err
}

// split takes out the channels that jump and hands on the others.
func (c *conn) split(chans <-chan ssh.NewChannel, through chan<- ssh.NewChannel) {
	var jumps sync.WaitGroup
	defer jumps.Wait()
	room := make(chan struct{}, maxJumps)
	for nc := range chans {
		t, ok := c.jumpTarget(nc)
		if !ok {
			through <- nc
			continue
		}
		select {
		case room <- struct{}{}:
		default:
			_ = nc.Reject(ssh.ResourceShortage, "too many open channels")
			continue
		}
		jumps.Go(func() {
			defer func() { <-room }()
			c.jumpTo(nc, t)
		})
	}
}

// enter enters a workspace in the user's name. Where that means to wait, the caps of waiters count: a start holds a
// connection for minutes, before anything can be seen of it. A connection may be older than that, so the key that
// opened it is looked up again.
func (c *conn) enter(ctx context.Context, r entry.Request) (*entry.Stream, error) {
	if err := c.keyStands(ctx); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	release, tell := func() {}, r.Progress
	defer func() { release() }()
	waits := sync.OnceFunc(func() {
		leave, ok := c.door.waiters.take(c.user.ID)
		if !ok {
			cancel(coordinator.Errorf(coordinator.CodeUnavailable, "too many connections wait for a workspace already").
				WithHint("try again when it runs: berth show " + r.Target.Workspace))
			return
		}
		release = leave
	})
	r.User, r.Peer, r.Key = c.user, c.peer, c.key
	r.Progress = func(p coordinator.Progress) {
		waits()
		if tell != nil && ctx.Err() == nil {
			tell(p)
		}
	}
	s, err := c.door.cfg.Entry.Enter(ctx, r)
	var why *coordinator.Error
	if err != nil && errors.As(context.Cause(ctx), &why) {
		err = why
	}
	return s, err
}

// keyStands fails where the key that was proved is the user's no more.
func (c *conn) keyStands(ctx context.Context) error {
	user, _, err := c.door.cfg.Store.UserByFingerprint(ctx, c.key)
	switch {
	case err != nil && coordinator.CodeOf(err) != coordinator.CodeNotFound:
		return fmt.Errorf("look up key: %w", err)
	case err != nil || user.ID != c.user.ID:
		return coordinator.Errorf(coordinator.CodeDenied, "the key of this connection is not registered any more").
			WithHint("log in again, with a key that is")
	}
	return nil
}

// dropInside ends the connection to the workspace, which also ends the session's record.
func (c *conn) dropInside() {
	if c.leave != nil {
		c.leave()
	}
	if a := c.arrival; a != nil {
		c.cancel()
		<-a.done
		if a.inside != nil {
			a.inside.side.Conn.Close()
			a.inside.stream.Close()
		}
	}
	if c.ahead != nil {
		c.ahead.drop()
	}
}
