package hub

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/yamux"

	"berth/agent"
	"berth/coordinator"
	"berth/coordinator/events"
)

func echo(s net.Conn, _ agent.StreamHeader) {
	io.Copy(s, s)
	s.Close()
}

func TestStream(t *testing.T) {
	w := newWorld(t).up()
	headers := make(chan agent.StreamHeader, 1)
	w.agent().link().each(func(s net.Conn, hdr agent.StreamHeader) {
		headers <- hdr
		echo(s, hdr)
	})
	w.connected()
	s, err := w.ssh()
	ok(t, err)
	if hdr := <-headers; hdr.Kind != agent.KindSSH || hdr.ID != "s1" || hdr.User.Name != "alice" {
		t.Errorf("the header is %+v", hdr)
	}
	sent := bytes.Repeat([]byte("0123456789"), 30_000)
	go func() {
		s.Write(sent)
		s.(interface{ CloseWrite() error }).CloseWrite()
	}()
	got, err := io.ReadAll(s)
	if err != nil || !bytes.Equal(got, sent) {
		t.Errorf("%d bytes came back, %v", len(got), err)
	}
	ok(t, s.Close())
	l, err := w.hub.newest(w.ws.ID, agentID)
	ok(t, err)
	eventually(t, "the stream is gone", func() bool { return l.session.NumStreams() == 1 }) // control stays
}

func TestStreamErrors(t *testing.T) {
	w := newWorld(t).up()
	if _, err := w.ssh(); coordinator.CodeOf(err) != coordinator.CodeUnavailable {
		t.Errorf("without a link: %v", err)
	}
	a := w.agent().link().each(func(s net.Conn, hdr agent.StreamHeader) {
		switch {
		case hdr.Kind == agent.KindDial && hdr.Target == "tcp:127.0.0.1:1":
			agent.WriteLine(s, agent.Reply{Error: "connection\x1b[31m refused"}, agent.MaxStreamHeader)
			s.Close()
		case hdr.Kind == agent.KindDial:
			agent.WriteLine(s, agent.Reply{OK: true}, agent.MaxStreamHeader)
			echo(s, hdr)
		case hdr.ID == "refuse":
			agent.WriteLine(s, agent.Reply{Error: "no manifest yet"}, agent.MaxStreamHeader)
			s.Close()
		}
	})
	w.connected()
	open := func(hdr agent.StreamHeader) (net.Conn, error) { return w.hub.Open(ctx, w.ws.ID, agentID, hdr) }

	if _, err := open(agent.StreamHeader{Kind: agent.KindDial, Target: "tcp:127.0.0.1:1"}); err == nil || !contains(err.Error(), "refused: connection [31m refused") {
		t.Errorf("a refused dial: %q", err)
	}
	s, err := open(agent.StreamHeader{Kind: agent.KindDial, Target: "tcp:127.0.0.1:2"})
	ok(t, err)
	fmt.Fprint(s, "hello")
	if got := make([]byte, 5); readFull(s, got) != nil || string(got) != "hello" {
		t.Errorf("through a dial came %q", got)
	}
	ok(t, s.Close())

	s, err = open(agent.StreamHeader{Kind: agent.KindSSH, ID: "refuse"})
	ok(t, err)
	if _, err := io.ReadAll(s); err == nil || !contains(err.Error(), "no manifest yet") {
		t.Errorf("a refused ssh stream: %v", err)
	}
	ok(t, s.Close())

	s, err = open(agent.StreamHeader{Kind: agent.KindSSH, ID: "silent"})
	ok(t, err)
	time.AfterFunc(20*time.Millisecond, func() { s.Close() })
	if _, err := s.Read(make([]byte, 1)); !errors.Is(err, net.ErrClosed) {
		t.Errorf("a closed stream reads as %v", err)
	}

	s, err = open(agent.StreamHeader{Kind: agent.KindSSH, ID: "lost"})
	ok(t, err)
	time.AfterFunc(20*time.Millisecond, func() { a.session.Close() })
	if _, err := s.Read(make([]byte, 1)); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("a lost link reads as %v", err)
	}
	s.Close()
}

func readFull(r io.Reader, p []byte) error {
	_, err := io.ReadFull(r, p)
	return err
}

func TestPing(t *testing.T) {
	w := newWorld(t).up()
	w.agent().link()
	w.connected()
	for range maxPings * 2 { // ours are not limited
		if d, err := w.hub.Ping(ctx, w.ws.ID, agentID); err != nil || d <= 0 {
			t.Fatalf("ping: %v %v", d, err)
		}
	}
}

// TestFloods: what breaks the rules ends the link, and soon.
func TestFloods(t *testing.T) {
	for _, tt := range []struct {
		name string
		send func(c io.Writer)
	}{
		{"pings", func(c io.Writer) {
			c.Write(repeat(100_000, func(i int) []byte { return frame(typePing, flagSYN, 0, uint32(i)) }))
		}},
		{"streams", func(c io.Writer) {
			c.Write(repeat(1000, func(i int) []byte { return frame(typeWindow, flagSYN, uint32(2*i+1), 0) }))
		}},
		{"a huge frame", func(c io.Writer) { c.Write(frame(typeData, flagSYN, 1, 1<<30)) }},
		{"noise", func(c io.Writer) { io.WriteString(c, strings.Repeat("GET / HTTP/1.1\r\n", 100)) }},
		{"beyond the window", func(c io.Writer) {
			c.Write(frame(typeWindow, flagSYN, 1, 0))
			for range 200 {
				if _, err := c.Write(frame(typeData, 0, 1, 64<<10, make([]byte, 64<<10)...)); err != nil {
					return
				}
			}
		}},
		{"a long control message", func(c io.Writer) {
			hdr := []byte(`{"kind":"control"}` + "\n")
			c.Write(frame(typeData, flagSYN, 1, uint32(len(hdr)), hdr...))
			c.Write(frame(typeData, 0, 1, 2*agent.MaxControlMessage, make([]byte, 2*agent.MaxControlMessage)...))
		}},
		{"a control message that is none", func(c io.Writer) {
			hdr := []byte(`{"kind":"control"}` + "\nnonsense\n")
			c.Write(frame(typeData, flagSYN, 1, uint32(len(hdr)), hdr...))
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t).up()
			resp, conn := w.agent().dial()
			if conn == nil {
				t.Fatal(resp.Status)
			}
			defer conn.Close()
			w.connected()
			go io.Copy(io.Discard, conn)
			go tt.send(conn)
			eventually(t, "cut", func() bool { return len(w.hub.Presence(w.ws.ID).Connected) == 0 })
		})
	}
}

// TestRefusedStreamsLeaveNothing opens streams that the hub does not serve, and never closes them.
func TestRefusedStreamsLeaveNothing(t *testing.T) {
	w := newWorld(t).up()
	a := w.agent().link()
	w.connected()
	l, err := w.hub.newest(w.ws.ID, agentID)
	ok(t, err)
	eventually(t, "control", func() bool {
		l.mu.Lock()
		defer l.mu.Unlock()
		return l.hasCtrl
	})
	for _, first := range []string{`{"kind":"shell"}` + "\n", "nonsense\n", `{"kind":"control"}` + "\n", strings.Repeat("x", agent.MaxStreamHeader+1)} {
		s, err := a.session.Open()
		ok(t, err)
		_, err = io.WriteString(s, first)
		ok(t, err)
		var r agent.Reply
		if err := agent.ReadLine(s, &r, agent.MaxStreamHeader); err != nil || r.OK || r.Error == "" {
			t.Errorf("%.20q is answered by %+v, %v", first, r, err)
		}
		ok(t, s.Close())
	}
	eventually(t, "only control is left", func() bool { return l.session.NumStreams() == 1 })
	a.say(agent.Message{Type: agent.TypeHeartbeat})
}

func TestManifest(t *testing.T) {
	w := newWorld(t).up()
	big := strings.Repeat("x", 1<<20)
	w.manifest = func() (*agent.Manifest, error) {
		return &agent.Manifest{Workspace: "dev", StartBuild: string(w.start.ID), DotfilesURL: big}, nil
	}
	a := w.agent().link()
	w.connected()
	fetch := func() (*agent.Manifest, error) {
		s := a.open(agent.KindManifest)
		defer s.Close()
		return agent.ReadManifest(s)
	}
	m, err := fetch()
	if err != nil || m.DotfilesURL != big {
		t.Fatalf("manifest: %v", err)
	}
	w.hub.ManifestChanged(w.ws.ID)
	var msg agent.Message
	ok(t, agent.NewMessageReader(a.control, agent.MaxControlMessage).Next(&msg))
	if msg.Type != agent.TypeManifestChanged {
		t.Errorf("got %+v", msg)
	}
	w.mu.Lock()
	w.manifest = func() (*agent.Manifest, error) { return nil, errDisk }
	w.mu.Unlock()
	if _, err := fetch(); err == nil {
		t.Error("a manifest that cannot be made was sent")
	}
	if a.session.IsClosed() {
		t.Error("the link was cut for it")
	}
}

// TestStayingAgent: an agent that stays through a start build reports on that build from the manifest on, and its key
// is pinned for it.
func TestStayingAgent(t *testing.T) {
	w := newWorld(t).up()
	d := w.agent()
	a := d.link()
	w.connected()
	a.say(agent.Message{Type: agent.TypeReady})
	eventually(t, "ready", func() bool { return w.stored().Ready })
	fetch := func() string {
		s := a.open(agent.KindManifest)
		defer s.Close()
		m, err := agent.ReadManifest(s)
		ok(t, err)
		return m.StartBuild
	}
	before := w.start.ID
	b := w.begin(coordinator.Start)
	if got := fetch(); got != string(before) {
		t.Errorf("while the agent is recorded for build %s, its manifest names %s", before, got)
	}
	w.finish(b, coordinator.BuildSucceeded, "berth_agent.main", "berth_process.dev[0]")
	if got := w.stored(); got.Ready || got.PinnedKey != nil || got.BuildID != w.start.ID {
		t.Fatalf("the new build begins with %+v", got)
	}
	if got := fetch(); got != string(w.start.ID) {
		t.Errorf("the manifest names build %s, want %s", got, w.start.ID)
	}
	eventually(t, "pinned", func() bool { return len(w.stored().PinnedKey) > 0 && !w.stored().FirstConnected.IsZero() })
	a.say(agent.Message{Type: agent.TypeStep, Step: &agent.StepReport{Name: agent.StepSecrets, Outcome: agent.OutcomeOK}})
	eventually(t, "the step", func() bool { return len(w.stored().Steps) == 1 })
	w.agent().refused(403, agent.CodeOtherKey)
}

func TestDropAndClose(t *testing.T) {
	w := newWorld(t).up()
	d := w.agent()
	a := d.link()
	w.connected()
	changed, stop := w.bus.Watch(w.ws.ID)
	defer stop()
	w.finish(w.begin(coordinator.Stop), coordinator.BuildSucceeded)
	w.hub.Drop(w.ws.ID)
	a.gone()
	<-changed
	d.refused(403, agent.CodeNotRunning)
	if p := w.hub.Presence(w.ws.ID); len(p.Connected) != 0 {
		t.Error("present after the stop")
	}
	w.up()
	b := d.link()
	w.connected()
	waiting := make(chan error, 1)
	go func() { waiting <- w.hub.Await(ctx, w.ws.ID, "agent-2") }()
	eventually(t, "a waiter", func() bool {
		w.hub.mu.Lock()
		defer w.hub.mu.Unlock()
		return len(w.hub.waits[w.ws.ID]) == 1
	})
	w.hub.Close()
	b.gone()
	if err := <-waiting; coordinator.CodeOf(err) != coordinator.CodeUnavailable {
		t.Errorf("a waiter gets %v", err)
	}
	w.hub.Close() // again does no harm
}

// pipe returns a link over a pipe and the agent's session, for what is about time.
func pipe(t *testing.T, h *Hub) (*link, *yamux.Session) {
	a, b := net.Pipe()
	l, err := newLink(h, a, nil, claim{ws: "w1", agentID: "a1", instance: "i1"})
	ok(t, err)
	client, err := yamux.Client(b, quiet())
	ok(t, err)
	if !h.spawn(func() { h.serve(l, coordinator.WorkspaceAgent{WorkspaceID: "w1", ID: "a1", BuildID: "b1"}) }) {
		t.Fatal("closed")
	}
	return l, client
}

// lenient is a store in which everything may run.
type lenient struct{ scripted }

func (lenient) Agents(context.Context, coordinator.WorkspaceID) ([]coordinator.WorkspaceAgent, error) {
	return []coordinator.WorkspaceAgent{{WorkspaceID: "w1", ID: "a1", BuildID: "b1"}}, nil
}
func (lenient) UpdateAgent(context.Context, coordinator.WorkspaceAgent) error { return nil }

// In these no bubble of testing/synctest: yamux keeps timers in a pool that all bubbles would share.

func TestHeartbeats(t *testing.T) {
	h := New(Config{Store: lenient{}, Events: events.New()})
	defer h.Close()
	h.limits.heartbeat = 2 * time.Second
	_, client := pipe(t, h)
	defer client.Close()
	control, err := client.Open()
	ok(t, err)
	ok(t, agent.WriteLine(control, agent.StreamHeader{Kind: agent.KindControl}, agent.MaxStreamHeader))
	tick := time.NewTicker(150 * time.Millisecond)
	defer tick.Stop()
	for range 20 {
		<-tick.C
		ok(t, agent.WriteLine(control, agent.Message{Type: agent.TypeHeartbeat}, agent.MaxControlMessage))
	}
	last := time.Now()
	<-client.CloseChan()
	if took := time.Since(last); took < 1500*time.Millisecond {
		t.Errorf("the link ended %v after the last heartbeat", took)
	}
}

// TestUnansweredOpens: an agent that takes up nothing gets no more than so many streams, and its link is given up.
func TestUnansweredOpens(t *testing.T) {
	h := New(Config{Store: lenient{}, Events: events.New()})
	defer h.Close()
	h.limits.open = 3 * time.Second
	l, client := pipe(t, h)
	defer client.Close()
	for range maxUnacked {
		s, err := l.open(t.Context(), agent.StreamHeader{Kind: agent.KindSSH})
		ok(t, err)
		defer s.Close()
	}
	if _, err := l.open(t.Context(), agent.StreamHeader{Kind: agent.KindSSH}); coordinator.CodeOf(err) != coordinator.CodeUnavailable {
		t.Errorf("one more than may wait: %v", err)
	}
	<-client.CloseChan()
}

// TestOpenEndsWithItsContext: whoever waits for an agent's answer is let go when they want.
func TestOpenEndsWithItsContext(t *testing.T) {
	h := New(Config{Store: lenient{}, Events: events.New()})
	defer h.Close()
	l, client := pipe(t, h)
	defer client.Close()
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(50*time.Millisecond, cancel)
	if _, err := l.open(ctx, agent.StreamHeader{Kind: agent.KindDial}); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}
