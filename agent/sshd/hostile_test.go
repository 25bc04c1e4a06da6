package sshd

import (
	"errors"
	"io"
	"net"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
)

// A client that never logs in is cut, at whatever point it stops.
func TestNobodyLogsIn(t *testing.T) {
	for _, tt := range []struct{ name, says string }{
		{"silent", ""},
		{"in mid-version", "SSH-2.0-"},
		{"after the version", "SSH-2.0-OpenSSH_9.9\r\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := serve(t, func(c *Config, _ *workspace) { c.grace = 50 * time.Millisecond })
			near, far := net.Pipe()
			defer near.Close()
			served := make(chan error, 1)
			go func() { served <- w.server.ServeConn(far, *w.header.Load()) }()
			go func() { _, _ = io.Copy(io.Discard, near) }()
			_, _ = io.WriteString(near, tt.says) // it may be cut by then
			if err := <-served; err == nil || !strings.Contains(err.Error(), "nobody logged in within 50ms") {
				t.Errorf("ended with %v", err)
			}
		})
	}
}

// The grace ends when the key is verified: a session that takes longer lives on.
func TestGraceEndsWithTheLogin(t *testing.T) {
	w := serve(t, func(c *Config, _ *workspace) { c.grace = 5 * time.Second })
	c := w.client()
	s, err := c.NewSession()
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Run("sleep 6"); err != nil {
		t.Error(err)
	}
}

// Ten thousand channels: a thousand are opened, the others refused, and nobody else notices.
func TestTenThousandChannels(t *testing.T) {
	w := serve(t)
	other := w.client()
	c := w.client()
	const each, workers = 200, 50
	var mu sync.Mutex
	opened, refused := 0, 0
	var all sync.WaitGroup
	for range workers {
		all.Go(func() {
			for range each {
				_, reqs, err := c.OpenChannel("session", nil)
				var no *ssh.OpenChannelError
				mu.Lock()
				switch {
				case err == nil:
					opened++
				case errors.As(err, &no) && no.Reason == ssh.ResourceShortage:
					refused++
				default:
					t.Error(err)
				}
				mu.Unlock()
				if err == nil {
					go ssh.DiscardRequests(reqs)
				}
			}
		})
	}
	all.Wait()
	if opened != maxChannels || refused != each*workers-maxChannels {
		t.Errorf("%d opened, %d refused", opened, refused)
	}
	if s, err := other.NewSession(); err != nil {
		t.Error(err)
	} else if out, err := s.Output("echo fine"); err != nil || string(out) != "fine\n" {
		t.Errorf("another connection: %q, %v", out, err)
	}
	c.Close()
	eventually(t, "the connection is forgotten", func() bool {
		w.server.mu.Lock()
		defer w.server.mu.Unlock()
		return len(w.server.conns) == 1
	})
}

// A client that opens channels and reads no answer is cut before the answers pile up.
func TestFloodOfChannels(t *testing.T) {
	const most = 10
	w := serve(t, func(c *Config, _ *workspace) { c.channels = most })
	near, far := tightPair(t)
	defer near.Close()
	served := make(chan error, 1)
	go func() { served <- w.server.ServeConn(far, *w.header.Load()) }()
	deaf := &deafConn{Conn: near, shut: make(chan struct{})}
	sc, chans, reqs, err := ssh.NewClientConn(deaf, "dev", &ssh.ClientConfig{
		User: "x", Auth: []ssh.AuthMethod{ssh.PublicKeys(w.key)}, HostKeyCallback: func(string, net.Addr, ssh.PublicKey) error { return nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	go ssh.DiscardRequests(reqs)
	go func() {
		for nc := range chans {
			_ = nc.Reject(ssh.Prohibited, "")
		}
	}()
	deaf.stop()
	before := runtime.NumGoroutine()
	var opens sync.WaitGroup
	for range most + maxRefusals + 500 {
		opens.Go(func() { _, _, _ = sc.OpenChannel("session", nil) })
	}
	select {
	case err := <-served:
		if err == nil || !strings.Contains(err.Error(), "a flood of channels") {
			t.Errorf("ended with %v", err)
		}
	case <-time.After(50 * time.Second):
		t.Error("not cut")
	}
	near.Close()
	close(deaf.shut)
	sc.Close()
	opens.Wait()
	eventually(t, "goroutines end", func() bool { return runtime.NumGoroutine() <= before+20 })
}

// tightPair is a TCP connection that holds little of what is not read.
func tightPair(t *testing.T) (near, far *net.TCPConn) {
	t.Helper()
	l, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if near, err = net.DialTCP("tcp", nil, l.Addr().(*net.TCPAddr)); err != nil {
		t.Fatal(err)
	}
	if far, err = l.AcceptTCP(); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(near.SetReadBuffer(4096), far.SetWriteBuffer(4096)); err != nil {
		t.Fatal(err)
	}
	return near, far
}

// A deafConn stops reading where it is told to.
type deafConn struct {
	net.Conn
	mu   sync.Mutex
	deaf bool
	shut chan struct{}
}

func (d *deafConn) stop() {
	d.mu.Lock()
	d.deaf = true
	d.mu.Unlock()
}

func (d *deafConn) Read(b []byte) (int, error) {
	n, err := d.Conn.Read(b)
	d.mu.Lock()
	deaf := d.deaf
	d.mu.Unlock()
	if deaf {
		<-d.shut
		return 0, io.EOF
	}
	return n, err
}

// Requests beyond what is sensible are answered or end the connection; none is waited for.
func TestOversizeRequests(t *testing.T) {
	w := serve(t)
	c := w.client()
	ch, reqs, err := c.OpenChannel("session", nil)
	if err != nil {
		t.Fatal(err)
	}
	go ssh.DiscardRequests(reqs)
	big := strings.Repeat("a", 200<<10)
	for name, payload := range map[string][]byte{
		"env":     ssh.Marshal(variable{"LC_" + big, "x"}),
		"pty-req": ssh.Marshal(struct{ Term string }{big}),
		"x11-req": ssh.Marshal(x11Request{false, big, "00", 0}),
		"signal":  ssh.Marshal(struct{ Name string }{big}),
	} {
		if ok, err := ch.SendRequest(name, true, payload); ok || err != nil {
			t.Errorf("%s: %v, %v", name, ok, err)
		}
	}
	for name, payload := range map[string][]byte{
		"tcpip-forward":                   ssh.Marshal(bindTCP{big, 0}),
		"streamlocal-forward@openssh.com": ssh.Marshal(bindUnix{big}),
		"hostkeys-prove-00@openssh.com":   ssh.Marshal(bindUnix{big}),
	} {
		if ok, _, err := c.SendRequest(name, true, payload); ok || err != nil {
			t.Errorf("%s: %v, %v", name, ok, err)
		}
	}
	// A command that the kernel does not take is told about.
	s, err := c.NewSession()
	if err != nil {
		t.Fatal(err)
	}
	out, err := s.CombinedOutput("true " + big)
	var exit *ssh.ExitError
	if !errors.As(err, &exit) || exit.ExitStatus() != 255 || !strings.Contains(string(out), "argument list too long") {
		t.Errorf("a long command: %q, %v", out, err)
	}
}
