package sshproxy

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
)

// A bridge is OpenSSH on both sides of joins: its client, and its server.
type bridge struct {
	t    *testing.T
	dir  string
	addr string
	env  []string
}

func (b *bridge) file(name, content string) string {
	b.t.Helper()
	p := filepath.Join(b.dir, name)
	if err := os.WriteFile(p, []byte(content), 0o600); err != nil {
		b.t.Fatal(err)
	}
	return p
}

func newBridge(t *testing.T) *bridge {
	t.Helper()
	if _, err := os.Stat("/usr/sbin/sshd"); err != nil {
		t.Fatal("sshd is needed: scripts/deps installs it")
	}
	t.Parallel()
	b := &bridge{t: t, dir: t.TempDir()}
	for _, name := range []string{"host", "id"} {
		if out, err := exec.Command("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", filepath.Join(b.dir, name)).CombinedOutput(); err != nil {
			t.Fatalf("ssh-keygen: %v: %s", err, out)
		}
	}
	host, id := b.signer("host"), b.signer("id")
	server := b.serveSSHD()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	b.addr = l.Addr().String()
	ctx, cancel := context.WithCancel(context.Background())
	var conns sync.WaitGroup
	conns.Go(func() {
		for {
			nc, err := l.Accept()
			if err != nil {
				return
			}
			conns.Go(func() { b.join(ctx, nc, server, host, id) })
		}
	})
	t.Cleanup(func() {
		cancel()
		l.Close()
		conns.Wait()
	})
	_, port, _ := net.SplitHostPort(b.addr)
	b.file("known", fmt.Sprintf("[127.0.0.1]:%s %s", port, ssh.MarshalAuthorizedKey(host.PublicKey())))
	b.file("config", fmt.Sprintf("Host h\n HostName 127.0.0.1\n Port %s\n User u\n IdentityFile %s/id\n IdentitiesOnly yes\n BatchMode yes\n"+
		" StrictHostKeyChecking yes\n UserKnownHostsFile %s/known\n GlobalKnownHostsFile /dev/null\n", port, b.dir, b.dir))
	return b
}

func (b *bridge) signer(name string) ssh.Signer {
	b.t.Helper()
	pem, err := os.ReadFile(filepath.Join(b.dir, name))
	if err != nil {
		b.t.Fatal(err)
	}
	s, err := ssh.ParsePrivateKey(pem)
	if err != nil {
		b.t.Fatal(err)
	}
	return s
}

// serveSSHD starts OpenSSH's server and returns its address.
func (b *bridge) serveSSHD() string {
	b.t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.t.Fatal(err)
	}
	addr := l.Addr().String()
	_, port, _ := net.SplitHostPort(addr)
	l.Close()
	pub, err := os.ReadFile(filepath.Join(b.dir, "id.pub"))
	if err != nil {
		b.t.Fatal(err)
	}
	b.file("authorized", string(pub))
	if os.Getuid() == 0 {
		if err := os.MkdirAll("/run/sshd", 0o755); err != nil { // where it goes without rights
			b.t.Fatal(err)
		}
	}
	config := b.file("sshd_config", fmt.Sprintf("Port %s\nListenAddress 127.0.0.1\nHostKey %s/host\nPidFile none\nAuthorizedKeysFile %s/authorized\n"+
		"StrictModes no\nPermitRootLogin yes\nUsePAM no\nMaxSessions 1000\nMaxStartups 500\nAcceptEnv LC_*\nX11Forwarding yes\nSubsystem sftp internal-sftp\n", port, b.dir, b.dir))
	cmd := exec.Command("/usr/sbin/sshd", "-D", "-e", "-f", config)
	cmd.Stderr = &bytes.Buffer{}
	if err := cmd.Start(); err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	eventually(b.t, func() bool {
		nc, err := net.Dial("tcp", addr)
		if err == nil {
			nc.Close()
		}
		return err == nil
	})
	return addr
}

// join serves one client and joins it to the server.
func (b *bridge) join(ctx context.Context, nc net.Conn, server string, host, id ssh.Signer) {
	defer nc.Close()
	cfg := &ssh.ServerConfig{NoClientAuth: true, ServerVersion: "SSH-2.0-OpenSSH_9.9-test"}
	cfg.AddHostKey(host)
	sc, chans, reqs, err := ssh.NewServerConn(nc, cfg)
	if err != nil {
		return
	}
	u, err := user.Current()
	if err != nil {
		b.t.Error(err)
		return
	}
	in, err := net.Dial("tcp", server)
	if err != nil {
		b.t.Error(err)
		return
	}
	defer in.Close()
	c, inChans, inReqs, err := ssh.NewClientConn(in, server, &ssh.ClientConfig{
		User: u.Username, Auth: []ssh.AuthMethod{ssh.PublicKeys(id)}, HostKeyCallback: ssh.FixedHostKey(host.PublicKey()), ClientVersion: string(sc.ClientVersion()),
	})
	if err != nil {
		b.t.Error("the server refused:", err)
		return
	}
	_ = Join(ctx, Side{sc, chans, reqs}, Side{c, inChans, inReqs})
}

// run runs one of OpenSSH's clients.
func (b *bridge) run(stdin io.Reader, name string, args ...string) (out string, code int) {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, append([]string{"-F", filepath.Join(b.dir, "config")}, args...)...)
	cmd.Stdin, cmd.WaitDelay = stdin, time.Second
	cmd.Env = append(append(os.Environ(), "LC_TEST=passed on", "LC_ALL=C"), b.env...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		b.t.Errorf("%s %q: %v: %s", name, args, err, stderr.String())
	}
	if cmd.ProcessState != nil {
		code = cmd.ProcessState.ExitCode()
	}
	if code != 0 && stderr.Len() > 0 {
		b.t.Logf("%s %q: %s", name, args, stderr.String())
	}
	return stdout.String(), code
}

// OpenSSH's client does through a join with OpenSSH's server what it does without.
func TestOpenSSH(t *testing.T) {
	b := newBridge(t)
	data := make([]byte, 4<<20)
	rand.Read(data)
	for _, tt := range []struct {
		name  string
		stdin string
		args  []string
		out   string
		code  int
	}{
		{"streams and status", string(data), []string{"h", "cat; exit 7"}, string(data), 7},
		{"environment", "", []string{"-o", "SendEnv=LC_TEST", "h", "echo $LC_TEST"}, "passed on\n", 0},
		{"half-close", "in", []string{"h", "cat; sleep 0.1; echo :after"}, "in:after\n", 0},
		{"terminal", "", []string{"-tt", "h", "stty size >/dev/null && echo tty; exit 4"}, "tty\r\n", 4},
		{"unknown subsystem", "", []string{"-s", "h", "nosuch"}, "", 255},
		{"port 0", "", []string{"-R", "0:127.0.0.1:1", "h", "echo in"}, "in\n", 0},
	} {
		if out, code := b.run(strings.NewReader(tt.stdin), "ssh", tt.args...); out != tt.out || code != tt.code {
			t.Errorf("%s: %d bytes %.80q, exit %d", tt.name, len(out), out, code)
		}
	}
	local := b.file("local", "content")
	if _, code := b.run(strings.NewReader("put "+local+" "+b.dir+"/remote\n"), "sftp", "-q", "-b", "-", "h"); code != 0 {
		t.Error("sftp:", code)
	}
	if got, err := os.ReadFile(filepath.Join(b.dir, "remote")); string(got) != "content" {
		t.Errorf("sftp put %q, %v", got, err)
	}
}

// The forwards of OpenSSH's client, in both directions, over TCP and Unix sockets; and its agent and display.
func TestOpenSSHForwards(t *testing.T) {
	b := newBridge(t)
	echo, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer echo.Close()
	go func() {
		for {
			nc, err := echo.Accept()
			if err != nil {
				return
			}
			go func() {
				_, _ = io.Copy(nc, nc)
				nc.Close()
			}()
		}
	}()
	near, far := filepath.Join(b.dir, "near"), filepath.Join(b.dir, "far")
	cmd := exec.Command("ssh", "-F", filepath.Join(b.dir, "config"), "-N", "-o", "ExitOnForwardFailure=yes", "-L", near+":"+far, "-R", far+":"+echo.Addr().String(), "h")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}()
	eventually(t, func() bool {
		_, err := os.Stat(near)
		_, ferr := os.Stat(far)
		return err == nil && ferr == nil
	})
	var all sync.WaitGroup
	few := make(chan struct{}, 30) // both listen with a short backlog
	for i := range 200 {           // each is two channels
		all.Go(func() {
			few <- struct{}{}
			defer func() { <-few }()
			nc, err := net.Dial("unix", near)
			if err != nil {
				t.Error(err)
				return
			}
			defer nc.Close()
			text := strings.Repeat(fmt.Sprint(i), 5000)
			go func() {
				_, _ = io.WriteString(nc, text)
				_ = nc.(*net.UnixConn).CloseWrite()
			}()
			if got, err := io.ReadAll(nc); string(got) != text || err != nil {
				t.Errorf("%d: %d bytes, %v", i, len(got), err)
			}
		})
	}
	all.Wait()
	agent := filepath.Join(b.dir, "agent")
	server := exec.Command("ssh-agent", "-D", "-a", agent)
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = server.Process.Kill()
		_ = server.Wait()
	}()
	eventually(t, func() bool { _, err := os.Stat(agent); return err == nil })
	add := exec.Command("ssh-add", "-q", filepath.Join(b.dir, "id"))
	add.Env = append(os.Environ(), "SSH_AUTH_SOCK="+agent)
	if out, err := add.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	b.env = append(b.env, "SSH_AUTH_SOCK="+agent)
	if out, code := b.run(nil, "ssh", "-A", "h", "ssh-add -l"); code != 0 || !strings.Contains(out, "ED25519") {
		t.Errorf("agent: %q, %d", out, code)
	}
}

// What OpenSSH's client has no option for: signals, breaks, requests and channels that nobody knows.
func TestOpenSSHServer(t *testing.T) {
	b := newBridge(t)
	host := b.signer("host")
	c, err := ssh.Dial("tcp", b.addr, &ssh.ClientConfig{User: "u", HostKeyCallback: ssh.FixedHostKey(host.PublicKey())})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	s, err := c.NewSession()
	if err != nil {
		t.Fatal(err)
	}
	out, err := s.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Start("echo up; exec sleep 100"); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(out, make([]byte, 3)); err != nil {
		t.Fatal(err)
	}
	if ok, err := s.SendRequest("nobody@knows", true, nil); ok || err != nil {
		t.Error("an unknown request:", ok, err)
	}
	if ok, err := s.SendRequest("keepalive@openssh.com", true, nil); ok || err != nil {
		t.Error("a keep-alive of the session:", ok, err)
	}
	if os.Getuid() != 0 { // sshd hands root's sessions no signals
		if err := s.Signal(ssh.SIGUSR1); err != nil {
			t.Error(err)
		}
		var exit *ssh.ExitError
		if err := s.Wait(); !errors.As(err, &exit) || exit.Signal() != "USR1" {
			t.Errorf("after the signal: %v", err)
		}
	}
	if ok, _, err := c.SendRequest("nobody@knows", true, nil); ok || err != nil {
		t.Error("an unknown global request:", ok, err)
	}
	var refused *ssh.OpenChannelError
	if _, _, err := c.OpenChannel("nobody@knows", nil); !errors.As(err, &refused) || refused.Reason != ssh.ConnectionFailed {
		t.Errorf("an unknown channel, which sshd refuses as failed: %v", err)
	}
	var all sync.WaitGroup
	for i := range 10 {
		all.Go(func() {
			s, err := c.NewSession()
			if err != nil {
				t.Error(err)
				return
			}
			if out, err := s.CombinedOutput("echo " + fmt.Sprint(i)); string(out) != fmt.Sprintln(i) || err != nil {
				t.Errorf("%d: %q, %v", i, out, err)
			}
		})
	}
	all.Wait()
}
