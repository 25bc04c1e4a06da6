package door

import (
	"bytes"
	"errors"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
)

// hurried lets clients that have a timer in at once.
func hurried(w *world) {
	w.tune = func(d *Server) { d.patience = 100 * time.Millisecond }
}

// A client that has a timer for authentication is let in while its workspace starts, and its channels wait.
func TestEarlySuccess(t *testing.T) {
	w := newWorld(t, hurried, func(w *world) { w.buildTime = 3 * time.Second })
	c, err := w.dial("stopped", ssh.PublicKeys(w.key))
	if err != nil {
		t.Fatal(err)
	}
	if w.get(&w.waiting) != 1 {
		t.Fatal("it was let in when the workspace was there already")
	}
	if ok, _, err := c.SendRequest("keepalive@openssh.com", true, nil); ok || err != nil {
		t.Error("a keep-alive meanwhile:", ok, err)
	}
	if w.get(&w.waiting) != 1 {
		t.Error("a keep-alive was answered when the workspace was there already")
	}
	listening := make(chan error, 1)
	go func() {
		l, err := c.Listen("tcp", "127.0.0.1:0") // a request that the workspace has to answer
		if err == nil {
			err = l.Close()
		}
		listening <- err
	}()
	s, err := c.NewSession()
	if err != nil {
		t.Fatal(err)
	}
	if out, err := s.CombinedOutput("cat; echo in"); string(out) != "in\n" || err != nil {
		t.Errorf("%q, %v", out, err)
	}
	if err := <-listening; err != nil {
		t.Error("a forward:", err)
	}
}

// A start that fails after that ends each command with the reason and the status of the CLI.
func TestEarlySuccessThenFailure(t *testing.T) {
	w := newWorld(t, hurried, func(w *world) { w.buildTime, w.buildErr = 2*time.Second, "no space" })
	c, err := w.dial("stopped", ssh.PublicKeys(w.key))
	if err != nil {
		t.Fatal(err)
	}
	s, err := c.NewSession()
	if err != nil {
		t.Fatal(err)
	}
	var told bytes.Buffer
	s.Stderr = &told
	var exit *ssh.ExitError
	if err := s.Run("true"); !errors.As(err, &exit) || exit.ExitStatus() != 1 || !strings.Contains(told.String(), "berth: build 7 failed: docker_container.dev: no space") {
		t.Errorf("%v, %q", err, told.String())
	}
	var refused *ssh.OpenChannelError
	if _, err := c.Dial("tcp", "127.0.0.1:80"); !errors.As(err, &refused) || !strings.Contains(refused.Message, "build 7 failed") {
		t.Errorf("a forward: %v", err)
	}
}

// One that goes away meanwhile leaves nothing behind.
func TestEarlySuccessThenGone(t *testing.T) {
	w := newWorld(t, hurried, func(w *world) { w.buildTime = time.Hour })
	c, err := w.dial("stopped", ssh.PublicKeys(w.key))
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
	eventually(t, "nobody waits", func() bool { return w.get(&w.waiting) == 0 })
}

func TestHasTimer(t *testing.T) {
	for version, want := range map[string]bool{
		"SSH-2.0-OpenSSH_9.2p1 Debian-2": false, "SSH-2.0-OpenSSH_for_Windows_9.5": false, "SSH-2.0-PuTTY_Release_0.78": false, "SSH-2.0-dropbear_2022.83": false,
		"SSH-2.0-ssh2js1.15.0": true, "SSH-2.0-paramiko_3.4.0": true, "SSH-2.0-SSHJ_0.38.0": true, "SSH-2.0-Go": true, "": true,
	} {
		if hasTimer(version) != want {
			t.Errorf("%s: %v", version, !want)
		}
	}
}
