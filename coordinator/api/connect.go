package api

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"berth/agent"
	"berth/coordinator"
	"berth/coordinator/entry"
	"berth/coordinator/rest"
)

const (
	maxEarly  = 64 << 10    // bytes that a client may send before its workspace is there
	halfClose = time.Minute // for a client to end after the workspace has
)

// A Stream is an open stream into a workspace.
type Stream interface {
	net.Conn
	CloseWrite() error
}

// upgrades documents a route that leaves HTTP.
func upgrades(op *huma.Operation) {
	op.Responses = map[string]*huma.Response{strconv.Itoa(http.StatusSwitchingProtocols): {
		Description: http.StatusText(http.StatusSwitchingProtocols),
	}}
	op.DefaultStatus = http.StatusSwitchingProtocols
}

type connectInput struct {
	WorkspacePath
	Agent   string `query:"agent" maxLength:"32"`
	NoStart bool   `query:"no_start" doc:"refuse instead of starting a stopped workspace"`
	Upgrade string `header:"Upgrade"`
	Origin  string `header:"Origin"`
}

// connect refuses what it can while this is still HTTP, then leaves it.
func (s *server) connect(ctx context.Context, in *connectInput) (*streamed, error) {
	if in.Origin != "" {
		return nil, coordinator.Errorf(coordinator.CodeDenied, "a web page may not open a stream")
	}
	if !strings.EqualFold(in.Upgrade, agent.StreamUpgrade) {
		p := statusProblem(http.StatusUpgradeRequired, "this address opens a stream, and the request does not ask for one", "use berth connect")
		p.headers = http.Header{"Upgrade": {agent.StreamUpgrade}, "Connection": {"Upgrade"}}
		return nil, p
	}
	who := actor(ctx)
	user := who.User
	target := coordinator.Target{Owner: in.Owner, Workspace: in.Name, Agent: in.Agent}
	if target.Owner == "me" {
		target.Owner = user.Name
	}
	if _, err := s.Entry.Lookup(ctx, user, target); err != nil {
		return nil, err
	}
	return stream(func(w http.ResponseWriter, r *http.Request) {
		conn, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			statusProblem(http.StatusHTTPVersionNotSupported, "a stream needs HTTP/1.1", "").write(w)
			return
		}
		defer conn.Close() //nolint:errcheck // both sides have ended
		req := entry.Request{
			User: user, Target: target, Peer: r.RemoteAddr, Via: agent.ViaConnect, Token: who.TokenName, NoStart: in.NoStart,
		}
		// The request's context ends with the handler, not with the connection, which is ours now.
		if err := s.upgraded(context.WithoutCancel(ctx), &client{Conn: conn, r: rw.Reader}, req); err != nil {
			s.Logger.DebugContext(ctx, "stream ended", "workspace", target.String(), "err", err)
		}
	}), nil
}

// A client is the connection that was upgraded; early bytes may stand in its reader.
type client struct {
	net.Conn
	r *bufio.Reader

	mu sync.Mutex // one event at a time
}

// Read reads what came early first.
func (c *client) Read(p []byte) (int, error) { return c.r.Read(p) }

func (c *client) event(e rest.StreamEvent) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.SetWriteDeadline(time.Now().Add(writeTime)); err != nil {
		return err
	}
	return agent.WriteLine(c.Conn, e, rest.MaxStreamEvent)
}

// upgraded answers the upgrade, waits for the workspace and joins the two.
func (s *server) upgraded(ctx context.Context, c *client, req entry.Request) error {
	if err := c.SetDeadline(time.Time{}); err != nil {
		return err
	}
	_, err := io.WriteString(c.Conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: "+agent.StreamUpgrade+"\r\n\r\n")
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	early := c.listen(cancel)
	req.Progress = func(p coordinator.Progress) {
		if err := c.event(rest.StreamEvent{Progress: &p}); err != nil {
			cancel(err)
		}
	}
	stopDone := s.endWith(cancel)
	st, err := s.Entry.Enter(ctx, req)
	stopDone()
	head, gone := early()
	if err == nil && gone != nil {
		err = errors.Join(gone, st.Close())
	}
	switch {
	case err != nil && context.Cause(ctx) != nil: // the client is gone, or may ask the next coordinator
		return errors.Join(err, context.Cause(ctx))
	case err != nil:
		p := problemOf(s.fail(ctx, "connect", err))
		return errors.Join(err, c.event(rest.StreamEvent{Problem: &p.Problem}))
	}
	defer st.Close() //nolint:errcheck // both directions have ended
	if err := c.event(rest.StreamEvent{OK: true}); err != nil {
		return err
	}
	if err := c.SetDeadline(time.Time{}); err != nil {
		return err
	}
	return splice(c, head, st)
}

// endWith cancels a wait when the coordinator shuts down. The returned function ends that.
func (s *server) endWith(cancel context.CancelCauseFunc) func() {
	stop := make(chan struct{})
	var g sync.WaitGroup
	g.Go(func() {
		select {
		case <-s.Done:
			cancel(errShutdown)
		case <-stop:
		}
	})
	return func() {
		close(stop)
		g.Wait()
	}
}

var errShutdown = coordinator.Errorf(coordinator.CodeUnavailable, "the coordinator is shutting down")

var errEarly = errors.New("too much was sent before the workspace was there")

// listen reads what the client sends while it waits, so that a client that goes away is noticed: its wait is
// cancelled. The returned function ends the listening and returns what came, and why the client is gone if it is.
func (c *client) listen(cancel context.CancelCauseFunc) func() ([]byte, error) {
	var (
		g    sync.WaitGroup
		head []byte
		gone error
	)
	g.Go(func() {
		buf := make([]byte, 4<<10)
		for {
			n, err := c.Read(buf)
			head = append(head, buf[:n]...)
			if err == nil && len(head) > maxEarly {
				err = errEarly
			}
			if errors.Is(err, os.ErrDeadlineExceeded) {
				return
			}
			if err != nil {
				gone = err
				cancel(err)
				return
			}
		}
	})
	return func() ([]byte, error) {
		// A deadline in the past wakes the reader; what it has read stays.
		err := c.SetReadDeadline(time.Unix(1, 0))
		g.Wait()
		return head, errors.Join(gone, err, c.SetReadDeadline(time.Time{}))
	}
}

// splice copies both ways until both sides have ended. An end of one direction is passed on as such.
func splice(c *client, head []byte, st Stream) error {
	var (
		g    sync.WaitGroup
		up   error
		down error
	)
	g.Go(func() {
		if _, up = st.Write(head); up == nil {
			_, up = agent.Copy(st, c)
		}
		if up = errors.Join(up, st.CloseWrite()); up != nil {
			up = errors.Join(up, st.Close()) // a broken client ends the other direction too
		}
	})
	_, down = agent.Copy(c.Conn, st)
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok && down == nil {
		down = errors.Join(half.CloseWrite(), c.SetReadDeadline(time.Now().Add(halfClose)))
	} else {
		down = errors.Join(down, c.Close())
	}
	g.Wait()
	return errors.Join(up, down)
}
