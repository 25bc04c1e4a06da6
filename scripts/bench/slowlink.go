package main

import (
	"context"
	"net"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// A slowLink is a TCP proxy that is a link with a delay and a rate. It holds no more than a link of its kind would.
type slowLink struct {
	to     string
	delay  time.Duration // one way
	rate   float64       // bytes a second, each way; 0: as fast as it goes
	listen net.Listener
	conns  sync.WaitGroup

	mu   sync.Mutex
	open map[net.Conn]bool // guarded by mu
	down bool              // guarded by mu
}

const (
	linkChunk  = 4 << 10
	linkBuffer = 64 << 10 // bytes on their way, each way
	linkSocket = 16 << 10 // of the kernel's, on the proxy's side
)

// newSlowLink listens on loopback and passes on to the given address.
func newSlowLink(ctx context.Context, to string, delay time.Duration, rate float64) (*slowLink, error) {
	l := &slowLink{to: to, delay: delay, rate: rate, open: map[net.Conn]bool{}}
	lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		if rate == 0 {
			return nil
		}
		var err error
		// Before listen: accepted connections inherit it, and never announce a larger window.
		cerr := c.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF, linkSocket) })
		if cerr != nil {
			return cerr
		}
		return err
	}}
	var err error
	if l.listen, err = lc.Listen(ctx, "tcp", "127.0.0.1:0"); err != nil {
		return nil, err
	}
	l.conns.Go(func() {
		for {
			c, err := l.listen.Accept()
			if err != nil {
				return
			}
			l.conns.Go(func() { l.pass(c) })
		}
	})
	return l, nil
}

func (l *slowLink) addr() string { return l.listen.Addr().String() }

func (l *slowLink) close() {
	_ = l.listen.Close()
	l.mu.Lock()
	l.down = true
	for c := range l.open {
		_ = c.Close()
	}
	l.mu.Unlock()
	l.conns.Wait()
}

func (l *slowLink) track(c net.Conn) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.down {
		_ = c.Close()
		return false
	}
	l.open[c] = true
	return true
}

func (l *slowLink) forget(c net.Conn) {
	l.mu.Lock()
	delete(l.open, c)
	l.mu.Unlock()
	_ = c.Close()
}

func (l *slowLink) pass(a net.Conn) {
	if !l.track(a) {
		return
	}
	defer l.forget(a)
	d := net.Dialer{Timeout: 5 * time.Second}
	if l.rate > 0 {
		d.Control = func(_, _ string, c syscall.RawConn) error {
			return c.Control(func(fd uintptr) { _ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF, linkSocket) })
		}
	}
	time.Sleep(2 * l.delay) // of the handshake
	b, err := d.Dial("tcp", l.to)
	if err != nil || !l.track(b) {
		return
	}
	defer l.forget(b)
	var both sync.WaitGroup
	both.Go(func() { l.flow(a, b) })
	both.Go(func() { l.flow(b, a) })
	both.Wait()
}

// flow moves one direction: each piece takes its time on the wire, then the delay.
func (l *slowLink) flow(from, to net.Conn) {
	type piece struct {
		data []byte
		due  time.Time
	}
	way := make(chan piece, linkBuffer/linkChunk)
	var writing sync.WaitGroup
	writing.Go(func() {
		for p := range way {
			time.Sleep(time.Until(p.due))
			if _, err := to.Write(p.data); err != nil {
				_ = from.Close()
				continue // drains the way
			}
		}
		if half, ok := to.(*net.TCPConn); ok {
			_ = half.CloseWrite()
		}
	})
	var wire time.Time // when it is free
	for {
		buf := make([]byte, linkChunk)
		n, err := from.Read(buf)
		if n > 0 {
			now := time.Now()
			if wire.Before(now) {
				wire = now
			}
			if l.rate > 0 {
				wire = wire.Add(time.Duration(float64(n) / l.rate * float64(time.Second)))
			}
			// What is on the wire cannot be taken back by a later read: the reader keeps the line's pace.
			time.Sleep(time.Until(wire) - l.delay)
			way <- piece{buf[:n], wire.Add(l.delay)}
		}
		if err != nil {
			break
		}
	}
	close(way)
	writing.Wait()
}
