package sshd

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"sync"

	"golang.org/x/crypto/ssh"

	"berth/agent/shell"
)

// agentChannel is the channel by which a client's agent is reached (OpenSSH's PROTOCOL; draft-ietf-sshm-ssh-agent).
const agentChannel = "auth-agent@openssh.com"

// An agentForward is what a connection's client forwards of its own agent. One is enough for a connection, as with
// sshd: it lives until the connection ends, whatever becomes of the session that asked for it.
type agentForward struct {
	mu     sync.Mutex
	on     bool   // guarded by mu
	ended  bool   // guarded by mu
	socket string // guarded by mu; of a guest's: the owner's is at the fixed path
	stop   func() // guarded by mu
}

// forwardAgent makes the client's agent reachable: the owner's at the workspace's socket, a guest's at a socket that
// only this connection's sessions are told of.
func (c *conn) forwardAgent(sc *ssh.ServerConn) bool {
	f := &c.agent
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.on || f.ended {
		return f.on
	}
	if c.header.User.ID == c.manifest.Owner.ID && c.srv.cfg.ForwardAgent != nil {
		f.stop = c.srv.cfg.ForwardAgent(func() (io.ReadWriteCloser, error) {
			ch, reqs, err := sc.OpenChannel(agentChannel, nil)
			if err != nil {
				return nil, fmt.Errorf("open the forwarded agent: %w", err)
			}
			go ssh.DiscardRequests(reqs)
			return ch, nil
		})
		f.on = true
		return true
	}
	socket, stop, err := c.listenAgent(sc)
	if err != nil {
		c.log.Warn("cannot forward the client's agent", "error", err)
		return false
	}
	f.on, f.socket, f.stop = true, socket, stop
	return true
}

// listenAgent listens on a socket in a fresh directory that only the user can enter, and passes what comes on to the
// client's agent.
func (c *conn) listenAgent(sc *ssh.ServerConn) (socket string, stop func(), err error) {
	u := c.srv.cfg.User
	var dir string
	err = shell.As(u, func() error {
		dir, err = os.MkdirTemp("", "berth-agent-")
		return err
	})
	if err != nil {
		return "", nil, fmt.Errorf("listen for the agent: %w", err)
	}
	remove := func() { _ = shell.As(u, func() error { return os.RemoveAll(dir) }) }
	socket = filepath.Join(dir, "agent")
	l, err := listenUnix(u, socket)
	if err != nil {
		remove()
		return "", nil, err
	}
	ctx, cancel := context.WithCancel(c.ctx)
	var accepting sync.WaitGroup
	accepting.Go(func() {
		c.accept(ctx, l, func(net.Conn) (string, []byte) { return agentChannel, nil }, sc)
	})
	return socket, func() {
		cancel()
		l.Close()
		accepting.Wait()
		remove()
	}, nil
}

// path returns the socket for this connection's sessions, "" for the workspace's.
func (f *agentForward) path() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.socket
}

func (f *agentForward) close() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.ended = true
	if f.stop != nil {
		f.stop()
	}
}
