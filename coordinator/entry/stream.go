package entry

import (
	"context"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"berth/coordinator"
)

// storeLimit is how long the end of a session may wait for the store.
const storeLimit = 10 * time.Second

// A Stream is the connection of one session to a workspace's SSH server. It counts what passes; Close ends the
// session's record.
type Stream struct {
	net.Conn
	ID        string // of the session's record
	Workspace coordinator.Workspace
	Agent     coordinator.WorkspaceAgent

	in, out atomic.Int64
	close   sync.Once
	err     error // of Close; owned by close
	ended   func(in, out int64)
}

// begin writes the record that a session has begun: none begins unrecorded.
func (v *visit) begin(ctx context.Context, conn net.Conn, a coordinator.WorkspaceAgent, rec coordinator.SessionRecord) (*Stream, error) {
	if err := v.store.OpenSession(ctx, rec); err != nil {
		_ = conn.Close() // the first error says more
		return nil, fmt.Errorf("record session: %w", err)
	}
	v.touch(ctx)
	v.log.Info("session began", "session", rec.ID, "user", v.request.User.Name, "workspace", v.ws.Name, "key", rec.Key, "via", rec.Via, "peer", rec.Peer)
	e, ws := v.Entry, v.ws
	return &Stream{Conn: conn, ID: rec.ID, Workspace: ws, Agent: a, ended: func(in, out int64) {
		rec.Ended, rec.BytesIn, rec.BytesOut = e.now(), in, out
		ctx, cancel := context.WithTimeout(context.Background(), storeLimit)
		defer cancel()
		if err := e.store.CloseSession(ctx, rec); err != nil {
			e.log.Error("cannot record the end of a session", "session", rec.ID, "err", err)
		}
		if err := e.store.TouchWorkspace(ctx, ws.ID, rec.Ended); err != nil {
			e.log.Warn("cannot record the use of a workspace", "workspace", ws.Name, "err", err)
		}
		e.log.Info("session ended", "session", rec.ID, "duration", rec.Ended.Sub(rec.Started).Round(time.Millisecond), "in", in, "out", out)
	}}, nil
}

func (v *visit) touch(ctx context.Context) {
	if err := v.store.TouchWorkspace(ctx, v.ws.ID, v.now()); err != nil {
		v.log.Warn("cannot record the use of a workspace", "workspace", v.ws.Name, "err", err)
	}
}

// Read reads what the workspace sends.
func (s *Stream) Read(p []byte) (int, error) {
	n, err := s.Conn.Read(p)
	s.out.Add(int64(n))
	return n, err
}

// Write writes to the workspace.
func (s *Stream) Write(p []byte) (int, error) {
	n, err := s.Conn.Write(p)
	s.in.Add(int64(n))
	return n, err
}

// CloseWrite ends the direction into the workspace.
func (s *Stream) CloseWrite() error {
	if c, ok := s.Conn.(interface{ CloseWrite() error }); ok {
		return c.CloseWrite()
	}
	return s.Conn.Close()
}

// Close ends the stream and its record.
func (s *Stream) Close() error {
	s.close.Do(func() {
		s.err = s.Conn.Close()
		s.ended(s.in.Load(), s.out.Load())
	})
	return s.err
}
