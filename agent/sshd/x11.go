package sshd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/crypto/ssh"

	"berth/agent/shell"
)

// X11 forwarding (RFC 4254, section 6.3), as sshd does it: a display on loopback, whose cookie the user's own xauth
// keeps; what connects to it reaches the client's X server through a channel.
const (
	x11Port    = 6000 // of display 0
	x11First   = 10   // displays below are for real servers
	x11Last    = 1000
	xauthLimit = 10 * time.Second
)

// What is handed to xauth, which reads commands.
var (
	x11Protocol = regexp.MustCompile(`^[A-Za-z0-9.-]{1,64}$`)
	x11Cookie   = regexp.MustCompile(`^([0-9A-Fa-f]{2}){1,128}$`)
)

// An x11Request is what a client asks for with x11-req.
type x11Request struct {
	Single   bool
	Protocol string
	Cookie   string
	Screen   uint32
}

func parseX11(payload []byte) (x11Request, error) {
	var r x11Request
	if err := ssh.Unmarshal(payload, &r); err != nil {
		return r, fmt.Errorf("parse x11-req: %w", err)
	}
	if !x11Protocol.MatchString(r.Protocol) || !x11Cookie.MatchString(r.Cookie) || r.Screen > 0xffff {
		return r, errors.New("parse x11-req: malformed")
	}
	return r, nil
}

// An x11 is the display of one session.
type x11 struct {
	x11Request
	number    int
	xauth     string
	listeners []net.Listener
	stop      context.CancelFunc
	accepting sync.WaitGroup
}

// requestX11 makes a display. Without xauth in the workspace there is none: programs could not prove that they may use
// it.
func (s *session) requestX11(payload []byte, sc *ssh.ServerConn) bool {
	ask, err := parseX11(payload)
	if err != nil || s.started || s.x11 != nil {
		return false
	}
	x := &x11{x11Request: ask, xauth: findProgram(s.conn.srv.cfg.Env(), "xauth", "/usr/bin/xauth", "/usr/X11R6/bin/xauth")}
	if x.xauth == "" {
		s.conn.log.Info("X11 forwarding refused: there is no xauth in the workspace")
		return false
	}
	if err := x.listen(); err != nil {
		s.conn.log.Info("X11 forwarding refused", "error", err)
		return false
	}
	ctx, stop := context.WithCancel(s.conn.ctx)
	x.stop = stop
	for _, l := range x.listeners {
		x.accepting.Go(func() { s.conn.accept(ctx, l, x.open, sc) })
	}
	s.x11 = x
	return true
}

// listen takes the first display that is free on IPv4 and, where the system has that, on IPv6 as well: programs try
// either first, and tell the cookie to whoever listens there.
func (x *x11) listen() error { return x.listenFrom(x11First) }

func (x *x11) listenFrom(first int) error {
	for x.number = first; x.number <= x11Last; x.number++ {
		port := strconv.Itoa(x11Port + x.number)
		l4, err := net.Listen("tcp4", net.JoinHostPort("127.0.0.1", port))
		if err != nil {
			continue
		}
		l6, err := net.Listen("tcp6", net.JoinHostPort("::1", port))
		switch {
		case err == nil:
			x.listeners = []net.Listener{l4, l6}
			return nil
		case errors.Is(err, syscall.EAFNOSUPPORT), errors.Is(err, syscall.EADDRNOTAVAIL):
			x.listeners = []net.Listener{l4}
			return nil
		}
		l4.Close()
	}
	return errors.New("no display is free")
}

// open names the channel for a program that connected: originator address and port.
func (x *x11) open(nc net.Conn) (kind string, extra []byte) {
	if x.Single {
		x.closeListeners()
	}
	var origin struct {
		Host string
		Port uint32
	}
	if a, ok := nc.RemoteAddr().(*net.TCPAddr); ok {
		origin.Host, origin.Port = a.IP.String(), uint32(a.Port)
	}
	return "x11", ssh.Marshal(origin)
}

// display is the value of DISPLAY.
func (x *x11) display() string { return "localhost:" + x.name() }

func (x *x11) name() string { return strconv.Itoa(x.number) + "." + strconv.Itoa(int(x.Screen)) }

// authorize has the user's xauth keep the cookie. A program that reaches the display by its name looks it up under
// the name of a local one.
func (x *x11) authorize(ctx context.Context, u *shell.User, env []string) error {
	p, err := shell.Start(shell.Command{Path: x.xauth, Args: []string{"xauth", "-q", "-"}, Env: env, User: u, Merge: true})
	if err != nil {
		return err
	}
	defer p.Close()
	ctx, cancel := context.WithTimeout(ctx, xauthLimit)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { _ = p.Signal(9) }) // it may have ended
	defer stop()
	local := "unix:" + x.name()
	_, err = fmt.Fprintf(p.Stdin, "remove %s\nadd %s %s %s\n", local, local, x.Protocol, x.Cookie)
	p.Stdin.Close()
	said, readErr := io.ReadAll(io.LimitReader(p.Stdout, 4096))
	if exit := p.Wait(); exit.Code != 0 {
		return fmt.Errorf("xauth: %s", strings.TrimSpace(string(said)))
	}
	return errors.Join(err, readErr)
}

func (x *x11) closeListeners() {
	for _, l := range x.listeners {
		l.Close()
	}
}

func (x *x11) close() {
	x.stop()
	x.closeListeners()
	x.accepting.Wait()
}

// findProgram returns the path of a program in an environment's PATH, else the first of others that is there; "" for
// none.
func findProgram(env []string, name string, others ...string) string {
	var places []string
	for dir := range strings.SplitSeq(shell.Value(env, "PATH"), ":") {
		if filepath.IsAbs(dir) {
			places = append(places, filepath.Join(dir, name))
		}
	}
	for _, path := range append(places, others...) {
		if executable(path) {
			return path
		}
	}
	return ""
}
