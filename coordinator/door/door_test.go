package door

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"berth/agent"
	"berth/coordinator"
	"berth/coordinator/ca"
)

func TestTerminated(t *testing.T) {
	w := newWorld(t)
	out, errOut, code := w.ssh(nil, "dev@door", "echo $SSH_CONNECTION; exit 7")
	if !strings.HasPrefix(out, "127.0.0.1 ") || errOut != "" || code != 7 {
		t.Errorf("got %q, %q, %d", out, errOut, code)
	}
	for _, name := range []string{"alice/dev@door", "dev.main@door"} {
		if out, errOut, code := w.ssh(nil, name, "echo in"); out != "in\n" || errOut != "" || code != 0 {
			t.Errorf("%s: %q, %q, %d", name, out, errOut, code)
		}
	}
	eventually(t, "every session was ended in the records", func() bool { return w.get(&w.closed) == 3 })
	s := w.sessions[0]
	if s.Via != agent.ViaDoor || s.UserID != alice.ID || !strings.HasPrefix(s.Peer, "127.0.0.1:") || s.Key != ssh.FingerprintSHA256(w.key.PublicKey()) || s.BytesOut == 0 {
		t.Errorf("recorded %+v", s)
	}
	log := w.log.String()
	for _, want := range []string{"user=alice", "via=door", "peer=127.0.0.1:", "key=SHA256:", "workspace=dev"} {
		if !strings.Contains(log, want) {
			t.Errorf("no %q in the log", want)
		}
	}
	if w.get(&w.touched) != 3 {
		t.Errorf("the key's use was recorded %d times", w.touched)
	}
}

// What a client does through the door is what it does with sshd.
func TestTerminatedPassesEverything(t *testing.T) {
	w := newWorld(t)
	t.Run("streams", func(t *testing.T) {
		data := make([]byte, 10<<20)
		rand.Read(data)
		out, errOut, code := w.ssh(bytes.NewReader(data), "dev@door", "tee /dev/stderr; exit 3")
		if out != string(data) || errOut != string(data) || code != 3 {
			t.Errorf("%d and %d bytes, exit %d", len(out), len(errOut), code)
		}
	})
	t.Run("half-close", func(t *testing.T) {
		if out, _, _ := w.ssh(strings.NewReader("abc"), "dev@door", "cat; sleep 0.2; echo :after"); out != "abc:after\n" {
			t.Errorf("%q", out)
		}
	})
	t.Run("terminal", func(t *testing.T) {
		out, _, code := w.ssh(nil, "-tt", "dev@door", "tty; seq 50000; exit 9")
		if !strings.HasPrefix(out, "/dev/pts/") || !strings.HasSuffix(out, "\r\n50000\r\n") || code != 9 {
			t.Errorf("%d bytes, exit %d", len(out), code)
		}
	})
	t.Run("end of write", func(t *testing.T) {
		pid := filepath.Join(w.dir, "pid")
		cmd := w.command("ssh", "dev@door", "echo $$ >"+pid+"; exec yes")
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(out, make([]byte, 2)); err != nil {
			t.Fatal(err)
		}
		out.Close()
		_ = cmd.Wait()
		eventually(t, "yes ended", func() bool { return !alive(t, pid) })
	})
	t.Run("exit-signal", func(t *testing.T) {
		c, err := w.dial("dev", ssh.PublicKeys(w.key))
		if err != nil {
			t.Fatal(err)
		}
		s, err := c.NewSession()
		if err != nil {
			t.Fatal(err)
		}
		var exit *ssh.ExitError
		if err := s.Run("kill -TERM $$; sleep 5"); !errors.As(err, &exit) || exit.Signal() != "TERM" {
			t.Errorf("got %v", err)
		}
	})
	t.Run("forwards", func(t *testing.T) {
		c, err := w.dial("dev", ssh.PublicKeys(w.key))
		if err != nil {
			t.Fatal(err)
		}
		l, err := c.Listen("tcp", "127.0.0.1:0") // in the workspace
		if err != nil {
			t.Fatal(err)
		}
		go func() {
			nc, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = io.Copy(nc, nc)
			nc.Close()
		}()
		nc, err := c.Dial("tcp", l.Addr().String()) // from the workspace
		if err != nil {
			t.Fatal(err)
		}
		_, _ = nc.Write([]byte("round trip"))
		_ = nc.(interface{ CloseWrite() error }).CloseWrite()
		if b, err := io.ReadAll(nc); string(b) != "round trip" || err != nil {
			t.Errorf("%q, %v", b, err)
		}
		l.Close()
	})
	t.Run("sftp", func(t *testing.T) {
		cmd := w.command("sftp", "-q", "-b", "-", "dev@door")
		local := w.write("local", []byte("text"))
		cmd.Stdin = strings.NewReader("put " + local + " remote\nget remote " + local + ".back\n")
		if b, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, b)
		}
		if b, err := os.ReadFile(local + ".back"); string(b) != "text" {
			t.Errorf("%q, %v", b, err)
		}
	})
}

func alive(t *testing.T, pidFile string) bool {
	t.Helper()
	b, err := os.ReadFile(pidFile)
	if err != nil {
		return false
	}
	var pid int
	if _, err := fmt.Sscan(string(b), &pid); err != nil {
		return false
	}
	return syscall.Kill(pid, 0) == nil
}

// A start that takes longer than ConnectTimeout is waited for, with its progress on the user's terminal.
func TestProgress(t *testing.T) {
	w := newWorld(t, func(w *world) { w.buildTime = 7 * time.Second })
	out, errOut, code := w.ssh(nil, "-o", "ConnectTimeout=5", "-o", "ServerAliveInterval=4", "-o", "ServerAliveCountMax=1", "stopped@door", "echo in")
	if out != "in\n" || code != 0 {
		t.Fatalf("got %q, %q, %d", out, errOut, code)
	}
	var lines []string
	for l := range strings.Lines(errOut) {
		if !strings.HasPrefix(l, "berth: stopped: apply: docker_container.dev: creating") || strings.ContainsRune(l, 0x1b) {
			t.Errorf("line %q", l)
		}
		lines = append(lines, l)
	}
	if n := len(slices.Compact(slices.Clone(lines))); n < 3 || n != len(lines) || n > 8 {
		t.Errorf("%d different of %d lines: %q", n, len(lines), lines)
	}
}

// A build that fails ends the login with its cause, once, however many keys the client has.
func TestBuildFails(t *testing.T) {
	w := newWorld(t, func(w *world) { w.buildTime, w.buildErr = 500*time.Millisecond, "no space" })
	second, pem := newKey(t)
	w.users[ssh.FingerprintSHA256(second.PublicKey())] = alice
	w.write("id2", pem)
	w.config("id", "id2")
	_, errOut, code := w.ssh(nil, "stopped@door", "true")
	want := "berth: build 7 failed: docker_container.dev: no space\nberth: berth logs stopped\n"
	if code != 255 || !strings.Contains(strings.ReplaceAll(errOut, "\r", ""), want) || !strings.Contains(errOut, "Permission denied (publickey)") {
		t.Errorf("%q, %d", errOut, code)
	}
	if w.get(&w.requests) != 1 || strings.Count(errOut, "failed") != 1 {
		t.Errorf("%d builds were requested: %q", w.requests, errOut)
	}
}

// ^C at the client ends the wait.
func TestInterrupt(t *testing.T) {
	w := newWorld(t, func(w *world) { w.buildTime = time.Hour })
	for _, to := range []string{"stopped@door", "stopped.berth"} {
		cmd := w.command("ssh", to, "true")
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		eventually(t, "it waits", func() bool { return w.get(&w.waiting) == 1 })
		_ = cmd.Process.Signal(os.Interrupt)
		_ = cmd.Wait()
		eventually(t, "it waits no more", func() bool { return w.get(&w.waiting) == 0 })
	}
	if n := len(w.sessions); n != 0 {
		t.Errorf("%d sessions", n)
	}
}

// What is not there, and what is somebody else's, look alike.
func TestUnknownWorkspace(t *testing.T) {
	w := newWorld(t)
	for _, name := range []string{"nosuch", "other", "bob/other", "berth"} {
		out, errOut, code := w.ssh(nil, name+"@door", "true")
		want := fmt.Sprintf("berth: you have no workspace %q\nberth: see what you have: berth list\n", name)
		if got := strings.ReplaceAll(errOut, "\r", ""); out != "" || got != want || code != coordinator.CodeNotFound.Exit() {
			t.Errorf("%s: %q, %q, %d; want %q", name, out, got, code, want)
		}
	}
	if _, errOut, code := w.ssh(nil, "-l", "No Such!", "door", "true"); code != 3 || !strings.Contains(errOut, "does not name a workspace") {
		t.Errorf("%q, %d", errOut, code)
	}
	if _, errOut, code := w.ssh(nil, "nosuch.berth", "true"); code != 255 || !strings.Contains(errOut, `you have no workspace "nosuch"; see what you have: berth list`) {
		t.Errorf("jump: %q, %d", errOut, code)
	}
	if len(w.sessions) != 0 || w.requests != 0 {
		t.Error("something was entered or started")
	}
}

func TestKeys(t *testing.T) {
	w := newWorld(t)
	var names []string
	for i := range 4 {
		_, pem := newKey(t)
		names = append(names, fmt.Sprintf("other%d", i))
		w.write(names[i], pem)
	}
	w.config(append(names, "id")...)
	if out, errOut, code := w.ssh(nil, "dev@door", "echo in"); out != "in\n" || code != 0 {
		t.Errorf("four keys before the right one: %q, %q, %d", out, errOut, code)
	}
	w.config(names...)
	if _, errOut, code := w.ssh(nil, "dev@door", "true"); code != 255 || !strings.Contains(errOut, "Permission denied (publickey)") {
		t.Errorf("wrong keys: %q, %d", errOut, code)
	}
	if _, err := w.dial("dev"); err == nil {
		t.Error("logged in without a key")
	}
	if _, err := w.dial("dev", ssh.Password("x")); err == nil {
		t.Error("logged in with a password")
	}
	// The user CA opens workspaces, not the door.
	cert, err := w.ca.UserSigner(agent.Person{ID: "u-alice", Name: "alice"}, time.Now(), time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.dial("dev", ssh.PublicKeys(cert)); err == nil {
		t.Error("logged in with a certificate")
	}
}

type lyingSigner struct {
	ssh.Signer
	claim ssh.PublicKey
}

func (l lyingSigner) PublicKey() ssh.PublicKey { return l.claim }

// An offered key proves nothing (CVE-2024-45337): neither is one logged in by it, nor somebody else than who signed.
func TestOfferedKeyIsNotEnough(t *testing.T) {
	w := newWorld(t)
	bobs, _ := newKey(t)
	w.mu.Lock()
	w.users[ssh.FingerprintSHA256(bobs.PublicKey())] = bob
	w.mu.Unlock()
	if _, err := w.dial("dev", ssh.PublicKeys(lyingSigner{bobs, w.key.PublicKey()})); err == nil {
		t.Error("logged in with a key that was only offered")
	}
	if got := w.get(&w.touched); got != 0 {
		t.Errorf("%d logins", got)
	}
	// Bob proves his key; alice's workspace is nothing to him.
	c, err := w.dial("dev", ssh.PublicKeys(bobs, w.key))
	if err != nil {
		t.Fatal(err)
	}
	s, err := c.NewSession()
	if err != nil {
		t.Fatal(err)
	}
	var exit *ssh.ExitError
	if err := s.Run("true"); !errors.As(err, &exit) || exit.ExitStatus() != 3 {
		t.Errorf("bob in alice's workspace: %v", err)
	}
}

// End to end, with one line of known_hosts for both host keys.
func TestJump(t *testing.T) {
	w := newWorld(t)
	for _, args := range [][]string{{"dev.berth"}, {"dev.alice.berth"}, {"main.dev.alice.berth"}, {"-F", filepath.Join(w.dir, "plain"), "-J", "dev.berth@door", "dev.berth"}} {
		if strings.HasPrefix(args[0], "main.") {
			args = append([]string{"-o", "HostKeyAlias=dev.alice.berth"}, args...)
		}
		out, errOut, code := w.ssh(nil, append(args, "echo in; exit 5")...)
		if out != "in\n" || errOut != "" || code != 5 {
			t.Errorf("%q: %q, %q, %d", args, out, errOut, code)
		}
	}
	eventually(t, "every session was ended in the records", func() bool { return w.get(&w.closed) == 4 })
	for _, s := range w.sessions {
		if s.Via != agent.ViaJump || s.Key != ssh.FingerprintSHA256(w.key.PublicKey()) || s.BytesIn == 0 || s.BytesOut == 0 {
			t.Errorf("recorded %+v", s)
		}
	}
	data := make([]byte, 10<<20)
	rand.Read(data)
	if out, _, _ := w.ssh(bytes.NewReader(data), "dev.berth", "cat"); out != string(data) {
		t.Errorf("10 MB: %d bytes came back", len(out))
	}
}

// A jump to a stopped workspace: one banner, and no timer of the client runs during the start.
func TestJumpStarts(t *testing.T) {
	w := newWorld(t, func(w *world) { w.buildTime = 7 * time.Second })
	out, errOut, code := w.ssh(nil, "-o", "ConnectTimeout=5", "stopped.berth", "echo in")
	if got := strings.ReplaceAll(errOut, "\r", ""); out != "in\n" || got != "berth: starting stopped, please wait\n" || code != 0 {
		t.Errorf("got %q, %q, %d", out, got, code)
	}
}

func TestJumpBuildFails(t *testing.T) {
	w := newWorld(t, func(w *world) { w.buildTime, w.buildErr = 500*time.Millisecond, "no space" })
	for range 3 {
		_, errOut, code := w.ssh(nil, "stopped.berth", "true")
		if want := "berth: build 7 failed: docker_container.dev: no space; berth logs stopped"; code != 255 || strings.Count(errOut, want) != 1 {
			t.Errorf("%q, %d", errOut, code)
		}
	}
}

// A jump name leads to its workspace's port 22 and nowhere else.
func TestJumpLeadsNowhereElse(t *testing.T) {
	w := newWorld(t)
	for _, tt := range []struct {
		to   string
		want string
	}{
		{"stopped.berth:22", "this way leads to dev.berth port 22 only"},
		{"dev.berth:80", "this way leads to dev.berth port 22 only"},
		{"127.0.0.1:22", "this way leads to dev.berth port 22 only"},
		{"dev:22", "this way leads to dev.berth port 22 only"},
		{"other.bob.berth:22", "this way leads to dev.berth port 22 only"},
	} {
		_, errOut, code := w.ssh(nil, "-W", tt.to, "dev.berth@door")
		if code != 255 || !strings.Contains(errOut, "administratively prohibited: "+tt.want) {
			t.Errorf("%s: %q, %d", tt.to, errOut, code)
		}
	}
	if _, errOut, code := w.ssh(nil, "-W", "dev.berth:22", "nosuch.berth@door"); code != 255 || !strings.Contains(errOut, "prohibited") {
		t.Errorf("through an unknown name: %q, %d", errOut, code)
	}
	_, errOut, code := w.ssh(nil, "dev.berth@door", "true")
	if code != 2 || !strings.Contains(errOut, "dev.berth is a name to jump by") || !strings.Contains(errOut, "use dev as the login name") {
		t.Errorf("session: %q, %d", errOut, code)
	}
	if w.requests != 0 {
		t.Error("something was started")
	}
}

// ssh -J door sends the local login name, whatever that is, and leads to any workspace of the user.
func TestBareJump(t *testing.T) {
	w := newWorld(t, func(w *world) { w.buildTime = time.Second })
	for _, login := range []string{"alice", "root", "dev"} {
		for _, host := range []string{"dev.berth", "stopped.alice.berth"} {
			out, errOut, code := w.ssh(nil, "-F", filepath.Join(w.dir, "plain"), "-J", login+"@door", host, "echo in")
			if out != "in\n" || errOut != "" || code != 0 {
				t.Errorf("%s, %s: %q, %q, %d", login, host, out, errOut, code)
			}
		}
	}
	_, errOut, code := w.ssh(nil, "-F", filepath.Join(w.dir, "plain"), "-J", "alice@door", "other.berth", "true")
	if code != 255 || !strings.Contains(errOut, `you have no workspace "other"`) {
		t.Errorf("somebody else's: %q, %d", errOut, code)
	}
	if _, errOut, code := w.ssh(nil, "-W", "127.0.0.1:22", "alice@door"); code != 255 || !strings.Contains(errOut, "names that end in .berth") {
		t.Errorf("another host: %q, %d", errOut, code)
	}
}

// The door checks whom it reaches: the key has to be certified by the installation, for this very workspace.
func TestHostKeyOfTheWorkspace(t *testing.T) {
	other, err := ca.New()
	if err != nil {
		t.Fatal(err)
	}
	t.Run("group", func(t *testing.T) {
		for name, edit := range map[string]func(*world){
			"another authority": func(w *world) { w.hostCA = other },
			"another workspace": func(w *world) { w.principals = []string{"stopped.alice.berth", "dev.berth"} },
		} {
			t.Run(name, func(t *testing.T) {
				w := newWorld(t, edit)
				_, errOut, code := w.ssh(nil, "dev@door", "true")
				if code != 255 || !strings.Contains(errOut, "does not answer as it should") {
					t.Errorf("%q, %d", errOut, code)
				}
				eventually(t, "the session's end is recorded", func() bool { return w.get(&w.closed) == len(w.sessions) })
			})
		}
	})
}

// A client without the authority's line learns the door's host keys, each proved; the workspace's own are not passed on
// as the door's.
func TestHostKeysAreAnnounced(t *testing.T) {
	w := newWorld(t)
	known := w.write("learned", nil)
	for range 2 {
		if _, errOut, code := w.ssh(nil, "-o", "UserKnownHostsFile="+known, "-o", "StrictHostKeyChecking=accept-new", "-o", "UpdateHostKeys=yes",
			"-o", "HostKeyAlgorithms=ssh-ed25519,ecdsa-sha2-nistp256", "dev@door", "sleep 0.5"); code != 0 {
			t.Fatalf("%q, %d", errOut, code)
		}
	}
	b, err := os.ReadFile(known)
	if err != nil {
		t.Fatal(err)
	}
	var want []string
	for _, k := range w.plain {
		want = append(want, string(ssh.MarshalAuthorizedKey(k.PublicKey())))
	}
	if n := strings.Count(string(b), "\n"); n != len(want) {
		t.Errorf("%d keys learned, want %d: %s", n, len(want), b)
	}
	for _, k := range want {
		if !strings.Contains(string(b), k) {
			t.Errorf("not learned: %s", k)
		}
	}
}

func TestProve(t *testing.T) {
	mine, _ := newKey(t)
	other, _ := newKey(t)
	ask := func(s ssh.Signer) []byte { return ssh.Marshal(struct{ K string }{string(s.PublicKey().Marshal())}) }
	if _, ok := prove([]ssh.Signer{mine}, []byte("session"), ask(mine)); !ok {
		t.Error("own key: no proof")
	}
	for name, payload := range map[string][]byte{"another's": ask(other), "twice": append(ask(mine), ask(mine)...), "malformed": {0, 0, 0, 9, 1}} {
		if _, ok := prove([]ssh.Signer{mine}, []byte("session"), payload); ok {
			t.Errorf("%s: proved", name)
		}
	}
}

func TestVersionComesAtOnce(t *testing.T) {
	w := newWorld(t)
	began := time.Now()
	nc, err := net.Dial("tcp", w.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	b := make([]byte, len(agent.SSHVersion)+2)
	if _, err := io.ReadFull(nc, b); err != nil || string(b) != agent.SSHVersion+"\r\n" {
		t.Errorf("%q, %v", b, err)
	}
	if d := time.Since(began); d > time.Second {
		t.Errorf("after %v", d)
	}
}

// A client that says nothing is put out; one that waits for its workspace is not.
func TestLoginGrace(t *testing.T) {
	w := newWorld(t, func(w *world) { w.buildTime, w.grace = 2*time.Second, time.Second })
	nc, err := net.Dial("tcp", w.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	_ = nc.SetReadDeadline(time.Now().Add(10 * time.Second))
	if _, err := io.Copy(io.Discard, nc); err != nil {
		t.Error("a silent client:", err)
	}
	if out, errOut, code := w.ssh(nil, "stopped@door", "echo in"); out != "in\n" || code != 0 {
		t.Errorf("one that waits: %q, %q, %d", out, errOut, code)
	}
}

// A stalledSigner comes when it is released.
type stalledSigner struct {
	ssh.Signer
	asked   func()
	release chan struct{}
}

func (s stalledSigner) PublicKey() ssh.PublicKey {
	s.asked()
	<-s.release
	return s.Signer.PublicKey()
}

// A client that says nothing more after its login was refused is put out as well.
func TestGraceAfterRefusal(t *testing.T) {
	w := newWorld(t, func(w *world) { w.buildErr, w.grace = "no space", time.Second })
	nc, err := net.Dial("tcp", w.addr)
	if err != nil {
		t.Fatal(err)
	}
	asked, ended := make(chan struct{}), make(chan struct{})
	seen := &watched{Conn: nc, gone: sync.OnceFunc(func() { close(ended) })}
	stalled := stalledSigner{w.key, sync.OnceFunc(func() { close(asked) }), make(chan struct{})}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _, _, _ = ssh.NewClientConn(seen, w.addr, &ssh.ClientConfig{
			User: "stopped", Auth: []ssh.AuthMethod{ssh.PublicKeys(w.key, stalled)}, HostKeyCallback: func(string, net.Addr, ssh.PublicKey) error { return nil },
		})
	}()
	defer func() { nc.Close(); close(stalled.release); <-done }()
	for what, c := range map[string]chan struct{}{"refused": asked, "closed": ended} {
		select {
		case <-c:
		case <-time.After(10 * time.Second):
			t.Fatal("not", what)
		}
	}
}

// A connection to a workspace jumps to so many others at once, and no more.
func TestJumpsAreCapped(t *testing.T) {
	w := newWorld(t, func(w *world) { w.buildTime = time.Hour })
	c, err := w.dial("dev", ssh.PublicKeys(w.key))
	if err != nil {
		t.Fatal(err)
	}
	for i := range maxJumps + 1 {
		ch, err := c.Dial("tcp", "stopped.berth:22")
		var refused *ssh.OpenChannelError
		switch {
		case i < maxJumps && err != nil:
			t.Fatal(i, err)
		case i == maxJumps && (!errors.As(err, &refused) || refused.Reason != ssh.ResourceShortage):
			t.Errorf("one too many: %v", err)
		}
		if err == nil {
			defer ch.Close()
		}
	}
}

func TestPace(t *testing.T) {
	start := time.Unix(1000, 0)
	at := func(ms int) time.Time { return start.Add(time.Duration(ms) * time.Millisecond) }
	apply := func(s int) coordinator.Progress {
		return coordinator.Progress{Stage: "apply", Address: "a.b", Elapsed: time.Duration(s) * time.Second}
	}
	queue := coordinator.Progress{Stage: "queue"}
	p := pace{at: start}
	for _, tt := range []struct {
		name string
		ms   int
		cur  coordinator.Progress
		want string
		due  bool
	}{
		{"nothing to say yet", 100, coordinator.Progress{}, "", false},
		{"the first news at once", 200, queue, "queue", true},
		{"news too soon", 700, apply(0), "", false},
		{"news after a second", 1200, apply(1), "apply: a.b (1 s)", true},
		{"only the clock moved", 2400, apply(2), "", false},
		{"the clock after three seconds", 4200, apply(4), "apply: a.b (4 s)", true},
		{"not even the clock moved", 7200, apply(4), "", true},
		{"and soon again", 7300, apply(4), "", false},
	} {
		text, due := p.next(at(tt.ms), tt.cur)
		if text != tt.want || due != tt.due {
			t.Errorf("%s: %q, %v; want %q, %v", tt.name, text, due, tt.want, tt.due)
		}
	}
	silent := pace{at: start}
	if text, due := silent.next(at(3000), coordinator.Progress{}); text != "" || !due {
		t.Error("no empty banner after three seconds without progress")
	}
}

func TestBannerIsHarmless(t *testing.T) {
	if got := banner("a\x1b[2Jb\nc\u202ed" + strings.Repeat("é", 400)); strings.ContainsAny(got[:len(got)-2], "\x1b\n\u202e") || len(got) > maxBanner+20 || !strings.HasSuffix(got, "\r\n") {
		t.Errorf("%q", got)
	}
}

func TestDisconnectPacket(t *testing.T) {
	for n := range 40 {
		b := disconnect(strings.Repeat("x", n))
		length, pad := int(b[0])<<24|int(b[1])<<16|int(b[2])<<8|int(b[3]), int(b[4])
		if len(b)%8 != 0 || length != len(b)-4 || pad < 4 || b[5] != 1 {
			t.Fatalf("%d: %x", n, b)
		}
		var m struct {
			Reason uint32
			Text   string
			Lang   string
		}
		if err := ssh.Unmarshal(b[6:len(b)-pad], &m); err != nil || m.Reason != 11 || len(m.Text) != n {
			t.Fatalf("%d: %+v, %v", n, m, err)
		}
	}
}

func TestSwallowVersion(t *testing.T) {
	for _, tt := range []struct {
		in   string
		want bool
	}{
		{agent.SSHVersion + "\r\nrest", true},
		{agent.SSHVersion + "\nrest", true},
		{"SSH-2.0-Other\r\n", false},
		{`{"ok":false,"error":"x"}` + "\n", false},
		{strings.Repeat("x", 1000), false},
		{"", false},
	} {
		r := strings.NewReader(tt.in)
		err := swallowVersion(r)
		if (err == nil) != tt.want {
			t.Errorf("%.30q: %v", tt.in, err)
		}
		if rest, _ := io.ReadAll(r); tt.want && string(rest) != "rest" {
			t.Errorf("%.30q: left %q", tt.in, rest)
		}
	}
}

// Shutdown lets sessions end by themselves, until its context ends.
func TestShutdown(t *testing.T) {
	w := newWorld(t)
	begin := func(command string) <-chan error {
		t.Helper()
		up := filepath.Join(w.dir, "up")
		cmd := w.command("ssh", "-tt", "dev@door", "touch "+up+"; "+command)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		eventually(t, "session", func() bool { _, err := os.Stat(up); return err == nil })
		_ = os.Remove(up)
		done := make(chan error, 1)
		go func() { done <- cmd.Wait() }()
		return done
	}
	short, long := begin("sleep 1; exit 0"), begin("sleep 300")
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	down := make(chan error, 1)
	go func() { down <- w.door.Shutdown(ctx) }()
	if err := <-short; err != nil {
		t.Error("a session was cut:", err)
	}
	eventually(t, "nobody is let in any more", func() bool {
		nc, err := net.Dial("tcp", w.addr)
		if err == nil {
			nc.Close()
		}
		return err != nil
	})
	select {
	case err := <-down:
		t.Fatal("did not wait:", err)
	default:
	}
	cancel()
	if err := <-down; !errors.Is(err, context.Canceled) {
		t.Error("Shutdown:", err)
	}
	if err := <-long; err == nil {
		t.Error("the other session ended well")
	}
	if err := w.door.Shutdown(context.Background()); err != nil {
		t.Log("again:", err)
	}
}

func TestNew(t *testing.T) {
	if _, err := New(Config{}); err == nil {
		t.Error("a door out of nothing")
	}
	w := newWorld(t)
	cfg := w.door.cfg
	cfg.HostCAs = nil
	if _, err := New(cfg); err == nil {
		t.Error("a door that checks no host key")
	}
	cfg.HostCAs = []string{"rubbish"}
	if _, err := New(cfg); err == nil {
		t.Error("a door with rubbish for an authority")
	}
}

// VS Code's way in, on a stopped workspace: its script on stdin and a dynamic forward, with a connect timeout that is
// shorter than the start.
func TestScriptOnStdin(t *testing.T) {
	w := newWorld(t, func(w *world) { w.buildTime = 4 * time.Second })
	plain := filepath.Join(w.dir, "plain")
	var all sync.WaitGroup
	for _, args := range [][]string{
		{"stopped@door", "bash"},
		{"stopped.berth", "bash"},
		{"-F", plain, "-J", "stopped.berth@door", "stopped.berth"},
		{"-F", plain, "-J", "alice@door", "stopped.berth"},
	} {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		_, port, _ := net.SplitHostPort(l.Addr().String())
		l.Close()
		cmd := w.command("ssh", append([]string{"-T", "-D", port, "-o", "ConnectTimeout=2"}, args...)...)
		cmd.Stdin = strings.NewReader("echo 'ready: 8a1b'\nuname\necho '8a1b: running'\nexit 0\n")
		all.Go(func() {
			out, err := cmd.Output()
			if want := "ready: 8a1b\nLinux\n8a1b: running\n"; string(out) != want || err != nil {
				t.Errorf("%q: %q, %v", args, out, err)
			}
		})
	}
	all.Wait()
	if n := w.get(&w.requests); n != 1 {
		t.Errorf("%d builds were requested", n)
	}
}
