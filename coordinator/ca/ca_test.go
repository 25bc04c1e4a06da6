package ca

import (
	"bytes"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"

	"berth/agent"
	"berth/coordinator"
)

var now = time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)

func newCA(t *testing.T) *CA {
	t.Helper()
	c, err := New()
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func identity(t *testing.T) coordinator.HostIdentity {
	t.Helper()
	id, err := NewHostIdentity()
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func parseCert(t *testing.T, line string) *ssh.Certificate {
	t.Helper()
	k, _, _, rest, err := ssh.ParseAuthorizedKey([]byte(line))
	if err != nil || len(rest) != 0 {
		t.Fatalf("parse %q: %v", line, err)
	}
	c, ok := k.(*ssh.Certificate)
	if !ok {
		t.Fatalf("%q is no certificate", line)
	}
	return c
}

func publicKey(t *testing.T, line string) ssh.PublicKey {
	t.Helper()
	k, _, _, _, err := ssh.ParseAuthorizedKey([]byte(line))
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func checker(t *testing.T, c *CA, at time.Time) *ssh.CertChecker {
	same := func(line string) func(ssh.PublicKey) bool {
		want := publicKey(t, line).Marshal()
		return func(k ssh.PublicKey) bool { return bytes.Equal(k.Marshal(), want) }
	}
	return &ssh.CertChecker{
		IsHostAuthority: func(k ssh.PublicKey, _ string) bool { return same(c.HostCALine())(k) },
		IsUserAuthority: same(c.UserCALine()),
		Clock:           func() time.Time { return at },
	}
}

func TestHostCertificate(t *testing.T) {
	c, other, id := newCA(t), newCA(t), identity(t)
	for algo, key := range map[string]coordinator.Secret{"ssh-ed25519": id.Ed25519, "ecdsa-sha2-nistp256": id.ECDSA} {
		line, err := c.HostCertificate(key, "ws1", []string{"dev.alice.berth", "dev.berth"}, now)
		if err != nil {
			t.Fatal(err)
		}
		cert := parseCert(t, line)
		if got := cert.Key.Type(); got != algo {
			t.Errorf("key type %s, want %s", got, algo)
		}
		for _, tt := range []struct {
			name string
			ca   *CA
			host string
			at   time.Time
			ok   bool
		}{
			{"long name", c, "dev.alice.berth:22", now, true},
			{"short name", c, "dev.berth:22", now, true},
			{"a clock behind", c, "dev.berth:22", now.Add(-59 * time.Minute), true},
			{"a year later", c, "dev.berth:22", now.Add(365 * 24 * time.Hour), true},
			{"another name", c, "dev.bob.berth:22", now, false},
			{"too early", c, "dev.berth:22", now.Add(-2 * time.Hour), false},
			{"too late", c, "dev.berth:22", now.Add(401 * 24 * time.Hour), false},
			{"another CA", other, "dev.berth:22", now, false},
		} {
			err := checker(t, tt.ca, tt.at).CheckHostKey(tt.host, &net.TCPAddr{}, cert)
			if (err == nil) != tt.ok {
				t.Errorf("%s, %s: %v, want ok %v", algo, tt.name, err, tt.ok)
			}
		}
		// A user certificate must not come of it, nor may the user CA sign hosts.
		if _, err := checker(t, c, now).Authenticate(conn{"dev.berth"}, cert); err == nil {
			t.Error("a host certificate was taken for a user")
		}
	}
	if _, err := c.HostCertificate(id.Ed25519, "ws1", nil, now); err == nil {
		t.Error("a certificate without principals, good for any host, was signed")
	}
	if _, err := c.HostCertificate("no key", "ws1", []string{"dev.berth"}, now); err == nil {
		t.Error("garbage was signed")
	}
}

type conn struct{ user string }

func (c conn) User() string          { return c.user }
func (c conn) SessionID() []byte     { return nil }
func (c conn) ClientVersion() []byte { return nil }
func (c conn) ServerVersion() []byte { return nil }
func (c conn) RemoteAddr() net.Addr  { return &net.TCPAddr{} }
func (c conn) LocalAddr() net.Addr   { return &net.TCPAddr{} }

func TestUserSigner(t *testing.T) {
	c := newCA(t)
	s, err := c.UserSigner(agent.Person{ID: "u1", Name: "alice"}, now, 5*time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	cert, ok := s.PublicKey().(*ssh.Certificate)
	if !ok {
		t.Fatalf("the public key is a %T", s.PublicKey())
	}
	if cert.KeyId != "u1" || cert.CertType != ssh.UserCert {
		t.Errorf("key id %q, type %d", cert.KeyId, cert.CertType)
	}
	for _, tt := range []struct {
		name string
		ca   *CA
		user string
		at   time.Time
		ok   bool
	}{
		{"herself", c, "alice", now, true},
		{"another", c, "bob", now, false},
		{"too late", c, "alice", now.Add(6 * time.Minute), false},
		{"another CA", newCA(t), "alice", now, false},
	} {
		_, err := checker(t, tt.ca, tt.at).Authenticate(conn{tt.user}, cert)
		if (err == nil) != tt.ok {
			t.Errorf("%s: %v, want ok %v", tt.name, err, tt.ok)
		}
	}
	if s2, err := c.UserSigner(agent.Person{ID: "u1", Name: "alice"}, now, time.Minute); err != nil ||
		bytes.Equal(s2.PublicKey().(*ssh.Certificate).Key.Marshal(), cert.Key.Marshal()) {
		t.Errorf("the key is not fresh: %v", err)
	}
	for _, p := range []agent.Person{{}, {ID: "u1"}, {Name: "alice"}} {
		if _, err := c.UserSigner(p, now, time.Minute); err == nil {
			t.Errorf("signed for %+v", p)
		}
	}
}

func TestMarshal(t *testing.T) {
	c := newCA(t)
	host, user, err := c.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	again, err := Parse(host, user)
	if err != nil {
		t.Fatal(err)
	}
	if again.HostCALine() != c.HostCALine() || again.UserCALine() != c.UserCALine() || c.HostCALine() == c.UserCALine() {
		t.Error("the keys changed on their way")
	}
	ecdsaKey := identity(t).ECDSA
	for name, pem := range map[string]coordinator.Secret{"empty": "", "garbage": "x", "ECDSA": ecdsaKey} {
		if _, err := Parse(pem, user); err == nil {
			t.Errorf("%s was taken for a host CA", name)
		}
		if _, err := Parse(host, pem); err == nil {
			t.Errorf("%s was taken for a user CA", name)
		}
	}
}

func TestGitKey(t *testing.T) {
	k, err := NewGitKey("alice@berth")
	if err != nil {
		t.Fatal(err)
	}
	s, err := ssh.ParsePrivateKey([]byte(k.PrivateKey))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(publicKey(t, k.PublicKey).Marshal(), s.PublicKey().Marshal()) || !strings.HasSuffix(k.PublicKey, " alice@berth") {
		t.Errorf("public key %q is not of the private one", k.PublicKey)
	}
	if _, err := NewGitKey("two\nlines"); err == nil {
		t.Error("a comment of two lines was taken")
	}
}

func TestKnownHostsLine(t *testing.T) {
	c := newCA(t)
	ca := c.HostCALine()
	got := KnownHostsLine(ca, "berth", []string{"127.0.0.1:7022", "door.example.com:22", "door.example.com", "[::1]:7022", "::1", "*", "a,b", "x y", ""})
	want := "@cert-authority *.berth,[127.0.0.1]:7022,door.example.com,door.example.com,[::1]:7022,::1 " + ca + " berth"
	if got != want {
		t.Fatalf("got  %s\nwant %s", got, want)
	}
	file := filepath.Join(t.TempDir(), "known_hosts")
	if err := os.WriteFile(file, []byte(KnownHostsLine(ca, "berth", []string{"127.0.0.1:7022"})+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	check, err := knownhosts.New(file)
	if err != nil {
		t.Fatal(err)
	}
	line, err := c.HostCertificate(identity(t).Ed25519, "x", []string{"dev.alice.berth", "127.0.0.1", "dev.example.com"}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	cert := parseCert(t, line)
	for host, ok := range map[string]bool{
		"dev.alice.berth:22": true, "127.0.0.1:7022": true, "127.0.0.1:22": false, "dev.example.com:22": false, "eve.berth:22": false,
	} {
		if err := check(host, &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 7022}, cert); (err == nil) != ok {
			t.Errorf("%s: %v, want ok %v", host, err, ok)
		}
	}
}

// TestOpenSSH lets OpenSSH itself read what we make.
func TestOpenSSH(t *testing.T) {
	keygen, err := exec.LookPath("ssh-keygen")
	if err != nil {
		t.Skip("no ssh-keygen here")
	}
	c, id, dir := newCA(t), identity(t), t.TempDir()
	run := func(content string, args ...string) string {
		t.Helper()
		name := filepath.Join(dir, "f")
		if err := os.WriteFile(name, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		out, err := exec.Command(keygen, append(args, "-f", name)...).CombinedOutput()
		if err != nil {
			t.Fatalf("ssh-keygen %v: %v\n%s", args, err, out)
		}
		return string(out)
	}
	hostPEM, userPEM, err := c.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	git, err := NewGitKey("alice@berth")
	if err != nil {
		t.Fatal(err)
	}
	for name, pem := range map[string]coordinator.Secret{
		"host CA": hostPEM, "user CA": userPEM, "ed25519": id.Ed25519, "ecdsa": id.ECDSA, "git": git.PrivateKey,
	} {
		if out := run(string(pem), "-y"); len(strings.Fields(out)) < 2 {
			t.Errorf("%s: %q", name, out)
		}
	}
	for name, key := range map[string]coordinator.Secret{"ED25519": id.Ed25519, "ECDSA": id.ECDSA} {
		line, err := c.HostCertificate(key, "ws1", []string{"dev.alice.berth", "dev.berth"}, now)
		if err != nil {
			t.Fatal(err)
		}
		out := run(line+"\n", "-L")
		fingerprint := ssh.FingerprintSHA256(publicKey(t, c.HostCALine()))
		for _, want := range []string{"host certificate", name + "-CERT", "Signing CA: ED25519 " + fingerprint, `Key ID: "ws1"`, "dev.alice.berth\n", "dev.berth\n"} {
			if !strings.Contains(out, want) {
				t.Errorf("ssh-keygen -L does not say %q:\n%s", want, out)
			}
		}
	}
	s, err := c.UserSigner(agent.Person{ID: "u1", Name: "alice"}, now, time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	out := run(string(ssh.MarshalAuthorizedKey(s.PublicKey())), "-L")
	for _, want := range []string{"user certificate", `Key ID: "u1"`, "alice\n", "permit-pty", "Critical Options: (none)"} {
		if !strings.Contains(out, want) {
			t.Errorf("ssh-keygen -L does not say %q:\n%s", want, out)
		}
	}
	found := run(KnownHostsLine(c.HostCALine(), "berth", []string{"127.0.0.1:7022"})+"\n", "-F", "dev.alice.berth")
	if !slices.ContainsFunc(strings.Split(found, "\n"), func(l string) bool { return strings.HasPrefix(l, "@cert-authority ") }) {
		t.Errorf("ssh-keygen -F does not find the CA: %s", found)
	}
}
