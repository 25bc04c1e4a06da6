package sshd

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
)

// digests answers each connection, after its input has ended, with the digest of it and then the input: any half
// that is cut short is seen.
func digests(t *testing.T, network, addr string) string {
	t.Helper()
	l, err := net.Listen(network, addr)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	t.Cleanup(func() {
		l.Close()
		<-done
	})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				b, _ := io.ReadAll(c)
				fmt.Fprintf(c, "%x\n", sha256.Sum256(b))
				_, _ = c.Write(b)
			}()
		}
	}()
	return l.Addr().String()
}

func checkDigest(t *testing.T, network, addr string) {
	t.Helper()
	c, err := net.Dial(network, addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	data := make([]byte, 1<<20)
	rand.Read(data)
	if _, err := c.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := c.(halfCloser).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(c)
	if want := fmt.Sprintf("%x\n%s", sha256.Sum256(data), data); err != nil || string(got) != want {
		t.Errorf("%s %s: %d bytes came back, want %d; %v", network, addr, len(got), len(want), err)
	}
}

func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, p, _ := net.SplitHostPort(l.Addr().String())
	return p
}

// forward runs ssh -N with the forwards until the test ends.
func (w *workspace) forward(args ...string) *exec.Cmd {
	w.t.Helper()
	cmd := w.command("ssh", append([]string{"-N", "-o", "ExitOnForwardFailure=yes"}, append(args, "dev.berth")...)...)
	if err := cmd.Start(); err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	return cmd
}

func open(network, addr string) bool {
	c, err := net.Dial(network, addr)
	if err == nil {
		c.Close()
	}
	return err == nil
}

func TestForwardLocal(t *testing.T) {
	w := serve(t)
	echo := digests(t, "tcp", "127.0.0.1:0")
	_, port, _ := net.SplitHostPort(echo)
	sock := digests(t, "unix", filepath.Join(w.dir, "far.sock"))
	p, near := freePort(t), filepath.Join(w.dir, "near.sock")
	w.forward("-L", p+":localhost:"+port, "-L", near+":"+sock)
	eventually(t, "listener", func() bool { return open("tcp", "127.0.0.1:"+p) && exists(near) })
	for range 3 {
		checkDigest(t, "tcp", "127.0.0.1:"+p)
		checkDigest(t, "unix", near)
	}
	out, _, _ := w.ssh(strings.NewReader("data"), "-W", echo, "dev.berth")
	if !strings.HasSuffix(out, "\ndata") {
		t.Errorf("-W: %q", out)
	}
}

func TestForwardRefused(t *testing.T) {
	w := serve(t)
	_, errOut, code := w.ssh(nil, "-W", "127.0.0.1:"+freePort(t), "dev.berth")
	if code != 255 || !strings.Contains(errOut, "open failed: connect failed: connect: connection refused") {
		t.Errorf("%q, %d", errOut, code)
	}
	c := w.client()
	for _, kind := range []string{"direct-tcpip", "direct-streamlocal@openssh.com"} {
		for _, payload := range [][]byte{nil, {1, 2, 3}} {
			var refused *ssh.OpenChannelError
			if _, _, err := c.OpenChannel(kind, payload); !errors.As(err, &refused) {
				t.Errorf("%s %v: %v", kind, payload, err)
			}
		}
	}
}

func TestForwardRemote(t *testing.T) {
	w := serve(t)
	_, port, _ := net.SplitHostPort(digests(t, "tcp", "127.0.0.1:0"))
	p, star, sock := freePort(t), freePort(t), filepath.Join(w.dir, "back.sock")
	cmd := w.forward("-R", p+":127.0.0.1:"+port, "-R", "*:"+star+":127.0.0.1:"+port, "-R", sock+":127.0.0.1:"+port)
	eventually(t, "listeners", func() bool { return open("tcp", "127.0.0.1:"+p) && open("tcp", "127.0.0.1:"+star) && exists(sock) })
	checkDigest(t, "tcp", "127.0.0.1:"+p)
	checkDigest(t, "unix", sock)
	if fi, err := os.Stat(sock); err != nil || fi.Mode().Perm() != 0o600 {
		t.Error("mode of the socket:", fi, err)
	}
	for _, a := range othersAddresses(t) {
		if open("tcp", net.JoinHostPort(a, star)) {
			t.Errorf("-R '*:port' listens on %s", a)
		}
	}
	_ = cmd.Process.Kill()
	eventually(t, "nothing listens after the client left", func() bool { return !open("tcp", "127.0.0.1:"+p) && !exists(sock) })
}

func othersAddresses(t *testing.T) []string {
	t.Helper()
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, a := range addrs {
		if n, ok := a.(*net.IPNet); ok && !n.IP.IsLoopback() && n.IP.To4() != nil {
			out = append(out, n.IP.String())
		}
	}
	return out
}

func TestForwardRemoteDynamic(t *testing.T) {
	w := serve(t)
	_, port, _ := net.SplitHostPort(digests(t, "tcp", "127.0.0.1:0"))
	master := filepath.Join(w.dir, "m")
	cmd := w.command("ssh", "-N", "-M", "-S", master, "dev.berth")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}()
	eventually(t, "master", func() bool { return exists(master) })
	control := func(verb, spec string) string {
		t.Helper()
		out, errOut, code := w.ssh(nil, "-S", master, "-O", verb, "-R", spec, "dev.berth")
		if code != 0 {
			t.Fatalf("%s %s: %q, %d", verb, spec, errOut, code)
		}
		return strings.TrimSpace(out)
	}
	a, b := control("forward", "0:127.0.0.1:"+port), control("forward", "0:localhost:"+port)
	if a == b || a == "" || b == "" {
		t.Fatalf("ports %q and %q", a, b)
	}
	checkDigest(t, "tcp", "127.0.0.1:"+a)
	checkDigest(t, "tcp", "127.0.0.1:"+b)
	control("cancel", "0:127.0.0.1:"+port)
	eventually(t, "the cancelled port is closed", func() bool { return !open("tcp", "127.0.0.1:"+a) })
	if !open("tcp", "127.0.0.1:"+b) {
		t.Error("cancel took the other port too")
	}
}

// Forwards belong to their connection, a taken port is refused, and so are ports that the user may not have.
func TestForwardRemoteRules(t *testing.T) {
	w := serve(t)
	a, b := w.client(), w.client()
	payload := func(host string, port int) []byte {
		return ssh.Marshal(struct {
			H string
			P uint32
		}{host, uint32(port)})
	}
	port, _ := strconv.Atoi(freePort(t))
	ask := func(c *ssh.Client, name string, payload []byte) bool {
		t.Helper()
		ok, _, err := c.SendRequest(name, true, payload)
		if err != nil {
			t.Fatal(err)
		}
		return ok
	}
	if !ask(a, "tcpip-forward", payload("localhost", port)) {
		t.Fatal("forward refused")
	}
	for name, got := range map[string]bool{
		"taken port":                  ask(b, "tcpip-forward", payload("localhost", port)),
		"the same again":              ask(a, "tcpip-forward", payload("localhost", port)),
		"another connection cancels":  ask(b, "cancel-tcpip-forward", payload("localhost", port)),
		"another address cancels":     ask(a, "cancel-tcpip-forward", payload("", port)),
		"port out of range":           ask(a, "tcpip-forward", payload("", 70000)),
		"malformed":                   ask(a, "tcpip-forward", []byte{1}),
		"malformed cancel":            ask(a, "cancel-tcpip-forward", []byte{1}),
		"no path":                     ask(a, "streamlocal-forward@openssh.com", []byte{0, 0, 0, 0}),
		"path in no folder":           ask(a, "streamlocal-forward@openssh.com", ssh.Marshal(struct{ P string }{"/nosuch/sock"})),
		"cancel of an unknown socket": ask(a, "cancel-streamlocal-forward@openssh.com", ssh.Marshal(struct{ P string }{"/x"})),
	} {
		if got {
			t.Errorf("%s: granted", name)
		}
	}
	file := w.write("there", []byte("kept"))
	if ask(a, "streamlocal-forward@openssh.com", ssh.Marshal(struct{ P string }{file})) {
		t.Error("a socket over a file: granted")
	}
	if got, err := os.ReadFile(file); err != nil || string(got) != "kept" {
		t.Error("the file was touched:", err)
	}
	if !ask(a, "cancel-tcpip-forward", payload("localhost", port)) || open("tcp", "127.0.0.1:"+strconv.Itoa(port)) {
		t.Error("cancel")
	}
}

func TestForwardIsCapped(t *testing.T) {
	w := serve(t)
	c := w.client()
	n := 0
	for range maxForwards + 5 {
		ok, _, err := c.SendRequest("tcpip-forward", true, ssh.Marshal(struct {
			H string
			P uint32
		}{"127.0.0.1", 0}))
		if err != nil {
			t.Fatal(err)
		}
		if ok {
			n++
		}
	}
	if n != maxForwards {
		t.Errorf("%d forwards granted, want %d", n, maxForwards)
	}
}

// What connects to a forward whose client does not answer is counted, and closed beyond the cap.
func TestUnansweredForwardsAreCapped(t *testing.T) {
	const most = 3
	w := serve(t, func(c *Config, _ *workspace) { c.channels = most })
	c := w.client()
	opened := c.HandleChannelOpen("forwarded-tcpip")
	ok, port, err := c.SendRequest("tcpip-forward", true, ssh.Marshal(struct {
		H string
		P uint32
	}{"127.0.0.1", 0}))
	if err != nil || !ok {
		t.Fatal("tcpip-forward:", ok, err)
	}
	addr := net.JoinHostPort("127.0.0.1", strconv.Itoa(int(binary.BigEndian.Uint32(port))))
	dial := func() net.Conn {
		nc, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { nc.Close() })
		_ = nc.SetReadDeadline(time.Now().Add(20 * time.Second))
		return nc
	}
	var held []ssh.NewChannel
	for range most {
		dial()
		held = append(held, <-opened)
	}
	var netErr net.Error
	if _, err := dial().Read(make([]byte, 1)); err == nil || errors.As(err, &netErr) && netErr.Timeout() {
		t.Errorf("one more than the cap: %v", err)
	}
	if err := held[0].Reject(ssh.Prohibited, ""); err != nil {
		t.Fatal(err)
	}
	eventually(t, "there is room again", func() bool {
		dial()
		select {
		case <-opened:
			return true
		case <-time.After(100 * time.Millisecond):
			return false
		}
	})
}

// A root agent reaches unix sockets with the user's rights only.
func TestUnixForwardsAsTheUser(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can become another user")
	}
	w := serve(t, func(c *Config, w *workspace) {
		c.User.Name, c.User.UID, c.User.GID, c.User.Groups = "berth-test", 54321, 54321, []uint32{54321}
		if err := os.Chown(w.home, 54321, 54321); err != nil {
			t.Fatal(err)
		}
		for d := w.home; d != os.TempDir() && d != "/"; d = filepath.Dir(d) {
			if err := os.Chmod(d, 0o755); err != nil {
				t.Fatal(err)
			}
		}
	})
	secret := digests(t, "unix", filepath.Join(w.dir, "root.sock"))
	if err := os.Chmod(secret, 0o600); err != nil {
		t.Fatal(err)
	}
	c := w.client()
	if nc, err := c.Dial("unix", secret); err == nil {
		nc.Close()
		t.Error("reached root's socket")
	}
	sock := filepath.Join(w.home, "s")
	l, err := c.ListenUnix(sock)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	fi, err := os.Stat(sock)
	if err != nil || fi.Sys().(*syscall.Stat_t).Uid != 54321 || fi.Mode().Perm() != 0o600 {
		t.Error("owner and mode of the socket:", fi, err)
	}
	if _, err := c.ListenUnix(filepath.Join(w.dir, "x")); err == nil {
		t.Error("made a socket where the user may not write")
	}
	if ok, _, _ := c.SendRequest("tcpip-forward", true, ssh.Marshal(struct {
		H string
		P uint32
	}{"localhost", 81})); ok {
		t.Error("a privileged port for an ordinary user")
	}
}

// One direction that breaks does not cut the other short, nor hold the channel for ever.
// A failing listener cannot accept at first, and is closed after that.
type failing struct {
	net.Listener
	left int
}

func (f *failing) Accept() (net.Conn, error) {
	if f.left--; f.left >= 0 {
		return nil, syscall.EMFILE
	}
	return nil, net.ErrClosed
}

func TestAcceptGoesOn(t *testing.T) {
	c := &conn{}
	l := &failing{left: 2}
	c.accept(t.Context(), l, nil, nil)
	if l.left != -1 {
		t.Errorf("gave up with %d failures to come", l.left)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	l = &failing{left: 1 << 30}
	c.accept(ctx, l, nil, nil) // returns, for it is told to
}

func TestSpliceEnds(t *testing.T) {
	w := serve(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	served := make(chan struct{})
	go func() { // sends at once and closes without reading
		defer close(served)
		c, err := l.Accept()
		if err != nil {
			return
		}
		_, _ = c.Write(make([]byte, 1<<20))
		c.Close()
	}()
	nc, err := w.client().Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	b, err := io.ReadAll(nc)
	if err != nil || len(b) != 1<<20 {
		t.Errorf("%d bytes, %v", len(b), err)
	}
	<-served
	gone := time.AfterFunc(20*time.Second, func() { nc.Close() })
	defer gone.Stop()
	for {
		if _, err := nc.Write(make([]byte, 64<<10)); err != nil {
			return
		}
	}
}
