package sshd

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"berth/agent"
	"berth/agent/shell"
)

func TestGreeting(t *testing.T) {
	note := "startup step dotfiles failed: see berth logs dev"
	w := serve(t, func(c *Config, w *workspace) {
		c.Note = func() string { return note }
		w.manifest.Agent.MOTD = "Welcome\nto dev\n"
	})
	shellOut := func(args ...string) string {
		out, errOut, _ := w.ssh(strings.NewReader("exit\n"), args...)
		return out + errOut
	}
	if out, want := shellOut("-tt", "dev.berth"), "Welcome\r\nto dev\r\nberth: "+note+"\r\n"; !strings.HasPrefix(out, want) || strings.Contains(out, "Last login") {
		t.Errorf("first login: %q", out)
	}
	for _, args := range [][]string{{"-tt", "dev.berth", "true"}, {"-T", "dev.berth"}, {"dev.berth", "true"}} {
		if out := shellOut(args...); strings.Contains(out, "Welcome") || strings.Contains(out, note) || strings.Contains(out, "Last login") {
			t.Errorf("%q: got %q", args, out)
		}
	}
	if out, want := shellOut("-tt", "dev.berth"), " from 192.0.2.7 (alice)\r\n"; !strings.Contains(out, "\r\nLast login: ") || !strings.Contains(out, want) {
		t.Errorf("second login: %q", out)
	}
	if err := os.WriteFile(filepath.Join(w.home, ".hushlogin"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if out := shellOut("-tt", "dev.berth"); !strings.HasPrefix(out, "berth: "+note+"\r\n") || strings.Contains(out, "Welcome") || strings.Contains(out, "Last login") {
		t.Errorf("with .hushlogin: %q", out)
	}
}

func TestMessageOfTheDay(t *testing.T) {
	dir := t.TempDir()
	u, err := shell.Current()
	if err != nil {
		t.Fatal(err)
	}
	s, err := New(Config{Manifest: func() *agent.Manifest { return nil }, User: u})
	if err != nil {
		t.Fatal(err)
	}
	old := messages
	t.Cleanup(func() { messages = old })
	messages = []string{filepath.Join(dir, "nosuch"), filepath.Join(dir, "motd"), dir}
	if got := s.messageOfTheDay(""); got != "" {
		t.Errorf("without any: %q", got)
	}
	if err := os.WriteFile(messages[1], []byte("the system's\n\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	for template, want := range map[string]string{"": "the system's\n", "the template's": "the template's\n"} {
		if got := s.messageOfTheDay(template); got != want {
			t.Errorf("%q: %q", template, got)
		}
	}
}

func TestLastLogin(t *testing.T) {
	at := time.Date(2026, 11, 24, 10, 21, 3, 0, time.Local)
	for _, tt := range []struct{ name, text, want string }{
		{"plain", "2026-11-24T10:21:03" + at.Format("Z07:00") + " 192.0.2.7 alice\n", "Last login: Tue Nov 24 10:21:03 2026 from 192.0.2.7 (alice)"},
		{"IPv6, nobody", "2026-11-24T10:21:03" + at.Format("Z07:00") + " fe80::1%eth0 \n", "Last login: Tue Nov 24 10:21:03 2026 from fe80::1%eth0"},
		{"escapes", "2026-11-24T10:21:03Z \x1b[2J alice\n", ""},
		{"more", "2026-11-24T10:21:03Z h alice\nmore\n", ""},
		{"no time", "yesterday h alice\n", ""},
		{"nothing", "", ""},
	} {
		l := parseLogin(tt.text)
		if got := l.String(); l.at.IsZero() != (tt.want == "") || tt.want != "" && got != tt.want {
			t.Errorf("%s: %q", tt.name, got)
		}
	}
}

// What cannot be kept leaves nothing behind.
func TestLastLoginThatCannotBeKept(t *testing.T) {
	u, err := shell.Current()
	if err != nil {
		t.Fatal(err)
	}
	u.Home = t.TempDir()
	dir := filepath.Join(u.Home, ".local/state/berth")
	if err := os.MkdirAll(filepath.Join(dir, "last-login/in-the-way"), 0o700); err != nil {
		t.Fatal(err)
	}
	exchangeLogin(u, login{at: time.Now(), host: "192.0.2.7"})
	if names, err := os.ReadDir(dir); err != nil || len(names) != 1 {
		t.Errorf("there is %v, %v", names, err)
	}
}
