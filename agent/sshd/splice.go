package sshd

import (
	"io"
	"net"
	"time"

	"golang.org/x/crypto/ssh"
)

// lingerLimit is how long one direction of a forward may go on delivering after the other has broken.
const lingerLimit = 5 * time.Second

// A halfCloser is a connection whose sending side can be closed by itself.
type halfCloser interface {
	net.Conn
	CloseWrite() error
}

// splice joins a channel and a connection until both directions have ended, each in its own time: the end of one is
// passed on as a half-close, so that nothing that is still on its way the other way is lost. It closes both.
func splice(ch ssh.Channel, reqs <-chan *ssh.Request, nc halfCloser) {
	gone := make(chan struct{}) // the client closed the channel, or is away
	go func() {
		defer close(gone)
		ssh.DiscardRequests(reqs)
	}()
	in, out := make(chan error, 1), make(chan error, 1)
	go func() { in <- pass(nc, ch) }()
	go func() { out <- pass(ch, nc) }()
	defer ch.Close()
	defer nc.Close()

	var broken <-chan time.Time
	for in != nil || out != nil {
		var err error
		select {
		case err = <-in:
			in = nil
		case err = <-out:
			out = nil
		case <-gone:
			gone, err = nil, io.ErrClosedPipe
		case <-broken:
			nc.Close() // ends both directions
			ch.Close()
			broken = nil
			continue
		}
		if err != nil && broken == nil {
			broken = time.After(lingerLimit)
		}
	}
}

// pass copies until src ends, and says so to dst.
func pass(dst interface {
	io.Writer
	CloseWrite() error
}, src io.Reader) error {
	if _, err := io.Copy(dst, src); err != nil {
		return err
	}
	return dst.CloseWrite()
}
