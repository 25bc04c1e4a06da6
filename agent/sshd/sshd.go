// Package sshd is the SSH server of a workspace. It serves one connection over each stream that the coordinator
// opens, lets in the person whom the stream's header names and nobody else, and behaves like OpenSSH's sshd: shells,
// commands, terminals, sftp, scp, and TCP and unix forwards both ways.
//
// gliderlabs/ssh is the frame (handshake, dispatch); sessions, forwards and their requests are handled here, since
// the library's own lose half-closes, signals and modes. The package keeps nothing between connections but the
// processes that outlive theirs.
package sshd

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	gl "github.com/gliderlabs/ssh"
	"golang.org/x/crypto/ssh"

	"berth/agent"
	"berth/agent/shell"
)

// Limits of one connection.
const (
	loginGrace  = 60 * time.Second // from the first byte until the key is verified
	maxOffers   = 20               // keys that a client may offer; each counts as a try
	maxChannels = 1000             // open channels of one connection
	maxRefusals = 256              // that a client has not taken in
	gateLimit   = 5 * time.Second  // how long a session waits for Config.Ready
)

// A Config says what a Server serves. Manifest and User are needed; the rest may be left out.
type Config struct {
	// Manifest returns the current manifest, nil before the first one came.
	Manifest func() *agent.Manifest
	// User is whom every process, sftp included, runs as.
	User *shell.User
	// Env returns the environment of a session: the login environment and what the workspace adds to it.
	Env func() []string
	// Ready returns once the secrets are in place, or when ctx ends. Sessions wait for it for a few seconds.
	Ready func(ctx context.Context)
	// AgentSocket is the value of SSH_AUTH_SOCK; empty: none.
	AgentSocket string
	// ForwardAgent makes an agent that the owner forwards reachable at AgentSocket until stop is called; open opens a
	// channel to it. Without it no agent is forwarded but to its own connection.
	ForwardAgent func(open func() (io.ReadWriteCloser, error)) (stop func())
	// Note returns a line about startup that a terminal shows before its shell, without a newline; empty: none.
	Note func() string
	// Exe is the program that carries the subcommands of Main; /proc/self/exe if empty.
	Exe string
	// Logger gets connections and their ends; nil: nothing is logged.
	Logger *slog.Logger

	grace    time.Duration // loginGrace unless a test says otherwise
	channels int           // maxChannels unless a test says otherwise
}

// A Server serves SSH over streams.
type Server struct {
	cfg Config
	log *slog.Logger
	exe string // the path of Config.Exe by which a shell can start it

	// children are processes whose end is awaited; they may outlive their connections.
	children sync.WaitGroup

	mu    sync.Mutex
	conns map[*conn]struct{} // guarded by mu
	down  bool               // guarded by mu
	keys  hostKeys           // guarded by mu; of the manifest that it names
}

// ErrNoManifest is returned by ServeConn before the first manifest came.
var ErrNoManifest = errors.New("serve ssh: the workspace has not got its manifest yet")

// New returns a server. It starts nothing.
func New(cfg Config) (*Server, error) {
	if cfg.Manifest == nil || cfg.User == nil {
		return nil, errors.New("make ssh server: a manifest and a user are needed")
	}
	if cfg.Env == nil {
		cfg.Env = func() []string { return nil }
	}
	if cfg.Ready == nil {
		cfg.Ready = func(context.Context) {}
	}
	if cfg.Note == nil {
		cfg.Note = func() string { return "" }
	}
	cfg.grace = cmp.Or(cfg.grace, loginGrace)
	cfg.channels = cmp.Or(cfg.channels, maxChannels)
	exe := cfg.Exe
	if exe == "" {
		// The link works after the file was replaced or removed, as an upgrade does.
		cfg.Exe = "/proc/self/exe"
		var err error
		if exe, err = os.Executable(); err != nil {
			return nil, fmt.Errorf("find the agent's program: %w", err)
		}
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	return &Server{cfg: cfg, log: cfg.Logger, exe: exe, conns: make(map[*conn]struct{})}, nil
}

// ServeConn serves one SSH connection over nc and returns when it has ended, with the reason if nobody got in or the
// client was cut. It closes nc. A stream that cannot be served is answered with one line of JSON.
func (s *Server) ServeConn(nc net.Conn, hdr agent.StreamHeader) error {
	defer nc.Close()
	c, err := s.newConn(nc, hdr)
	if err != nil {
		if werr := agent.WriteLine(nc, agent.Reply{Error: err.Error()}, agent.MaxStreamHeader); werr != nil {
			return errors.Join(err, werr)
		}
		return err
	}
	defer s.forget(c)
	c.serve()
	return c.failure
}

// Close ends every connection. Processes without a terminal live on, as they do when a client goes.
func (s *Server) Close() {
	s.mu.Lock()
	s.down = true
	for c := range s.conns {
		c.net.Close()
	}
	s.mu.Unlock()
}

// Wait returns when every process that was started has ended. Connections are for the callers of ServeConn to await.
func (s *Server) Wait() { s.children.Wait() }

func (s *Server) forget(c *conn) {
	s.mu.Lock()
	delete(s.conns, c)
	s.mu.Unlock()
}

// A conn is one SSH connection.
type conn struct {
	srv      *Server
	net      net.Conn
	header   agent.StreamHeader
	manifest *agent.Manifest
	keys     hostKeys
	log      *slog.Logger

	failure  error                 // of the handshake; owned by serve
	why      atomic.Pointer[error] // why we cut the connection; nil: we did not
	announce sync.Once

	// ctx ends with the connection.
	ctx    context.Context
	cancel context.CancelFunc

	mu       sync.Mutex
	ended    bool                       // guarded by mu: no handler begins any more
	channels int                        // guarded by mu
	refusals int                        // guarded by mu; being sent
	forwards map[forwardKey]*remoteBind // guarded by mu
	handlers sync.WaitGroup
	agent    agentForward
}

func (s *Server) newConn(nc net.Conn, hdr agent.StreamHeader) (*conn, error) {
	m := s.cfg.Manifest()
	if m == nil {
		return nil, ErrNoManifest
	}
	if hdr.User.ID == "" {
		return nil, errors.New("serve ssh: the stream names no user")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.down {
		return nil, errors.New("serve ssh: the agent ends")
	}
	if s.keys.of != m {
		keys, err := parseHostKeys(m)
		if err != nil {
			return nil, err
		}
		s.keys = keys
	}
	c := &conn{
		srv: s, net: nc, header: hdr, manifest: m, keys: s.keys,
		log:      s.log.With("stream", hdr.ID, "user", hdr.User.Name, "via", hdr.Via, "peer", hdr.Peer),
		forwards: make(map[forwardKey]*remoteBind),
	}
	c.ctx, c.cancel = context.WithCancel(context.Background())
	s.conns[c] = struct{}{}
	return c, nil
}

// serve runs the connection in gliderlabs' frame and waits for what it started.
func (c *conn) serve() {
	// The frame's conn wrapper clears deadlines, so a client that says nothing is ended by a timer.
	grace := time.AfterFunc(c.srv.cfg.grace, func() { c.cut(fmt.Errorf("nobody logged in within %s", c.srv.cfg.grace)) })
	defer grace.Stop()
	frame := &gl.Server{
		Version:     strings.TrimPrefix(agent.SSHVersion, "SSH-2.0-"),
		HostSigners: c.keys.signers,
		// Always set: without it the frame lets everybody in.
		PublicKeyHandler:     func(_ gl.Context, key gl.PublicKey) bool { return c.authorize(key) == nil },
		ServerConfigCallback: func(gl.Context) *ssh.ServerConfig { return c.serverConfig(grace) },
		ChannelHandlers: map[string]gl.ChannelHandler{
			"session":                        c.handle(c.session),
			"direct-tcpip":                   c.handle(c.directTCP),
			"direct-streamlocal@openssh.com": c.handle(c.directUnix),
		},
		RequestHandlers: map[string]gl.RequestHandler{
			"tcpip-forward":                          c.request(c.forwardTCP),
			"cancel-tcpip-forward":                   c.request(c.cancelTCP),
			"streamlocal-forward@openssh.com":        c.request(c.forwardUnix),
			"cancel-streamlocal-forward@openssh.com": c.request(c.cancelUnix),
			"hostkeys-prove-00@openssh.com":          c.request(c.proveHostKeys),
			"keepalive@openssh.com":                  c.request(func(*ssh.ServerConn, []byte) (bool, []byte) { return true, nil }),
		},
		ConnectionFailedCallback: func(_ net.Conn, err error) { c.failure = fmt.Errorf("serve ssh: %w", err) },
	}
	started := time.Now()
	frame.HandleConn(newWire(c.net))
	c.end()
	if why := c.why.Load(); why != nil {
		c.failure = fmt.Errorf("serve ssh: connection cut: %w", *why)
		c.log.Warn("ssh connection cut", "reason", *why, "after", time.Since(started).Round(time.Millisecond))
		return
	}
	if c.failure != nil {
		c.log.Info("ssh login failed", "error", c.failure)
		return
	}
	c.log.Info("ssh connection ended", "after", time.Since(started).Round(time.Millisecond))
}

// cut ends a connection that does not behave. The first reason stands.
func (c *conn) cut(why error) {
	c.why.CompareAndSwap(nil, &why)
	c.net.Close()
}

// end stops what hangs on the connection and waits for it.
func (c *conn) end() {
	c.cancel()
	c.mu.Lock()
	c.ended = true
	binds := c.forwards
	c.forwards = nil
	c.mu.Unlock()
	for _, b := range binds {
		b.close()
	}
	c.agent.close()
	c.handlers.Wait()
}

// begin counts a handler in; it fails when the connection has ended.
func (c *conn) begin() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ended {
		return false
	}
	c.handlers.Add(1)
	return true
}

// handle adapts a channel's handler to the frame, with a cap on channels.
func (c *conn) handle(f func(*ssh.ServerConn, ssh.NewChannel)) gl.ChannelHandler {
	return func(_ *gl.Server, sc *ssh.ServerConn, nc ssh.NewChannel, _ gl.Context) {
		if !c.begin() {
			return
		}
		defer c.handlers.Done()
		c.announce.Do(func() { c.announceHostKeys(sc) })
		if !c.enter() {
			c.refuse(nc)
			return
		}
		defer c.leave()
		f(sc, nc)
	}
}

// enter counts a channel in; it fails when there are too many. leave counts it out.
func (c *conn) enter() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.channels >= c.srv.cfg.channels {
		return false
	}
	c.channels++
	return true
}

func (c *conn) leave() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.channels--
}

// request adapts a global request's handler to the frame.
func (c *conn) request(f func(sc *ssh.ServerConn, payload []byte) (bool, []byte)) gl.RequestHandler {
	return func(ctx gl.Context, _ *gl.Server, req *ssh.Request) (bool, []byte) {
		sc, ok := ctx.Value(gl.ContextKeyConn).(*ssh.ServerConn)
		if !ok || !c.begin() {
			return false, nil
		}
		defer c.handlers.Done()
		return f(sc, req.Payload)
	}
}

// refuse rejects a channel beyond the cap. Who opens more and more of them and does not read the answers is cut: each
// waits here.
func (c *conn) refuse(nc ssh.NewChannel) {
	c.mu.Lock()
	c.refusals++
	flood := c.refusals > maxRefusals
	c.mu.Unlock()
	if flood {
		c.cut(errors.New("a flood of channels"))
	}
	c.reject(nc, ssh.ResourceShortage, "too many open channels")
	c.mu.Lock()
	c.refusals--
	c.mu.Unlock()
}

func (c *conn) reject(nc ssh.NewChannel, why ssh.RejectionReason, msg string) {
	if err := nc.Reject(why, msg); err != nil {
		c.log.Debug("reject channel", "type", nc.ChannelType(), "error", err)
	}
}
