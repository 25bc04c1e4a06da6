package link

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/hashicorp/yamux"

	"berth/agent"
)

const (
	headerTimeout   = 10 * time.Second // for the first line of a stream
	manifestTimeout = time.Minute
	goodbyeTimeout  = 300 * time.Millisecond
)

// A session is one established link.
type session struct {
	l       *linker
	mux     *yamux.Session
	leaving chan struct{} // closed when the next link is to be dialled: the coordinator said so, or this one ended
	leave   func()
	fetch   chan struct{} // lossy: the manifest is to be fetched

	streams sync.WaitGroup // of goroutines that serve or drain streams

	mu     sync.Mutex
	active int // guarded by mu: streams handed out
}

func newSession(l *linker, mux *yamux.Session) *session {
	s := &session{l: l, mux: mux, leaving: make(chan struct{}), fetch: make(chan struct{}, 1)}
	s.leave = sync.OnceFunc(func() { close(s.leaving) })
	s.fetch <- struct{}{}
	return s
}

// run serves the session until the link is lost, or ctx ends, or after a go-away its last stream has. It returns once
// every stream has been given back.
func (s *session) run(ctx context.Context) {
	defer s.streams.Wait()
	defer s.leave()
	defer func() { _ = s.mux.Close() }()
	control, err := s.open(agent.KindControl)
	if err != nil {
		s.l.log.Warn("link lost", "error", err)
		return
	}
	s.l.log.Info("linked to the coordinator")
	live, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := context.AfterFunc(live, func() { _ = control.SetReadDeadline(time.Now().Add(goodbyeTimeout)) })
	defer stop()

	var parts sync.WaitGroup
	defer parts.Wait()
	part := func(f func(ctx context.Context)) {
		parts.Go(func() {
			defer cancel() // the end of one is the end of all
			f(live)
		})
	}
	part(func(ctx context.Context) { s.report(ctx, control) })
	part(func(ctx context.Context) { s.manifests(ctx) })
	part(func(ctx context.Context) { s.accept(ctx) })
	part(func(ctx context.Context) { s.outlive(ctx) })
	err = s.listen(control)
	cancel()
	if ctx.Err() == nil {
		s.l.log.Info("link ended", "reason", err)
	}
	_ = s.mux.Close()
}

// open opens a stream of the agent's own.
func (s *session) open(kind agent.Kind) (*streamConn, error) {
	st, err := s.mux.OpenStream()
	if err != nil {
		return nil, fmt.Errorf("open %s stream: %w", kind, err)
	}
	c := s.wrap(st, nil)
	if err := agent.WriteLine(c, agent.StreamHeader{Kind: kind, ID: newInstance()}, agent.MaxStreamHeader); err != nil {
		_ = c.Close()
		return nil, fmt.Errorf("open %s stream: %w", kind, err)
	}
	return c, nil
}

func (s *session) wrap(st *yamux.Stream, ended func()) *streamConn {
	c := &streamConn{Stream: st}
	c.done = func() {
		s.streams.Go(func() {
			c.drain()
			if ended != nil {
				ended()
			}
		})
	}
	return c
}

// report writes heartbeats and what the outbox holds, and in the end, if there is one, a goodbye.
func (s *session) report(ctx context.Context, control net.Conn) {
	heartbeat := time.NewTicker(agent.HeartbeatInterval)
	defer heartbeat.Stop()
	cursor := s.l.Outbox.cursor()
	send := func(m agent.Message) error { return agent.WriteLine(control, m, agent.MaxControlMessage) }
	err := send(agent.Message{Type: agent.TypeHeartbeat})
	for err == nil {
		messages, changed := cursor.next()
		for _, m := range messages {
			if err = send(m); err != nil {
				return
			}
		}
		if len(messages) > 0 {
			continue
		}
		select {
		case <-changed:
		case <-heartbeat.C:
			cursor.beat()
			err = send(agent.Message{Type: agent.TypeHeartbeat})
		case <-ctx.Done():
			_ = control.SetWriteDeadline(time.Now().Add(goodbyeTimeout))
			_ = send(agent.Message{Type: agent.TypeGoodbye, Text: "the agent is stopping"})
			_ = control.(*streamConn).CloseWrite()
			return
		}
	}
}

// listen reads the coordinator's messages until the control stream ends.
func (s *session) listen(control *streamConn) error {
	defer func() { _ = control.Close() }()
	r := agent.NewMessageReader(control, agent.MaxControlMessage)
	for {
		var m agent.Message
		if err := r.Next(&m); err != nil {
			return fmt.Errorf("read control stream: %w", err)
		}
		switch m.Type {
		case agent.TypeManifestChanged:
			select {
			case s.fetch <- struct{}{}:
			default:
			}
		case agent.TypeGoAway:
			s.l.log.Info("the coordinator asks for a new link")
			s.leave()
		case agent.TypeStopNotice:
			if s.l.OnStopNotice != nil {
				s.l.OnStopNotice(m.Text)
			}
		}
	}
}

// manifests fetches the manifest now and whenever it changed.
func (s *session) manifests(ctx context.Context) {
	retry := time.Second
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.fetch:
		}
		m, err := s.manifest()
		switch {
		case err == nil:
			retry = time.Second
			s.deliver(m)
		case s.mux.IsClosed():
			return
		default:
			s.l.log.Warn("cannot fetch the manifest, retrying", "error", err)
			sleep(ctx, retry)
			retry = min(2*retry, 15*time.Second)
			select {
			case s.fetch <- struct{}{}:
			default:
			}
		}
	}
}

func (s *session) manifest() (*agent.Manifest, error) {
	c, err := s.open(agent.KindManifest)
	if err != nil {
		return nil, err
	}
	defer func() { _ = c.Close() }()
	_ = c.SetReadDeadline(time.Now().Add(manifestTimeout))
	return agent.ReadManifest(c)
}

func (s *session) deliver(m *agent.Manifest) {
	s.l.manifests.Lock()
	defer s.l.manifests.Unlock()
	if s.l.OnManifest != nil {
		s.l.OnManifest(m)
	}
}

// accept takes the coordinator's streams until the session ends.
func (s *session) accept(ctx context.Context) {
	for {
		st, err := s.mux.AcceptStream()
		if err != nil {
			return
		}
		if !s.enter() {
			c := s.wrap(st, nil)
			refuse(c, "too many streams: the agent serves %d at a time", agent.MaxStreams)
			_ = c.Close()
			continue
		}
		c := s.wrap(st, s.exit)
		s.streams.Go(func() { s.serve(ctx, c) })
	}
}

func (s *session) enter() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.active >= agent.MaxStreams {
		return false
	}
	s.active++
	return true
}

func (s *session) exit() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.active--
}

func (s *session) idle() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.active == 0
}

// serve reads a stream's header and hands it out.
func (s *session) serve(ctx context.Context, c *streamConn) {
	defer func() { _ = c.Close() }()
	_ = c.SetReadDeadline(time.Now().Add(headerTimeout))
	var hdr agent.StreamHeader
	if err := agent.ReadLine(c, &hdr, agent.MaxStreamHeader); err != nil {
		if !s.mux.IsClosed() {
			refuse(c, "the stream's header cannot be read")
		}
		return
	}
	_ = c.SetReadDeadline(time.Time{})
	switch hdr.Kind {
	case agent.KindSSH, agent.KindDial:
		if s.l.OnStream == nil {
			refuse(c, "this agent serves no streams")
			return
		}
		s.l.OnStream(ctx, c, hdr)
	default:
		refuse(c, "this agent does not know streams of kind %.40q", string(hdr.Kind))
	}
}

// outlive ends a session that a go-away has superseded once it carries nothing any more.
func (s *session) outlive(ctx context.Context) {
	select {
	case <-ctx.Done():
		return
	case <-s.leaving:
	}
	for quiet := 0; quiet < 3; {
		sleep(ctx, time.Second)
		if ctx.Err() != nil {
			return
		}
		if quiet++; !s.idle() {
			quiet = 0
		}
	}
}

// errEarly is what a link that was lost at once counts as, so that a proxy that accepts and drops is not hammered.
var errEarly = errors.New("the link was lost right after it began")
