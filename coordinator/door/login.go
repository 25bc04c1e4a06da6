package door

import (
	"context"
	"crypto/rsa"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/crypto/ssh"

	"berth/agent"
	"berth/coordinator"
)

// Limits of a login.
const (
	loginGrace = 20 * time.Second // until the key is verified; what comes then may take as long as it takes
	// maxOffers is how many keys a client may offer. The library ends a connection at the first wrong signature.
	maxOffers = 20
)

// Caps of connections that have proved a key: of one user, and of all.
const (
	maxConns, maxAllConns     = 500, 20000
	maxWaiting, maxAllWaiting = 100, 2000 // those of them that wait for a workspace
)

// RSA keys outside these sizes let nobody in and are not looked up; a client that asks first is told no and need not
// sign. A signature that comes all the same is verified: the library, which reads keys of up to 16384 bits, does so before
// it heeds the error of PublicKeyCallback.
const (
	minRSABits = 2048
	maxRSABits = 4096
)

// algorithms are what an audit of SSH servers finds nothing against; the counter-mode ciphers are for clients that
// know no authenticated ones.
var algorithms = ssh.Config{
	KeyExchanges: []string{ssh.KeyExchangeMLKEM768X25519, ssh.KeyExchangeCurve25519},
	Ciphers: []string{
		ssh.CipherChaCha20Poly1305, ssh.CipherAES256GCM, ssh.CipherAES128GCM,
		ssh.CipherAES256CTR, ssh.CipherAES192CTR, ssh.CipherAES128CTR,
	},
	MACs: []string{ssh.HMACSHA256ETM, ssh.HMACSHA512ETM},
}

var userAlgorithms = []string{
	ssh.KeyAlgoED25519, ssh.KeyAlgoSKED25519, ssh.KeyAlgoECDSA256, ssh.KeyAlgoSKECDSA256,
	ssh.KeyAlgoRSASHA512, ssh.KeyAlgoRSASHA256,
}

// A mode is what a connection is for; the login name decides.
type mode int

const (
	terminated mode = iota + 1 // a workspace's name: SSH ends here and goes on in a connection of the door's own
	jump                       // a workspace's host name: leads to that workspace's SSH server and nowhere else
	bare                       // any other name: leads to any workspace of the user, and answers sessions with why
	console                    // ConsoleUser: the product itself
)

// A conn is one connection of a client.
type conn struct {
	door    *Server
	net     *watched
	peer    string
	log     *slog.Logger
	release func() // of the throttle
	grace   *time.Timer
	pre     atomic.Pointer[ssh.ServerPreAuthConn] // nil before the key exchange has ended
	late    atomic.Bool                           // grace was over

	// ctx ends when the client has gone, or the door ends at once.
	ctx    context.Context
	cancel context.CancelFunc

	// Owned by the handshake until it has ended, then read only.
	over    bool   // a login was refused for good: no other key is tried
	guessed bool   // tried what is asked for nowhere, a password
	known   bool   // offered a registered key; its owner may still look for a passphrase or a security key
	leave   func() // of the quota of connections; nil before a key was proved
	mode    mode
	user    coordinator.User
	key     string                // fingerprint of the key that was proved
	target  coordinator.Target    // of terminated and jump
	ws      coordinator.Workspace // of terminated and jump, where problem is nil
	problem error                 // why there is no workspace to lead to, of jump and bare
	arrival *arrival              // of terminated
	ahead   *ahead                // of jump
}

func (d *Server) newConn(nc net.Conn, release func()) *conn {
	c := &conn{door: d, peer: nc.RemoteAddr().String(), release: release}
	c.log = d.log.With("peer", c.peer)
	c.ctx, c.cancel = context.WithCancel(d.ctx)
	c.net = &watched{Conn: nc, gone: sync.OnceFunc(c.cancel)}
	return c
}

// A watched is a connection that tells when it cannot be read any more: while authentication is held, that is how
// ^C at the client shows.
type watched struct {
	net.Conn
	gone  func()
	heard atomic.Bool // something was read
}

func (w *watched) Read(b []byte) (int, error) {
	n, err := w.Conn.Read(b)
	if n > 0 {
		w.heard.Store(true)
	}
	if err != nil {
		w.gone()
	}
	return n, err
}

// serve runs the handshake, with the wait for the workspace in its authentication phase, and then what the
// connection is for.
func (c *conn) serve() {
	c.grace = time.AfterFunc(c.door.grace, c.expire)
	defer c.grace.Stop()
	cfg := &ssh.ServerConfig{
		Config:                  algorithms,
		ServerVersion:           agent.SSHVersion,
		MaxAuthTries:            maxOffers,
		PublicKeyAuthAlgorithms: userAlgorithms,
		PreAuthConnCallback:     func(p ssh.ServerPreAuthConn) { c.pre.Store(&p) },
		AuthLogCallback: func(_ ssh.ConnMetadata, method string, err error) {
			c.guessed = c.guessed || err != nil && method != "none" && method != "publickey"
		},
		PublicKeyCallback: func(_ ssh.ConnMetadata, key ssh.PublicKey) (*ssh.Permissions, error) {
			_, _, err := c.owner(key)
			c.known = c.known || err == nil
			return &ssh.Permissions{}, err
		},
		VerifiedPublicKeyCallback: func(m ssh.ConnMetadata, key ssh.PublicKey, _ *ssh.Permissions, _ string) (*ssh.Permissions, error) {
			return &ssh.Permissions{}, c.verified(m, key)
		},
	}
	for _, s := range c.door.cfg.HostSigners {
		cfg.AddHostKey(s)
	}
	sc, chans, reqs, err := ssh.NewServerConn(c.net, cfg)
	defer c.dropInside()
	if err != nil {
		what, bad := c.offended(err)
		if bad {
			c.door.fines.add(source(c.net.RemoteAddr()), what, c.door.now())
		}
		c.log.Info("ssh login failed", "offence", what.name, "error", err)
		return
	}
	started := time.Now()
	reqs = c.announceHostKeys(sc, reqs)
	switch c.mode {
	case terminated:
		err = c.serveTerminated(sc, chans, reqs)
	case console:
		c.serveConsole(sc, chans, reqs)
	default:
		c.serveJump(sc, chans, reqs)
	}
	c.log.Info("ssh connection ended", "after", time.Since(started).Round(time.Millisecond), "error", err)
}

// owner finds whose a key is. It is asked for every key that is offered, which proves nothing: a login is decided in
// verified, by asking again.
func (c *conn) owner(key ssh.PublicKey) (coordinator.User, coordinator.SSHKey, error) {
	if c.over {
		return coordinator.User{}, coordinator.SSHKey{}, errors.New("the login was refused")
	}
	if _, isCert := key.(*ssh.Certificate); isCert {
		return coordinator.User{}, coordinator.SSHKey{}, errors.New("certificates are not accepted here")
	}
	if ck, ok := key.(ssh.CryptoPublicKey); ok {
		if k, ok := ck.CryptoPublicKey().(*rsa.PublicKey); ok && (k.N.BitLen() < minRSABits || k.N.BitLen() > maxRSABits) {
			return coordinator.User{}, coordinator.SSHKey{}, fmt.Errorf("rsa key of %d bits is not accepted", k.N.BitLen())
		}
	}
	u, k, err := c.door.cfg.Store.UserByFingerprint(c.ctx, ssh.FingerprintSHA256(key))
	switch {
	case err == nil:
		return u, k, nil
	case coordinator.CodeOf(err) != coordinator.CodeNotFound:
		c.log.Error("cannot look up key", "error", err)
	}
	return coordinator.User{}, coordinator.SSHKey{}, errors.New("key is not registered")
}

// verified is the login of somebody who has proved a key. It returns once the workspace is there, for a name that
// terminates SSH, and at once for any other.
func (c *conn) verified(m ssh.ConnMetadata, key ssh.PublicKey) error {
	user, registered, err := c.owner(key)
	if err != nil {
		return err
	}
	c.grace.Stop()
	c.release()
	c.user, c.key = user, registered.Fingerprint
	if err := c.door.cfg.Store.TouchKey(c.ctx, registered.ID, c.door.now()); err != nil {
		c.log.Warn("cannot record the use of a key", "error", err)
	}
	c.choose(m.User())
	c.log = c.log.With("user", user.Name, "key", registered.Fingerprint, "via", c.via())
	c.log.Info("ssh login", "name", coordinator.Clip(m.User(), 80), "workspace", c.ws.Name)
	var ok bool
	c.leave, ok = c.door.members.take(user.ID)
	switch {
	case !ok:
		err = c.refuse(coordinator.Errorf(coordinator.CodeUnavailable, "too many connections are open in your name").WithHint("close some of them"))
	case c.mode == terminated:
		err = c.enterTerminated(m)
	case c.mode == jump && c.problem == nil:
		err = c.enterAhead()
	}
	if err != nil {
		c.over = true
		c.grace.Reset(c.door.grace) // for the client to hang up
	}
	return err
}

// choose reads the login name.
func (c *conn) choose(name string) {
	if name == ConsoleUser && c.door.cfg.Console != nil {
		c.mode = console
		return
	}
	t, isHost, err := coordinator.ParseTarget(name, c.door.cfg.Suffix)
	if err == nil {
		c.target = t
		c.ws, err = c.door.cfg.Entry.Lookup(c.ctx, c.user, t)
	}
	c.problem = err
	switch {
	case isHost:
		c.mode = jump
	case err == nil:
		c.mode = terminated
	default:
		c.mode = bare // perhaps the local login name, which "ssh -J door" sends
	}
}

func (c *conn) via() string {
	switch c.mode {
	case terminated:
		return agent.ViaDoor
	case console:
		return agent.ViaConsole
	default:
		return agent.ViaJump
	}
}
