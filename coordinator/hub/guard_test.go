package hub

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/yamux"

	"berth/agent"
)

func frame(kind byte, flags uint16, id, length uint32, body ...byte) []byte {
	b := make([]byte, headerSize)
	putHeader(b, kind, flags, id, length)
	return append(b, body...)
}

func repeat(n int, f func(i int) []byte) []byte {
	var b []byte
	for i := range n {
		b = append(b, f(i)...)
	}
	return b
}

func TestGuardJudges(t *testing.T) {
	syn := func(i int) []byte { return frame(typeWindow, flagSYN, uint32(2*i+1), 0) }
	closed := func(i int) []byte { // opened, and ended by the agent for good
		return append(syn(i), frame(typeWindow, flagRST, uint32(2*i+1), 0)...)
	}
	ping := func(int) []byte { return frame(typePing, flagSYN, 0, 7) }
	for _, tt := range []struct {
		name string
		in   []byte
		ok   bool
	}{
		{"nothing", nil, true},
		{"a stream with data", append(syn(0), frame(typeData, 0, 1, 3, 'a', 'b', 'c')...), true},
		{"a frame as large as the window", append(syn(0), frame(typeData, 0, 1, agent.MaxWindow)...), true},
		{"a frame beyond the window", append(syn(0), frame(typeData, 0, 1, agent.MaxWindow+1)...), false},
		{"a window beyond the window", append(syn(0), frame(typeWindow, 0, 1, 1<<31)...), false},
		{"another version", []byte{1, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0}, false},
		{"an unknown type", frame(4, 0, 0, 0), false},
		{"an unknown flag", frame(typeWindow, 16, 1, 0), false},
		{"data on stream 0", frame(typeData, flagSYN, 0, 0), false},
		{"a stream with an even id", frame(typeWindow, flagSYN, 2, 0), false},
		{"a stream twice", append(syn(0), syn(0)...), false},
		{"a stream out of order", append(syn(1), syn(0)...), false},
		{"as many open streams as may be", repeat(maxAgentStreams, syn), true},
		{"one open stream more", repeat(maxAgentStreams+1, syn), false},
		{"as many new streams as may be", repeat(maxNewStreams, closed), true},
		{"one new stream more", repeat(maxNewStreams+1, closed), false},
		{"as many pings as may be", repeat(maxPings, ping), true},
		{"one ping more", repeat(maxPings+1, ping), false},
		{"a ping of a stream", frame(typePing, flagSYN, 1, 7), false},
		{"an answer to no ping", frame(typePing, flagACK, 0, 7), false},
		{"go away", frame(typeGoAway, 0, 0, 0), true},
		{"a frame of a stream that is gone", frame(typeData, 0, 8, 1, 'x'), true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for _, chunk := range []int{1, 5, len(tt.in) + 1} {
				g := newGuard(nil, nil, time.Second)
				var err error
				for in := tt.in; len(in) > 0 && err == nil; {
					n := min(chunk, len(in))
					err = g.in.feed(in[:n])
					in = in[n:]
				}
				if (err == nil) != tt.ok || err != nil && !errors.Is(err, errGuard) {
					t.Errorf("in pieces of %d: got %v, want ok %v", chunk, err, tt.ok)
				}
			}
		})
	}
}

func TestGuardForgetsRates(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGuard(nil, nil, time.Second)
		for range 5 {
			if err := g.in.feed(repeat(maxPings, func(int) []byte { return frame(typePing, flagSYN, 0, 1) })); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Second)
		}
	})
}

func TestGuardTracksStreams(t *testing.T) {
	g := newGuard(discard{}, nil, time.Second)
	step := func(what string, in, out []byte, open, unacked, opened int) {
		t.Helper()
		if err := g.in.feed(in); err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		if len(out) > 0 {
			if _, err := g.Write(out); err != nil {
				t.Fatalf("%s: %v", what, err)
			}
		}
		if len(g.streams) != open || g.unacked != unacked || g.opened != opened {
			t.Errorf("%s: open %d unacked %d opened %d, want %d %d %d", what, len(g.streams), g.unacked, g.opened, open, unacked, opened)
		}
	}
	step("we open 2", nil, frame(typeWindow, flagSYN, 2, 0), 1, 1, 0)
	step("we open 4", nil, frame(typeWindow, flagSYN, 4, 0), 2, 2, 0)
	step("2 taken up", frame(typeWindow, flagACK, 2, 0), nil, 2, 1, 0)
	step("2 taken up again", frame(typeWindow, flagACK, 2, 0), nil, 2, 1, 0)
	step("4 reset by the agent", frame(typeWindow, flagRST, 4, 0), nil, 1, 0, 0)
	step("agent opens 1", frame(typeWindow, flagSYN, 1, 0), nil, 2, 0, 1)
	step("agent ends 2", frame(typeWindow, flagFIN, 2, 0), nil, 2, 0, 1)
	if g.cut(2) {
		t.Error("stream 2 was ended in order, and is said to be cut")
	}
	if !g.cut(1) {
		t.Error("stream 1 was not ended, and is said to be")
	}
	step("we end 2", nil, frame(typeWindow, flagFIN, 2, 0), 1, 0, 1)
	step("we reset 1", nil, frame(typeWindow, flagRST, 1, 0), 0, 0, 0)
}

type discard struct{ net.Conn }

func (discard) Write(p []byte) (int, error)      { return len(p), nil }
func (discard) SetWriteDeadline(time.Time) error { return nil }

// A countedConn counts writes.
type countedConn struct {
	net.Conn
	writes, small atomic.Int64
}

func (c *countedConn) Write(p []byte) (int, error) {
	c.writes.Add(1)
	if len(p) == headerSize && p[1] == typeData && binary.BigEndian.Uint32(p[8:]) > 0 {
		c.small.Add(1)
	}
	return c.Conn.Write(p)
}

func TestGuardJoinsHeaderAndBody(t *testing.T) {
	a, b := net.Pipe()
	counted := &countedConn{Conn: a}
	server, err := yamux.Server(newGuard(counted, nil, time.Minute), quiet())
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	client, err := yamux.Client(b, quiet())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	go func() {
		for {
			s, err := client.Accept()
			if err != nil {
				return
			}
			go func() { io.Copy(s, s); s.Close() }()
		}
	}()
	s, err := server.Open()
	if err != nil {
		t.Fatal(err)
	}
	for _, size := range []int{1, 12, 13, 4096, maxWrite, maxWrite + 1, 100_000} {
		sent := bytes.Repeat([]byte{byte(size)}, size)
		before := counted.writes.Load()
		if _, err := s.Write(sent); err != nil {
			t.Fatal(err)
		}
		if n := counted.writes.Load() - before; size <= maxWrite && n > 2 { // one, and perhaps a window update
			t.Errorf("%d bytes took %d writes", size, n)
		}
		got := make([]byte, size)
		if _, err := io.ReadFull(s, got); err != nil || !bytes.Equal(got, sent) {
			t.Fatalf("%d bytes came back wrong: %v", size, err)
		}
	}
	if n := counted.small.Load(); n != 0 {
		t.Errorf("%d headers were written without their body", n)
	}
}

func quiet() *yamux.Config {
	c := yamux.DefaultConfig()
	c.EnableKeepAlive = false
	c.LogOutput = io.Discard
	return c
}

// TestGuardResets ends a stream whose agent goes on sending, on both sides and without a trace.
func TestGuardResets(t *testing.T) {
	a, b := net.Pipe()
	g := newGuard(a, nil, time.Minute)
	server, err := yamux.Server(g, quiet())
	ok(t, err)
	defer server.Close()
	client, err := yamux.Client(b, quiet())
	ok(t, err)
	defer client.Close()
	ended := make(chan error, 1)
	go func() {
		s, err := client.Accept()
		for err == nil {
			_, err = s.Write(make([]byte, 1000)) // for ever, and never closes
		}
		ended <- err
	}()
	l := &link{hub: &Hub{limits: limits{grace: 50 * time.Millisecond}}, guard: g, streams: make(map[*stream]struct{})}
	y, err := server.OpenStream()
	ok(t, err)
	s := &stream{Stream: y, link: l}
	ok(t, readFull(s, make([]byte, 5000)))
	reading := make(chan error, 1)
	go func() {
		_, err := io.Copy(io.Discard, s)
		reading <- err
	}()
	ok(t, s.Close())
	if err := <-reading; !errors.Is(err, net.ErrClosed) {
		t.Errorf("a closed stream reads as %v", err)
	}
	if err := <-ended; !errors.Is(err, yamux.ErrConnectionReset) {
		t.Errorf("the agent's write ended with %v", err)
	}
	eventually(t, "no trace is left", func() bool {
		client.Ping() // ours is told with the next frame that comes
		_, open := g.standing(y.StreamID())
		return server.NumStreams()+client.NumStreams() == 0 && !open
	})
}

func FuzzGuard(f *testing.F) {
	f.Add([]byte{}, uint8(1))
	f.Add(frame(typeWindow, flagSYN, 1, 0), uint8(3))
	f.Add(append(frame(typeWindow, flagSYN, 1, 0), frame(typeData, flagFIN, 1, 3, 1, 2, 3)...), uint8(7))
	f.Add(frame(typePing, flagSYN, 0, 0xffffffff), uint8(12))
	f.Add(frame(typeData, 0, 1, agent.MaxWindow+1), uint8(12))
	f.Add(repeat(maxAgentStreams+1, func(i int) []byte { return frame(typeWindow, flagSYN, uint32(2*i+1), 0) }), uint8(5))
	f.Fuzz(func(t *testing.T, in []byte, chunk uint8) {
		whole := newGuard(nil, nil, time.Second)
		all := whole.in.feed(in)
		pieces := newGuard(nil, nil, time.Second)
		var err error
		for rest := in; len(rest) > 0 && err == nil; {
			n := min(int(chunk)+1, len(rest))
			err = pieces.in.feed(rest[:n])
			rest = rest[n:]
		}
		if (all == nil) != (err == nil) {
			t.Fatalf("whole: %v, in pieces: %v", all, err)
		}
		if whole.opened > maxAgentStreams || len(whole.streams) > maxAgentStreams || whole.unacked != 0 {
			t.Fatalf("open %d, counted %d, unacked %d", len(whole.streams), whole.opened, whole.unacked)
		}
		if all == nil && (len(whole.streams) != len(pieces.streams) || whole.in.skip != pieces.in.skip) {
			t.Fatal("whole and in pieces stand differently")
		}
	})
}
