package sshd

import (
	"crypto/rand"
	"crypto/rsa"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"berth/agent"
)

func asErr[T error](err error, target *T) bool { return errors.As(err, target) }

func TestLoginByKey(t *testing.T) {
	w := serve(t)
	if out, errOut, code := w.ssh(nil, "dev.berth", "echo in"); out != "in\n" || errOut != "" || code != 0 {
		t.Fatalf("got %q, %q, %d", out, errOut, code)
	}
	// Four other keys first: each counts as a try.
	var names []string
	for i := range 4 {
		_, pem := newKey(t)
		names = append(names, fmt.Sprintf("other%d", i))
		w.write(names[i], pem)
	}
	w.config(append(names, "id")...)
	if out, errOut, code := w.ssh(nil, "dev.berth", "echo in"); out != "in\n" || code != 0 {
		t.Errorf("four keys before the right one: %q, %q, %d", out, errOut, code)
	}
	w.config("other0")
	if out, errOut, code := w.ssh(nil, "dev.berth", "echo in"); out != "" || code != 255 || !strings.Contains(errOut, "Permission denied (publickey)") {
		t.Errorf("a wrong key: %q, %q, %d", out, errOut, code)
	}
}

func TestMethodNoneFails(t *testing.T) {
	w := serve(t)
	if c, err := w.dial(); err == nil {
		c.Close()
		t.Fatal("logged in without any key")
	}
	if c, err := w.dial(ssh.Password("x")); err == nil {
		c.Close()
		t.Fatal("logged in with a password")
	}
}

// The person of the stream's header is let in and nobody else, whatever keys the manifest lists.
func TestOnlyTheHeadersPerson(t *testing.T) {
	w := serve(t)
	w.from(agent.Person{ID: "u-bob", Name: "bob"})
	if _, err := w.dial(ssh.PublicKeys(w.key)); err == nil {
		t.Error("alice's key entered on bob's stream")
	}
	w.from(agent.Person{})
	if _, err := w.dial(ssh.PublicKeys(w.key)); err == nil {
		t.Error("a key entered on a stream without a user")
	}
}

func TestCertificates(t *testing.T) {
	w := serve(t)
	other, _ := newKey(t)
	fresh, _ := newKey(t)
	good := func() *ssh.Certificate {
		return &ssh.Certificate{Key: fresh.PublicKey(), CertType: ssh.UserCert, KeyId: "u-alice", ValidPrincipals: []string{"alice"}}
	}
	for _, tt := range []struct {
		name string
		ca   ssh.Signer
		edit func(*ssh.Certificate)
		want bool
	}{
		{"good", w.ca, func(*ssh.Certificate) {}, true},
		{"another authority", other, func(*ssh.Certificate) {}, false},
		{"another person", w.ca, func(c *ssh.Certificate) { c.KeyId = "u-bob" }, false},
		{"no key id", w.ca, func(c *ssh.Certificate) { c.KeyId = "" }, false},
		{"another principal", w.ca, func(c *ssh.Certificate) { c.ValidPrincipals = []string{"bob"} }, false},
		{"no principals", w.ca, func(c *ssh.Certificate) { c.ValidPrincipals = nil }, false},
		{"expired", w.ca, func(c *ssh.Certificate) { c.ValidBefore = uint64(time.Now().Add(-time.Minute).Unix()) }, false},
		{"not yet valid", w.ca, func(c *ssh.Certificate) { c.ValidAfter = uint64(time.Now().Add(time.Minute).Unix()) }, false},
		{"of a host", w.ca, func(c *ssh.Certificate) { c.CertType = ssh.HostCert }, false},
		{"critical option", w.ca, func(c *ssh.Certificate) { c.CriticalOptions = map[string]string{"force-command": "true"} }, false},
		{"source address", w.ca, func(c *ssh.Certificate) { c.CriticalOptions = map[string]string{"source-address": "127.0.0.1"} }, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := good()
			tt.edit(c)
			certify(t, tt.ca, c)
			if err := w.tryCert(t, c, fresh); (err == nil) != tt.want {
				t.Errorf("login: %v", err)
			}
		})
	}
	t.Run("content changed after signing", func(t *testing.T) {
		c := good()
		c.KeyId = "u-bob"
		certify(t, w.ca, c)
		c.KeyId = "u-alice"
		if err := w.tryCert(t, c, fresh); err == nil {
			t.Error("a certificate whose signature does not cover its content was accepted")
		}
	})
}

func (w *workspace) tryCert(t *testing.T, c *ssh.Certificate, key ssh.Signer) error {
	t.Helper()
	s, err := ssh.NewCertSigner(c, key)
	if err != nil {
		t.Fatal(err)
	}
	client, err := w.dial(ssh.PublicKeys(s))
	if err == nil {
		client.Close()
	}
	return err
}

// lyingSigner offers a key that it does not hold and signs with another.
type lyingSigner struct {
	ssh.Signer
	claim ssh.PublicKey
}

func (l lyingSigner) PublicKey() ssh.PublicKey { return l.claim }

// An offered key proves nothing (CVE-2024-45337).
func TestOfferedKeyIsNotEnough(t *testing.T) {
	w := serve(t)
	other, _ := newKey(t)
	if c, err := w.dial(ssh.PublicKeys(lyingSigner{other, w.key.PublicKey()})); err == nil {
		c.Close()
		t.Error("logged in with a key that was only offered")
	}
	if c, err := w.dial(ssh.PublicKeys(w.key, other)); err != nil {
		t.Error(err)
	} else {
		c.Close()
	}
}

func TestKeySizes(t *testing.T) {
	for _, tt := range []struct {
		bits int
		want bool
	}{{1024, false}, {2048, true}} {
		k, err := rsa.GenerateKey(rand.Reader, tt.bits)
		if tt.bits < 2048 && err != nil {
			continue // this Go makes none
		} else if err != nil {
			t.Fatal(err)
		}
		pub, err := ssh.NewPublicKey(&k.PublicKey)
		if err != nil {
			t.Fatal(err)
		}
		if err := checkSize(pub); (err == nil) != tt.want {
			t.Errorf("%d bits: %v", tt.bits, err)
		}
	}
}

func TestAlgorithms(t *testing.T) {
	w := serve(t)
	for _, args := range [][]string{
		{"-o", "KexAlgorithms=diffie-hellman-group14-sha256"},
		{"-o", "Ciphers=aes128-cbc"},
		{"-o", "Ciphers=aes128-ctr", "-o", "MACs=hmac-sha1"},
		{"-o", "HostKeyAlgorithms=ssh-rsa"},
	} {
		if _, errOut, code := w.ssh(nil, append(args, "dev.berth", "true")...); code != 255 || !strings.Contains(errOut, "no matching") {
			t.Errorf("%q: %q, %d", args, errOut, code)
		}
	}
	for _, args := range [][]string{
		{"-o", "KexAlgorithms=curve25519-sha256@libssh.org", "-o", "Ciphers=aes256-ctr", "-o", "MACs=hmac-sha2-256-etm@openssh.com"},
		{"-o", "HostKeyAlgorithms=ecdsa-sha2-nistp256-cert-v01@openssh.com"},
	} {
		if _, errOut, code := w.ssh(nil, append(args, "dev.berth", "true")...); code != 0 {
			t.Errorf("%q: %q, %d", args, errOut, code)
		}
	}
	_, errOut, _ := w.ssh(nil, "-vv", "dev.berth", "true")
	for _, want := range []string{"remote software version OpenSSH_9.9-Berth_1", "kex-strict-s-v00@openssh.com"} {
		if !strings.Contains(errOut, want) {
			t.Errorf("no %q in ssh -vv", want)
		}
	}
}

// A client without certificates learns every host key, each proved (hostkeys-00@openssh.com).
func TestHostKeysAreAnnounced(t *testing.T) {
	w := serve(t)
	known := w.write("learned", nil)
	for range 2 {
		args := []string{
			"-o", "UserKnownHostsFile=" + known, "-o", "StrictHostKeyChecking=accept-new", "-o", "UpdateHostKeys=yes",
			"-o", "HostKeyAlgorithms=ssh-ed25519,ecdsa-sha2-nistp256", "dev.berth", "sleep 0.5",
		}
		if _, errOut, code := w.ssh(nil, args...); code != 0 {
			t.Fatalf("%q, %d", errOut, code)
		}
	}
	b, err := os.ReadFile(known)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(b), "ssh-ed25519 ") || !strings.Contains(string(b), "ecdsa-sha2-nistp256 ") {
		t.Errorf("known_hosts: %s", b)
	}
}

func TestProveHostKeys(t *testing.T) {
	w := serve(t)
	c := w.client()
	other, _ := newKey(t)
	for _, payload := range [][]byte{
		ssh.Marshal(struct{ K string }{string(other.PublicKey().Marshal())}), {0, 0, 0, 9, 1}, {1},
	} {
		if ok, _, err := c.SendRequest("hostkeys-prove-00@openssh.com", true, payload); ok || err != nil {
			t.Errorf("%x: %v %v", payload[:1], ok, err)
		}
	}
}

func TestNotReady(t *testing.T) {
	w := serve(t, func(c *Config, _ *workspace) { c.Manifest = func() *agent.Manifest { return nil } })
	nc, err := net.Dial("tcp", w.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	var r agent.Reply
	if err := agent.ReadLine(nc, &r, agent.MaxStreamHeader); err != nil || r.OK || !strings.Contains(r.Error, "manifest") {
		t.Errorf("got %+v, %v", r, err)
	}
	if _, err := nc.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Error("not closed:", err)
	}
	if _, err := New(Config{}); err == nil {
		t.Error("a server without manifest and user was made")
	}
}
