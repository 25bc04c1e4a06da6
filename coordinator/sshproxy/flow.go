package sshproxy

import (
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
// again here: what was sent before EOF is passed on before it, and how a command ended after its output.
type flow struct {
	join     *join
	from, to end
	queue    *queue
	drained  chan struct{} // closed when both streams have ended
	gone     chan struct{} // closed when the sender has closed the channel, or is lost
	moved    atomic.Int64  // bytes that the receiver took
	toClient bool          // what a workspace sent last is the client's, however slowly it reads
	note     bool          // tell the receiver, on its stderr, of a connection that is lost
	exited   bool          // how the command ended was told; owned by forward
}

func (j *join) newFlow(from, to end) *flow {
	return &flow{join: j, from: from, to: to, queue: newQueue(), drained: make(chan struct{}), gone: make(chan struct{})}
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
	streams.Go(func() { _, _ = io.Copy(meter{f.to.Channel, &f.moved}, onlyReader{f.from.Channel}) })
	streams.Go(func() { _, _ = io.Copy(meter{f.to.Stderr(), &f.moved}, f.from.Stderr()) })
	streams.Wait()
}

// onlyReader hides what else a channel can do from io.Copy.
type onlyReader struct{ io.Reader }

// A meter counts what is written.
type meter struct {
	io.Writer
	n *atomic.Int64
}

func (m meter) Write(b []byte) (int, error) {
	n, err := m.Writer.Write(b)
	m.n.Add(int64(n))
	return n, err
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
	for {
		it, ok := f.queue.take()
		if !ok {
			return
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
		ok, err := f.to.SendRequest(it.request.Type, it.request.WantReply, it.request.Payload)
		_ = it.request.Reply(ok && err == nil, nil)
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
	if f.join.ending != nil {
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
