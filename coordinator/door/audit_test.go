package door

import (
	"encoding/json"
	"net"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"
)

// The names that ssh-audit may hold against the door: those that it does not know, and the ECDSA key beside Ed25519.
var audited = []string{
	"mlkem768x25519-sha256", "kex-strict-s-v00@openssh.com",
	"ecdsa-sha2-nistp256", "ecdsa-sha2-nistp256-cert-v01@openssh.com",
}

// What the door offers: post-quantum first, no RSA, no SHA-1; and ssh-audit has nothing else against it.
func TestAudit(t *testing.T) {
	w := newWorld(t)
	if algorithms.KeyExchanges[0] != ssh.KeyExchangeMLKEM768X25519 {
		t.Error("the first key exchange is", algorithms.KeyExchanges[0])
	}
	if _, err := exec.LookPath("ssh-audit"); err != nil {
		t.Fatal("ssh-audit is needed: scripts/deps installs it")
	}
	_, port, err := net.SplitHostPort(w.addr)
	if err != nil {
		t.Fatal(err)
	}
	plain, _ := exec.Command("ssh-audit", "-n", "-p", port, "127.0.0.1").Output() // its status tells of the names above as well
	name, seen := "", 0
	for l := range strings.Lines(string(plain)) {
		f := strings.Fields(l)
		if len(f) > 2 && strings.HasPrefix(f[0], "(") {
			name = f[1]
			seen++
		}
		bad := strings.Contains(l, "[fail]") || strings.Contains(l, "[warn]")
		if bad && !slices.Contains(audited, name) {
			t.Errorf("ssh-audit: %s: %s", name, strings.TrimSpace(l))
		}
	}
	if seen < 10 {
		t.Errorf("ssh-audit printed %q", plain)
	}
	out, _ := exec.Command("ssh-audit", "-j", "-p", port, "127.0.0.1").Output()
	var found struct {
		Kex []struct{ Algorithm string } `json:"kex"`
		Key []struct{ Algorithm string } `json:"key"`
	}
	if err := json.Unmarshal(out, &found); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if len(found.Kex) == 0 || found.Kex[0].Algorithm != "mlkem768x25519-sha256" {
		t.Errorf("key exchanges: %v", found.Kex)
	}
	for _, k := range found.Key {
		if strings.Contains(k.Algorithm, "rsa") {
			t.Error("an RSA host key:", k.Algorithm)
		}
	}
}
