// Package door is the SSH front door of an installation. It answers at once, finds the user by the key that they
// prove, and leads to a workspace: it terminates SSH for "ssh dev@door", and is a jump host, that sees ciphertext
// only, for "ssh -J dev.berth@door dev.berth".
//
// It decides nothing about workspaces: who may enter, what has to be started, and the record of the session are
// package entry's. It keeps nothing but the connections that are open.
package door

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"

	"berth/agent"
	"berth/coordinator"
	"berth/coordinator/entry"
)

// Entry is the way into a workspace.
type Entry interface {
	Lookup(ctx context.Context, user coordinator.User, t coordinator.Target) (coordinator.Workspace, error)
	Enter(ctx context.Context, r entry.Request) (*entry.Stream, error)
}

// Store knows whose a key is.
type Store interface {
	UserByFingerprint(ctx context.Context, fingerprint string) (coordinator.User, coordinator.SSHKey, error)
	TouchKey(ctx context.Context, id coordinator.KeyID, now time.Time) error
}

// Certs makes the certificate with which the door, in its user's name, enters a workspace.
type Certs interface {
	UserSigner(p agent.Person, now time.Time, ttl time.Duration) (ssh.Signer, error)
}

// A Config is what a Server is made of. Logger and Now have defaults.
type Config struct {
	Entry Entry
	Store Store
	Certs Certs

	Console Console // of ConsoleUser; without one, that is a name like any other

	HostSigners []ssh.Signer   // the door's host keys, certificates first
	HostCAs     []string       // authorities of the workspaces' host keys, in authorized_keys form
	Suffix      string         // of host names; coordinator.Suffix if empty
	Exempt      []netip.Prefix // networks without limits of their own and penalties; loopback always is

	Logger *slog.Logger
	Now    func() time.Time
}

// A Server is the door.
type Server struct {
	cfg      Config
	log      *slog.Logger
	now      func() time.Time
	hostCAs  []ssh.PublicKey
	limit    *throttle
	fines    *penalties
	waiters  *quota        // connections that wait for their workspace
	members  *quota        // connections that have proved a key
	grace    time.Duration // of a login
	patience time.Duration // of clients that have a timer

	farewells chan struct{} // holds a token for each client that is being told why it is refused

	// ctx ends when connections are to end at once.
	ctx    context.Context
	cancel context.CancelFunc

	mu        sync.Mutex
	listeners map[net.Listener]struct{} // guarded by mu
	down      bool                      // guarded by mu
	refused   int                       // guarded by mu: connections since refusedAt
	refusedAt time.Time                 // guarded by mu: when the log told of them last
	conns     sync.WaitGroup
}

// ErrClosed is returned by Serve after Shutdown.
var ErrClosed = errors.New("ssh door: closed")

// New returns a door. It starts nothing.
func New(cfg Config) (*Server, error) {
	if cfg.Entry == nil || cfg.Store == nil || cfg.Certs == nil || len(cfg.HostSigners) == 0 {
		return nil, errors.New("make ssh door: entry, store, certificates and a host key are needed")
	}
	d := &Server{
		cfg: cfg, log: cfg.Logger, now: cfg.Now, grace: loginGrace, patience: patience, listeners: make(map[net.Listener]struct{}),
		limit: newThrottle(cfg.Exempt), fines: newPenalties(cfg.Exempt),
		waiters: newQuota(maxWaiting, maxAllWaiting), members: newQuota(maxConns, maxAllConns),
		farewells: make(chan struct{}, maxFarewells),
	}
	if d.cfg.Suffix == "" {
		d.cfg.Suffix = coordinator.Suffix
	}
	if d.log == nil {
		d.log = slog.New(slog.DiscardHandler)
	}
	if d.now == nil {
		d.now = time.Now
	}
	for _, line := range cfg.HostCAs {
		ca, _, _, _, err := ssh.ParseAuthorizedKey([]byte(line))
		if err != nil {
			return nil, fmt.Errorf("make ssh door: parse host authority: %w", err)
		}
		d.hostCAs = append(d.hostCAs, ca)
	}
	if len(d.hostCAs) == 0 {
		return nil, errors.New("make ssh door: without a host authority no workspace's host key can be checked")
	}
	d.ctx, d.cancel = context.WithCancel(context.Background())
	return d, nil
}

// Serve accepts connections on l until Shutdown. It closes l.
func (d *Server) Serve(l net.Listener) error {
	defer l.Close()
	if !d.listen(l) {
		return ErrClosed
	}
	pause := time.Duration(0)
	for {
		nc, err := l.Accept()
		if err != nil {
			if d.closed() || errors.Is(err, net.ErrClosed) {
				return ErrClosed
			}
			// Out of files, say: try again, ever more slowly.
			pause = min(max(2*pause, 5*time.Millisecond), time.Second)
			d.log.Warn("cannot accept", "error", err, "pause", pause)
			select {
			case <-time.After(pause):
				continue
			case <-d.ctx.Done():
				return ErrClosed
			}
		}
		pause = 0
		d.mu.Lock()
		if d.down {
			d.mu.Unlock()
			nc.Close()
			return ErrClosed
		}
		d.conns.Go(func() { d.serveConn(nc) })
		d.mu.Unlock()
	}
}

func (d *Server) listen(l net.Listener) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.down {
		return false
	}
	d.listeners[l] = struct{}{}
	return true
}

func (d *Server) closed() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.down
}

// Shutdown accepts no more and lets what is open end by itself; when ctx ends, it ends the rest and says so by ctx's
// error.
func (d *Server) Shutdown(ctx context.Context) error {
	d.mu.Lock()
	d.down = true
	for l := range d.listeners {
		l.Close()
	}
	d.mu.Unlock()
	stop := context.AfterFunc(ctx, d.cancel)
	defer stop()
	d.conns.Wait()
	defer d.cancel()
	if d.ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return nil
}

// serveConn serves one connection from its first byte to its last.
func (d *Server) serveConn(nc net.Conn) {
	defer nc.Close()
	src := source(nc.RemoteAddr())
	if left := d.fines.left(src, d.now()); left > 0 {
		d.refuse(nc, fmt.Errorf("too many failed logins from your address; try again in %v", left.Round(time.Second)))
		return
	}
	release, err := d.limit.enter(src)
	if err != nil {
		d.refuse(nc, err)
		return
	}
	defer release()
	keepAlive(nc)
	c := d.newConn(nc, release)
	defer c.cancel()
	stop := context.AfterFunc(c.ctx, func() { nc.Close() })
	defer stop()
	c.serve()
}

// keepAlive makes a client that has vanished be noticed within minutes.
func keepAlive(nc net.Conn) {
	if t, ok := nc.(*net.TCPConn); ok {
		_ = t.SetKeepAliveConfig(net.KeepAliveConfig{Enable: true, Idle: 30 * time.Second, Interval: 15 * time.Second, Count: 6})
	}
}
