package sshd

import (
	"bufio"
	"bytes"
	"crypto/rand"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
)

// run runs a client's command and fails the test if it fails.
func (w *workspace) run(stdin, name string, args ...string) string {
	w.t.Helper()
	cmd := w.command(name, args...)
	cmd.Stdin = strings.NewReader(stdin)
	b, err := cmd.CombinedOutput()
	if err != nil {
		w.t.Fatalf("%s %q: %v: %s", name, args, err, b)
	}
	return string(b)
}

func TestSFTP(t *testing.T) {
	w := serve(t)
	data := make([]byte, 8<<20)
	rand.Read(data)
	local := w.write("local", data)
	out := w.run("pwd\nput "+local+" remote\nget remote "+local+".back\nmkdir d\nput "+local+" d/a\nrename d/a d/b\n"+
		"symlink b d/rel\nln d/b d/hard\nchmod 640 d/b\nls -la d\ndf\n-rm nosuch\n", "sftp", "-q", "-b", "-", "dev.berth")
	if !strings.Contains(out, "Remote working directory: "+w.home+"\n") {
		t.Errorf("does not begin at home: %s", out)
	}
	if b, err := os.ReadFile(local + ".back"); err != nil || !bytes.Equal(b, data) {
		t.Error("round trip:", len(b), err)
	}
	if to, err := os.Readlink(filepath.Join(w.home, "d/rel")); err != nil || to != "b" {
		t.Errorf("relative symlink became %q, %v", to, err)
	}
	if fi, err := os.Stat(filepath.Join(w.home, "d/b")); err != nil || fi.Mode().Perm() != 0o640 {
		t.Error("chmod:", fi, err)
	}
	// The exit status of success is 0: scp and sshfs look at it.
	ch, reqs, err := w.client().OpenChannel("session", nil)
	if err != nil {
		t.Fatal(err)
	}
	if ok, err := ch.SendRequest("subsystem", true, ssh.Marshal(struct{ N string }{"sftp"})); err != nil || !ok {
		t.Fatal("subsystem:", ok, err)
	}
	if err := ch.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	code := uint32(99)
	for r := range reqs {
		var m struct{ Code uint32 }
		if r.Type == "exit-status" && ssh.Unmarshal(r.Payload, &m) == nil {
			code = m.Code
		}
	}
	if code != 0 {
		t.Errorf("sftp at the end of its input: exit %d", code)
	}
}

func makeTree(t *testing.T, dir string) {
	t.Helper()
	big := make([]byte, 3<<20)
	rand.Read(big)
	sub := filepath.Join(dir, "sub dir", "é")
	if err := os.MkdirAll(sub, 0o755); err != nil {
		t.Fatal(err)
	}
	for name, b := range map[string][]byte{filepath.Join(dir, "big"): big, filepath.Join(sub, "ä b"): []byte("a\n"), filepath.Join(dir, "empty"): nil} {
		if err := os.WriteFile(name, b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	old := time.Date(2001, 2, 3, 4, 5, 6, 0, time.UTC)
	if err := os.Chmod(filepath.Join(dir, "empty"), 0o750); err != nil {
		t.Fatal(err)
	}
	if err := os.Chtimes(filepath.Join(dir, "big"), old, old); err != nil {
		t.Fatal(err)
	}
}

func sameTree(t *testing.T, a, b string) {
	t.Helper()
	if out, err := exec.Command("diff", "-r", a, b).CombinedOutput(); err != nil {
		t.Errorf("trees differ: %s", out)
	}
	for _, n := range []string{"big", "empty"} {
		x, err1 := os.Stat(filepath.Join(a, n))
		y, err2 := os.Stat(filepath.Join(b, n))
		if err1 != nil || err2 != nil || x.Mode() != y.Mode() || x.ModTime().Unix() != y.ModTime().Unix() {
			t.Errorf("%s: mode or time differs: %v %v", n, err1, err2)
		}
	}
}

func TestCopies(t *testing.T) {
	w := serve(t)
	tree := filepath.Join(w.dir, "tree")
	makeTree(t, tree)
	for _, tt := range []struct {
		name   string
		up     []string
		down   []string
		remote string
	}{
		{"scp", []string{"scp", "-s", "-rpq", tree, "dev.berth:up1"}, []string{"scp", "-s", "-rpq", "dev.berth:up1", "DOWN"}, "up1"},
		{"scp of old", []string{"scp", "-O", "-rpq", tree, "dev.berth:up2"}, []string{"scp", "-O", "-rpq", "dev.berth:up2", "DOWN"}, "up2"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			down := filepath.Join(t.TempDir(), "down")
			tt.down[len(tt.down)-1] = down
			w.run("", tt.up[0], tt.up[1:]...)
			w.run("", tt.down[0], tt.down[1:]...)
			sameTree(t, tree, filepath.Join(w.home, tt.remote))
			sameTree(t, tree, down)
		})
	}
	t.Run("rsync", func(t *testing.T) {
		cmd := exec.Command("rsync", "-a", "--delete", "-e", "ssh -F "+filepath.Join(w.dir, "config"), tree+"/", "dev.berth:up3/")
		if b, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, b)
		}
		sameTree(t, tree, filepath.Join(w.home, "up3"))
	})
	if err := w.command("scp", "-O", "-q", "dev.berth:nosuch", tree+"x").Run(); err == nil {
		t.Error("scp of a missing file succeeded")
	}
}

// Where the image has no scp, the agent serves it, with the shell's quoting and globs.
func TestOwnSCP(t *testing.T) {
	bin := t.TempDir()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	w := serve(t, func(c *Config, _ *workspace) {
		c.Exe = exe
		c.Env = func() []string { return []string{"PATH=" + bin} }
	})
	tree := filepath.Join(w.dir, "tree")
	makeTree(t, tree)
	w.run("", "scp", "-O", "-rpq", tree, "dev.berth:up")
	sameTree(t, tree, filepath.Join(w.home, "up"))
	down := filepath.Join(w.dir, "down")
	w.run("", "scp", "-O", "-rpq", "dev.berth:up", down)
	sameTree(t, tree, down)
	w.run("", "scp", "-O", "-q", "dev.berth:up/b*", filepath.Join(w.dir, "globbed"))
	if !exists(filepath.Join(w.dir, "globbed")) {
		t.Error("glob")
	}
	w.run("", "scp", "-O", "-q", filepath.Join(tree, "empty"), filepath.Join(tree, "big"), "dev.berth:up/sub\\ dir")
	if !exists(filepath.Join(w.home, "up/sub dir/big")) {
		t.Error("quoting, two sources into a folder")
	}
	for _, args := range [][]string{
		{"dev.berth:nosuch", down + "x"}, {"dev.berth:up", down + "y"}, {filepath.Join(tree, "big"), filepath.Join(tree, "empty"), "dev.berth:nosuch/x"},
	} {
		if err := w.command("scp", append([]string{"-O", "-q"}, args...)...).Run(); err == nil {
			t.Errorf("scp %q succeeded", args)
		}
	}
}

// What the other side of scp says is not believed.
func TestSCPInput(t *testing.T) {
	for _, tt := range []struct{ name, args, input string }{
		{"leaves the target", "-t .", "C0644 2 ../evil\nab\x00"},
		{"leaves by a folder", "-t -r .", "D0755 0 ..\nC0644 2 evil\nab\x00E\n"},
		{"absolute", "-t .", "C0644 2 /tmp/evil\nab\x00"},
		{"folder without -r", "-t .", "D0755 0 d\nE\n"},
		{"negative size", "-t .", "C0644 -2 f\nab\x00"},
		{"short", "-t .", "C0644 20 f\nab"},
		{"no mode", "-t .", "Cxyz 2 f\nab\x00"},
		{"garbage", "-t .", "hello\n"},
		{"times", "-t -p .", "Tx 0 0 0\n"},
		{"long line", "-t .", "C0644 2 " + strings.Repeat("a", 20000) + "\n"},
		{"no mode of operation", ".", ""},
		{"unknown option", "-t -Z .", ""},
		{"not a folder", "-t -d nosuch", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Chdir(t.TempDir())
			rw := struct {
				*strings.Reader
				*bytes.Buffer
			}{strings.NewReader(tt.input), new(bytes.Buffer)}
			err := runSCP(strings.Fields(tt.args), struct {
				readOnly
				writeOnly
			}{readOnly{rw.Reader}, writeOnly{rw.Buffer}})
			if err == nil {
				t.Error("succeeded")
			}
			if exists("../evil") || exists("/tmp/evil") {
				t.Error("left its target")
			}
		})
	}
}

// What is no file is refused and not waited for.
func TestSCPOfFIFO(t *testing.T) {
	path := filepath.Join(t.TempDir(), "fifo")
	if err := syscall.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	said := new(bytes.Buffer)
	ended := make(chan error, 1)
	go func() {
		ended <- runSCP([]string{"-f", path}, struct {
			readOnly
			writeOnly
		}{readOnly{strings.NewReader("\x00")}, writeOnly{said}})
	}()
	select {
	case err := <-ended:
		if err == nil || !strings.Contains(said.String(), "not a regular file") {
			t.Errorf("said %q, %v", said, err)
		}
	case <-time.After(10 * time.Second):
		t.Error("waits for somebody to write to a FIFO")
		if f, err := os.OpenFile(path, os.O_WRONLY|syscall.O_NONBLOCK, 0); err == nil {
			f.Close() // it goes on
		}
	}
}

type readOnly struct{ r *strings.Reader }

func (r readOnly) Read(b []byte) (int, error) { return r.r.Read(b) }

type writeOnly struct{ w *bytes.Buffer }

func (w writeOnly) Write(b []byte) (int, error) { return w.w.Write(b) }

func FuzzSCPSink(f *testing.F) {
	f.Add([]byte("C0644 2 f\nab\x00"))
	f.Add([]byte("T1 0 1 0\nD0755 0 d\nC0644 2 f\nab\x00E\n"))
	f.Fuzz(func(t *testing.T, in []byte) {
		dir := t.TempDir()
		s := &scp{r: bufio.NewReader(bytes.NewReader(in)), w: bufio.NewWriter(new(bytes.Buffer)), recursive: true, preserve: true}
		_ = s.sink(dir)
		if n, err := os.ReadDir(filepath.Dir(dir)); err != nil || len(n) != 1 {
			t.Errorf("left its target: %v %v", n, err)
		}
	})
}
