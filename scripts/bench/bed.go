package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"berth/coordinator/rest"
)

// A bed is one coordinator with a signed-in owner, in a directory of its own.
type bed struct {
	root, bin, dir string
	http, door     string
	slow           *slowLink // between the coordinator and its agents; nil: none
	env            []string
	daemon         *exec.Cmd
}

func newBed(ctx context.Context) (*bed, error) { return newBedWith(ctx, false) }

// newFarBed is a bed whose agents reach the coordinator over a slow link.
func newFarBed(ctx context.Context) (*bed, error) { return newBedWith(ctx, true) }

func newBedWith(ctx context.Context, far bool) (*bed, error) {
	root, err := os.Getwd()
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "berth-bench-")
	if err != nil {
		return nil, err
	}
	b := &bed{root: root, bin: filepath.Join(root, "bin"), dir: dir}
	for _, p := range []*string{&b.http, &b.door} {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		*p = l.Addr().String()
		_ = l.Close()
	}
	if far {
		if b.slow, err = newSlowLink(ctx, b.http, linkDelay, linkRate); err != nil {
			return nil, err
		}
	}
	b.env = append(os.Environ(), "BERTH_CONFIG_DIR="+filepath.Join(dir, "cli"), "BERTH_URL=", "BERTH_TOKEN=", "SSH_AUTH_SOCK=")
	if err := b.serve(ctx); err != nil {
		b.close()
		return nil, err
	}
	token, err := os.ReadFile(filepath.Join(dir, "data", "setup-token"))
	if err != nil {
		b.close()
		return nil, err
	}
	if _, err := b.berth(ctx, "login", "http://"+b.http, "--name", "bench", "--token", strings.TrimSpace(string(token))); err != nil {
		b.close()
		return nil, err
	}
	if _, err := b.berth(ctx, "template", "push", "local", filepath.Join(root, "scripts/demo/local")); err != nil {
		b.close()
		return nil, err
	}
	return b, nil
}

func (b *bed) serve(ctx context.Context) error {
	args := []string{
		"serve", "--data", filepath.Join(b.dir, "data"), "--key-file", filepath.Join(b.dir, "key"),
		"--http", b.http, "--ssh", b.door, "--url", "http://" + b.http, "--insecure-host-processes",
	}
	if b.slow != nil {
		args = append(args, "--agent-url", "http://"+b.slow.addr())
	}
	log, err := os.OpenFile(filepath.Join(b.dir, "berthd.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	b.daemon = exec.Command(filepath.Join(b.bin, "berthd"), args...)
	b.daemon.Env, b.daemon.Stdout, b.daemon.Stderr = b.env, log, log
	if err := b.daemon.Start(); err != nil {
		return err
	}
	return poll(ctx, 30*time.Second, func() bool {
		r, err := http.Get("http://" + b.http + "/healthz")
		if err != nil {
			return false
		}
		_ = r.Body.Close()
		return r.StatusCode == http.StatusOK
	})
}

// close deletes what the run made and ends the coordinator.
func (b *bed) close() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if out, err := b.berth(ctx, "list", "-o", "json"); err == nil {
		var ws []rest.Workspace
		if json.Unmarshal(out, &ws) == nil {
			for _, w := range ws {
				_, _ = b.berth(ctx, "delete", w.Name, "--yes")
			}
		}
	}
	if b.daemon != nil {
		_ = b.daemon.Process.Signal(syscall.SIGTERM)
		_ = b.daemon.Wait()
	}
	if b.slow != nil {
		b.slow.close()
	}
	_ = os.RemoveAll(b.dir)
}

// berth runs the CLI and returns its standard output; an error holds its standard error.
func (b *bed) berth(ctx context.Context, args ...string) ([]byte, error) {
	return b.command(ctx, filepath.Join(b.bin, "berth"), args...)
}

func (b *bed) command(ctx context.Context, name string, args ...string) ([]byte, error) {
	var stdout, stderr bytes.Buffer
	c := exec.CommandContext(ctx, name, args...)
	c.Env, c.Stdout, c.Stderr = b.env, &stdout, &stderr
	if err := c.Run(); err != nil {
		return nil, fmt.Errorf("%s %s: %w: %s", filepath.Base(name), strings.Join(args, " "), err, stderr.String())
	}
	return stdout.Bytes(), nil
}

// timed runs a command and returns how long it took.
func (b *bed) timed(ctx context.Context, name string, args ...string) (time.Duration, error) {
	t := time.Now()
	_, err := b.command(ctx, name, args...)
	return time.Since(t), err
}

// builds returns the workspace's builds, newest first.
func (b *bed) builds(ctx context.Context, ws string) ([]rest.Build, error) {
	out, err := b.berth(ctx, "builds", ws, "-o", "json")
	if err != nil {
		return nil, err
	}
	var list []rest.Build
	return list, json.Unmarshal(out, &list)
}

// sshConfig writes the ssh_config for what is there now and returns its path.
func (b *bed) sshConfig(ctx context.Context) (string, error) {
	out, err := b.berth(ctx, "ssh-config", "--stdout")
	if err != nil {
		return "", err
	}
	path := filepath.Join(b.dir, "ssh_config")
	return path, os.WriteFile(path, out, 0o600)
}

func poll(ctx context.Context, limit time.Duration, done func() bool) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	for !done() {
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait: %w", ctx.Err())
		case <-time.After(10 * time.Millisecond):
		}
	}
	return nil
}

// rss returns the resident memory of a process in bytes.
func rss(pid int) (int64, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(b)) {
		if v, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			kb, err := strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(v), "kB")), 10, 64)
			return kb << 10, err
		}
	}
	return 0, fmt.Errorf("process %d has no VmRSS", pid)
}
