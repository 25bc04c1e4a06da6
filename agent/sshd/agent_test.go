package sshd

import (
	"bytes"
	"context"
	"encoding/hex"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"berth/agent/keyring"
)

// startAgent runs an ssh-agent with one key and returns its socket.
func (w *workspace) startAgent(comment string) string {
	w.t.Helper()
	dir := w.t.TempDir()
	socket := filepath.Join(dir, "a")
	ctx, cancel := context.WithCancel(context.Background())
	cmd := exec.CommandContext(ctx, "ssh-agent", "-D", "-a", socket)
	cmd.WaitDelay = time.Second
	if err := cmd.Start(); err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() {
		cancel()
		_ = cmd.Wait() // it was killed
	})
	eventually(w.t, "ssh-agent listens", func() bool { return open("unix", socket) })
	_, pem := newKey(w.t)
	key := filepath.Join(dir, "k")
	if err := os.WriteFile(key, pem, 0o600); err != nil {
		w.t.Fatal(err)
	}
	if out, err := exec.Command("ssh-keygen", "-c", "-q", "-P", "", "-C", comment, "-f", key).CombinedOutput(); err != nil {
		w.t.Fatalf("ssh-keygen: %v: %s", err, out)
	}
	add := exec.Command("ssh-add", "-q", key)
	add.Env = []string{"SSH_AUTH_SOCK=" + socket}
	if out, err := add.CombinedOutput(); err != nil {
		w.t.Fatalf("ssh-add: %v: %s", err, out)
	}
	return socket
}

// A guest's agent is at a socket of its own, in a directory that nobody else can enter, for as long as the connection
// lasts.
func TestForwardGuestsAgent(t *testing.T) {
	w := serve(t, func(c *Config, w *workspace) {
		w.manifest.Owner.ID = "u-bob"
		c.ForwardAgent = func(func() (io.ReadWriteCloser, error)) func() {
			t.Error("a guest's agent was made the owner's")
			return func() {}
		}
	})
	socket := w.startAgent("forwarded")
	out, errOut, code := w.ssh(nil, "-A", "-o", "IdentityAgent="+socket, "dev.berth", `ssh-add -l; stat -c %a "$(dirname "$SSH_AUTH_SOCK")"; echo "$SSH_AUTH_SOCK"`)
	lines := strings.Split(strings.TrimSpace(out), "\n")
	if code != 0 || len(lines) != 3 || !strings.Contains(lines[0], "forwarded") || lines[1] != "700" {
		t.Fatalf("%d: %q %s", code, out, errOut)
	}
	eventually(t, "the socket is removed", func() bool { return !exists(filepath.Dir(lines[2])) })
	if out, _, _ := w.ssh(nil, "-o", "IdentityAgent="+socket, "dev.berth", `echo "$SSH_AUTH_SOCK"`); strings.TrimSpace(out) != "/run/berth/agent.sock" {
		t.Errorf("without -A the socket is %q", out)
	}
}

// The owner's agent is at the workspace's socket, for every session, while the connection lasts.
func TestForwardOwnersAgent(t *testing.T) {
	keys := keyring.New(slog.New(slog.DiscardHandler))
	var path string
	w := serve(t, func(c *Config, w *workspace) {
		w.manifest.Owner.ID = "u-alice"
		path = filepath.Join(w.dir, "agent.sock")
		c.AgentSocket = path
		c.ForwardAgent = func(open func() (io.ReadWriteCloser, error)) func() { return keys.Forward(open) }
	})
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); _ = keys.Serve(ctx, l) }()
	t.Cleanup(func() { cancel(); <-done })

	socket := w.startAgent("forwarded")
	hold := w.command("ssh", "-A", "-o", "IdentityAgent="+socket, "dev.berth", "ssh-add -l; cat")
	in, err := hold.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	hold.Stdout = &locked{w: &out}
	if err := hold.Start(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "another session sees the forwarded agent", func() bool {
		other, _, _ := w.ssh(nil, "dev.berth", "ssh-add -l")
		return strings.Contains(other, "forwarded")
	})
	in.Close()
	if err := hold.Wait(); err != nil || !strings.Contains(out.String(), "forwarded") {
		t.Errorf("%v: %q", err, out.String())
	}
	eventually(t, "the agent leaves with its connection", func() bool {
		other, _, _ := w.ssh(nil, "dev.berth", "ssh-add -l 2>&1")
		return strings.Contains(other, "no identities")
	})
}

// An agent that the client does not let the workspace open fails, and harms nothing.
func TestForwardAgentThatIsNotThere(t *testing.T) {
	w := serve(t)
	c := w.client()
	ch, reqs, err := c.OpenChannel("session", nil)
	if err != nil {
		t.Fatal(err)
	}
	go ssh.DiscardRequests(reqs)
	for range 2 {
		if ok, err := ch.SendRequest("auth-agent-req@openssh.com", true, nil); !ok || err != nil {
			t.Fatalf("auth-agent-req: %v, %v", ok, err)
		}
	}
	exec1(t, ch, "ssh-add -l 2>&1; echo ended")
	if out, _ := io.ReadAll(ch); !strings.Contains(string(out), "ended") {
		t.Errorf("%q", out)
	}
}

func x11Payload(single bool, proto, cookie string, screen uint32) []byte {
	return ssh.Marshal(x11Request{single, proto, cookie, screen})
}

func TestX11(t *testing.T) {
	if _, err := exec.LookPath("xauth"); err != nil {
		t.Fatal("xauth is needed: scripts/deps installs it")
	}
	w := serve(t)
	c := w.client()
	opened := c.HandleChannelOpen("x11")
	go func() {
		for nc := range opened {
			ch, reqs, err := nc.Accept()
			if err != nil {
				return
			}
			go ssh.DiscardRequests(reqs)
			go func() {
				_, _ = io.WriteString(ch, "from the X server\n")
				_ = ch.Close()
			}()
		}
	}()
	ch, reqs, err := c.OpenChannel("session", nil)
	if err != nil {
		t.Fatal(err)
	}
	go ssh.DiscardRequests(reqs)
	cookie := strings.Repeat("0f", 16)
	if ok, err := ch.SendRequest("x11-req", true, x11Payload(false, "MIT-MAGIC-COOKIE-1", cookie, 0)); !ok || err != nil {
		t.Fatalf("x11-req: %v, %v", ok, err)
	}
	if ok, _ := ch.SendRequest("x11-req", true, x11Payload(false, "MIT-MAGIC-COOKIE-1", cookie, 0)); ok {
		t.Error("a second x11-req was taken")
	}
	exec1(t, ch, `echo "$DISPLAY"; xauth list "$DISPLAY"; d=${DISPLAY#localhost:}; exec 3<>/dev/tcp/127.0.0.1/$((6000 + ${d%.*})); cat <&3`)
	out, err := io.ReadAll(ch)
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	if len(lines) != 3 || !strings.HasPrefix(lines[0], "localhost:") || !strings.HasSuffix(lines[1], cookie) || lines[2] != "from the X server" {
		t.Fatalf("%q", out)
	}
	number, _, _ := strings.Cut(strings.TrimPrefix(lines[0], "localhost:"), ".")
	n, err := strconv.Atoi(number)
	if err != nil {
		t.Fatal(err)
	}
	ch.Close()
	eventually(t, "the display is closed with its session", func() bool { return !open("tcp", "127.0.0.1:"+strconv.Itoa(x11Port+n)) })
}

// A display whose port somebody else has on IPv6 is not taken: programs would tell the cookie there.
func TestX11TakesBothFamilies(t *testing.T) {
	squatter, err := net.Listen("tcp6", "[::1]:"+strconv.Itoa(x11Port+x11Last))
	if err != nil {
		t.Skip("no IPv6 on loopback here")
	}
	defer squatter.Close()
	x := &x11{}
	if err := x.listenFrom(x11Last); err == nil {
		x.closeListeners()
		t.Errorf("display %d was taken", x.number)
	}
}

func TestX11SingleConnection(t *testing.T) {
	w := serve(t)
	c := w.client()
	opened := c.HandleChannelOpen("x11")
	go func() {
		for nc := range opened {
			_ = nc.Reject(ssh.Prohibited, "no")
		}
	}()
	ch, reqs, err := c.OpenChannel("session", nil)
	if err != nil {
		t.Fatal(err)
	}
	go ssh.DiscardRequests(reqs)
	if ok, err := ch.SendRequest("x11-req", true, x11Payload(true, "MIT-MAGIC-COOKIE-1", "00ff", 0)); !ok || err != nil {
		t.Fatalf("x11-req: %v, %v", ok, err)
	}
	exec1(t, ch, `d=${DISPLAY#localhost:}; p=$((6000 + ${d%.*})); (exec 3<>/dev/tcp/127.0.0.1/$p; cat <&3); for i in 1 2 3 4 5 6 7 8 9; do (exec 3<>/dev/tcp/127.0.0.1/$p) 2>/dev/null || { echo closed; exit; }; sleep 0.2; done`)
	if out, _ := io.ReadAll(ch); strings.TrimSpace(string(out)) != "closed" {
		t.Errorf("%q", out)
	}
}

func TestParseX11(t *testing.T) {
	for name, payload := range map[string][]byte{
		"nothing":            nil,
		"commands in proto":  x11Payload(false, "a\nquit", "00", 0),
		"commands in cookie": x11Payload(false, "MIT-MAGIC-COOKIE-1", "00\nquit", 0),
		"odd cookie":         x11Payload(false, "MIT-MAGIC-COOKIE-1", "000", 0),
		"long cookie":        x11Payload(false, "MIT-MAGIC-COOKIE-1", hex.EncodeToString(make([]byte, 200)), 0),
		"screen":             x11Payload(false, "MIT-MAGIC-COOKIE-1", "00", 1<<20),
	} {
		if _, err := parseX11(payload); err == nil {
			t.Errorf("%s was taken", name)
		}
	}
}

func FuzzX11(f *testing.F) {
	f.Add(x11Payload(true, "MIT-MAGIC-COOKIE-1", "00ff", 1))
	f.Add([]byte{1})
	f.Fuzz(func(t *testing.T, payload []byte) {
		r, err := parseX11(payload)
		if err == nil && strings.ContainsAny(r.Protocol+r.Cookie, " \n") {
			t.Errorf("%q %q", r.Protocol, r.Cookie)
		}
	})
}
