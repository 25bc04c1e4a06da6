package sshproxy

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/crypto/ssh"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// A rig is a client and a server with a join between them. Both ends are Go's library, driven by the test.
type rig struct {
	t      *testing.T
	client Side // the outer client
	server Side // the inner server
	raw    struct{ client, server net.Conn }
	cancel context.CancelFunc
	result chan error
}

func signer(t *testing.T) ssh.Signer {
	t.Helper()
	_, k, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	s, err := ssh.NewSignerFromKey(k)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// connect returns both ends of one SSH connection over loopback, and the raw conns below them.
func connect(t *testing.T, key ssh.Signer) (client, server Side, rawClient, rawServer net.Conn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	type side struct {
		Side
		raw net.Conn
		err error
	}
	accepted := make(chan side, 1)
	go func() {
		nc, err := l.Accept()
		if err != nil {
			accepted <- side{err: err}
			return
		}
		cfg := &ssh.ServerConfig{NoClientAuth: true}
		cfg.AddHostKey(key)
		sc, chans, reqs, err := ssh.NewServerConn(nc, cfg)
		if err != nil {
			accepted <- side{err: err}
			return
		}
		accepted <- side{Side{sc, chans, reqs}, nc, nil}
	}()
	nc, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	c, chans, reqs, err := ssh.NewClientConn(nc, "test:22", &ssh.ClientConfig{User: "u", HostKeyCallback: ssh.FixedHostKey(key.PublicKey())})
	if err != nil {
		t.Fatal(err)
	}
	s := <-accepted
	if s.err != nil {
		t.Fatal(s.err)
	}
	return Side{c, chans, reqs}, s.Side, nc, s.raw
}

func newRig(t *testing.T, edit ...func(outer, inner *Side)) *rig {
	t.Helper()
	t.Parallel()
	r := &rig{t: t, result: make(chan error, 1)}
	key := signer(t)
	var outer, inner Side
	r.client, outer, r.raw.client, _ = connect(t, key)
	inner, r.server, _, r.raw.server = connect(t, key)
	for _, f := range edit {
		f(&outer, &inner)
	}
	ctx, cancel := context.WithCancel(context.Background())
	r.cancel = cancel
	go func() { r.result <- Join(ctx, outer, inner) }()
	t.Cleanup(func() {
		cancel()
		r.client.Conn.Close()
		r.server.Conn.Close()
		select {
		case <-r.result:
		case <-time.After(10 * time.Second):
			t.Error("Join did not return")
		}
	})
	return r
}

// accept takes the next channel on a side.
func (r *rig) accept(s Side) (ssh.NewChannel, end) {
	r.t.Helper()
	select {
	case nc := <-s.Channels:
		ch, reqs, err := nc.Accept()
		if err != nil {
			r.t.Fatal(err)
		}
		return nc, end{ch, reqs}
	case <-time.After(10 * time.Second):
		r.t.Fatal("no channel came")
		return nil, end{}
	}
}

// open opens a channel from one side and accepts it on the other.
func (r *rig) open(from, to Side, kind string, extra []byte) (near, far end) {
	r.t.Helper()
	type opened struct {
		e   end
		err error
	}
	done := make(chan opened, 1)
	go func() {
		ch, reqs, err := from.Conn.OpenChannel(kind, extra)
		done <- opened{end{ch, reqs}, err}
	}()
	nc, far := r.accept(to)
	if nc.ChannelType() != kind || !bytes.Equal(nc.ExtraData(), extra) {
		r.t.Fatalf("opened as %s %q, want %s %q", nc.ChannelType(), nc.ExtraData(), kind, extra)
	}
	o := <-done
	if o.err != nil {
		r.t.Fatal(o.err)
	}
	if kind == "session" {
		r.start(o.e, far)
	}
	return o.e, far
}

// start starts a session's command.
func (r *rig) start(near, far end) {
	r.t.Helper()
	done := make(chan error, 1)
	go func() {
		ok, err := near.SendRequest("shell", true, nil)
		if err == nil && !ok {
			err = errors.New("refused")
		}
		done <- err
	}()
	_ = (<-far.requests).Reply(true, nil)
	if err := <-done; err != nil {
		r.t.Fatal("start:", err)
	}
}

func TestDataAndHalfClose(t *testing.T) {
	r := newRig(t)
	for _, dir := range []struct {
		name     string
		from, to Side
	}{{"from the client", r.client, r.server}, {"from the server", r.server, r.client}} {
		near, far := r.open(dir.from, dir.to, "any@"+strings.ReplaceAll(dir.name, " ", "-"), []byte("extra"))
		go ssh.DiscardRequests(near.requests)
		go ssh.DiscardRequests(far.requests)
		data, side := make([]byte, 5<<20), make([]byte, 3<<20)
		rand.Read(data)
		rand.Read(side)
		var sends sync.WaitGroup
		sends.Go(func() { _, _ = near.Write(data) })
		sends.Go(func() { _, _ = near.Stderr().Write(side) })
		go func() {
			sends.Wait()
			_ = near.CloseWrite()
		}()
		var got, gotSide []byte
		var reads sync.WaitGroup
		reads.Go(func() { got, _ = io.ReadAll(far) })
		reads.Go(func() { gotSide, _ = io.ReadAll(far.Stderr()) })
		reads.Wait()
		if !bytes.Equal(got, data) || !bytes.Equal(gotSide, side) {
			t.Errorf("%s: %d and %d bytes came", dir.name, len(got), len(gotSide))
		}
		// The other half is still open.
		if _, err := far.Write([]byte("after")); err != nil {
			t.Error(dir.name, err)
		}
		far.Close()
		if b, err := io.ReadAll(near); string(b) != "after" || err != nil {
			t.Errorf("%s: %q, %v", dir.name, b, err)
		}
	}
}

func TestRefusedChannel(t *testing.T) {
	r := newRig(t)
	go func() {
		for nc := range r.server.Channels {
			_ = nc.Reject(ssh.Prohibited, "not "+nc.ChannelType())
		}
	}()
	_, _, err := r.client.Conn.OpenChannel("x11", nil)
	var refused *ssh.OpenChannelError
	if !errors.As(err, &refused) || refused.Reason != ssh.Prohibited || refused.Message != "not x11" {
		t.Errorf("got %v", err)
	}
}

func TestGlobalRequests(t *testing.T) {
	r := newRig(t)
	serve := func(s Side) {
		n := 0
		for req := range s.Requests {
			n++
			_ = req.Reply(req.Type == "yes", fmt.Appendf(nil, "%s %d", req.Payload, n))
		}
	}
	go serve(r.client)
	go serve(r.server)
	for i := range 50 {
		for name, s := range map[string]ssh.Conn{"client": r.client.Conn, "server": r.server.Conn} {
			ok, b, err := s.SendRequest("yes", true, []byte("p"))
			if want := fmt.Sprintf("p %d", i+1); !ok || string(b) != want || err != nil {
				t.Fatalf("%s: %v %q %v, want %q", name, ok, b, err, want)
			}
		}
	}
	if ok, _, err := r.client.Conn.SendRequest("no", true, nil); ok || err != nil {
		t.Error(ok, err)
	}
	// Host keys are proved over one connection's session; another's would be a lie.
	for _, name := range []string{"hostkeys-prove-00@openssh.com", "hostkeys-00@openssh.com"} {
		ok, b, err := r.client.Conn.SendRequest(name, true, nil)
		if ok || len(b) > 0 || err != nil {
			t.Errorf("%s was passed on: %v %q %v", name, ok, b, err)
		}
	}
}

func TestChannelRequests(t *testing.T) {
	r := newRig(t)
	near, far := r.open(r.client, r.server, "session", nil)
	go func() {
		i := 0
		for req := range far.requests {
			i++
			_ = req.Reply(req.Type == "exec" && i%2 == 0, nil)
		}
	}()
	go ssh.DiscardRequests(near.requests)
	for i := 1; i <= 50; i++ {
		ok, err := near.SendRequest("exec", true, []byte("payload"))
		if err != nil || ok != (i%2 == 0) {
			t.Fatalf("request %d: %v, %v", i, ok, err)
		}
	}
	if ok, err := far.SendRequest("backwards", true, nil); ok || err != nil {
		t.Error("request of the server:", ok, err)
	}
}

// Output, then the status, then EOF, then CLOSE, however slowly the client reads.
func TestOrderOfTheEnd(t *testing.T) {
	r := newRig(t)
	payload := bytes.Repeat([]byte("x"), 3<<20) // more than a window
	for i := range 100 {
		near, far := r.open(r.client, r.server, "session", nil)
		go func() {
			out := payload[:i*1000]
			if i%20 == 0 {
				out = payload
			}
			_, _ = far.Write(out)
			_, _ = far.SendRequest("exit-status", false, ssh.Marshal(struct{ C uint32 }{uint32(i)}))
			_ = far.CloseWrite()
			_ = far.Close()
		}()
		want := i * 1000
		if i%20 == 0 {
			want = len(payload)
			if _, err := io.ReadFull(near, make([]byte, want/6)); err != nil {
				t.Fatal(err)
			}
			if len(near.requests) > 0 {
				t.Errorf("run %d: the status came before the last output", i)
			}
			want -= want / 6
		}
		if b, err := io.ReadAll(near); err != nil || len(b) != want {
			t.Fatalf("run %d: %d of %d bytes, %v", i, len(b), want, err)
		}
		// EOF is in, so the status is.
		select {
		case req, ok := <-near.requests:
			var m struct{ C uint32 }
			if !ok || req.Type != "exit-status" || ssh.Unmarshal(req.Payload, &m) != nil || m.C != uint32(i) {
				t.Fatalf("run %d: %v %+v", i, ok, req)
			}
		default:
			t.Fatalf("run %d: EOF came before the status", i)
		}
		near.Close()
	}
}

// A channel that nobody reads holds up itself, by its window, and no other.
func TestBackPressure(t *testing.T) {
	r := newRig(t)
	stuck, far := r.open(r.client, r.server, "session", nil)
	go ssh.DiscardRequests(stuck.requests)
	go ssh.DiscardRequests(far.requests)
	var sent int
	blocked := make(chan struct{})
	go func() {
		defer close(blocked)
		for {
			n, err := stuck.Write(make([]byte, 64<<10))
			sent += n
			if err != nil {
				return
			}
		}
	}()
	for i := range 20 {
		near, far := r.open(r.client, r.server, "session", nil)
		go ssh.DiscardRequests(near.requests)
		go ssh.DiscardRequests(far.requests)
		go func() {
			_, _ = io.Copy(far, far)
			far.Close()
		}()
		text := fmt.Sprintf("text %d", i)
		_, _ = near.Write([]byte(text))
		_ = near.CloseWrite()
		if b, err := io.ReadAll(near); string(b) != text || err != nil {
			t.Fatalf("%q, %v", b, err)
		}
	}
	far.Close()
	<-blocked
	if sent > 8<<20 {
		t.Errorf("%d bytes were taken for a channel that nobody reads", sent)
	}
}

// The workspace has closed, and so has perhaps its connection: a client that reads slowly gets everything all the same.
func TestSlowReaderLosesNothing(t *testing.T) {
	for _, lost := range []bool{false, true} {
		t.Run(fmt.Sprintf("connection lost %v", lost), func(t *testing.T) {
			r := newRig(t)
			near, far := r.open(r.client, r.server, "session", nil)
			go ssh.DiscardRequests(near.requests)
			const size = 3 << 20 // what the windows on both sides of the join hold, and more than one does
			written := make(chan error, 1)
			go func() {
				_, err := far.Write(make([]byte, size))
				if err == nil {
					err = far.Close()
				}
				written <- err
			}()
			if err := <-written; err != nil {
				t.Fatal(err)
			}
			ssh.DiscardRequests(far.requests) // until the close is answered: the join has got everything
			if lost {
				r.server.Conn.Close()
			}
			slow := time.NewTimer(linger + linger/2)
			defer slow.Stop()
			<-slow.C
			if b, err := io.ReadAll(near); len(b) != size || err != nil {
				t.Errorf("%d of %d bytes, %v", len(b), size, err)
			}
		})
	}
}

// One side closes a channel while the other neither reads nor answers: the close reaches it all the same.
func TestCloseReachesAStuckSide(t *testing.T) {
	r := newRig(t)
	near, far := r.open(r.client, r.server, "session", nil)
	go ssh.DiscardRequests(near.requests)
	written := make(chan struct{})
	go func() {
		defer close(written)
		_, _ = near.Write(make([]byte, 16<<20)) // more than both windows
	}()
	go func() { _, _ = near.SendRequest("never answered", true, nil) }()
	<-far.requests
	near.Close()
	end := time.AfterFunc(10*time.Second, func() { t.Error("the close did not arrive") })
	for range far.requests {
	}
	end.Stop()
	<-written
}

func TestClientGoes(t *testing.T) {
	r := newRig(t)
	near, far := r.open(r.client, r.server, "session", nil)
	go ssh.DiscardRequests(near.requests)
	if _, err := near.Write([]byte("last words")); err != nil {
		t.Fatal(err)
	}
	r.raw.client.Close()
	go func() {
		for range far.requests {
		}
	}()
	if b, err := io.ReadAll(far); string(b) != "last words" || err != nil {
		t.Errorf("%q, %v", b, err)
	}
	if err := r.wait(); err != nil {
		t.Errorf("Join returned %v", err)
	}
}

func (r *rig) wait() error {
	r.t.Helper()
	select {
	case err := <-r.result:
		r.result <- err // for the cleanup
		return err
	case <-time.After(10 * time.Second):
		r.t.Fatal("Join did not return")
		return nil
	}
}

// The workspace is lost: what it had sent arrives, and the session's user reads why it ends.
func TestServerIsLost(t *testing.T) {
	r := newRig(t)
	near, far := r.open(r.client, r.server, "session", nil)
	go ssh.DiscardRequests(near.requests)
	go ssh.DiscardRequests(far.requests)
	if _, err := far.Write(bytes.Repeat([]byte("y"), 1<<20)); err != nil {
		t.Fatal(err)
	}
	r.raw.server.Close()
	var out, note []byte
	var reads sync.WaitGroup
	reads.Go(func() { out, _ = io.ReadAll(near) })
	reads.Go(func() { note, _ = io.ReadAll(near.Stderr()) })
	reads.Wait()
	if len(out) > 1<<20 || !strings.Contains(string(note), "connection to the workspace was lost") {
		t.Errorf("%d bytes, note %q", len(out), note)
	}
	if err := r.wait(); err == nil {
		t.Error("Join returned no reason")
	}
}

func TestContextEnds(t *testing.T) {
	r := newRig(t)
	near, far := r.open(r.client, r.server, "session", nil)
	go ssh.DiscardRequests(near.requests)
	go ssh.DiscardRequests(far.requests)
	r.cancel()
	if err := r.wait(); !errors.Is(err, context.Canceled) {
		t.Errorf("Join returned %v", err)
	}
	if err := r.client.Conn.Wait(); err == nil {
		t.Error("the client's connection is open")
	}
}

// Requests beyond any measure end the connection instead of filling memory.
func TestFlood(t *testing.T) {
	r := newRig(t)
	near, far := r.open(r.client, r.server, "session", nil)
	defer func() { go ssh.DiscardRequests(far.requests) }()
	go ssh.DiscardRequests(near.requests)
	go func() { _, _ = near.SendRequest("never answered", true, nil) }()
	for range 100 * maxQueue {
		if _, err := near.SendRequest("signal", false, nil); err != nil {
			break
		}
	}
	if err := r.wait(); !errors.Is(err, ErrFlood) {
		t.Errorf("Join returned %v", err)
	}
}

func TestManyChannels(t *testing.T) {
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
	errs := make(chan error)
	const n = 200
	for i := range n {
		go func() {
			errs <- func() error {
				ch, reqs, err := r.client.Conn.OpenChannel("direct-tcpip", nil)
				if err != nil {
					return err
				}
				go ssh.DiscardRequests(reqs)
				text := strings.Repeat(fmt.Sprint(i), 10000)
				go func() {
					_, _ = io.WriteString(ch, text)
					_ = ch.CloseWrite()
				}()
				b, err := io.ReadAll(ch)
				if err == nil && string(b) != text {
					err = fmt.Errorf("channel %d: %d bytes", i, len(b))
				}
				return err
			}()
		}()
	}
	for range n {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
}
