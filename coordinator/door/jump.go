package door

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/crypto/ssh"

	"berth/agent"
	"berth/coordinator"
	"berth/coordinator/entry"
)

const (
	jumpPort     = 22
	maxJumps     = 100                    // channels of one connection
	aheadLook    = 150 * time.Millisecond // for whether the workspace has to be started
	versionLimit = 10 * time.Second       // of the workspace's own version line
	farewell     = 2 * time.Second        // for a client to read why it fails
)

// An ahead is an entry that was begun while the client still logs in to the jump: what it wants is known by then.
type ahead struct {
	done   chan struct{}
	stream *entry.Stream // valid once done is closed
	err    error         // valid once done is closed
	cancel context.CancelFunc

	mu    sync.Mutex
	taken bool // guarded by mu: somebody uses the stream
}

// take hands the entry out, once.
func (a *ahead) take() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.taken {
		return false
	}
	a.taken = true
	return true
}

// drop ends an entry that nobody took.
func (a *ahead) drop() {
	a.cancel()
	<-a.done
	if a.take() && a.stream != nil {
		a.stream.Close()
	}
}

// enterAhead begins to enter the workspace of a jump name. Authentication is not held, for the outer client's connect
// timer runs during it; but if the workspace has to be started, one banner says so.
func (c *conn) enterAhead() error {
	ctx, cancel := context.WithCancel(c.ctx)
	a := &ahead{done: make(chan struct{}), cancel: cancel}
	c.ahead = a
	waits := make(chan struct{})
	told := sync.OnceFunc(func() { close(waits) })
	go func() {
		defer close(a.done)
		a.stream, a.err = c.enterJump(ctx, c.target, func(coordinator.Progress) { told() })
	}()
	timer := time.NewTimer(aheadLook)
	defer timer.Stop()
	select {
	case <-a.done:
	case <-timer.C:
	case <-waits:
		return (*c.pre.Load()).SendAuthBanner(banner("starting " + c.ws.Name + ", please wait"))
	}
	return nil
}

func (c *conn) enterJump(ctx context.Context, t coordinator.Target, progress func(coordinator.Progress)) (*entry.Stream, error) {
	s, err := c.enter(ctx, entry.Request{Target: t, Via: agent.ViaJump, Progress: progress})
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { s.Close() })
	defer stop()
	timer := time.AfterFunc(versionLimit, func() { s.Close() })
	defer timer.Stop()
	if err := swallowVersion(s); err != nil {
		s.Close()
		return nil, coordinator.Errorf(coordinator.CodeUnavailable, "the SSH server of workspace %s does not answer as it should: %w", t.Workspace, err).
			WithHint("berth show " + t.Workspace + " tells how it is")
	}
	return s, nil
}

// swallowVersion reads the workspace's version line, which the client has got already: the constant that both
// servers send. Any other would not fit what the client hashes into its key exchange.
func swallowVersion(r io.Reader) error {
	var line []byte
	var b [1]byte
	for len(line) < 256 {
		if _, err := io.ReadFull(r, b[:]); err != nil {
			return fmt.Errorf("read version: %w", err)
		}
		if b[0] != '\n' {
			line = append(line, b[0])
			continue
		}
		if got := strings.TrimSuffix(string(line), "\r"); got != agent.SSHVersion {
			return fmt.Errorf("its version is %q, not %q", printable(got), agent.SSHVersion)
		}
		return nil
	}
	return errors.New("its version line is too long")
}

// serveJump serves a connection that jumps.
func (c *conn) serveJump(sc *ssh.ServerConn, chans <-chan ssh.NewChannel, reqs <-chan *ssh.Request) {
	var work sync.WaitGroup
	defer work.Wait()
	defer c.cancel()
	work.Go(func() {
		for req := range reqs {
			_ = req.Reply(req.Type == "keepalive@openssh.com", nil)
		}
	})
	room := make(chan struct{}, maxJumps)
	for nc := range chans {
		select {
		case room <- struct{}{}:
		default:
			_ = nc.Reject(ssh.ResourceShortage, "too many open channels")
			continue
		}
		work.Go(func() {
			defer func() { <-room }()
			switch t, ok := c.jumpTarget(nc); {
			case ok && c.allowed(t):
				c.jumpTo(nc, t)
			case nc.ChannelType() == "session":
				c.answerSession(nc)
			default:
				_ = nc.Reject(ssh.Prohibited, c.elsewhere())
			}
		})
	}
	_ = sc.Close()
}

// jumpTarget returns the workspace whose SSH port a channel asks for, if it does.
func (c *conn) jumpTarget(nc ssh.NewChannel) (coordinator.Target, bool) {
	var to struct {
		Host       string
		Port       uint32
		OriginHost string
		OriginPort uint32
	}
	if nc.ChannelType() != "direct-tcpip" || ssh.Unmarshal(nc.ExtraData(), &to) != nil || to.Port != jumpPort {
		return coordinator.Target{}, false
	}
	t, isHost, err := coordinator.ParseTarget(to.Host, c.door.cfg.Suffix)
	return t, err == nil && isHost
}

// allowed says whether the connection may lead to t: after a jump name to that very workspace only, so that an
// ssh_config's ProxyJump opens what it names; else to any that the user has, which Enter decides.
func (c *conn) allowed(t coordinator.Target) bool {
	switch {
	case c.mode != jump:
		return true
	case c.problem != nil:
		return t == c.target
	}
	ws, err := c.door.cfg.Entry.Lookup(c.ctx, c.user, t)
	return err == nil && ws.ID == c.ws.ID
}

// elsewhere says what a refused channel may lead to.
func (c *conn) elsewhere() string {
	switch {
	case c.mode == terminated && c.problem != nil:
		return strings.Join(c.explain(c.problem), "; ")
	case c.mode == jump:
		return fmt.Sprintf("this way leads to %s.%s port %d only", c.target.Workspace, c.door.cfg.Suffix, jumpPort)
	}
	return fmt.Sprintf("this way leads to port %d of your workspaces only, by names that end in .%s", jumpPort, c.door.cfg.Suffix)
}

// jumpTo leads a channel to a workspace's SSH server. The client gets the version line at once, so that no timer of
// its runs while the workspace starts; a failure is then told by a disconnect message in clear.
func (c *conn) jumpTo(nc ssh.NewChannel, t coordinator.Target) {
	ch, reqs, err := nc.Accept()
	if err != nil {
		return
	}
	defer ch.Close()
	ctx, cancel := context.WithCancel(c.ctx)
	defer cancel()
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		defer cancel()
		ssh.DiscardRequests(reqs)
	}()
	if _, err := io.WriteString(ch, agent.SSHVersion+"\r\n"); err != nil {
		return
	}
	// The client's bytes are read during the wait as well: their end is how ^C at its terminal shows.
	up := newUplink(cancel)
	sent := make(chan error, 1)
	moved := new(atomic.Int64)
	go func() { sent <- pass(up, ch, moved) }()
	stream, err := c.jumpStream(ctx, t)
	if err != nil {
		if ctx.Err() == nil {
			c.log.Info("ssh jump failed", "workspace", t.Workspace, "error", err)
			up.discard()
			_, _ = ch.Write(disconnect("berth: " + printable(strings.Join(c.explain(err), "; "))))
			// The client hangs up when it has read that. Ending the channel first, even by half, could break the pipe
			// into which it writes its own part of the handshake, and then it reads no more.
			timer := time.NewTimer(farewell)
			defer timer.Stop()
			select {
			case err := <-sent:
				c.log.Debug("a refused client hung up", "err", err)
			case <-gone:
			case <-timer.C:
			}
		}
		up.discard()
		return
	}
	up.connect(stream)
	splice(ch, gone, sent, moved, stream)
}

// jumpStream uses the entry that was begun at login, or enters.
func (c *conn) jumpStream(ctx context.Context, t coordinator.Target) (*entry.Stream, error) {
	if c.problem != nil && c.mode == jump && t == c.target {
		return nil, c.problem
	}
	a := c.ahead
	if a == nil || t.Agent != c.target.Agent || !a.take() {
		return c.enterJump(ctx, t, nil)
	}
	select {
	case <-a.done:
		return a.stream, a.err
	case <-ctx.Done():
	}
	a.cancel()
	<-a.done
	if a.stream != nil {
		a.stream.Close()
	}
	return nil, ctx.Err()
}

// disconnect is an SSH_MSG_DISCONNECT in clear, as it may stand before the key exchange (RFC 4253, section 11.1):
//
//	uint32 length | byte padding length | byte 1 | uint32 reason | string text | string language | padding
func disconnect(text string) []byte {
	const byApplication = 11
	const block = 8
	p := ssh.Marshal(struct {
		Kind     byte
		Reason   uint32
		Text     string
		Language string
	}{1, byApplication, coordinator.Clip(text, 1024), ""})
	pad := block - (5+len(p))%block
	if pad < 4 {
		pad += block
	}
	b := binary.BigEndian.AppendUint32(nil, uint32(1+len(p)+pad))
	b = append(b, byte(pad))
	b = append(b, p...)
	return append(b, make([]byte, pad)...)
}
