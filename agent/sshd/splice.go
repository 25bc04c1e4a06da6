package sshd

import (
	"io"
	"net"
	"sync/atomic"
	"time"

	"golang.org/x/crypto/ssh"

	"berth/agent"
)

// stallLimit is how long one direction of a forward may deliver nothing after the other has broken.
const stallLimit = 5 * time.Second

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
	var moved atomic.Int64
	in, out := make(chan error, 1), make(chan error, 1)
	go func() { in <- pass(nc, ch, &moved) }()
	go func() { out <- pass(ch, nc, &moved) }()
	defer ch.Close()
	defer nc.Close()

	var stall <-chan time.Time // set once one direction has broken, or the client has gone
	last := int64(-1)
	for in != nil || out != nil {
		var err error
		select {
		case err = <-in:
			in = nil
		case err = <-out:
			out = nil
		case <-gone:
			gone, err = nil, io.ErrClosedPipe
		case <-stall:
			stall = time.After(stallLimit)
			if now := moved.Load(); now != last {
				last = now
				continue
			}
			nc.Close()
			ch.Close() // ends when the client answers it, or with the connection
		}
		if err != nil && stall == nil {
			last, stall = moved.Load(), time.After(stallLimit)
		}
	}
}

// pass copies until src ends, and says so to dst. It counts what dst took.
func pass(dst interface {
	io.Writer
	CloseWrite() error
}, src io.Reader, moved *atomic.Int64,
) error {
	if _, err := agent.Copy(meter{dst, moved}, src); err != nil {
		return err
	}
	return dst.CloseWrite()
}

// A meter counts what is written.
type meter struct {
	io.Writer
	n *atomic.Int64
}

func (m meter) Write(b []byte) (int, error) {
	n, err := m.Writer.Write(b)
	m.n.Add(int64(n))
	return n, err
}

// A wire is the stream below SSH, read in large pieces while there is much to read.
type wire struct {
	net.Conn
	ahead agent.ReadAhead
}

func newWire(c net.Conn) *wire { return &wire{Conn: c, ahead: agent.ReadAhead{R: c}} }

func (w *wire) Read(b []byte) (int, error) { return w.ahead.Read(b) }

// SetDeadline does nothing: the frame clears the deadline before each Read and each Write, and nothing here sets one.
func (w *wire) SetDeadline(time.Time) error { return nil }
