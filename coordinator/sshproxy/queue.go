package sshproxy

import (
	"sync"

	"golang.org/x/crypto/ssh"
)

// An item is a request, or the end of data where request is nil.
type item struct{ request *ssh.Request }

func (it item) resizes() bool {
	return it.request != nil && it.request.Type == "window-change" && !it.request.WantReply
}

// A queue lets one direction's requests be taken from the library at once, whatever the other side does: the
// library's own queues hold 16, and a full one stops the whole connection.
type queue struct {
	done chan struct{} // closed when the queue was closed and everything in it taken and dealt with

	mu     sync.Mutex
	more   sync.Cond
	items  []item // guarded by mu
	closed bool   // guarded by mu
}

func newQueue() *queue {
	q := &queue{done: make(chan struct{})}
	q.more.L = &q.mu
	return q
}

// put appends; it fails for a request when the queue is full. Of several sizes of a window only the last matters.
func (q *queue) put(it item) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if last := len(q.items) - 1; last >= 0 && it.resizes() && q.items[last].resizes() {
		q.items[last] = it
		return true
	}
	if it.request != nil && len(q.items) >= maxQueue {
		return false
	}
	q.items = append(q.items, it)
	q.more.Signal()
	return true
}

// close says that nothing more is put in.
func (q *queue) close() {
	q.mu.Lock()
	q.closed = true
	q.more.Signal()
	q.mu.Unlock()
}

// take returns the next item and waits for it. It fails, once, at the end.
func (q *queue) take() (item, bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for len(q.items) == 0 && !q.closed {
		q.more.Wait()
	}
	if len(q.items) == 0 {
		close(q.done)
		return item{}, false
	}
	it := q.items[0]
	q.items = q.items[1:]
	return it, true
}
