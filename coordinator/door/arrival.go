package door

import (
	"context"
	"strings"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"

	"berth/agent"
	"berth/coordinator"
	"berth/coordinator/entry"
)

const (
	// patience is how long authentication is held for a client that may have a timer for it: npm's ssh2 gives up after
	// 20 s, paramiko after 30 s.
	patience = 5 * time.Second
	maxHeld  = 256 // requests of a client whose workspace is not there yet
)

// patient are the beginnings of versions of clients that wait in authentication as long as it takes, and show banners
// meanwhile.
var patient = []string{"SSH-2.0-OpenSSH", "SSH-2.0-PuTTY", "SSH-2.0-dropbear"}

// hasTimer reports whether a client may give up when authentication takes long.
func hasTimer(version string) bool {
	for _, p := range patient {
		if strings.HasPrefix(version, p) {
			return false
		}
	}
	return true
}

// An arrival is the way of a terminated connection into its workspace. It begins when the key is verified. It ends
// before authentication does, or, for a client that would not wait there, while its first channels wait to be opened.
type arrival struct {
	done   chan struct{}
	inside *inside // valid once done is closed
	err    error   // valid once done is closed
}

// enterTerminated brings the client's workspace up and connects to it, while authentication waits.
func (c *conn) enterTerminated(m ssh.ConnMetadata) error {
	a := &arrival{done: make(chan struct{})}
	c.arrival = a
	var news news
	go func() {
		defer close(a.done)
		a.inside, a.err = c.goIn(c.ctx, clientVersion(m), news.put)
	}()
	var limit <-chan time.Time
	if hasTimer(string(m.ClientVersion())) {
		timer := time.NewTimer(c.door.patience)
		defer timer.Stop()
		limit = timer.C
	}
	if err := c.tell(a.done, limit, &news); err != nil {
		c.cancel()
		<-a.done
		return err
	}
	select {
	case <-a.done:
	default:
		return nil // the rest is waited for in serveTerminated
	}
	if a.err != nil {
		return c.refuse(a.err)
	}
	return nil
}

// goIn enters the workspace and opens SSH to it.
func (c *conn) goIn(ctx context.Context, version string, progress func(coordinator.Progress)) (*inside, error) {
	stream, err := c.enter(ctx, entry.Request{Target: c.target, Via: agent.ViaDoor, Progress: progress})
	if err != nil {
		return nil, err
	}
	in, err := c.connect(ctx, stream, version)
	if err != nil {
		_ = stream.Close() // the first error says more
		return nil, err
	}
	return in, nil
}

// hold keeps a client's requests until its workspace is there, and answers what only asks whether anybody is. The
// client's channels wait by themselves.
func (a *arrival) hold(reqs <-chan *ssh.Request) <-chan *ssh.Request {
	through := make(chan *ssh.Request)
	go func() {
		defer close(through)
		var held []*ssh.Request
		for done := a.done; done != nil; {
			select {
			case <-done:
				done = nil
			case req, ok := <-reqs:
				switch {
				case !ok:
					reqs, done = nil, nil // the client has gone
				case strings.HasPrefix(req.Type, "keepalive@") || len(held) == maxHeld:
					_ = req.Reply(false, nil)
				default:
					held = append(held, req)
				}
			}
		}
		for _, req := range held {
			through <- req
		}
		if reqs == nil {
			return
		}
		for req := range reqs {
			through <- req
		}
	}()
	return through
}

// News are the latest progress of what one waits for.
type news struct {
	mu     sync.Mutex
	latest coordinator.Progress // guarded by mu
}

func (n *news) put(p coordinator.Progress) {
	n.mu.Lock()
	n.latest = p
	n.mu.Unlock()
}

func (n *news) get() coordinator.Progress {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.latest
}
