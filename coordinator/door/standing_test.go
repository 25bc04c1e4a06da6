package door

import (
	"context"
	"net"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"berth/agent"
	"berth/coordinator"
)

// A consoleDouble enters workspaces when it is told to.
type consoleDouble struct {
	came chan Visitor
}

func (c consoleDouble) Serve(ctx context.Context, v Visitor, _ <-chan ssh.NewChannel, reqs <-chan *ssh.Request) {
	c.came <- v
	ssh.DiscardRequests(reqs)
}

// A key that is removed opens no more workspaces, on connections that are older than that either.
func TestRemovedKey(t *testing.T) {
	console := consoleDouble{make(chan Visitor, 1)}
	w := newWorld(t, func(w *world) { w.tune = func(d *Server) { d.cfg.Console = console } })
	auth := ssh.PublicKeys(w.key)
	jumper, err := w.dial("alice", auth)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.dial(ConsoleUser, auth); err != nil {
		t.Fatal(err)
	}
	visitor := <-console.came
	dev := coordinator.Target{Workspace: "dev"}
	_, leave, err := visitor.Enter(t.Context(), dev, func(coordinator.Progress) {})
	if err != nil {
		t.Fatal(err)
	}
	leave()
	w.mu.Lock()
	if via := w.sessions[0].Via; via != agent.ViaConsole {
		t.Errorf("the record says %q", via)
	}
	before := len(w.sessions)
	for _, now := range []map[string]coordinator.User{
		{ssh.FingerprintSHA256(w.key.PublicKey()): bob}, // removed, and somebody else's
		{},
	} {
		w.users = now
		w.mu.Unlock()
		if _, _, err := visitor.Enter(t.Context(), dev, func(coordinator.Progress) {}); coordinator.CodeOf(err) != coordinator.CodeDenied {
			t.Errorf("the console: %v", err)
		}
		ch, err := jumper.Dial("tcp", "dev.berth:22")
		if err != nil {
			t.Fatal(err)
		}
		_, _, _, err = ssh.NewClientConn(ch, "dev.berth:22", &ssh.ClientConfig{
			User: "alice", Auth: []ssh.AuthMethod{auth}, Timeout: 10 * time.Second,
			HostKeyCallback: func(string, net.Addr, ssh.PublicKey) error { return nil },
		})
		if err == nil || !strings.Contains(err.Error(), "not registered any more") {
			t.Errorf("the jump: %v", err)
		}
		w.mu.Lock()
	}
	if len(w.sessions) != before {
		t.Error("a workspace was entered")
	}
	w.mu.Unlock()
}

// Who holds a registered key may be slow to prove it.
func TestSlowOwner(t *testing.T) {
	c := new(conn)
	c.late.Store(true)
	if what, bad := c.offended(net.ErrClosed); !bad || what.name != tooSlow.name {
		t.Errorf("a stranger: %q", what.name)
	}
	c.known = true
	if what, bad := c.offended(net.ErrClosed); bad {
		t.Errorf("an owner: %q", what.name)
	}
}
