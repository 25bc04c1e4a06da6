package api

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"berth/agent"
	"berth/coordinator"
	"berth/coordinator/entry"
	"berth/coordinator/rest"
)

// A dialed is a client that asked for a stream.
type dialed struct {
	*net.TCPConn
	t *testing.T
	r *bufio.Reader
}

func (w *world) dial(query string) *dialed {
	w.t.Helper()
	c, err := net.Dial("tcp", w.Listener.Addr().String())
	w.check(err)
	w.t.Cleanup(func() { c.Close() })
	w.check(c.SetDeadline(time.Now().Add(20 * time.Second)))
	req := w.request("member", "GET", "/workspaces/me/dev/connect"+query, nil)
	req.Header.Set("Connection", "Upgrade")
	req.Header.Set("Upgrade", agent.StreamUpgrade)
	w.check(req.Write(c))
	r := bufio.NewReader(c)
	resp, err := http.ReadResponse(r, req)
	w.check(err)
	w.check(resp.Body.Close()) // it has none
	if resp.StatusCode != http.StatusSwitchingProtocols || resp.Header.Get("Upgrade") != agent.StreamUpgrade {
		w.t.Fatalf("got %s %v", resp.Status, resp.Header)
	}
	return &dialed{c.(*net.TCPConn), w.t, r}
}

func (d *dialed) event() rest.StreamEvent {
	d.t.Helper()
	var e rest.StreamEvent
	if err := agent.ReadLine(d.r, &e, rest.MaxStreamEvent); err != nil {
		d.t.Fatal(err)
	}
	return e
}

func TestConnect(t *testing.T) {
	w := newWorld(t).populate()
	far, near := pipe(t)
	asked := make(chan entry.Request, 1)
	w.entry.enter = func(_ context.Context, r entry.Request) (Stream, error) {
		r.Progress(coordinator.Progress{Build: 7, Stage: "apply", Address: "berth_process.dev"})
		asked <- r
		return near, nil
	}
	d := w.dial("?agent=main&no_start=true")
	if e := d.event(); e.Progress == nil || e.Progress.Build != 7 || e.Progress.Address != "berth_process.dev" {
		t.Errorf("got %+v", e)
	}
	if e := d.event(); !e.OK {
		t.Errorf("got %+v", e)
	}
	r := <-asked
	if r.User.ID != w.member.ID || r.Target != (coordinator.Target{Owner: "mary", Workspace: "dev", Agent: "main"}) ||
		!r.NoStart || r.Via != agent.ViaConnect || r.Peer != d.LocalAddr().String() {
		t.Errorf("got %+v", r)
	}
	// Much goes both ways at once, and the end of one direction leaves the other.
	up, down := bytes.Repeat([]byte("up"), 1<<20), bytes.Repeat([]byte("down"), 1<<19)
	sent := make(chan error, 2)
	go func() { _, err := d.Write(up); sent <- errors.Join(err, d.CloseWrite()) }()
	got, err := io.ReadAll(far)
	if err != nil || !bytes.Equal(got, up) {
		t.Errorf("up: %d bytes, %v", len(got), err)
	}
	go func() { _, err := far.Write(down); sent <- errors.Join(err, far.CloseWrite()) }()
	got, err = io.ReadAll(d.r)
	if err != nil || !bytes.Equal(got, down) {
		t.Errorf("down: %d bytes, %v", len(got), err)
	}
	w.check(errors.Join(<-sent, <-sent))
}

// TestConnectEarly checks that what a client sends while it waits reaches the workspace.
func TestConnectEarly(t *testing.T) {
	w := newWorld(t).populate()
	far, near := pipe(t)
	release := make(chan struct{})
	w.entry.enter = func(context.Context, entry.Request) (Stream, error) {
		<-release
		return near, nil
	}
	d := w.dial("")
	_, err := io.WriteString(d, "SSH-2.0-early\r\n")
	w.check(err)
	close(release)
	if e := d.event(); !e.OK {
		t.Fatalf("got %+v", e)
	}
	_, err = io.WriteString(d, "later")
	w.check(errors.Join(err, d.CloseWrite()))
	if got, err := io.ReadAll(far); err != nil || string(got) != "SSH-2.0-early\r\nlater" {
		t.Errorf("got %q, %v", got, err)
	}
}

// TestConnectGone checks that a wait ends with its client, and with the coordinator.
func TestConnectGone(t *testing.T) {
	w := newWorld(t).populate()
	waits, ended := make(chan struct{}, 1), make(chan error, 1)
	w.entry.enter = func(ctx context.Context, _ entry.Request) (Stream, error) {
		waits <- struct{}{}
		<-ctx.Done()
		ended <- context.Cause(ctx)
		return nil, ctx.Err()
	}
	d := w.dial("")
	<-waits
	d.Close()
	if err := <-ended; !errors.Is(err, io.EOF) {
		t.Errorf("the client went away: %v", err)
	}

	d = w.dial("")
	<-waits
	_, _ = d.Write(make([]byte, maxEarly+1<<20))
	if err := <-ended; !errors.Is(err, errEarly) {
		t.Errorf("the client floods: %v", err)
	}

	d = w.dial("")
	<-waits
	close(w.done)
	if err := <-ended; !errors.Is(err, errShutdown) {
		t.Errorf("the coordinator shuts down: %v", err)
	}
	// Without an event, so that the client asks the next coordinator.
	if b, err := io.ReadAll(d.r); err != nil || len(b) > 0 {
		t.Errorf("got %q, %v", b, err)
	}
}

func TestConnectFails(t *testing.T) {
	w := newWorld(t).populate()
	w.entry.enter = func(context.Context, entry.Request) (Stream, error) {
		return nil, coordinator.Errorf(coordinator.CodeFailed, "build 7 failed: docker_container.dev: no space").WithHint("berth logs dev")
	}
	d := w.dial("")
	e := d.event()
	if e.Problem == nil || e.Problem.Code != coordinator.CodeFailed || !strings.Contains(e.Problem.Detail, "no space") || e.Problem.Hint == "" {
		t.Errorf("got %+v", e)
	}
	if _, err := d.r.ReadByte(); !errors.Is(err, io.EOF) {
		t.Errorf("the connection stays: %v", err)
	}
	a := w.do("member", "GET", "/workspaces/me/dev/connect", nil)
	if a.status != http.StatusUpgradeRequired || a.header.Get("Upgrade") != agent.StreamUpgrade {
		t.Errorf("without an upgrade: %d %v", a.status, a.header)
	}
	req := w.request("member", "GET", "/workspaces/me/nothing/connect", nil)
	req.Header.Set("Connection", "Upgrade")
	req.Header.Set("Upgrade", agent.StreamUpgrade)
	if a := w.send(req); a.status != http.StatusNotFound {
		t.Errorf("no workspace: %d %s", a.status, a.body)
	}
}
