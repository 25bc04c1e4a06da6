package sshproxy

import (
	"errors"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/crypto/ssh"
)

// An end is a channel of one side with the requests that come in on it.
type end struct {
	ssh.Channel
	requests <-chan *ssh.Request
}

// A flow is one direction of a channel: two streams of data, requests, their end and the close, in an order that is
// right for the receiver. SSH orders these; Go's library hands them out through separate queues, so the order is made
// again here: what was sent before EOF is passed on before it, how a command ended after its output, and in a session
// nothing of either direction before its command was started and the client was told so. A server drops input that
// comes before; a client takes the end of a channel for a refusal when it comes before the reply.
type flow struct {
	join     *join
	from, to end
	back     *flow // the other direction
	started  *gate // of a session; nil for other channels
	queue    *queue
	asking   chan struct{} // of capacity one: holds a token while a request waits for its reply
	drained  chan struct{} // closed when both streams have ended
	gone     chan struct{} // closed when the sender has closed the channel, or is lost
	moved    atomic.Int64  // bytes that the receiver took
	toClient bool          // what a workspace sent last is the client's, however slowly it reads
	note     bool          // tell the receiver, on its stderr, of a connection that is lost
	exited   bool          // how the command ended was told; owned by forward
}

func (j *join) newFlow(from, to end) *flow {
	return &flow{
		join: j, from: from, to: to, queue: newQueue(), asking: make(chan struct{}, 1),
		drained: make(chan struct{}), gone: make(chan struct{}),
	}
}

// A gate is opened once, by the first that can.
type gate struct {
	once sync.Once
	open chan struct{}
}

func newGate() *gate { return &gate{open: make(chan struct{})} }

func (g *gate) pass() { g.once.Do(func() { close(g.open) }) }

// starts are the requests that start a session's command.
var starts = map[string]bool{"exec": true, "shell": true, "subsystem": true}

// awaitStart returns once the session's command was started, or will not be.
func (f *flow) awaitStart() {
	if f.started == nil {
		return
	}
	select {
	case <-f.started.open:
		return
	case <-f.gone:
	}
	// The sender has gone. A reply that came before its close is on its way.
	timer := time.NewTimer(linger)
	defer timer.Stop()
	select {
	case <-f.started.open:
	case <-timer.C:
	}
}

// run passes the direction on until the sender has closed it, and then closes it at the receiver.
func (f *flow) run() {
	var all sync.WaitGroup
	all.Go(f.copyData)
	all.Go(f.collect)
	all.Go(f.forward)
	all.Go(f.close)
	all.Wait()
}

// copyData copies both streams. When the receiver takes no more, it stops, and the sender is held by its window.
func (f *flow) copyData() {
	defer close(f.drained)
	var streams sync.WaitGroup
	streams.Go(func() { f.copyStream(f.to.Channel, f.from.Channel) })
	streams.Go(func() { f.copyStream(f.to.Stderr(), f.from.Stderr()) })
	streams.Wait()
}

// Sizes of buffers: a stream that says little holds the small one, and one that moves much borrows a large one.
const (
	quietBuffer = 1 << 10
	bulkBuffer  = 64 << 10
)

var bulks = sync.Pool{New: func() any { return new([bulkBuffer]byte) }}

// copyStream copies one stream until it ends or the receiver takes no more.
func (f *flow) copyStream(dst io.Writer, src io.Reader) {
	small := make([]byte, quietBuffer)
	for {
		n, ok := f.copyOnce(dst, src, small)
		if !ok {
			return
		}
		if n == len(small) && !f.copyBulk(dst, src) {
			return
		}
	}
}

// copyBulk copies until little comes at a time.
func (f *flow) copyBulk(dst io.Writer, src io.Reader) (ok bool) {
	large := bulks.Get().(*[bulkBuffer]byte)
	defer bulks.Put(large)
	for {
		n, ok := f.copyOnce(dst, src, large[:])
		if !ok || n < quietBuffer {
			return ok
		}
	}
}

// copyOnce passes on what one read returns.
func (f *flow) copyOnce(dst io.Writer, src io.Reader, buf []byte) (n int, ok bool) {
	n, err := src.Read(buf)
	if n > 0 {
		f.awaitStart()
		done, werr := dst.Write(buf[:n])
		f.moved.Add(int64(done))
		if werr != nil {
			return n, false
		}
	}
	return n, err == nil
}

// collect queues the requests, and the end of the data behind those that came before it.
func (f *flow) collect() {
	drained := f.drained
	for {
		select {
		case req, ok := <-f.from.requests:
			if !ok {
				close(f.gone)
				if drained != nil {
					<-drained // or close ends it
					f.queue.put(item{})
				}
				f.queue.close()
				return
			}
			if !f.queue.put(item{request: req}) {
				f.join.end(ErrFlood)
			}
		case <-drained:
			drained = nil
			// The library queues a request before it looks at the EOF behind it.
			for more := true; more; {
				select {
				case req, ok := <-f.from.requests:
					if more = ok; ok && !f.queue.put(item{request: req}) {
						f.join.end(ErrFlood)
					}
				default:
					more = false
				}
			}
			f.queue.put(item{})
		}
	}
}

// forward passes on what was queued, one after the other, so that replies keep their order.
func (f *flow) forward() {
	if f.started != nil && !f.toClient {
		defer f.started.pass() // a client that has gone starts nothing
	}
	for {
		it, ok := f.queue.take()
		if !ok {
			return
		}
		if f.toClient {
			f.awaitStart()
		}
		if it.request == nil {
			f.tellLoss()
			_ = f.to.CloseWrite()
			continue
		}
		switch it.request.Type {
		case "exit-status", "exit-signal":
			<-f.drained
			f.exited = true
		}
		f.pass(it.request)
	}
}

// pass passes a request on and its reply back.
func (f *flow) pass(req *ssh.Request) {
	f.asking <- struct{}{}
	defer func() { <-f.asking }()
	ok, err := f.to.SendRequest(req.Type, req.WantReply, req.Payload)
	_ = req.Reply(ok && err == nil, nil)
	if f.started != nil && !f.toClient && starts[req.Type] {
		f.started.pass()
	}
}

// tellLoss says in words why a session ends without an exit status: the protocol has no way to. The end of the data
// is seen a moment before the end of the connection.
func (f *flow) tellLoss() {
	if !f.note || f.exited {
		return
	}
	timer := time.NewTimer(lossDelay)
	defer timer.Stop()
	for _, sign := range []<-chan struct{}{f.gone, f.join.lost} {
		select {
		case <-sign:
		case <-timer.C:
			return
		}
	}
	switch {
	case errors.Is(f.join.ending, ErrFlood):
		_, _ = f.to.Stderr().Write([]byte("berth: the connection was ended: too many requests that nobody could answer yet\r\n"))
	case f.join.ending != nil:
		_, _ = f.to.Stderr().Write([]byte("berth: the connection to the workspace was lost\r\n"))
	}
}

// close closes the channel at the receiver once the sender has closed it and what came before was delivered. To a
// client that takes as long as it takes: a slow reader, or a user who reads page by page, loses nothing. A workspace
// that takes no more is told after a moment that its client has gone.
func (f *flow) close() {
	<-f.gone
	if f.toClient {
		<-f.drained
	} else {
		f.awaitStall()
	}
	// A reply that never comes does not hold the close.
	timer := time.NewTimer(linger)
	defer timer.Stop()
	select {
	case <-f.queue.done:
	case <-timer.C:
	}
	// Nor is the receiver's own request left without the reply that came before the close.
	select {
	case f.back.asking <- struct{}{}:
		<-f.back.asking
	case <-timer.C:
	}
	_ = f.to.Close()
}

// awaitStall returns when everything was delivered, or the receiver has taken nothing for a moment.
func (f *flow) awaitStall() {
	tick := time.NewTicker(linger)
	defer tick.Stop()
	for last := f.moved.Load(); ; {
		select {
		case <-f.drained:
			return
		case <-tick.C:
		}
		now := f.moved.Load()
		if now == last {
			return
		}
		last = now
	}
}
