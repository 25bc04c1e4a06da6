package door

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"berth/agent"
	"berth/coordinator"
)

func from(s string) netip.Prefix {
	return source(net.TCPAddrFromAddrPort(netip.MustParseAddrPort(s)))
}

func TestRamp(t *testing.T) {
	r := ramp{10, 30, 100}
	for _, tt := range []struct {
		n, dice int
		want    bool
	}{{9, 0, false}, {10, 29, true}, {10, 30, false}, {55, 64, true}, {55, 65, false}, {99, 98, true}, {100, 99, true}, {5000, 99, true}} {
		if got := r.refuses(tt.n, func(int) int { return tt.dice }); got != tt.want {
			t.Errorf("%d, dice %d: %v", tt.n, tt.dice, got)
		}
	}
}

func TestThrottle(t *testing.T) {
	exempt := netip.MustParsePrefix("198.51.100.0/24")
	th := newThrottle([]netip.Prefix{exempt})
	th.dice = func(int) int { return 99 } // lucky as long as luck helps
	var releases []func()
	enter := func(addr string) error {
		r, err := th.enter(from(addr))
		if err == nil {
			releases = append(releases, r)
		}
		return err
	}
	for i := range fromSource.full {
		if err := enter("192.0.2.1:1"); err != nil {
			t.Fatal(i, err)
		}
	}
	if enter("192.0.2.1:2") == nil {
		t.Error("one source has more than its share")
	}
	if err := enter("[2001:db8::1]:1"); err != nil {
		t.Error("another source:", err)
	}
	if from("[2001:db8::1]:1") != from("[2001:db8::ffff:2]:9") || from("[2001:db8::1]:1") == from("[2001:db8:1::1]:1") {
		t.Error("IPv6 is counted by its network of 64 bits")
	}
	if from("[::ffff:192.0.2.1]:1") != from("192.0.2.1:9") {
		t.Error("IPv4 in IPv6 is IPv4")
	}
	releases[0]()
	releases[0]()
	if err := enter("192.0.2.1:2"); err != nil {
		t.Error("after a release:", err)
	}
	for _, addr := range []string{"127.0.0.1:1", "198.51.100.7:1", "[::1]:1"} {
		for range fromSource.full + 10 {
			if err := enter(addr); err != nil {
				t.Fatal(addr, err)
			}
		}
	}
	for i := 0; th.all < strangers.full; i++ {
		if err := enter(fmt.Sprintf("10.%d.%d.1:1", i/250, i%250)); err != nil {
			t.Fatal(i, err)
		}
	}
	for _, addr := range []string{"203.0.113.1:1", "127.0.0.1:1"} {
		if enter(addr) == nil {
			t.Error("no cap over all:", addr)
		}
	}
	for _, r := range releases {
		r()
	}
	if th.all != 0 || len(th.source) != 0 {
		t.Errorf("left over: %d, %v", th.all, th.source)
	}
}

func TestPenalties(t *testing.T) {
	p := newPenalties([]netip.Prefix{netip.MustParsePrefix("2001:db8:1::/48")})
	src, now := from("192.0.2.1:1"), time.Unix(1000, 0)
	p.add(src, badSignature, now)
	p.add(src, badSignature, now.Add(time.Second))
	if left := p.left(src, now.Add(time.Second)); left != 0 {
		t.Errorf("refused for %v after two", left)
	}
	p.add(src, badSignature, now.Add(2*time.Second))
	if left := p.left(src, now.Add(2*time.Second)); left != 16*time.Second {
		t.Errorf("refused for %v after three", left)
	}
	if left := p.left(src, now.Add(17*time.Second)); left != time.Second {
		t.Errorf("refused for %v in the end", left)
	}
	if left := p.left(src, now.Add(18*time.Second)); left != 0 || len(p.source) != 0 {
		t.Errorf("refused for %v afterwards, %d are remembered", left, len(p.source))
	}
	for i := range 1000 {
		p.add(src, tooSlow, now.Add(time.Duration(i)*time.Second))
	}
	if left := p.left(src, now.Add(999*time.Second)); left != mostPenalty {
		t.Errorf("refused for %v at most", left)
	}
	for i := range 100 { // one every half a minute never comes together
		p.add(from("192.0.2.9:1"), badSignature, now.Add(time.Duration(i)*30*time.Second))
	}
	if left := p.left(from("192.0.2.9:1"), now.Add(99*30*time.Second)); left != 0 {
		t.Errorf("refused for %v though long ago", left)
	}
	for _, addr := range []string{"127.0.0.1:1", "[::1]:1", "[2001:db8:1:2::3]:1"} {
		for range 10 {
			p.add(from(addr), badSignature, now)
		}
		if left := p.left(from(addr), now); left != 0 {
			t.Errorf("%s is exempt and refused for %v", addr, left)
		}
	}
	for i := range 3 * maxPenalties {
		p.add(netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}), 32), badSignature, now)
	}
	if n := len(p.source); n > maxPenalties {
		t.Errorf("%d sources are remembered", n)
	}
}

// A liar claims a key and signs with another.
func liars(t *testing.T) (claims []ssh.Signer) {
	t.Helper()
	ed, _ := newKey(t)
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	r, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range []any{ec, r} {
		s, err := ssh.NewSignerFromKey(k)
		if err != nil {
			t.Fatal(err)
		}
		claims = append(claims, s)
	}
	return append(claims, ed)
}

// badSigner signs something else than what it is asked to.
type badSigner struct{ ssh.AlgorithmSigner }

func (b badSigner) Sign(r io.Reader, data []byte) (*ssh.Signature, error) {
	return b.AlgorithmSigner.Sign(r, append([]byte("x"), data...))
}

func (b badSigner) SignWithAlgorithm(r io.Reader, data []byte, alg string) (*ssh.Signature, error) {
	return b.AlgorithmSigner.SignWithAlgorithm(r, append([]byte("x"), data...), alg)
}

// The library ends a connection at the first signature that does not verify, of any kind of key. Three within moments,
// and the source is refused for a while, with the reason; others are not.
func TestFailedSignatures(t *testing.T) {
	w := newWorld(t, abroad)
	for i, s := range liars(t) {
		w.mu.Lock()
		w.users[ssh.FingerprintSHA256(s.PublicKey())] = alice
		w.mu.Unlock()
		if _, err := w.dial("dev", ssh.PublicKeys(badSigner{s.(ssh.AlgorithmSigner)}, w.key)); err == nil {
			t.Errorf("%s: a failed signature did not end the connection", s.PublicKey().Type())
		}
		eventually(t, "it is counted", func() bool { return strings.Count(w.log.String(), `offence="failed signature"`) == i+1 })
	}
	_, errOut, code := w.ssh(nil, "dev@door", "true")
	if code != 255 || !strings.Contains(errOut, "berth: too many failed logins from your address; try again in ") {
		t.Errorf("the source is not refused: %q, %d", errOut, code)
	}
	if left := w.door.fines.left(from("192.0.2.2:1"), w.now()); left != 0 {
		t.Error("another source is refused")
	}
}

// Somebody whose ssh-agent holds fifteen keys gets in, again and again; one with more than twenty is told why not.
func TestManyKeys(t *testing.T) {
	w := newWorld(t, abroad)
	var names []string
	for i := range 24 {
		_, pem := newKey(t)
		names = append(names, fmt.Sprintf("other%d", i))
		w.write(names[i], pem)
	}
	w.config(append(slices.Clone(names[:14]), "id")...)
	for range 2 {
		if out, errOut, code := w.ssh(nil, "dev@door", "echo in"); out != "in\n" || code != 0 {
			t.Errorf("fourteen keys before the right one: %q, %q, %d", out, errOut, code)
		}
	}
	w.config(names[:15]...)
	for range 2 { // none of them is registered
		if _, errOut, code := w.ssh(nil, "dev@door", "true"); code != 255 || !strings.Contains(errOut, "Permission denied (publickey)") {
			t.Errorf("wrong keys: %q, %d", errOut, code)
		}
	}
	w.config(append(slices.Clone(names), "id")...)
	if _, errOut, code := w.ssh(nil, "dev@door", "true"); code != 255 || !strings.Contains(errOut, "too many authentication failures") {
		t.Errorf("24 keys: %q, %d", errOut, code)
	}
	w.config("id")
	if out, errOut, _ := w.ssh(nil, "dev@door", "echo in"); out != "in\n" {
		t.Errorf("and then the right one: %q, %q", out, errOut)
	}
	var many []ssh.Signer
	for range 21 {
		s, _ := newKey(t)
		many = append(many, s)
	}
	for range 4 {
		_, _ = w.dial("dev", ssh.PublicKeys(many...))
	}
	eventually(t, "who goes through keys like that is refused", func() bool { return w.door.fines.left(from(w.from), w.now()) > 0 })
}

// A client that is put out is told why.
func TestGraceHasWords(t *testing.T) {
	w := newWorld(t, abroad, func(w *world) { w.grace = 500 * time.Millisecond })
	nc, err := net.Dial("tcp", w.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	_ = nc.SetReadDeadline(time.Now().Add(10 * time.Second))
	if b, err := io.ReadAll(nc); err != nil || !bytes.Contains(b, []byte("berth: the login took longer than 500ms")) {
		t.Errorf("a silent client got %q, %v", b, err)
	}
	cut := make(chan struct{})
	dialed := make(chan error, 1)
	go func() {
		_, err := ssh.Dial("tcp", w.addr, &ssh.ClientConfig{
			User: "dev", HostKeyCallback: func(string, net.Addr, ssh.PublicKey) error { return nil },
			Auth: []ssh.AuthMethod{ssh.PublicKeysCallback(func() ([]ssh.Signer, error) {
				<-cut // the grace ends meanwhile
				return nil, errors.New("too late")
			})},
		})
		dialed <- err
	}()
	eventually(t, "both were counted", func() bool { return strings.Count(w.log.String(), `offence="login took too long"`) == 2 })
	close(cut)
	if err := <-dialed; err == nil {
		t.Error("logged in")
	}
	if w.door.fines.left(from(w.from), w.now()) == 0 {
		t.Error("two of them are not refused")
	}
}

// Those who wait are no strangers: they have caps of their own, and who runs into them is told.
func TestWaitersAreCapped(t *testing.T) {
	w := newWorld(t, func(w *world) {
		w.buildTime = time.Hour
		w.tune = func(d *Server) { d.waiters = newQuota(2, 3) }
	})
	for range 2 {
		cmd := w.command("ssh", "stopped@door", "true")
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		defer func() {
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
		}()
	}
	eventually(t, "both wait", func() bool {
		w.door.waiters.mu.Lock()
		defer w.door.waiters.mu.Unlock()
		return w.door.waiters.all == 2
	})
	w.door.limit.mu.Lock()
	if n := w.door.limit.all; n != 0 {
		t.Errorf("%d strangers", n)
	}
	w.door.limit.mu.Unlock()
	for _, to := range []string{"stopped@door", "stopped.berth"} {
		if _, errOut, code := w.ssh(nil, to, "true"); code != 255 || !strings.Contains(errOut, "too many connections wait for a workspace already") {
			t.Errorf("%s: %q, %d", to, errOut, code)
		}
	}
	if out, errOut, _ := w.ssh(nil, "dev@door", "echo in"); out != "in\n" {
		t.Errorf("one that need not wait: %q, %q", out, errOut)
	}
}

func TestOffended(t *testing.T) {
	late := new(conn)
	late.late.Store(true)
	for _, tt := range []struct {
		name string
		c    *conn
		err  error
		want string
	}{
		{"went away", new(conn), io.EOF, ""},
		{"offered keys and went", new(conn), &ssh.ServerAuthError{Errors: []error{errors.New("key is not registered")}}, ""},
		{"tried passwords", &conn{guessed: true}, &ssh.ServerAuthError{Errors: []error{errors.New("x")}}, guesses.name},
		{"was cut by the grace", late, net.ErrClosed, tooSlow.name},
		{"an RSA signature", new(conn), rsa.ErrVerification, badSignature.name},
		{"was known", &conn{user: alice}, rsa.ErrVerification, ""},
	} {
		if got, _ := tt.c.offended(tt.err); got.name != tt.want {
			t.Errorf("%s: %q, want %q", tt.name, got.name, tt.want)
		}
	}
}

func TestQuota(t *testing.T) {
	q := newQuota(2, 3)
	take := func(u coordinator.UserID) func() {
		release, ok := q.take(u)
		if !ok {
			return nil
		}
		return release
	}
	a, b, c := take("a"), take("a"), take("b")
	if a == nil || b == nil || c == nil || take("a") != nil || take("c") != nil {
		t.Error("a quota of two a user and three in all")
	}
	a()
	a()
	if q.all != 2 || q.users["a"] != 1 || take("c") == nil {
		t.Error("after a release:", q.all, q.users)
	}
}

// A client has a connection of its own to the door, without any key.
func (w *world) knock() net.Conn {
	w.t.Helper()
	nc, err := net.Dial("tcp", w.addr)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { nc.Close() })
	_ = nc.SetDeadline(time.Now().Add(20 * time.Second))
	return nc
}

// Hostile clients are cut, nobody else notices, and nothing is left of them.
func TestHostileClients(t *testing.T) {
	w := newWorld(t, func(w *world) { w.grace, w.from = 2*time.Second, "192.0.2.1:1234" })
	var all sync.WaitGroup
	attack := func(name string, f func(nc net.Conn)) {
		for range 8 {
			nc := w.knock()
			all.Go(func() {
				f(nc)
				if _, err := io.Copy(io.Discard, nc); err != nil && errors.Is(err, net.ErrClosed) {
					t.Errorf("%s: %v", name, err)
				}
			})
		}
	}
	attack("silent", func(net.Conn) {})
	attack("no SSH", func(nc net.Conn) { _, _ = io.WriteString(nc, "GET / HTTP/1.1\r\nHost: x\r\n\r\n") })
	attack("an endless version", func(nc net.Conn) { _, _ = nc.Write(bytes.Repeat([]byte("x"), 1<<20)) })
	attack("a huge packet", func(nc net.Conn) {
		_, _ = io.WriteString(nc, "SSH-2.0-x\r\n\x7f\xff\xff\xff")
		_, _ = nc.Write(make([]byte, 1<<20))
	})
	attack("ignored messages", func(nc net.Conn) {
		_, _ = io.WriteString(nc, "SSH-2.0-x\r\n")
		p := append([]byte{0, 0, 0, 12, 6, 2, 0, 0, 0, 0}, make([]byte, 6)...)
		for {
			if _, err := nc.Write(p); err != nil {
				return
			}
		}
	})
	attack("a byte at a time", func(nc net.Conn) {
		tick := time.NewTicker(50 * time.Millisecond)
		defer tick.Stop()
		for i := 0; ; i++ {
			if _, err := nc.Write([]byte{"SSH-2.0-slow"[i%12]}); err != nil {
				return
			}
			<-tick.C
		}
	})
	// Somebody else is served all the while: their source is not that of the attack.
	user := w.served("198.51.100.1:1")
	if out, err := user("echo in"); out != "in\n" || err != nil {
		t.Errorf("meanwhile: %q, %v", out, err)
	}
	all.Wait()
	eventually(t, "nothing is left of them", func() bool { w.door.limit.mu.Lock(); defer w.door.limit.mu.Unlock(); return w.door.limit.all == 0 })
	if out, err := user("echo again"); out != "again\n" || err != nil {
		t.Errorf("afterwards: %q, %v", out, err)
	}
}

// served returns somebody from another address, over a listener of their own at the same door.
func (w *world) served(addr string) func(command string) (string, error) {
	w.t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		w.t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- w.door.Serve(elsewhere{l, addr}) }()
	w.t.Cleanup(func() { l.Close(); <-done })
	return func(command string) (string, error) {
		c, err := ssh.Dial("tcp", l.Addr().String(), &ssh.ClientConfig{
			User: "dev", Auth: []ssh.AuthMethod{ssh.PublicKeys(w.key)}, HostKeyCallback: func(string, net.Addr, ssh.PublicKey) error { return nil },
		})
		if err != nil {
			return "", err
		}
		defer c.Close()
		s, err := c.NewSession()
		if err != nil {
			return "", err
		}
		out, err := s.CombinedOutput(command)
		return string(out), err
	}
}

// A user who floods is held by caps with reasons, and neither their other connections nor others' notice.
func TestFloodsOfAUser(t *testing.T) {
	w := newWorld(t)
	c, err := w.dial("dev", ssh.PublicKeys(w.key))
	if err != nil {
		t.Fatal(err)
	}
	refused := 0
	for range 700 {
		ch, reqs, err := c.OpenChannel("session", nil)
		var why *ssh.OpenChannelError
		switch {
		case errors.As(err, &why) && why.Reason == ssh.ResourceShortage:
			refused++
		case err != nil:
			t.Fatal(err)
		default:
			go ssh.DiscardRequests(reqs)
			defer ch.Close()
		}
	}
	if refused == 0 {
		t.Error("no channel was refused")
	}
	flood, err := w.dial("dev", ssh.PublicKeys(w.key))
	if err != nil {
		t.Fatal(err)
	}
	big := make([]byte, 200<<10)
	for range 300 {
		if _, _, err := flood.SendRequest("nobody@knows", false, big); err != nil {
			break
		}
	}
	if out, errOut, _ := w.ssh(nil, "dev@door", "echo in"); out != "in\n" {
		t.Errorf("another connection: %q, %q", out, errOut)
	}
	j, err := w.dial("dev.berth", ssh.PublicKeys(w.key))
	if err != nil {
		t.Fatal(err)
	}
	for range 300 {
		if _, _, err := j.OpenChannel("nobody@knows", big[:60000]); err == nil {
			t.Fatal("opened")
		}
	}
	if out, errOut, _ := w.ssh(nil, "dev.berth", "echo in"); out != "in\n" {
		t.Errorf("another jump: %q, %q", out, errOut)
	}
}

func FuzzSwallowVersion(f *testing.F) {
	f.Add([]byte(agent.SSHVersion + "\r\nrest"))
	f.Add([]byte("{}\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		r := bytes.NewReader(b)
		if err := swallowVersion(r); err == nil && !bytes.HasPrefix(b, []byte(agent.SSHVersion)) {
			t.Errorf("%q is taken for our version", b)
		}
		if used := len(b) - r.Len(); used > 300 {
			t.Errorf("%d bytes were read", used)
		}
	})
}

func FuzzProve(f *testing.F) {
	_, key, err := generateKey()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(ssh.Marshal(struct{ K string }{string(key.PublicKey().Marshal())}))
	f.Add([]byte{0, 0, 0, 9, 1})
	f.Fuzz(func(t *testing.T, b []byte) {
		if proof, ok := prove([]ssh.Signer{key}, []byte("session"), b); ok && len(b) > 0 && len(proof) == 0 {
			t.Error("a proof of nothing")
		}
	})
}
