package hub

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"berth/agent"
)

// A yamux frame begins with a header of 12 bytes, big-endian:
//
//	version 1 | type 1 | flags 2 | stream id 4 | length 4
//
// The length is that of the payload that follows a data frame, the delta of a window update, the opaque value of a
// ping, the code of a go-away. Streams that the agent opens have odd ids.
const headerSize = 12

const (
	typeData byte = iota
	typeWindow
	typePing
	typeGoAway
)

const (
	flagSYN uint16 = 1 << iota
	flagACK
	flagFIN
	flagRST
	flagAll = flagSYN | flagACK | flagFIN | flagRST
)

// What an agent may do to its link. yamux itself starts a goroutine for every ping and allocates for every stream.
const (
	maxPings        = 10  // per second
	maxNewStreams   = 100 // per second
	maxAgentStreams = 16  // open at once, of those that the agent opened; it needs two
	maxUnacked      = 64  // opened by us and not taken up yet
)

// errGuard is wrapped by every error of a frame that the guard refuses.
var errGuard = errors.New("the agent breaks the link's rules")

// How a stream stands, in bits.
const (
	agentFIN uint8 = 1 << iota // the agent has ended its direction
	ourFIN
	acked // the agent has taken the stream up
)

// A guard is the connection under a link's yamux session. It checks each header before yamux sees it, knows which
// streams are open, joins yamux's header and body into one write, which is one TLS record, and can end a stream for
// good, for which yamux has no call.
type guard struct {
	net.Conn
	rest []byte          // read by the HTTP server before the upgrade; owned by Read
	read agent.ReadAhead // owned by Read
	in   parser          // owned by Read

	mu      sync.Mutex
	streams map[uint32]uint8 // guarded by mu
	unacked int              // guarded by mu
	opened  int              // by the agent, of those in streams; guarded by mu
	pinged  int              // pings of ours that are not answered; guarded by mu
	resets  []uint32         // to be told to our own yamux; guarded by mu

	wmu     sync.Mutex
	header  [headerSize]byte // of a data frame whose body is still to come; guarded by wmu
	joining bool             // guarded by wmu
	late    []uint32         // resets to write once the body has come; guarded by wmu
	timeout time.Duration
}

func newGuard(c net.Conn, rest []byte, timeout time.Duration) *guard {
	g := &guard{Conn: c, read: agent.ReadAhead{R: c}, rest: rest, streams: make(map[uint32]uint8), timeout: timeout}
	g.in.check, g.in.pong = g.admit, g.pong
	g.in.pings = bucket{rate: maxPings, burst: maxPings}
	g.in.opens = bucket{rate: maxNewStreams, burst: maxNewStreams}
	return g
}

// Read reads what the agent sends, and nothing from a refused frame on.
func (g *guard) Read(p []byte) (int, error) {
	if n := g.injectResets(p); n > 0 {
		return n, nil
	}
	var n int
	var err error
	if len(g.rest) > 0 {
		n = copy(p, g.rest)
		if g.rest = g.rest[n:]; len(g.rest) == 0 {
			g.rest = nil
		}
	} else {
		n, err = g.read.Read(p)
	}
	if bad := g.in.feed(p[:n]); bad != nil {
		return 0, bad
	}
	return n, err
}

// injectResets tells our own yamux that streams were reset, as if the agent had said so.
func (g *guard) injectResets(p []byte) int {
	if !g.in.between() {
		return 0
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	n := 0
	for len(g.resets) > 0 && len(p)-n >= headerSize {
		putHeader(p[n:], typeWindow, flagRST, g.resets[0], 0)
		g.resets = g.resets[1:]
		n += headerSize
	}
	if len(g.resets) == 0 {
		g.resets = nil
	}
	return n
}

// Write takes yamux's writes: a header, and then the body that it announces.
func (g *guard) Write(p []byte) (int, error) {
	g.wmu.Lock()
	defer g.wmu.Unlock()
	if g.joining {
		g.joining = false
		if err := g.writeJoined(p); err != nil {
			return 0, err
		}
		for _, id := range g.late {
			if err := g.writeReset(id); err != nil {
				return 0, err
			}
		}
		g.late = nil
		return len(p), nil
	}
	if len(p) == headerSize {
		g.sent(p)
		if p[1] == typeData && binary.BigEndian.Uint32(p[8:]) > 0 {
			copy(g.header[:], p)
			g.joining = true
			return len(p), nil
		}
	}
	if err := g.write(p); err != nil {
		return 0, err
	}
	return len(p), nil
}

// joined holds buffers for a header and the largest body that our streams write.
var joined = sync.Pool{New: func() any { return new([headerSize + maxWrite]byte) }}

func (g *guard) writeJoined(body []byte) error {
	if len(body) > maxWrite {
		return g.write(append(g.header[:len(g.header):len(g.header)], body...))
	}
	buf := joined.Get().(*[headerSize + maxWrite]byte)
	defer joined.Put(buf)
	copy(buf[:], g.header[:])
	copy(buf[headerSize:], body)
	return g.write(buf[:headerSize+len(body)])
}

func (g *guard) write(p []byte) error {
	if err := g.SetWriteDeadline(time.Now().Add(g.timeout)); err != nil {
		return err
	}
	_, err := g.Conn.Write(p)
	return err
}

func (g *guard) writeReset(id uint32) error {
	var h [headerSize]byte
	putHeader(h[:], typeWindow, flagRST, id, 0)
	return g.write(h[:])
}

// reset ends a stream at once, on the agent's side and on ours. It does nothing to a stream that has ended.
func (g *guard) reset(id uint32) {
	g.mu.Lock()
	_, open := g.streams[id]
	if open {
		g.forget(id)
		g.resets = append(g.resets, id)
	}
	g.mu.Unlock()
	if !open {
		return
	}
	g.wmu.Lock()
	defer g.wmu.Unlock()
	if g.joining {
		g.late = append(g.late, id)
		return
	}
	_ = g.writeReset(id) // an error shows in yamux's next write
}

// sent notes what a header of ours does to its stream.
func (g *guard) sent(h []byte) {
	flags, id := binary.BigEndian.Uint16(h[2:]), binary.BigEndian.Uint32(h[4:])
	g.mu.Lock()
	defer g.mu.Unlock()
	if h[1] == typePing && flags&flagSYN != 0 {
		g.pinged++
	}
	if h[1] != typeData && h[1] != typeWindow {
		return
	}
	if flags&flagSYN != 0 {
		g.streams[id] = 0
		g.unacked++
	}
	if s, ok := g.streams[id]; ok && flags&flagFIN != 0 {
		g.set(id, s|ourFIN)
	}
	if flags&flagRST != 0 {
		g.forget(id)
	}
}

// admit checks what the agent's header does to its stream, and notes it.
func (g *guard) admit(flags uint16, id uint32) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if flags&flagSYN != 0 {
		if g.opened >= maxAgentStreams {
			return fmt.Errorf("%w: more than %d open streams", errGuard, maxAgentStreams)
		}
		g.streams[id] = acked
		g.opened++
	}
	s, ok := g.streams[id]
	if !ok {
		return nil // ended just now; yamux drops the frame
	}
	if flags&flagACK != 0 && s&acked == 0 {
		s |= acked
		g.unacked--
		g.streams[id] = s
	}
	if flags&flagFIN != 0 {
		g.set(id, s|agentFIN)
	}
	if flags&flagRST != 0 {
		g.forget(id)
	}
	return nil
}

// pong takes the answer to a ping of ours.
func (g *guard) pong() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.pinged == 0 {
		return fmt.Errorf("%w: an answer to no ping", errGuard)
	}
	g.pinged--
	return nil
}

// set must be called with mu held, as must forget.
func (g *guard) set(id uint32, s uint8) {
	g.streams[id] = s
	if s&agentFIN != 0 && s&ourFIN != 0 {
		g.forget(id)
	}
}

func (g *guard) forget(id uint32) {
	s, ok := g.streams[id]
	if !ok {
		return
	}
	delete(g.streams, id)
	if id%2 == 1 {
		g.opened--
	}
	if s&acked == 0 {
		g.unacked--
	}
}

// room reports whether another stream may be opened by us.
func (g *guard) room() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return len(g.streams) < agent.MaxStreams && g.unacked < maxUnacked
}

// standing returns the bits of a stream that is open.
func (g *guard) standing(id uint32) (bits uint8, open bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	bits, open = g.streams[id]
	return bits, open
}

// cut reports whether the stream was still open for the agent to write: an end that it did not announce.
func (g *guard) cut(id uint32) bool {
	s, open := g.standing(id)
	return open && s&agentFIN == 0
}

// A parser finds the headers in a byte stream of frames and judges them one by one.
type parser struct {
	check  func(flags uint16, id uint32) error // of data and window frames
	pong   func() error                        // of answers to pings
	header [headerSize]byte
	have   int    // bytes of header
	skip   uint32 // bytes of payload still to come
	last   uint32 // newest stream that the agent opened
	pings  bucket
	opens  bucket
}

// between reports whether the next byte begins a frame.
func (p *parser) between() bool { return p.have == 0 && p.skip == 0 }

// feed takes the next bytes.
func (p *parser) feed(b []byte) error {
	for len(b) > 0 {
		if p.skip > 0 {
			n := min(int(p.skip), len(b))
			p.skip -= uint32(n)
			b = b[n:]
			continue
		}
		n := copy(p.header[p.have:], b)
		p.have += n
		b = b[n:]
		if p.have < headerSize {
			return nil
		}
		p.have = 0
		if err := p.judge(); err != nil {
			return err
		}
	}
	return nil
}

func (p *parser) judge() error {
	h := p.header[:]
	kind, flags := h[1], binary.BigEndian.Uint16(h[2:])
	id, length := binary.BigEndian.Uint32(h[4:]), binary.BigEndian.Uint32(h[8:])
	switch {
	case h[0] != 0, kind > typeGoAway, flags&^flagAll != 0, (id == 0) != (kind == typePing || kind == typeGoAway):
		return fmt.Errorf("%w: unknown frame %x", errGuard, h)
	case kind == typePing:
		return p.ping(flags)
	case kind == typeGoAway:
		return nil
	case length > agent.MaxWindow:
		return fmt.Errorf("%w: a frame of %d bytes", errGuard, length)
	}
	if flags&flagSYN != 0 {
		if id%2 == 0 || id <= p.last {
			return fmt.Errorf("%w: stream %d opened out of turn", errGuard, id)
		}
		if !p.opens.take(time.Now(), 1) {
			return fmt.Errorf("%w: more than %d new streams a second", errGuard, maxNewStreams)
		}
		p.last = id
	}
	if kind == typeData {
		p.skip = length
	}
	return p.check(flags, id)
}

func (p *parser) ping(flags uint16) error {
	if flags&flagSYN == 0 {
		return p.pong()
	}
	if !p.pings.take(time.Now(), 1) {
		return fmt.Errorf("%w: more than %d pings a second", errGuard, maxPings)
	}
	return nil
}

func putHeader(b []byte, kind byte, flags uint16, id, length uint32) {
	b[0], b[1] = 0, kind
	binary.BigEndian.PutUint16(b[2:], flags)
	binary.BigEndian.PutUint32(b[4:], id)
	binary.BigEndian.PutUint32(b[8:], length)
}

// A bucket lets rate things a second pass, and burst at once after a pause. Its zero value is full.
type bucket struct {
	rate, burst float64
	spent       float64
	at          time.Time
}

// take reports whether n more may pass at now, and counts them if so.
func (b *bucket) take(now time.Time, n float64) bool {
	if d := now.Sub(b.at).Seconds(); d > 0 {
		b.spent = max(0, b.spent-d*b.rate)
		b.at = now
	}
	if b.spent+n > b.burst {
		return false
	}
	b.spent += n
	return true
}

var _ io.ReadWriteCloser = (*guard)(nil)
