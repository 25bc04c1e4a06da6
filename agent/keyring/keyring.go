// Package keyring is the workspace's ssh-agent: one socket at a fixed path that offers the identities of the newest
// agent that the owner forwards, then the owner's Git key. That key stays in this process's memory; who may use the
// socket can have data signed, and never sees it.
//
// It speaks as much of the ssh-agent protocol as listing and signing need, by a parser of its own with a cap. What else
// is asked goes to the forwarded agent as it is, and is refused where there is none.
package keyring

import (
	"bufio"
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/crypto/ssh"

	"berth/agent"
)

const (
	maxClients   = 64
	idleTimeout  = 10 * time.Minute
	writeTimeout = 10 * time.Second
)

// A Keyring holds the keys that the socket offers.
type Keyring struct {
	log *slog.Logger
	key atomic.Pointer[key]
	uid atomic.Int64 // who may use the socket besides root and this process's own user

	forwards forwards
	patience time.Duration // with a forwarded agent that is to list its identities
}

// A key is one that can sign.
type key struct {
	private ed25519.PrivateKey
	blob    []byte // the public half, in SSH wire form
	comment string
}

// New returns an empty keyring for this process's user.
func New(log *slog.Logger) *Keyring {
	k := &Keyring{log: log, patience: listLimit}
	k.uid.Store(int64(os.Geteuid()))
	return k
}

// Allow lets uid use the socket, besides root and this process's own user.
func (k *Keyring) Allow(uid uint32) { k.uid.Store(int64(uid)) }

// Set makes pem, an unencrypted Ed25519 key in OpenSSH form, the key that is offered; "" offers none.
func (k *Keyring) Set(pem agent.Secret, comment string) error {
	if pem == "" {
		k.key.Store(nil)
		return nil
	}
	raw, err := ssh.ParseRawPrivateKey([]byte(pem))
	if err != nil {
		return errors.New("parse Git key: not an unencrypted private key in OpenSSH form") // err may quote the key
	}
	private, ok := raw.(*ed25519.PrivateKey)
	if !ok {
		return errors.New("parse Git key: it is not an Ed25519 key")
	}
	public, err := ssh.NewPublicKey(private.Public())
	if err != nil {
		return fmt.Errorf("parse Git key: %w", err)
	}
	k.key.Store(&key{private: *private, blob: public.Marshal(), comment: comment})
	return nil
}

// Serve answers on l until ctx ends. It closes l, and returns once no client is being served.
func (k *Keyring) Serve(ctx context.Context, l *net.UnixListener) error {
	var clients sync.WaitGroup
	defer clients.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { _ = l.Close() })
	defer stop()
	defer func() { _ = l.Close() }()
	slots := make(chan struct{}, maxClients)
	for {
		conn, err := l.AcceptUnix()
		switch {
		case ctx.Err() != nil:
			if err == nil {
				_ = conn.Close()
			}
			return nil
		case errors.Is(err, net.ErrClosed):
			return err
		case err != nil: // out of descriptors, say
			pause(ctx, 100*time.Millisecond)
			continue
		}
		select {
		case slots <- struct{}{}:
		default:
			_ = conn.Close()
			continue
		}
		clients.Go(func() {
			defer func() { <-slots }()
			k.serve(ctx, conn)
		})
	}
}

func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

// serve answers one client.
func (k *Keyring) serve(ctx context.Context, conn *net.UnixConn) {
	defer func() { _ = conn.Close() }()
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	if uid, err := peer(conn); err != nil || !k.mayUse(uid) {
		k.log.Warn("ssh-agent socket: refused a client", "uid", uid)
		return
	}
	in := bufio.NewReaderSize(conn, 4<<10)
	c := &client{keys: k, ctx: ctx, gone: func(cancel context.CancelFunc) func() { return watchEnd(conn, in, cancel) }}
	defer c.close()
	for {
		_ = conn.SetReadDeadline(time.Now().Add(idleTimeout))
		request, err := readFrame(in)
		if err != nil {
			return
		}
		answer := c.answer(request)
		_ = conn.SetWriteDeadline(time.Now().Add(writeTimeout))
		if err := writeFrame(conn, answer); err != nil {
			return
		}
	}
}

// watchEnd calls cancel when the client hangs up while its request is being answered. What it sends ahead stays in the
// reader. The returned function ends the watching, and has to be called before the reader is used again.
func watchEnd(conn net.Conn, in *bufio.Reader, cancel context.CancelFunc) (stop func()) {
	_ = conn.SetReadDeadline(time.Time{})
	done := make(chan struct{})
	go func() {
		defer close(done)
		if _, err := in.Peek(1); err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
			cancel()
		}
	}()
	return func() {
		_ = conn.SetReadDeadline(time.Unix(1, 0)) // wakes the reader
		<-done
	}
}

// mayUse reports whether a client of that uid may use the key. The socket's mode says the same; this holds where the
// directory is on a filesystem that does not keep modes.
func (k *Keyring) mayUse(uid uint32) bool {
	return uid == 0 || int64(uid) == k.uid.Load() || uid == uint32(os.Geteuid())
}

// peer returns the uid of the other end.
func peer(conn *net.UnixConn) (uint32, error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return 0, fmt.Errorf("ask for the peer's uid: %w", err)
	}
	var uid uint32
	var inner error
	err = raw.Control(func(fd uintptr) { uid, inner = peerUID(int(fd)) })
	if err := errors.Join(err, inner); err != nil {
		return 0, fmt.Errorf("ask for the peer's uid: %w", err)
	}
	return uid, nil
}
