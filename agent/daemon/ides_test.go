package daemon

import (
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"testing"
	"time"

	"berth/agent"
)

// A server that an IDE left behind is told of, by an agent that came later, too.
func TestIDEs(t *testing.T) {
	b := newBed(t)
	me, err := user.Current()
	must(t, err)
	b.manifest.Agent.User = me.Username // whom the server below runs as, too
	dir := filepath.Join(b.home, ".vscode-server")
	must(t, os.Mkdir(dir, 0o755))
	program, err := exec.LookPath("sleep")
	must(t, err)
	must(t, os.Symlink(program, filepath.Join(dir, "server")))
	left := exec.Command(filepath.Join(dir, "server"), "60")
	must(t, left.Start())
	t.Cleanup(func() { _ = left.Process.Kill(); _ = left.Wait() })
	b.start(nil)
	l := b.next()
	for limit := time.After(20 * time.Second); ; {
		select {
		case list := <-l.ides:
			for _, i := range list {
				if i.PID == left.Process.Pid && i.Product == "VS Code" {
					return
				}
			}
		case <-limit:
			t.Fatal("not told")
		}
	}
}

func TestSameServers(t *testing.T) {
	now := time.Now()
	a := []agent.IDEServer{{PID: 1, Started: now, Memory: 100}}
	for _, tt := range []struct {
		name string
		b    []agent.IDEServer
		want bool
	}{
		{"itself", a, true},
		{"a little more", []agent.IDEServer{{PID: 1, Started: now, Memory: 120}}, true},
		{"much more", []agent.IDEServer{{PID: 1, Started: now, Memory: 200}}, false},
		{"another of that number", []agent.IDEServer{{PID: 1, Started: now.Add(time.Second), Memory: 100}}, false},
		{"none", nil, false},
	} {
		if got := sameServers(tt.b, a); got != tt.want {
			t.Errorf("%s: %v", tt.name, got)
		}
	}
}
