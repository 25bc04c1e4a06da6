package provider

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// closed waits for the other side to end the connection, and reports whether it did before a word was said.
func closed(c net.Conn, d time.Duration) bool {
	_ = c.SetDeadline(time.Now().Add(d))
	_, _ = c.Write([]byte("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00"))
	var buf [64]byte
	n, err := c.Read(buf[:])
	return n == 0 && err != nil && !os.IsTimeout(err)
}

// hurry shortens the gate's patience.
func (g *gate) hurry(d time.Duration) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.patience = d
}

func TestPeer(t *testing.T) {
	t.Parallel()
	b := newBuild(t, example)
	s := b.serve()
	defer s.Close()
	s.gate.hurry(300 * time.Millisecond)
	dial := func() net.Conn {
		c, err := net.Dial("unix", s.socket)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close() })
		return c
	}
	if !closed(dial(), 5*time.Second) {
		t.Error("before AllowPeer somebody got in")
	}
	s.AllowPeer(1)
	if !closed(dial(), 5*time.Second) {
		t.Error("another process than the one allowed got in")
	}
	early := dial()
	s.AllowPeer(os.Getpid())
	if closed(early, 5*time.Second) {
		t.Error("the one allowed did not get in")
	}
	s.AllowPeer(1)
	if !closed(dial(), 5*time.Second) {
		t.Error("the one allowed before still gets in")
	}
	if info, err := os.Stat(s.dir); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("the socket's directory: %v, %v", info, err)
	}
}

func TestSocketDirectory(t *testing.T) {
	b := newBuild(t, example)
	long := filepath.Join(b.dir, strings.Repeat("long", 30))
	s, err := Serve(t.Context(), b.job, long)
	if err != nil {
		t.Fatal(err)
	}
	if len(s.socket) > maxSocket || strings.HasPrefix(s.socket, long) {
		t.Errorf("socket = %s", s.socket)
	}
	dir := s.dir
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(dir); err == nil {
		t.Error("the socket's directory is still there")
	}

	// What a killed build leaves is swept by the next.
	base := t.TempDir()
	gone := exec.Command("true")
	if err := gone.Run(); err != nil {
		t.Fatal(err)
	}
	left, kept := filepath.Join(base, fmt.Sprintf("%s%d-1", prefix, gone.Process.Pid)), filepath.Join(base, fmt.Sprintf("%s%d-1", prefix, os.Getpid()))
	if err := os.Mkdir(left, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(kept, 0o700); err != nil {
		t.Fatal(err)
	}
	sweep(base)
	if _, err := os.Stat(left); err == nil {
		t.Error("the directory of a dead process is still there")
	}
	if _, err := os.Stat(kept); err != nil {
		t.Error("the directory of a live process was removed")
	}
}

// TestBuildUser runs terraform as a user of its own, who can get to nothing of the coordinator's.
func TestBuildUser(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("not root")
	}
	const uid = 65534
	b := newBuild(t, example)
	t.Cleanup(b.stopAll)
	b.job.Host.BuildUID = uid
	s := b.serve()
	defer s.Close()
	// What is busy for longer than a second sees whether terraform takes the provider for alive.
	slow := strings.Replace(example, "\nresource \"berth_process\" \"dev\" {", `
resource "terraform_data" "slow" {
  provisioner "local-exec" {
    command = "sleep 2"
  }
}

resource "berth_process" "dev" {
  depends_on = [terraform_data.slow]`, 1)
	if slow == example {
		t.Fatal("the example has changed")
	}
	if strings.HasPrefix(s.socket, b.dir) {
		t.Fatalf("socket %s is where uid %d cannot get", s.socket, uid)
	}
	work, err := os.MkdirTemp("/tmp", "berth-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(work) })
	if err := os.WriteFile(filepath.Join(work, "main.tf"), []byte(slow), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(work, uid, uid); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(b.job.Terraform.Path, "apply", "-auto-approve", "-input=false", "-no-color")
	cmd.Dir = work
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + work, "TF_REATTACH_PROVIDERS=" + s.Reattach(), "CHECKPOINT_DISABLE=1"}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	s.AllowPeer(cmd.Process.Pid)
	if err := cmd.Wait(); err != nil {
		t.Fatalf("%v\n%s", err, said.String())
	}
	// Another process of the same user.
	s.gate.hurry(100 * time.Millisecond)
	out, err := asUser(t, uid, "TestDial", "BERTH_TEST_DIAL="+s.socket)
	if err != nil || !strings.Contains(out, "--- PASS: TestDial") {
		t.Errorf("another program of the build's user: %v\n%s", err, out)
	}
}

// TestDial is a program that is not terraform.
func TestDial(t *testing.T) {
	socket := os.Getenv("BERTH_TEST_DIAL")
	if socket == "" {
		return // run by hand of another test only
	}
	c, err := net.Dial("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if !closed(c, 5*time.Second) {
		t.Error("it got in")
	}
}
