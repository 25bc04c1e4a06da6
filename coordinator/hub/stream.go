package hub

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"time"
	"unicode"

	"github.com/hashicorp/yamux"

	"berth/agent"
	"berth/coordinator"
)

const (
	maxWrite     = 40 << 10         // of one frame: the largest SSH packet and no more, for other streams wait meanwhile
	replyTimeout = 30 * time.Second // of an agent that dials
)

// A stream is a stream of a link as a net.Conn with CloseWrite. It tells a lost link from an end, and a refusal of
// the agent from SSH.
type stream struct {
	*yamux.Stream
	link *link

	mu     sync.Mutex
	closed bool          // guarded by mu
	expect bool          // the first byte may begin a refusal; owned by Read
	rest   *bytes.Reader // not used up by the look for a refusal; owned by Read
}

// open opens a stream. Whatever yamux waits for, it returns when ctx ends.
func (l *link) open(ctx context.Context, hdr agent.StreamHeader) (*stream, error) {
	if !l.guard.room() {
		return nil, coordinator.Errorf(coordinator.CodeUnavailable, "too many connections into the workspace are open").
			WithHint("close some of them, then try again")
	}
	type opened struct {
		s   *stream
		err error
	}
	result := make(chan opened)
	ok := l.spawn(func() {
		s, err := l.openNow(hdr)
		select {
		case result <- opened{s, err}:
		case <-ctx.Done():
			if err == nil {
				_ = s.Close() // nobody wants it any more
			}
		}
	})
	if !ok {
		return nil, errLost(nil)
	}
	select {
	case r := <-result:
		return r.s, r.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (l *link) openNow(hdr agent.StreamHeader) (*stream, error) {
	y, err := l.session.OpenStream()
	if err != nil {
		return nil, errLost(err)
	}
	s := &stream{Stream: y, link: l, expect: hdr.Kind == agent.KindSSH}
	l.keep(s)
	if err := agent.WriteLine(s, hdr, agent.MaxStreamHeader); err != nil {
		_ = s.Close() // the write's error says more
		return nil, errLost(err)
	}
	if hdr.Kind != agent.KindDial {
		return s, nil
	}
	var reply agent.Reply
	err = y.SetReadDeadline(time.Now().Add(replyTimeout))
	if err == nil {
		err = agent.ReadLine(s, &reply, agent.MaxStreamHeader)
	}
	if err == nil {
		err = y.SetReadDeadline(time.Time{})
	}
	if err == nil && !reply.OK {
		err = errRefused(reply)
	}
	if err != nil {
		_ = s.Close() // the first error says more
		return nil, err
	}
	return s, nil
}

func errLost(cause error) error {
	return coordinator.Errorf(coordinator.CodeUnavailable, "the connection to the workspace's agent was lost").
		WithHint("try again in a moment").WithCause(cause)
}

func errRefused(r agent.Reply) error {
	return coordinator.Errorf(coordinator.CodeUnavailable, "the workspace's agent refused: %s", plain(r.Error, 300))
}

// plain makes what an agent says fit for a person's terminal: one line of at most n bytes without control characters.
func plain(s string, n int) string {
	s = strings.Map(func(r rune) rune {
		if unicode.IsControl(r) || r == unicode.ReplacementChar {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(s, " "))
	return coordinator.Clip(strings.TrimSpace(s), n)
}

// Read reads from the agent. A link that is lost ends in io.ErrUnexpectedEOF, a refusal in its reason.
func (s *stream) Read(p []byte) (int, error) {
	if s.expect && len(p) > 0 {
		s.expect = false
		if err := s.lookForRefusal(); err != nil {
			return 0, err
		}
	}
	if s.rest != nil {
		n, _ := s.rest.Read(p)
		if s.rest.Len() == 0 {
			s.rest = nil
		}
		return n, nil
	}
	return s.read(p)
}

func (s *stream) read(p []byte) (int, error) {
	n, err := s.Stream.Read(p)
	switch {
	case err == nil:
	case s.isClosed():
		err = net.ErrClosed
	case errors.Is(err, io.EOF) && s.link.guard.cut(s.StreamID()):
		err = io.ErrUnexpectedEOF
	}
	return n, err
}

// lookForRefusal reads the first byte. Where it is '{', which begins no SSH version, it reads the refusal.
func (s *stream) lookForRefusal() error {
	var b [1]byte
	if _, err := s.read(b[:]); err != nil {
		return err
	}
	s.rest = bytes.NewReader(b[:])
	if b[0] != '{' {
		return nil
	}
	var r agent.Reply
	if err := agent.ReadLine(io.MultiReader(s.rest, readerFunc(s.read)), &r, agent.MaxStreamHeader); err != nil {
		return errLost(err)
	}
	return errRefused(r)
}

type readerFunc func(p []byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

// Write writes to the agent in pieces. Any error ends the stream: yamux may still send what it says failed.
func (s *stream) Write(p []byte) (int, error) {
	n := 0
	for n < len(p) || len(p) == 0 {
		m, err := s.Stream.Write(p[n:min(len(p), n+maxWrite)])
		n += m
		if err != nil {
			_ = s.Close() // the write's error says more
			return n, err
		}
		if len(p) == 0 {
			break
		}
	}
	return n, nil
}

// CloseWrite ends our direction; reading goes on.
func (s *stream) CloseWrite() error { return s.Stream.Close() }

// Close ends the stream. An agent that does not end its direction within a grace is cut off.
func (s *stream) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil
	}
	s.closed = true
	s.link.forget(s)
	err := s.Stream.Close()
	_ = s.SetReadDeadline(time.Unix(1, 0)) // wakes a reader; never fails
	if _, open := s.link.guard.standing(s.StreamID()); open {
		s.link.cutLater(s.StreamID())
	}
	return err
}

func (s *stream) isClosed() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.closed
}
