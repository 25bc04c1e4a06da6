package hub

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/yamux"

	"berth/agent"
	"berth/coordinator"
)

const (
	writeTimeout  = 75 * time.Second // of one write to a link
	userTimeout   = 30 * time.Second // the kernel's, for what is not acknowledged
	headerTimeout = 10 * time.Second // for the header of a stream that the agent opened
	window        = 4 << 20          // receive window of one stream: 80 MB/s at 50 ms
	maxMessages   = 1000             // control messages a second; what is more has to wait
	pingsAtOnce   = 4
)

// A link is one live connection of an agent.
type link struct {
	hub      *Hub
	ws       coordinator.WorkspaceID
	agentID  string
	instance string
	version  string // as the agent says
	key      []byte
	guard    *guard
	session  *yamux.Session
	reporter *reporter // set by Hub.enter
	deadman  *time.Timer
	heard    atomic.Int64      // when it came or sent its last message, in Unix nanoseconds
	ides     []agent.IDEServer // as the agent says; guarded by hub.mu
	pings    chan struct{}
	log      *slog.Logger

	mu       sync.Mutex
	ended    bool                 // guarded by mu
	work     sync.WaitGroup       // added to with mu held and ended false
	streams  map[*stream]struct{} // that we opened; guarded by mu
	hasCtrl  bool                 // guarded by mu
	sending  bool                 // guarded by mu
	manifest bool                 // one is being served; guarded by mu
	outbox   []agent.Message      // guarded by mu
	control  *stream              // guarded by mu
}

// maxOutbox is how many messages wait for an agent that takes none; then its link is given up.
const maxOutbox = 64

// newLink puts yamux on an upgraded connection. The caller runs it.
func newLink(h *Hub, c net.Conn, rest []byte, who claim) (*link, error) {
	tuneSocket(c, userTimeout)
	l := &link{
		hub: h, ws: who.ws, agentID: who.agentID, instance: who.instance, version: who.version, key: who.key,
		guard:   newGuard(c, rest, writeTimeout),
		pings:   make(chan struct{}, pingsAtOnce),
		streams: make(map[*stream]struct{}),
		log:     h.log.With("workspace", who.name, "agent", who.agentID),
	}
	l.heard.Store(time.Now().UnixNano())
	session, err := yamux.Server(l.guard, &yamux.Config{
		AcceptBacklog:          maxAgentStreams + maxUnacked,
		EnableKeepAlive:        false, // its ping waits behind bulk data; the agent's heartbeat does not end a link for that
		KeepAliveInterval:      time.Hour,
		ConnectionWriteTimeout: writeTimeout,
		MaxStreamWindowSize:    window,
		StreamOpenTimeout:      h.limits.open,
		StreamCloseTimeout:     0, // it would cut off a side that still reads; stream.Close does it better
		Logger:                 yamuxLog{l.log},
	})
	if err != nil {
		return nil, err
	}
	l.session = session
	return l, nil
}

// A yamuxLog is what yamux logs to. What it has to say is for the debugging of links.
type yamuxLog struct{ log *slog.Logger }

func (y yamuxLog) Print(v ...any)   { y.Printf("%s", fmt.Sprint(v...)) }
func (y yamuxLog) Println(v ...any) { y.Printf("%s", fmt.Sprint(v...)) }
func (y yamuxLog) Printf(format string, v ...any) {
	if y.log.Enabled(context.Background(), slog.LevelDebug) {
		y.log.Debug("yamux", "msg", fmt.Sprintf(format, v...))
	}
}

// run serves the streams that the agent opens until the link ends, and returns once all that belongs to it has ended.
func (l *link) run() {
	ctx, cancel := context.WithCancel(context.Background())
	for {
		y, err := l.session.AcceptStream()
		if err != nil {
			if errors.Is(err, errGuard) {
				l.log.Warn("link cut", "err", err)
			}
			break
		}
		s := &stream{Stream: y, link: l}
		if !l.spawn(func() { l.accept(ctx, s) }) {
			break
		}
	}
	cancel()
	l.end("it was lost")
	l.work.Wait()
	l.hub.leave(l)
	l.reporter.left()
}

// spawn runs f in a goroutine that run waits for. It reports false once the link has ended.
func (l *link) spawn(f func()) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ended {
		return false
	}
	l.work.Go(f)
	return true
}

// end closes the link.
func (l *link) end(why string) {
	l.mu.Lock()
	first := !l.ended
	l.ended = true
	l.mu.Unlock()
	if first {
		l.log.Info("link ended", "why", why)
	}
	l.deadman.Stop()
	_ = l.session.Close() // always nil
}

// alive puts off the link's end for want of heartbeats.
func (l *link) alive() {
	l.heard.Store(time.Now().UnixNano())
	l.deadman.Reset(l.hub.limits.heartbeat)
}

// silent reports whether the agent has sent no message for as long as a link may be silent.
func (l *link) silent() bool {
	return time.Since(time.Unix(0, l.heard.Load())) >= l.hub.limits.heartbeat
}

// accept serves one stream that the agent opened.
func (l *link) accept(ctx context.Context, s *stream) {
	defer func() { _ = s.Close() }() // the stream is done with
	var hdr agent.StreamHeader
	if err := s.SetReadDeadline(time.Now().Add(headerTimeout)); err != nil {
		return
	}
	if err := agent.ReadLine(s, &hdr, agent.MaxStreamHeader); err != nil {
		l.refuse(s, "a stream begins with one line of JSON")
		return
	}
	if err := s.SetReadDeadline(time.Time{}); err != nil {
		return
	}
	switch hdr.Kind {
	case agent.KindControl:
		l.serveControl(ctx, s)
	case agent.KindManifest:
		l.serveManifest(ctx, s)
	default:
		l.refuse(s, "unknown kind of stream")
	}
}

func (l *link) refuse(s *stream, why string) {
	_ = agent.WriteLine(s, agent.Reply{Error: why}, agent.MaxStreamHeader) // the stream is closed anyway
}

// serveManifest answers with the manifest. From then on the agent's reports are about the start build that it names.
func (l *link) serveManifest(ctx context.Context, s *stream) {
	if !l.sendManifest(ctx, s) {
		return
	}
	// Closing at once would cut off an agent that is still reading.
	if s.CloseWrite() == nil && s.SetReadDeadline(time.Now().Add(writeTimeout)) == nil {
		_, _ = io.Copy(io.Discard, io.LimitReader(s, agent.MaxStreamHeader)) // until the agent closes, or not
	}
}

func (l *link) sendManifest(ctx context.Context, s *stream) bool {
	l.mu.Lock()
	busy := l.manifest
	l.manifest = true
	l.mu.Unlock()
	if busy {
		l.refuse(s, "the manifest is being sent on another stream")
		return false
	}
	defer func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.manifest = false
	}()
	m, err := l.hub.manifests.Manifest(ctx, l.ws, l.agentID)
	if err == nil {
		err = l.renew(ctx, m)
	}
	if err != nil {
		l.log.Error("cannot compose the manifest", "err", err)
		l.refuse(s, "there is no manifest now; ask again")
		return false
	}
	if err := agent.WriteManifest(s, m); err != nil {
		l.log.Warn("cannot send the manifest", "err", err)
		return false
	}
	return true
}

// renew has the manifest name the start build for which the agent is recorded: an agent that ran its startup for one
// that is still open would report on it in vain. Where that is a new one, the record is taken up, and the key pinned.
func (l *link) renew(ctx context.Context, m *agent.Manifest) error {
	rec, err := l.hub.record(ctx, l.ws, l.agentID)
	if err != nil {
		return err
	}
	if rec == nil {
		return errors.New("the agent is not recorded any more")
	}
	m.StartBuild = string(rec.BuildID)
	if l.reporter.reportsOn(rec.BuildID) {
		return nil
	}
	if len(rec.PinnedKey) == 0 {
		if err := l.hub.store.PinAgentKey(ctx, l.ws, l.agentID, rec.BuildID, l.key); err != nil {
			return err
		}
		rec.PinnedKey = l.key
	}
	l.reporter.adopt(*rec)
	l.reporter.flush()
	return nil
}

// serveControl takes the agent's messages until the link ends.
func (l *link) serveControl(ctx context.Context, s *stream) {
	l.mu.Lock()
	second := l.hasCtrl
	l.hasCtrl = true
	if !second {
		l.control = s
	}
	l.mu.Unlock()
	if second {
		l.refuse(s, "the link has a control stream")
		return
	}
	l.flush() // what came up before
	messages := agent.NewMessageReader(s, agent.MaxControlMessage)
	pace := bucket{rate: maxMessages, burst: 5 * maxMessages}
	for {
		var m agent.Message
		if err := messages.Next(&m); err != nil {
			if !errors.Is(err, io.EOF) && ctx.Err() == nil && !errors.Is(err, io.ErrUnexpectedEOF) {
				l.log.Warn("bad control message", "err", err)
			}
			break
		}
		for !pace.take(time.Now(), 1) {
			if wait(ctx, 10*time.Millisecond) != nil {
				return
			}
		}
		l.alive()
		l.take(m)
	}
	l.end("its control stream ended")
}

func (l *link) take(m agent.Message) {
	switch {
	case m.Type == agent.TypeHeartbeat:
		l.shrink()
		l.reporter.seen()
	case m.Type == agent.TypeStep && m.Step != nil:
		l.reporter.step(*m.Step)
	case m.Type == agent.TypeLog && m.Log != nil:
		l.reporter.line(*m.Log)
	case m.Type == agent.TypeIDEs:
		l.hub.takeIDEs(l, m.IDEs)
	case m.Type == agent.TypeReady:
		l.reporter.ready()
	case m.Type == agent.TypeGoodbye:
		l.log.Info("the agent says goodbye", "why", plain(m.Text, 200))
	}
}

// shrink gives back the buffers of streams at which nothing waits to be read.
func (l *link) shrink() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for s := range l.streams {
		s.Shrink()
	}
	if l.control != nil {
		l.control.Shrink()
	}
}

// send tells the agent something, without waiting for it.
func (l *link) send(m agent.Message) {
	l.mu.Lock()
	full := len(l.outbox) >= maxOutbox
	if !full {
		l.outbox = append(l.outbox, m)
	}
	l.mu.Unlock()
	if full {
		l.hub.spawn(func() { l.end("the agent takes no messages") })
		return
	}
	l.flush()
}

// flush has one goroutine, and no second, write the outbox, once there is a control stream.
func (l *link) flush() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ended || l.sending || l.control == nil || len(l.outbox) == 0 {
		return
	}
	l.sending = true
	l.work.Go(l.writeOutbox)
}

func (l *link) writeOutbox() {
	for {
		l.mu.Lock()
		if len(l.outbox) == 0 {
			l.sending = false
			l.mu.Unlock()
			return
		}
		m, s := l.outbox[0], l.control
		l.outbox = l.outbox[1:]
		l.mu.Unlock()
		if err := agent.WriteLine(s, m, agent.MaxControlMessage); err != nil {
			return // the link is lost, or s was closed and ends it
		}
	}
}

// ping measures a round trip by yamux's ping.
func (l *link) ping(ctx context.Context) (time.Duration, error) {
	select {
	case l.pings <- struct{}{}:
	default:
		return 0, coordinator.Errorf(coordinator.CodeUnavailable, "the agent has not answered earlier pings")
	}
	type pong struct {
		d   time.Duration
		err error
	}
	answer := make(chan pong, 1)
	ok := l.spawn(func() {
		d, err := l.session.Ping()
		<-l.pings
		answer <- pong{d, err}
	})
	if !ok {
		<-l.pings
		return 0, errLost(nil)
	}
	select {
	case p := <-answer:
		if p.err != nil {
			return 0, errLost(p.err)
		}
		return p.d, nil
	case <-ctx.Done():
		return 0, ctx.Err()
	}
}

// cutLater ends a stream for good unless the agent has ended its direction within the grace.
func (l *link) cutLater(id uint32) {
	time.AfterFunc(l.hub.limits.grace, func() { l.guard.reset(id) })
}

func (l *link) keep(s *stream) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.streams[s] = struct{}{}
}

func (l *link) forget(s *stream) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.streams, s)
}

func wait(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}
