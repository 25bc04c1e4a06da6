package door

import (
	"errors"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/crypto/ssh"

	"berth/coordinator/entry"
)

const (
	stallLimit = 5 * time.Second // for one direction to deliver nothing after the other has broken
	maxEarly   = 64 << 10        // bytes that are kept of a client while its workspace starts
)

// A halfCloser is where one direction goes.
type halfCloser interface {
	io.Writer
	CloseWrite() error
}

// splice joins a channel and a stream, with half-closes, until both directions have ended; sent is the end of the
// one from the channel, which has begun already and counts in moved. It closes the stream.
func splice(ch ssh.Channel, gone <-chan struct{}, sent <-chan error, moved *atomic.Int64, stream *entry.Stream) {
	defer stream.Close()
	received := make(chan error, 1)
	go func() { received <- pass(ch, stream, moved) }()
	var stall <-chan time.Time // set once one direction has broken, or the client has gone
	last := int64(-1)
	for sent != nil || received != nil {
		var err error
		select {
		case err = <-sent:
			sent = nil
		case err = <-received:
			received = nil
		case <-gone:
			gone, err = nil, io.ErrClosedPipe
		case <-stall:
			stall = time.After(stallLimit)
			if now := moved.Load(); now != last {
				last = now
				continue
			}
			stream.Close() // ends both directions
			_ = ch.Close()
		}
		if err != nil && stall == nil {
			last, stall = moved.Load(), time.After(stallLimit)
		}
	}
}

// pass copies until src ends, and says so to dst. It counts what dst took.
func pass(dst halfCloser, src io.Reader, moved *atomic.Int64) error {
	// Only Read and Write: a stream counts in them what passes.
	if _, err := io.Copy(meter{dst, moved}, struct{ io.Reader }{src}); err != nil {
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

var errDiscarded = errors.New("nobody takes what is written")

// An uplink is where a client's bytes go before it is known where to: it keeps a few, and passes everything on once
// it is connected.
type uplink struct {
	early func() // called at an end that comes before connect

	mu    sync.Mutex
	room  sync.Cond
	to    halfCloser // guarded by mu; nil before connect
	kept  []byte     // guarded by mu
	over  bool       // guarded by mu: discarded
	ended bool       // guarded by mu: CloseWrite was called
}

func newUplink(early func()) *uplink {
	u := &uplink{early: early}
	u.room.L = &u.mu
	return u
}

// Write keeps b, or passes it on.
func (u *uplink) Write(b []byte) (int, error) {
	u.mu.Lock()
	for u.to == nil && !u.over && len(u.kept)+len(b) > maxEarly {
		u.room.Wait()
	}
	to := u.to
	switch {
	case u.over:
		u.mu.Unlock()
		return len(b), nil // read on, for the end
	case to == nil:
		u.kept = append(u.kept, b...)
		u.mu.Unlock()
		return len(b), nil
	}
	u.mu.Unlock()
	return to.Write(b)
}

// CloseWrite passes the end on.
func (u *uplink) CloseWrite() error {
	u.mu.Lock()
	u.ended = true
	to := u.to
	u.mu.Unlock()
	if to == nil {
		u.early()
		return errDiscarded
	}
	return to.CloseWrite()
}

// connect says where to.
func (u *uplink) connect(to halfCloser) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if len(u.kept) > 0 {
		_, _ = to.Write(u.kept) // a broken stream is seen by its reader
		u.kept = nil
	}
	if u.ended {
		_ = to.CloseWrite()
	}
	u.to = to
	u.room.Broadcast()
}

// discard says that it goes nowhere.
func (u *uplink) discard() {
	u.mu.Lock()
	u.over, u.kept = true, nil
	u.room.Broadcast()
	u.mu.Unlock()
}
