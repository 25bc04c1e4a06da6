package console

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"

	"berth/coordinator"
)

// plain takes back what a shell may have left of its settings of the terminal: colours, mouse reports, pasting in
// brackets, a hidden cursor, keys of an application.
const plain = "\x1b[0m\x1b[?1000l\x1b[?1002l\x1b[?1003l\x1b[?1006l\x1b[?2004l\x1b[?1l\x1b>\x1b[?25h"

// farewell is how long what a shell wrote last may take, once it has ended.
const farewell = 2 * time.Second

// connect opens a shell in a workspace, at this very terminal, and returns what there is to say once it has ended.
func (s *session) connect(ctx context.Context, t coordinator.Target) string {
	cl, end, err := s.enter(ctx, t)
	var e *coordinator.Error
	switch {
	case errors.As(err, &e) && e.Hint != "":
		return e.Msg + " (" + e.Hint + ")"
	case errors.As(err, &e):
		return e.Msg
	case errors.Is(err, context.Canceled):
		return "the wait for " + t.String() + " was interrupted; what was begun goes on"
	case err != nil:
		s.log.Error("cannot enter workspace from the console", "workspace", t.String(), "error", err)
		return "something went wrong in the coordinator; its log says what"
	}
	defer end()
	stop := context.AfterFunc(ctx, end)
	defer stop()
	how, err := s.inside(cl)
	_, _ = io.WriteString(s.ch, plain) // the client has gone, if this fails
	if err != nil {
		s.log.Warn("shell of the console", "workspace", t.String(), "error", err)
		return "the connection to " + t.String() + " was lost"
	}
	return "the shell in " + t.String() + " has ended" + how
}

// enter waits for the workspace and tells how far it is; Ctrl-C ends the wait.
func (s *session) enter(ctx context.Context, t coordinator.Target) (*ssh.Client, func(), error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	s.keys.onInterrupt(cancel)
	defer s.keys.onInterrupt(nil)
	keys := s.keys.open()
	defer keys.close()
	var mu sync.Mutex
	shown := false
	show := func(text string) {
		mu.Lock()
		defer mu.Unlock()
		width, _ := s.size()
		shown = true
		_, _ = fmt.Fprintf(s.ch, "\r%s\x1b[K", fit(clean(text), width-1)) // the wait ends as well, where nobody is there
	}
	cl, end, err := s.visitor.Enter(ctx, t, func(p coordinator.Progress) { show(t.String() + ": " + p.String()) })
	mu.Lock()
	defer mu.Unlock()
	if shown {
		_, _ = io.WriteString(s.ch, "\r\x1b[K") // likewise
	}
	if err != nil && ctx.Err() != nil {
		err = context.Canceled
	}
	return cl, end, err
}

// inside joins the terminal to a shell, until that ends.
func (s *session) inside(cl *ssh.Client) (how string, err error) {
	ch, reqs, err := cl.OpenChannel("session", nil)
	if err != nil {
		return "", err
	}
	defer ch.Close()
	if err := s.begin(ch); err != nil {
		go ssh.DiscardRequests(reqs)
		return "", err
	}
	keys := s.keys.open()
	defer keys.close()
	passed := make(chan *ssh.Request, 4)
	s.pass(passed)
	defer s.pass(nil)

	var work sync.WaitGroup
	defer work.Wait()
	defer ch.Close()
	defer keys.close()
	over := make(chan struct{})
	defer close(over)
	out := make(chan struct{})
	work.Go(func() {
		_, _ = io.Copy(ch, keys) // the shell has gone, if this fails, which shows below
		_ = ch.CloseWrite()
	})
	work.Go(func() {
		defer close(out)
		_, _ = io.Copy(s.ch, ch) // likewise the client
	})
	work.Go(func() { _, _ = io.Copy(s.ch, ch.Stderr()) })
	work.Go(func() { s.beside(ch, passed, over) })
	how, err = "", errors.New("it ended without an exit status")
	for req := range reqs {
		var status struct{ Code uint32 }
		switch {
		case req.Type == "exit-status" && ssh.Unmarshal(req.Payload, &status) == nil:
			how, err = fmt.Sprintf(" (exit %d)", status.Code), nil
		case req.Type == "exit-signal":
			how, err = " by a signal", nil
		}
		_ = req.Reply(false, nil)
	}
	select {
	case <-out:
	case <-time.After(farewell):
	}
	return how, err
}

// begin asks for a terminal like ours and for a shell.
func (s *session) begin(ch ssh.Channel) error {
	s.mu.Lock()
	p := s.pty
	s.mu.Unlock()
	for name, value := range s.env {
		if _, err := ch.SendRequest("env", false, ssh.Marshal(struct{ Name, Value string }{name, value})); err != nil {
			return err
		}
	}
	for _, r := range []struct {
		name    string
		payload []byte
	}{{"pty-req", ssh.Marshal(p)}, {"shell", nil}} {
		ok, err := ch.SendRequest(r.name, true, r.payload)
		if err == nil && !ok {
			err = errors.New(r.name + " was refused")
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (s *session) pass(to chan<- *ssh.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.passed = to
}

// beside passes on changes of size, signals and breaks.
func (s *session) beside(ch ssh.Channel, passed <-chan *ssh.Request, over <-chan struct{}) {
	for {
		var name string
		var payload []byte
		select {
		case <-over:
			return
		case req := <-passed:
			name, payload = req.Type, req.Payload
		case <-s.resized:
			s.mu.Lock()
			p := s.pty
			s.mu.Unlock()
			name, payload = "window-change", ssh.Marshal(struct{ Columns, Rows, Width, Height uint32 }{p.Columns, p.Rows, p.Width, p.Height})
		}
		if _, err := ch.SendRequest(name, false, payload); err != nil {
			return
		}
	}
}
