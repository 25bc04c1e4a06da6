package sshd

import (
	"context"
	"errors"
	"net"
	"strconv"
	"time"

	"golang.org/x/crypto/ssh"

	"berth/agent/shell"
)

const dialLimit = 30 * time.Second

// directTCP connects a channel to a TCP port that the workspace reaches: ssh -L, -D, -W and ProxyJump.
func (c *conn) directTCP(_ *ssh.ServerConn, nc ssh.NewChannel) {
	to, err := parseDirectTCP(nc.ExtraData())
	if err != nil {
		c.reject(nc, ssh.ConnectionFailed, "malformed request")
		return
	}
	d := net.Dialer{Timeout: dialLimit}
	c.connect(nc, func(ctx context.Context) (net.Conn, error) {
		return d.DialContext(ctx, "tcp", net.JoinHostPort(to.Host, strconv.Itoa(int(to.Port))))
	})
}

// directUnix connects a channel to a unix socket of the workspace (OpenSSH's PROTOCOL, section 2.4).
func (c *conn) directUnix(_ *ssh.ServerConn, nc ssh.NewChannel) {
	to, err := parseDirectUnix(nc.ExtraData())
	if err != nil {
		c.reject(nc, ssh.ConnectionFailed, "malformed request")
		return
	}
	c.connect(nc, func(ctx context.Context) (net.Conn, error) {
		var nc net.Conn
		err := shell.As(c.srv.cfg.User, func() (err error) {
			// A unix socket connects or fails at once, on this thread.
			nc, err = (&net.Dialer{Timeout: dialLimit}).DialContext(ctx, "unix", to.Path)
			return err
		})
		return nc, err
	})
}

func (c *conn) connect(nc ssh.NewChannel, dial func(context.Context) (net.Conn, error)) {
	target, err := dial(c.ctx)
	if err != nil {
		c.reject(nc, ssh.ConnectionFailed, cause(err))
		return
	}
	half, ok := target.(halfCloser)
	if !ok {
		target.Close()
		c.reject(nc, ssh.ConnectionFailed, "not a stream")
		return
	}
	ch, reqs, err := nc.Accept()
	if err != nil {
		target.Close()
		c.log.Debug("accept forward", "error", err)
		return
	}
	splice(ch, reqs, half)
}

// cause is the part of a dial's error that tells a user something: "connection refused".
func cause(err error) string {
	var op *net.OpError
	if errors.As(err, &op) && op.Err != nil {
		return op.Err.Error()
	}
	return err.Error()
}
