package sshd

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"
)

// Whatever way a session ends, nothing of it is left as a zombie.
func TestNoZombies(t *testing.T) {
	w := serve(t)
	pids := filepath.Join(w.home, "pids")
	script := func(rest string) string { return fmt.Sprintf("echo $$ >>%s; %s", pids, rest) }
	for range 3 {
		w.ssh(nil, "dev.berth", script("exit 3"))
		w.ssh(nil, "-tt", "dev.berth", script("exit 3"))
		w.ssh(nil, "dev.berth", script("kill -9 $$"))
	}
	for _, tty := range []bool{false, true} { // the client goes first
		c := w.client()
		s, err := c.NewSession()
		if err != nil {
			t.Fatal(err)
		}
		if tty {
			if err := s.RequestPty("xterm", 24, 80, ssh.TerminalModes{}); err != nil {
				t.Fatal(err)
			}
		}
		in, err := s.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		defer in.Close()
		before := lines(pids)
		if err := s.Start(script("cat; exit 0")); err != nil {
			t.Fatal(err)
		}
		eventually(t, "started", func() bool { return lines(pids) > before })
		c.Close()
	}
	b, err := os.ReadFile(pids)
	if err != nil {
		t.Fatal(err)
	}
	all := strings.Fields(string(b))
	if len(all) != 11 {
		t.Fatalf("%d processes: %q", len(all), all)
	}
	eventually(t, "all are gone", func() bool {
		for _, pid := range all {
			if exists("/proc/" + pid) { // a zombie is there as well
				return false
			}
		}
		return true
	})
}

func lines(path string) int {
	b, err := os.ReadFile(path)
	if err != nil {
		return 0
	}
	return strings.Count(string(b), "\n")
}
