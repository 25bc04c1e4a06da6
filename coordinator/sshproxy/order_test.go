package sshproxy

import (
	"errors"
	"io"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
)

// A command that ends at once: its client is told that it was started before anything else, and always told.
func TestReplyComesFirst(t *testing.T) {
	r := newRig(t)
	go func() {
		for nc := range r.server.Channels {
			ch, reqs, err := nc.Accept()
			if err != nil {
				return
			}
			req := <-reqs
			_ = req.Reply(true, nil)
			_, _ = ch.Write([]byte("out"))
			_, _ = ch.SendRequest("exit-status", false, ssh.Marshal(struct{ C uint32 }{0}))
			_ = ch.CloseWrite()
			_ = ch.Close()
			go ssh.DiscardRequests(reqs)
		}
	}()
	for i := range 300 {
		ch, reqs, err := r.client.Conn.OpenChannel("session", nil)
		if err != nil {
			t.Fatal(err)
		}
		early := make(chan string, 1)
		go func() {
			req, open := <-reqs
			early <- req.Type
			if open {
				ssh.DiscardRequests(reqs)
			}
		}()
		if ok, err := ch.SendRequest("exec", true, nil); !ok || err != nil {
			t.Fatalf("run %d: the reply was lost: %v, %v", i, ok, err)
		}
		if b, err := io.ReadAll(ch); string(b) != "out" || err != nil {
			t.Fatalf("run %d: %q, %v", i, b, err)
		}
		if got := <-early; got != "exit-status" {
			t.Fatalf("run %d: %s", i, got)
		}
		ch.Close()
	}
}

// What a client types before its command was started reaches the workspace after the request that starts it.
func TestInputComesAfterTheStart(t *testing.T) {
	r := newRig(t)
	done := make(chan error, 1)
	ready := make(chan end, 1)
	go func() {
		ch, reqs, err := r.client.Conn.OpenChannel("session", nil)
		if err != nil {
			done <- err
			return
		}
		go ssh.DiscardRequests(reqs)
		_, err = ch.Write([]byte("typed ahead"))
		_ = ch.CloseWrite()
		ready <- end{Channel: ch}
		done <- err
	}()
	_, far := r.accept(r.server)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	read := make(chan string, 1)
	go func() {
		b, _ := io.ReadAll(far)
		read <- string(b)
	}()
	brief := time.NewTimer(100 * time.Millisecond)
	defer brief.Stop()
	select {
	case b := <-read:
		t.Fatalf("%q came before the start", b)
	case <-brief.C:
	}
	go func() { _, _ = (<-ready).SendRequest("exec", true, nil) }()
	req := <-far.requests
	_ = req.Reply(true, nil)
	if b := <-read; req.Type != "exec" || b != "typed ahead" {
		t.Errorf("%s, then %q", req.Type, b)
	}
}

// A slowConn takes its time to hand over the reply to a request, and tells the other whether it does.
type slowConn struct {
	ssh.Conn
	asking atomic.Bool
}

func (c *slowConn) SendRequest(name string, wantReply bool, payload []byte) (bool, []byte, error) {
	c.asking.Store(true)
	defer c.asking.Store(false)
	ok, b, err := c.Conn.SendRequest(name, wantReply, payload)
	pause := time.NewTimer(50 * time.Millisecond) // in which a channel would overtake it
	defer pause.Stop()
	<-pause.C
	return ok, b, err
}

// A watchedConn notes a channel that is opened before the other has handed over its reply.
type watchedConn struct {
	ssh.Conn
	other *slowConn
	early atomic.Bool
}

func (c *watchedConn) OpenChannel(name string, data []byte) (ssh.Channel, <-chan *ssh.Request, error) {
	if c.other.asking.Load() {
		c.early.Store(true)
	}
	return c.Conn.OpenChannel(name, data)
}

// A forward's first connection may come at once: the client is told the port before.
func TestForwardComesAfterItsReply(t *testing.T) {
	var slow *slowConn
	var watched *watchedConn
	r := newRig(t, func(outer, inner *Side) {
		slow = &slowConn{Conn: inner.Conn}
		watched = &watchedConn{Conn: outer.Conn, other: slow}
		inner.Conn, outer.Conn = slow, watched
	})
	go func() {
		for req := range r.server.Requests {
			_ = req.Reply(true, ssh.Marshal(struct{ Port uint32 }{4711}))
			_, _, _ = r.server.Conn.OpenChannel("forwarded-tcpip", nil)
		}
	}()
	for range 5 {
		ok, b, err := r.client.Conn.SendRequest("tcpip-forward", true, nil)
		if !ok || len(b) != 4 || err != nil {
			t.Fatal(ok, b, err)
		}
		_ = (<-r.client.Channels).Reject(ssh.Prohibited, "")
	}
	if watched.early.Load() {
		t.Error("a channel came before the reply")
	}
}

// However many connections come while a forward waits for its reply, the reply gets through.
func TestManyForwardsBeforeTheReply(t *testing.T) {
	const many = 40 // more than the library queues before it reads no further
	r := newRig(t)
	go func() {
		for req := range r.server.Requests {
			for range many {
				go func() { _, _, _ = r.server.Conn.OpenChannel("forwarded-tcpip", nil) }()
			}
			pause := time.NewTimer(100 * time.Millisecond) // in which the channels come first
			<-pause.C
			_ = req.Reply(true, nil)
		}
	}()
	replied := make(chan error, 1)
	go func() {
		_, _, err := r.client.Conn.SendRequest("tcpip-forward", true, nil)
		replied <- err
	}()
	select {
	case err := <-replied:
		if err != nil {
			t.Fatal(err)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("the reply does not come")
	}
	for range many {
		_ = (<-r.client.Channels).Reject(ssh.Prohibited, "")
	}
}

// A terminal that is resized while its workspace is away is not cut for it.
func TestResizesAreJoined(t *testing.T) {
	r := newRig(t)
	near, far := r.open(r.client, r.server, "session", nil)
	go ssh.DiscardRequests(near.requests)
	go func() { _, _ = near.SendRequest("slow", true, nil) }()
	slow := <-far.requests
	for i := range uint32(5 * maxQueue) {
		if _, err := near.SendRequest("window-change", false, ssh.Marshal(struct{ N uint32 }{i})); err != nil {
			t.Fatal(err)
		}
	}
	go func() { _, _ = near.SendRequest("last", true, nil) }()
	eventually(t, func() bool { // the requests are in
		ok, _, err := r.ping()
		return ok && err == nil
	})
	_ = slow.Reply(true, nil)
	var size uint32
	for req := range far.requests {
		if req.Type == "last" {
			_ = req.Reply(true, nil)
			break
		}
		size = uint32(req.Payload[0])<<24 | uint32(req.Payload[1])<<16 | uint32(req.Payload[2])<<8 | uint32(req.Payload[3])
	}
	if size != 5*maxQueue-1 {
		t.Errorf("the last size that arrived is %d", size)
	}
	select {
	case err := <-r.result:
		r.result <- err
		t.Errorf("Join returned %v", err)
	default:
	}
}

// ping goes through the join once.
func (r *rig) ping() (bool, []byte, error) {
	go func() { _ = (<-r.server.Requests).Reply(true, nil) }()
	return r.client.Conn.SendRequest("ping", true, nil)
}

func eventually(t *testing.T, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); <-tick.C {
		if ok() {
			return
		}
	}
	t.Fatal("not within 10 s")
}

// Nobody learns from the other side that its client opens no more sessions: that would overtake the last one.
func TestPromisesStayOutside(t *testing.T) {
	r := newRig(t)
	go func() {
		for req := range r.server.Requests {
			_ = req.Reply(true, []byte(req.Type))
		}
	}()
	if _, _, err := r.client.Conn.SendRequest("no-more-sessions@openssh.com", false, nil); err != nil {
		t.Fatal(err)
	}
	if ok, b, err := r.client.Conn.SendRequest("next", true, nil); !ok || string(b) != "next" || err != nil {
		t.Errorf("%v, %q, %v", ok, b, err)
	}
}

// More channels than anybody needs are refused with a reason, and the others do not notice.
func TestChannelsAreCapped(t *testing.T) {
	r := newRig(t)
	go func() {
		for nc := range r.server.Channels {
			ch, reqs, err := nc.Accept()
			if err != nil {
				continue
			}
			go ssh.DiscardRequests(reqs)
			go func() {
				_, _ = io.Copy(ch, ch)
				ch.Close()
			}()
		}
	}()
	var open []ssh.Channel
	for i := range maxChannels + 50 {
		ch, reqs, err := r.client.Conn.OpenChannel("direct-tcpip", nil)
		var refused *ssh.OpenChannelError
		switch {
		case i < maxChannels && err != nil:
			t.Fatal(i, err)
		case i >= maxChannels && (!errors.As(err, &refused) || refused.Reason != ssh.ResourceShortage):
			t.Fatal(i, err)
		}
		if err == nil {
			go ssh.DiscardRequests(reqs)
			open = append(open, ch)
		}
	}
	if _, err := open[0].Write([]byte("x")); err != nil {
		t.Error(err)
	}
	if _, err := io.ReadFull(open[0], make([]byte, 1)); err != nil {
		t.Error(err)
	}
	for _, ch := range open {
		ch.Close()
	}
	eventually(t, func() bool {
		ch, reqs, err := r.client.Conn.OpenChannel("direct-tcpip", nil)
		if err != nil {
			return false
		}
		go ssh.DiscardRequests(reqs)
		ch.Close()
		return true
	})
}
