package daemon

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// Limits of the agent's program.
const (
	maxBinary   = 9 << 20  // bytes, as it is shipped
	maxResident = 15 << 10 // KiB of VmRSS, supervisor and worker together
)

// TestSize builds the program as it is shipped, and looks at its size on disk and in memory.
func TestSize(t *testing.T) {
	if testing.Short() {
		t.Skip("builds the program")
	}
	b := newBed(t)
	exe := filepath.Join(b.dir, "berth-agent")
	build := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", exe, "../berth-agent")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	fi, err := os.Stat(exe)
	must(t, err)
	t.Logf("%d bytes", fi.Size())
	if fi.Size() > maxBinary {
		t.Errorf("the program has %d bytes, at most %d are allowed", fi.Size(), maxBinary)
	}
	cmd := b.command(nil)
	cmd.Path, cmd.Args = exe, []string{exe, "--supervise"}
	p := b.run(cmd)
	l := b.next()
	await(t, "startup", l.ready)
	c := b.ssh(l)
	b.exec(c, "true")
	c.Close()
	living, _ := children(t, p.Process.Pid)
	if len(living) != 1 {
		t.Fatalf("children of the supervisor: %v", living)
	}
	// It gives back what startup took by and by; where it cannot, a minute would not help.
	kib, parts := 0, [2]int{}
	for limit := time.Now().Add(40 * time.Second); ; {
		parts = [2]int{rss(t, p.Process.Pid), rss(t, living[0])}
		if kib = parts[0] + parts[1]; kib <= maxResident || time.Now().After(limit) {
			break
		}
		<-time.After(250 * time.Millisecond)
	}
	t.Logf("VmRSS: supervisor %d KiB, worker %d KiB", parts[0], parts[1])
	if kib > maxResident {
		t.Errorf("the agent takes %d KiB, at most %d are allowed", kib, maxResident)
	}
}

// TestDependencies holds the program's dependencies to a list: one more is a decision.
func TestDependencies(t *testing.T) {
	out, err := exec.Command("go", "list", "-deps", "-f", "{{if not .Standard}}{{.ImportPath}}{{end}}", "../berth-agent").Output()
	must(t, err)
	got := strings.Fields(string(out))
	slices.Sort(got)
	list, err := os.ReadFile("../../testdata/deps/berth-agent.txt")
	must(t, err)
	want := strings.Fields(string(list))
	for _, pkg := range got {
		if !slices.Contains(want, pkg) {
			t.Errorf("%s is linked and not in testdata/deps/berth-agent.txt", pkg)
		}
	}
	for _, pkg := range want {
		if !slices.Contains(got, pkg) {
			t.Errorf("%s is in testdata/deps/berth-agent.txt and not linked", pkg)
		}
	}
}
