// Package sshproxy joins one SSH connection to another: whatever comes in on one side goes out on the other, channels
// of any type, requests with their replies in order, both data streams, half-closes and closes, in both directions.
//
// Flow control is passed on as well: it reads no more from one side than it can write to the other. It knows nothing
// of what the channels are for, except that the end of a command is told after its output.
package sshproxy

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"
)

const (
	// linger is how long a workspace may take nothing of what its client, which has gone, sent last.
	linger = 2 * time.Second
	// lastWords is how long that delivery may take in all.
	lastWords = 30 * time.Second
	// lossDelay is how long a lost connection may take to be seen after its channels have ended.
	lossDelay = 500 * time.Millisecond
	// maxChannels is how many channels each side may hold open through the other.
	maxChannels = 500
	// maxQueue is how many requests may wait for their turn in one direction of a connection or channel. A side that
	// sends more without waiting for replies ends the connection.
	maxQueue = 1024
)

// A Side is one end: a connection and what comes in on it, as ssh.NewServerConn and ssh.NewClientConn return them.
type Side struct {
	Conn     ssh.Conn
	Channels <-chan ssh.NewChannel
	Requests <-chan *ssh.Request
}

// ErrFlood is returned when one side sends requests faster than the other answers, and does not stop.
var ErrFlood = errors.New("join ssh connections: too many unanswered requests")

// bound are global requests that are about one connection and would be wrong on another: host keys, proved over the
// session's id, and the promise of OpenSSH's client that it will open no more sessions, which ends the connection
// where it overtakes the session that came before.
var bound = map[string]bool{
	"hostkeys-00@openssh.com": true, "hostkeys-prove-00@openssh.com": true, "no-more-sessions@openssh.com": true,
}

// forwards are the client's requests after whose replies channels come back: not before, for the reply may tell the
// port that they name.
var forwards = map[string]bool{"tcpip-forward": true, "streamlocal-forward@openssh.com": true}

// A join is two sides that are being joined.
type join struct {
	work sync.WaitGroup

	clientGone chan struct{} // closed when the client's connection has ended

	// lost is closed when a side has ended; ending is why.
	lost   chan struct{}
	once   sync.Once
	ending error // valid once lost is closed

	forwarding chan struct{} // of capacity one: holds a token while one of forwards waits for its reply

	mu   sync.Mutex
	open int           // guarded by mu: channels that are joined or being opened
	idle chan struct{} // guarded by mu: closed when none is; nil while nobody waits for that
}

// Join joins client, whom we serve, to server, whose client we are, until one of them ends or ctx does. Then it
// delivers what is on its way, closes both, and returns why it ended: nil where the client went.
func Join(ctx context.Context, client, server Side) error {
	j := &join{lost: make(chan struct{}), clientGone: make(chan struct{}), forwarding: make(chan struct{}, 1)}
	stop := context.AfterFunc(ctx, func() { j.end(context.Cause(ctx)) })
	defer stop()
	j.work.Go(func() {
		_ = client.Conn.Wait() // a client may go as it likes
		close(j.clientGone)
		j.end(nil)
	})
	j.work.Go(func() { j.end(fmt.Errorf("join ssh connections: the workspace's side ended: %w", server.Conn.Wait())) })
	j.work.Go(func() { j.global(client.Requests, server.Conn) })
	j.work.Go(func() { j.global(server.Requests, client.Conn) })
	j.work.Go(func() { j.channels(client.Channels, server.Conn, false) })
	j.work.Go(func() { j.channels(server.Channels, client.Conn, true) })

	<-j.lost
	if ctx.Err() == nil {
		j.settle(ctx, client, server)
	}
	// Closing ends whatever still waits for a window or a reply.
	_ = client.Conn.Close()
	_ = server.Conn.Close()
	j.work.Wait()
	return j.ending
}

// settle closes the side that has ended and lets what came from it be delivered to the other: to a client for as
// long as that is there.
func (j *join) settle(ctx context.Context, client, server Side) {
	limit, clientGone := (<-chan time.Time)(nil), j.clientGone
	if j.ending == nil {
		_ = client.Conn.Close()
		timer := time.NewTimer(lastWords)
		defer timer.Stop()
		limit, clientGone = timer.C, nil
	} else {
		_ = server.Conn.Close()
	}
	j.mu.Lock()
	idle := make(chan struct{})
	if j.idle = idle; j.open == 0 {
		close(idle)
	}
	j.mu.Unlock()
	select {
	case <-idle:
	case <-limit:
	case <-clientGone:
	case <-ctx.Done():
	}
}

// enter counts a channel in, leave counts it out.
func (j *join) enter() {
	j.mu.Lock()
	j.open++
	j.mu.Unlock()
}

func (j *join) leave() {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.open--
	if j.open == 0 && j.idle != nil {
		select {
		case <-j.idle:
		default:
			close(j.idle)
		}
	}
}

func (j *join) end(why error) {
	j.once.Do(func() {
		j.ending = why
		close(j.lost)
	})
}

// global passes global requests on, one after the other, so that replies keep their order.
func (j *join) global(in <-chan *ssh.Request, out ssh.Conn) {
	q := newQueue()
	j.work.Go(func() {
		for req := range in {
			if !q.put(item{request: req}) {
				j.end(ErrFlood)
			}
		}
		q.close()
	})
	for {
		it, ok := q.take()
		if !ok {
			return
		}
		if bound[it.request.Type] {
			_ = it.request.Reply(false, nil)
			continue
		}
		j.pass(it.request, out)
	}
}

// pass passes a global request on and its reply back.
func (j *join) pass(req *ssh.Request, out ssh.Conn) {
	if forwards[req.Type] {
		select {
		case j.forwarding <- struct{}{}:
			defer func() { <-j.forwarding }()
		case <-j.lost:
		}
	}
	ok, payload, err := out.SendRequest(req.Type, req.WantReply, req.Payload)
	if err != nil {
		ok, payload = false, nil // that side is ending; Join sees it
	}
	_ = req.Reply(ok, payload)
}

// awaitForward returns once no reply to one of forwards is on its way.
func (j *join) awaitForward() {
	select {
	case j.forwarding <- struct{}{}:
		<-j.forwarding
	case <-j.lost:
	}
}

// channels opens on the other side whatever is opened on this one.
func (j *join) channels(in <-chan ssh.NewChannel, out ssh.Conn, toClient bool) {
	room := make(chan struct{}, maxChannels)
	for nc := range in {
		select {
		case room <- struct{}{}:
		default:
			_ = nc.Reject(ssh.ResourceShortage, "too many open channels")
			continue
		}
		j.enter()
		j.work.Go(func() {
			defer j.leave()
			if toClient {
				j.awaitForward() // not in the loop: the reply comes over the connection that waits for us to take channels
			}
			j.channel(nc, out, toClient)
			<-room
		})
	}
}

func (j *join) channel(nc ssh.NewChannel, out ssh.Conn, toClient bool) {
	far, farReqs, err := out.OpenChannel(nc.ChannelType(), nc.ExtraData())
	var refused *ssh.OpenChannelError
	switch {
	case errors.As(err, &refused):
		_ = nc.Reject(refused.Reason, refused.Message)
		return
	case err != nil:
		_ = nc.Reject(ssh.ConnectionFailed, "the other side is gone")
		return
	}
	near, nearReqs, err := nc.Accept()
	if err != nil {
		_ = far.Close()
		ssh.DiscardRequests(farReqs)
		return
	}
	a, b := end{near, nearReqs}, end{far, farReqs}
	if toClient {
		a, b = b, a // a is the client's
	}
	up, down := j.newFlow(a, b), j.newFlow(b, a)
	up.back, down.back, down.toClient = down, up, true
	if nc.ChannelType() == "session" && !toClient {
		up.started, down.note = newGate(), true
		down.started = up.started
	}
	var both sync.WaitGroup
	both.Go(up.run)
	both.Go(down.run)
	both.Wait()
}
