package link

import (
	"encoding/binary"
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/yamux"

	"berth/agent"
)

const (
	frameHeader  = 12
	streamWindow = 4 << 20     // receive window: 80 MB/s at 50 ms round trip; at most agent.MaxWindow
	maxJoin      = maxWrite    // a larger body is written on its own
	maxWrite     = 40 << 10    // of one frame: the largest SSH packet and no more, for other streams wait meanwhile
	shrinkEvery  = 1 << 20     // bytes read between two releases of a stream's buffer
	drainLimit   = time.Minute // for the other side to close a stream that we closed
)

// A joinConn writes a yamux header and its body together: one packet and one TLS record rather than two.
//
//	version(1) type(1) flags(2) stream(4) length(4)
type joinConn struct {
	io.ReadWriteCloser
	ahead agent.ReadAhead
	held  []byte // owned by yamux's send loop: a data header whose body comes next
}

func newJoinConn(conn io.ReadWriteCloser) *joinConn {
	return &joinConn{ReadWriteCloser: conn, ahead: agent.ReadAhead{R: conn}}
}

func (c *joinConn) Read(b []byte) (int, error) { return c.ahead.Read(b) }

func (c *joinConn) Write(b []byte) (int, error) {
	if len(c.held) == 0 {
		if len(b) == frameHeader && b[1] == 0 && binary.BigEndian.Uint32(b[8:]) > 0 {
			c.held = append(c.held[:0], b...)
			return len(b), nil
		}
		return c.ReadWriteCloser.Write(b)
	}
	defer func() { c.held = c.held[:0] }()
	if len(b) > maxJoin {
		if _, err := c.ReadWriteCloser.Write(c.held); err != nil {
			return 0, err
		}
		return c.ReadWriteCloser.Write(b)
	}
	c.held = append(c.held, b...)
	n, err := c.ReadWriteCloser.Write(c.held)
	return max(0, n-frameHeader), err
}

// A streamConn is a yamux stream with a half-close that a connection has: yamux's Close ends writing only.
type streamConn struct {
	*yamux.Stream
	unread atomic.Int64 // bytes read since the buffer was released

	writeClosed sync.Once
	reading     sync.Mutex // held by Read, so that drain begins once it has left
	deadline    sync.Mutex // held while the read deadline is set: that of Close stands
	closed      atomic.Bool
	done        func() // called once, when both sides have closed or the other was given up
}

func (c *streamConn) Read(b []byte) (int, error) {
	c.reading.Lock()
	defer c.reading.Unlock()
	if c.closed.Load() {
		return 0, net.ErrClosed
	}
	n, err := c.Stream.Read(b)
	if c.closed.Load() {
		return n, net.ErrClosed
	}
	// yamux keeps a stream's buffer at its largest; releasing it does nothing while it holds data.
	if c.unread.Add(int64(n)) >= shrinkEvery {
		c.unread.Store(0)
		c.Shrink()
	}
	return n, err
}

// Write writes in small pieces. After a failed Write the stream is closed: yamux may still send what it said it had
// not, so that nothing may follow.
func (c *streamConn) Write(b []byte) (int, error) {
	total := 0
	for len(b) > 0 {
		n, err := c.Stream.Write(b[:min(len(b), maxWrite)])
		total += n
		b = b[n:]
		if err != nil {
			if c.closed.Load() || errors.Is(err, yamux.ErrStreamClosed) {
				return total, net.ErrClosed
			}
			_ = c.Close()
			return total, err
		}
	}
	return total, nil
}

// CloseWrite tells the other side that no more will come. Reading goes on.
func (c *streamConn) CloseWrite() (err error) {
	c.writeClosed.Do(func() { err = c.Stream.Close() })
	return err
}

// Close ends both directions. What still arrives is dropped until the other side closes as well, for a stream that
// is closed at one side only would count for the life of the link.
func (c *streamConn) Close() error {
	c.deadline.Lock()
	first := c.closed.CompareAndSwap(false, true)
	if first {
		_ = c.Stream.SetReadDeadline(time.Now().Add(-time.Second)) // wakes a Read
	}
	c.deadline.Unlock()
	if !first {
		return nil
	}
	err := c.CloseWrite()
	c.done()
	return err
}

// drain runs after Close. Its own deadline would let a Read wait on that Close has to wake.
func (c *streamConn) drain() {
	c.reading.Lock()
	_ = c.Stream.SetReadDeadline(time.Now().Add(drainLimit))
	c.reading.Unlock()
	_, _ = io.Copy(io.Discard, struct{ io.Reader }{c.Stream})
}

// SetDeadline, SetReadDeadline and SetWriteDeadline do nothing to a closed stream.
func (c *streamConn) SetDeadline(t time.Time) error {
	return errors.Join(c.SetReadDeadline(t), c.SetWriteDeadline(t))
}

// SetReadDeadline is part of net.Conn.
func (c *streamConn) SetReadDeadline(t time.Time) error {
	c.deadline.Lock()
	defer c.deadline.Unlock()
	if c.closed.Load() {
		return net.ErrClosed
	}
	return c.Stream.SetReadDeadline(t)
}

// SetWriteDeadline is part of net.Conn.
func (c *streamConn) SetWriteDeadline(t time.Time) error {
	if c.closed.Load() {
		return net.ErrClosed
	}
	return c.Stream.SetWriteDeadline(t)
}
