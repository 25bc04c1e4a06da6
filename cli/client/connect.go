package client

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"time"

	"berth/agent"
	"berth/coordinator"
	"berth/coordinator/rest"
)

// connectPatience is how long Connect asks again for a wait that the server's restart cut short.
const connectPatience = time.Minute

// A Connect says where a stream goes.
type Connect struct {
	Target   coordinator.Target
	NoStart  bool                       // refuse instead of starting a stopped workspace
	Progress func(coordinator.Progress) // called while the workspace is waited for; may be nil
}

// Connect opens a stream into a workspace: the bytes of its SSH server. The workspace is started first where it is
// stopped. A wait that is cut short by a restart of the server is taken up again.
//
//	GET /api/v1/workspaces/{owner}/{name}/connect     Upgrade: berth-stream/1
//	101, lines of rest.StreamEvent until OK, then raw bytes both ways
func (c *Client) Connect(ctx context.Context, o Connect) (*Stream, error) {
	s, waited, err := c.connect(ctx, o)
	if !waited {
		return s, err
	}
	deadline := time.Now().Add(connectPatience)
	for pause := 100 * time.Millisecond; coordinator.CodeOf(err) == coordinator.CodeUnavailable; pause = min(2*pause, time.Second) {
		if time.Now().Add(pause).After(deadline) {
			break
		}
		if err := sleep(ctx, pause); err != nil {
			return nil, err
		}
		if s, waited, err = c.connect(ctx, o); waited {
			deadline = time.Now().Add(connectPatience)
		}
	}
	return s, err
}

// connect tries once. waited tells that the connection was lost, not refused, while the workspace was on its way.
func (c *Client) connect(ctx context.Context, o Connect) (s *Stream, waited bool, err error) {
	query := url.Values{}
	if o.Target.Agent != "" {
		query.Set("agent", o.Target.Agent)
	}
	if o.NoStart {
		query.Set("no_start", "true")
	}
	s = new(Stream)
	trace := &httptrace.ClientTrace{GotConn: func(i httptrace.GotConnInfo) { s.conn = i.Conn }}
	req, err := c.request(httptrace.WithClientTrace(ctx, trace), http.MethodGet, workspace(o.Target, "connect"), query, nil)
	if err != nil {
		return nil, false, err
	}
	req.Header.Set("Connection", "Upgrade")
	req.Header.Set("Upgrade", agent.StreamUpgrade)
	resp, err := c.send(req)
	if err != nil {
		return nil, false, err
	}
	body, ok := resp.Body.(halfCloser)
	if resp.StatusCode != http.StatusSwitchingProtocols || resp.Header.Get("Upgrade") != agent.StreamUpgrade || !ok || s.conn == nil {
		resp.Body.Close() // given up
		return nil, false, coordinator.Errorf(coordinator.CodeUnavailable, "%s does not open a stream: it answers %s", c.base, coordinator.Clip(resp.Status, 80)).
			WithHint("a proxy on the way may not let upgraded connections through")
	}
	s.body, s.buf = body, bufio.NewReaderSize(body, rest.MaxStreamEvent)
	// The request's context no longer reaches the connection once it is upgraded.
	stop := context.AfterFunc(ctx, func() { body.Close() }) // given up
	waited, err = c.await(s.buf, o.Progress)
	if !stop() {
		err = ctx.Err()
	}
	if err != nil {
		body.Close() // given up
		return nil, waited, err
	}
	return s, false, nil
}

// await reads the events of a stream until it is open.
func (c *Client) await(r *bufio.Reader, progress func(coordinator.Progress)) (lost bool, err error) {
	for waited := false; ; {
		line, err := r.ReadSlice('\n')
		if errors.Is(err, bufio.ErrBufferFull) {
			return false, c.foreign(agent.ErrTooLong)
		}
		if err != nil {
			return waited, c.unreachable(err)
		}
		var e rest.StreamEvent
		if err := json.Unmarshal(line, &e); err != nil {
			return false, c.foreign(fmt.Errorf("decode event: %w", err))
		}
		switch {
		case e.Problem != nil:
			return false, c.fromProblem(*e.Problem, e.Problem.Status)
		case e.OK:
			return false, nil
		case e.Progress != nil:
			waited = true
			if progress != nil {
				progress(*e.Progress)
			}
		}
	}
}

type halfCloser interface {
	io.ReadWriteCloser
	CloseWrite() error
}

// A Stream is an open stream into a workspace.
type Stream struct {
	conn net.Conn // below the upgraded body: addresses and deadlines
	body halfCloser
	buf  *bufio.Reader // nil once what it held is read
}

// Read reads from the workspace.
func (s *Stream) Read(p []byte) (int, error) {
	if s.buf != nil {
		if n := s.buf.Buffered(); n > 0 {
			return s.buf.Read(p[:min(len(p), n)])
		}
		s.buf = nil
	}
	return s.body.Read(p)
}

// Write writes to the workspace.
func (s *Stream) Write(p []byte) (int, error) { return s.body.Write(p) }

// CloseWrite tells the workspace that nothing more comes; reading goes on.
func (s *Stream) CloseWrite() error { return s.body.CloseWrite() }

// Close ends the stream.
func (s *Stream) Close() error { return s.body.Close() }

// LocalAddr returns the address of this side of the connection.
func (s *Stream) LocalAddr() net.Addr { return s.conn.LocalAddr() }

// RemoteAddr returns the address of the server, or of the proxy on the way.
func (s *Stream) RemoteAddr() net.Addr { return s.conn.RemoteAddr() }

// SetDeadline sets both deadlines.
func (s *Stream) SetDeadline(t time.Time) error { return s.conn.SetDeadline(t) }

// SetReadDeadline sets the deadline of Read.
func (s *Stream) SetReadDeadline(t time.Time) error { return s.conn.SetReadDeadline(t) }

// SetWriteDeadline sets the deadline of Write.
func (s *Stream) SetWriteDeadline(t time.Time) error { return s.conn.SetWriteDeadline(t) }
