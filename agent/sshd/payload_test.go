package sshd

import (
	"bytes"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"
	"golang.org/x/sys/unix"
)

func TestPayloads(t *testing.T) {
	long := strings.Repeat("a", maxPath+1)
	bad := func(_ any, err error) bool { return err != nil }
	for _, tt := range []struct {
		name string
		got  bool
		want bool
	}{
		{"direct", bad(parseDirectTCP(ssh.Marshal(directTCP{"localhost", 80, "::1", 1}))), false},
		{"direct to a port beyond", bad(parseDirectTCP(ssh.Marshal(directTCP{"localhost", 65536, "::1", 1}))), true},
		{"direct to a long name", bad(parseDirectTCP(ssh.Marshal(directTCP{long, 80, "::1", 1}))), true},
		{"direct to a NUL", bad(parseDirectTCP(ssh.Marshal(directTCP{"a\x00b", 80, "::1", 1}))), true},
		{"direct, cut", bad(parseDirectTCP([]byte{0, 0, 0, 9, 'a'})), true},
		{"direct to a path", bad(parseDirectUnix(ssh.Marshal(directUnix{"/run/x", "", 0}))), false},
		{"direct to no path", bad(parseDirectUnix(ssh.Marshal(directUnix{"", "", 0}))), true},
		{"direct to a long path", bad(parseDirectUnix(ssh.Marshal(directUnix{long, "", 0}))), true},
		{"bind", bad(parseBindTCP(ssh.Marshal(bindTCP{"", 0}))), false},
		{"bind a port beyond", bad(parseBindTCP(ssh.Marshal(bindTCP{"", 1 << 20}))), true},
		{"bind a path", bad(parseBindUnix(ssh.Marshal(bindUnix{"x"}))), false},
		{"bind a NUL", bad(parseBindUnix(ssh.Marshal(bindUnix{"x\x00"}))), true},
		{"variable", bad(parseVariable(ssh.Marshal(variable{"LANG", "C"}))), false},
		{"denied variable", bad(parseVariable(ssh.Marshal(variable{"LD_PRELOAD", "x"}))), true},
		{"variable and more", bad(parseVariable(append(ssh.Marshal(variable{"LANG", "C"}), 0))), true},
	} {
		if tt.got != tt.want {
			t.Errorf("%s: refused %v", tt.name, tt.got)
		}
	}
}

// FuzzPayload gives a payload to every decoder, and looks that what is taken keeps to its limits.
func FuzzPayload(f *testing.F) {
	for _, seed := range []any{
		directTCP{"localhost", 8080, "127.0.0.1", 50122},
		directUnix{"/run/docker.sock", "", 0},
		bindTCP{"*", 0},
		bindUnix{"/run/user/1000/gnupg/S.gpg-agent"},
		variable{"LC_ALL", "C.UTF-8"},
		struct{ Cols, Rows, X, Y uint32 }{80, 24, 640, 480},
		struct {
			Term             string
			Cols, Rows, X, Y uint32
			Modes            string
		}{"xterm-256color", 80, 24, 0, 0, "\x01\x00\x00\x00\x03\x80\x00\x00\x96\x00\x35\x00\x00\x00\x01\x00"},
		x11Request{true, "MIT-MAGIC-COOKIE-1", "00112233445566778899aabbccddeeff", 0},
	} {
		f.Add(ssh.Marshal(seed))
	}
	f.Add([]byte{0xff, 0xff, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, payload []byte) {
		if p, err := parseDirectTCP(payload); err == nil && (p.Port > 0xffff || len(p.Host) > maxHost) {
			t.Errorf("direct-tcpip: %+v", p)
		}
		if p, err := parseDirectUnix(payload); err == nil && (p.Path == "" || strings.ContainsRune(p.Path, 0)) {
			t.Errorf("direct-streamlocal: %+v", p)
		}
		if p, err := parseBindTCP(payload); err == nil && p.Port > 0xffff {
			t.Errorf("tcpip-forward: %+v", p)
		}
		if p, err := parseBindUnix(payload); err == nil && p.Path == "" {
			t.Errorf("streamlocal-forward: %+v", p)
		}
		if v, err := parseVariable(payload); err == nil && (strings.ContainsAny(v.Name, "=\x00") || strings.HasPrefix(v.Name, "LD_")) {
			t.Errorf("env: %+v", v)
		}
		if x, err := parseX11(payload); err == nil && strings.ContainsAny(x.Protocol+x.Cookie, " \n") {
			t.Errorf("x11-req: %+v", x)
		}
		_, _ = parseSize(payload)
		if p, err := parseTerminal(payload); err == nil {
			var termios unix.Termios
			for _, m := range p.modes {
				m.apply(&termios)
			}
		}
		keys := hostKeys{}
		if ok, out := (&conn{keys: keys}).proveHostKeys(nil, payload); ok && len(out) > 0 {
			t.Error("a key proved that is not there")
		}
		s := &session{}
		s.setEnv(payload)
		s.requestTerminal(bytes.Clone(payload))
		s.resize(payload)
		s.signal(payload)
		if len(s.env) > maxEnv || len(s.signals) > maxSignals {
			t.Error("beyond the caps")
		}
	})
}
