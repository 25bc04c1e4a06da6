package sshd

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"

	"berth/agent/shell"
)

// maxForwards is how many listeners one connection may hold.
const maxForwards = 100

// acceptPause is the wait after a connection could not be accepted, as where the process has no descriptors left.
const acceptPause = 100 * time.Millisecond

// A forwardKey names a listener within its connection: the address as the client asked for it with the port that is
// bound, or the path of a socket. Connections cannot name, and so not cancel, each other's.
type forwardKey struct {
	host string
	port uint32
	path string
}

// A remoteBind is what listens in the workspace for a client.
type remoteBind struct {
	listeners []net.Listener
	remove    func() // of the socket's file; nil for TCP
	stop      context.CancelFunc
	accepting sync.WaitGroup
}

func (b *remoteBind) close() {
	b.stop()
	for _, l := range b.listeners {
		l.Close()
	}
	b.accepting.Wait()
	if b.remove != nil {
		b.remove()
	}
}

// forwardTCP listens for ssh -R. Whatever address is asked for, it listens on loopback, as sshd does unless it is
// configured otherwise: a workspace's network is not the user's to open.
func (c *conn) forwardTCP(sc *ssh.ServerConn, payload []byte) (bool, []byte) {
	ask, err := parseBindTCP(payload)
	if err != nil {
		return false, nil
	}
	if u := c.srv.cfg.User; ask.Port != 0 && ask.Port < 1024 && u.UID != 0 {
		return false, nil // the agent may be root, the user is not
	}
	listeners, err := listenLoopback(ask.Host, ask.Port)
	if err != nil {
		c.log.Info("remote forward refused", "host", ask.Host, "port", ask.Port, "error", err)
		return false, nil
	}
	addr, ok := listeners[0].Addr().(*net.TCPAddr)
	if !ok {
		return false, nil
	}
	key := forwardKey{host: ask.Host, port: uint32(addr.Port)}
	ctx, stop := context.WithCancel(c.ctx)
	bind := &remoteBind{listeners: listeners, stop: stop}
	if !c.addForward(key, bind) {
		bind.close()
		return false, nil
	}
	for _, l := range listeners {
		bind.accepting.Go(func() {
			c.accept(ctx, l, func(from net.Conn) (string, []byte) {
				host, port := splitPeer(from.RemoteAddr().String())
				n, _ := strconv.Atoi(port) // of a TCP address
				return "forwarded-tcpip", ssh.Marshal(struct {
					Host       string
					Port       uint32
					OriginHost string
					OriginPort uint32
				}{key.host, key.port, host, uint32(n)})
			}, sc)
		})
	}
	if ask.Port != 0 {
		return true, nil
	}
	return true, ssh.Marshal(struct{ Port uint32 }{key.port})
}

func (c *conn) cancelTCP(_ *ssh.ServerConn, payload []byte) (bool, []byte) {
	ask, err := parseBindTCP(payload)
	if err != nil {
		return false, nil
	}
	return c.cancelForward(forwardKey{host: ask.Host, port: ask.Port}), nil
}

// listenLoopback listens on the loopback addresses that host stands for. IPv4 is what people and programs try first,
// so a port that is taken there is taken; IPv6 is added where it can be.
func listenLoopback(host string, port uint32) ([]net.Listener, error) {
	p := strconv.Itoa(int(port))
	if host == "::1" {
		l, err := net.Listen("tcp6", net.JoinHostPort("::1", p))
		if err != nil {
			return nil, fmt.Errorf("listen: %w", err)
		}
		return []net.Listener{l}, nil
	}
	l4, err := net.Listen("tcp4", net.JoinHostPort("127.0.0.1", p))
	if err != nil {
		return nil, fmt.Errorf("listen: %w", err)
	}
	listeners := []net.Listener{l4}
	if addr, ok := l4.Addr().(*net.TCPAddr); ok && host != "127.0.0.1" {
		if l6, err := net.Listen("tcp6", net.JoinHostPort("::1", strconv.Itoa(addr.Port))); err == nil {
			listeners = append(listeners, l6)
		}
	}
	return listeners, nil
}

// forwardUnix listens on a unix socket that only the user can reach (OpenSSH's PROTOCOL, section 2.4).
func (c *conn) forwardUnix(sc *ssh.ServerConn, payload []byte) (bool, []byte) {
	ask, err := parseBindUnix(payload)
	if err != nil {
		return false, nil
	}
	path := ask.Path
	if !filepath.IsAbs(path) {
		path = filepath.Join(c.srv.cfg.User.Home, path)
	}
	l, err := listenUnix(c.srv.cfg.User, path)
	if err != nil {
		c.log.Info("remote forward refused", "path", path, "error", err)
		return false, nil
	}
	ctx, stop := context.WithCancel(c.ctx)
	bind := &remoteBind{listeners: []net.Listener{l}, stop: stop, remove: func() {
		_ = shell.As(c.srv.cfg.User, func() error { return os.Remove(path) }) // the user may have done it
	}}
	if !c.addForward(forwardKey{path: ask.Path}, bind) {
		bind.close()
		return false, nil
	}
	bind.accepting.Go(func() {
		c.accept(ctx, l, func(net.Conn) (string, []byte) {
			return "forwarded-streamlocal@openssh.com", ssh.Marshal(struct{ Path, Reserved string }{ask.Path, ""})
		}, sc)
	})
	return true, nil
}

func (c *conn) cancelUnix(_ *ssh.ServerConn, payload []byte) (bool, []byte) {
	ask, err := parseBindUnix(payload)
	if err != nil {
		return false, nil
	}
	return c.cancelForward(forwardKey{path: ask.Path}), nil
}

// listenUnix makes the socket as the user. It binds to a name in a fresh directory of mode 0700 and moves the socket
// into place, so that nobody else can connect before its mode is set.
func listenUnix(u *shell.User, path string) (net.Listener, error) {
	var l *net.UnixListener
	err := shell.As(u, func() error {
		dir, err := os.MkdirTemp(filepath.Dir(path), ".berth-")
		if err != nil {
			return fmt.Errorf("listen: %w", err)
		}
		defer os.RemoveAll(dir)
		private := filepath.Join(dir, "s")
		if l, err = net.ListenUnix("unix", &net.UnixAddr{Name: private, Net: "unix"}); err != nil {
			return fmt.Errorf("listen: %w", err)
		}
		l.SetUnlinkOnClose(false)
		// A hard link fails where something is there already; that is left alone.
		if err := errors.Join(os.Chmod(private, 0o600), os.Link(private, path)); err != nil {
			_ = l.Close()
			return fmt.Errorf("listen: %w", err)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return l, nil
}

func (c *conn) addForward(key forwardKey, b *remoteBind) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ended || len(c.forwards) >= maxForwards || c.forwards[key] != nil {
		return false
	}
	c.forwards[key] = b
	return true
}

func (c *conn) cancelForward(key forwardKey) bool {
	c.mu.Lock()
	b := c.forwards[key]
	delete(c.forwards, key)
	c.mu.Unlock()
	if b == nil {
		return false
	}
	b.close()
	return true
}

// accept opens a channel to the client for each connection, until the listener is closed or ctx ends. The connections
// live on. Beyond the cap on channels, which counts those that the client has not answered, they are closed.
func (c *conn) accept(ctx context.Context, l net.Listener, open func(net.Conn) (kind string, extra []byte), sc *ssh.ServerConn) {
	for {
		nc, err := l.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			select {
			case <-ctx.Done():
				return
			case <-time.After(acceptPause):
				continue
			}
		}
		half, ok := nc.(halfCloser)
		if !ok || !c.begin() {
			nc.Close()
			continue
		}
		if !c.enter() {
			nc.Close()
			c.handlers.Done()
			continue
		}
		kind, extra := open(nc)
		go func() {
			defer c.handlers.Done()
			defer c.leave()
			ch, reqs, err := sc.OpenChannel(kind, extra)
			if err != nil {
				nc.Close()
				return
			}
			splice(ch, reqs, half)
		}()
	}
}
