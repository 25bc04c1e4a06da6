package main

import (
	"bufio"
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"
)

// login pairs `ssh bare true`, to a bare golang.org/x/crypto/ssh server in this process, with `ssh dev.berth true`
// through berth connect.
func (b *bed) login(ctx context.Context) ([]figure, error) {
	if _, err := b.berth(ctx, "create", "dev", "--template", "local"); err != nil {
		return nil, err
	}
	config, err := b.sshConfig(ctx)
	if err != nil {
		return nil, err
	}
	bare, stop, err := b.bareServer()
	if err != nil {
		return nil, err
	}
	defer stop()
	berth := filepath.Join(b.bin, "berth")
	var base, got, process []time.Duration
	for range *pairs + 1 {
		p, err := b.timed(ctx, berth, "version")
		if err != nil {
			return nil, err
		}
		d, err := b.timed(ctx, "ssh", "-F", bare, "bare", "true")
		if err != nil {
			return nil, err
		}
		g, err := b.timed(ctx, "ssh", "-F", config, "dev.berth", "true")
		if err != nil {
			return nil, err
		}
		process, base, got = append(process, p), append(base, d), append(got, g)
	}
	process, base, got = process[1:], base[1:], got[1:] // the first pair warms caches
	p, _ := median(process)
	m, noise := median(base)
	g, _ := median(got)
	limit := m*12/10 + p + 10*time.Millisecond
	return []figure{{
		name: "ssh dev.berth true over a bare server", pass: g <= limit,
		got:      fmt.Sprintf("%s = %.2f x", ms(g), float64(g)/float64(m)),
		limit:    fmt.Sprintf("%s = 1.2 x + one process (%s) + 10 ms", ms(limit), ms(p)),
		baseline: fmt.Sprintf("%s ± %s", ms(m), ms(noise)),
	}}, nil
}

// bareServer serves SSH with golang.org/x/crypto/ssh and nothing around it, and returns an ssh_config for it.
func (b *bed) bareServer() (config string, stop func(), err error) {
	dir := filepath.Join(b.dir, "bare")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", nil, err
	}
	_, hostKey, err := ed25519.GenerateKey(nil)
	if err != nil {
		return "", nil, err
	}
	signer, err := ssh.NewSignerFromSigner(hostKey)
	if err != nil {
		return "", nil, err
	}
	identity := filepath.Join(b.dir, "cli", "id_ed25519")
	authorized, err := os.ReadFile(identity + ".pub")
	if err != nil {
		return "", nil, err
	}
	want, _, _, _, err := ssh.ParseAuthorizedKey(authorized)
	if err != nil {
		return "", nil, err
	}
	server := &ssh.ServerConfig{PublicKeyCallback: func(_ ssh.ConnMetadata, key ssh.PublicKey) (*ssh.Permissions, error) {
		if string(key.Marshal()) != string(want.Marshal()) {
			return nil, errors.New("unknown key")
		}
		return nil, nil
	}}
	server.AddHostKey(signer)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", nil, err
	}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go serveBare(c, server)
		}
	}()
	host, port, err := net.SplitHostPort(l.Addr().String())
	if err != nil {
		return "", nil, err
	}
	known := filepath.Join(dir, "known_hosts")
	line := fmt.Sprintf("bare %s", ssh.MarshalAuthorizedKey(signer.PublicKey()))
	if err := os.WriteFile(known, []byte(line), 0o600); err != nil {
		return "", nil, err
	}
	config = filepath.Join(dir, "config")
	text := fmt.Sprintf("Host bare\n  HostName %s\n  Port %s\n  HostKeyAlias bare\n  UserKnownHostsFile %s\n  IdentityFile %s\n  IdentitiesOnly yes\n", host, port, known, identity)
	return config, func() { _ = l.Close() }, os.WriteFile(config, []byte(text), 0o600)
}

func serveBare(c net.Conn, config *ssh.ServerConfig) {
	defer c.Close()
	conn, chans, reqs, err := ssh.NewServerConn(c, config)
	if err != nil {
		return
	}
	defer conn.Close()
	go ssh.DiscardRequests(reqs)
	for n := range chans {
		ch, requests, err := n.Accept()
		if err != nil {
			return
		}
		go bareSession(ch, requests)
	}
}

func bareSession(ch ssh.Channel, requests <-chan *ssh.Request) {
	defer ch.Close()
	for r := range requests {
		if r.Type != "exec" {
			_ = r.Reply(false, nil)
			continue
		}
		var p struct{ Command string }
		_ = ssh.Unmarshal(r.Payload, &p)
		_ = r.Reply(true, nil)
		c := exec.Command("/bin/sh", "-c", p.Command)
		c.Stdout, c.Stderr = ch, ch.Stderr()
		var status struct{ Code uint32 }
		if err := c.Run(); err != nil {
			status.Code = 1
		}
		_, _ = ch.SendRequest("exit-status", false, ssh.Marshal(status))
		return
	}
}

// firstByte measures from the start of `berth connect` to the first byte of SSH's version line.
func (b *bed) firstByte(ctx context.Context) ([]figure, error) {
	var got, base []time.Duration
	for range *pairs + 1 {
		d, err := b.timed(ctx, "true")
		if err != nil {
			return nil, err
		}
		c := exec.CommandContext(ctx, filepath.Join(b.bin, "berth"), "connect", "dev")
		c.Env = b.env
		in, err := c.StdinPipe()
		if err != nil {
			return nil, err
		}
		out, err := c.StdoutPipe()
		if err != nil {
			return nil, err
		}
		begun := time.Now()
		if err := c.Start(); err != nil {
			return nil, err
		}
		if _, err := io.ReadFull(out, make([]byte, 1)); err != nil {
			return nil, err
		}
		got, base = append(got, time.Since(begun)), append(base, d)
		_ = in.Close()
		_ = c.Process.Kill()
		_ = c.Wait()
	}
	g, _ := median(got[1:])
	m, noise := median(base[1:])
	return []figure{{
		name: "first byte of berth connect", got: fmt.Sprintf("%s = %.1f x", ms(g), float64(g)/float64(m)), limit: "20 ms",
		baseline: fmt.Sprintf("/bin/true %s ± %s", ms(m), ms(noise)), pass: g <= 20*time.Millisecond,
	}}, nil
}

const slowModule = `terraform {
  required_providers {
    berth = { source = "berth/berth" }
  }
}
data "berth_workspace" "me" {}
resource "berth_agent" "main" {
  os   = "linux"
  arch = "amd64"
}
resource "berth_home" "home" {}
resource "terraform_data" "slow" {
  count = data.berth_workspace.me.start_count
  provisioner "local-exec" {
    command = "sleep 20"
  }
}
resource "berth_process" "dev" {
  count      = data.berth_workspace.me.start_count
  agent_id   = berth_agent.main.id
  home       = berth_home.home.id
  depends_on = [terraform_data.slow]
}
`

// doorProgress counts the progress lines that stock ssh with ConnectTimeout=5 prints while a resource takes 20 s.
func (b *bed) doorProgress(ctx context.Context) ([]figure, error) {
	dir := filepath.Join(b.dir, "slow")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	if err := os.WriteFile(filepath.Join(dir, "main.tf"), []byte(slowModule), 0o600); err != nil {
		return nil, err
	}
	if _, err := b.berth(ctx, "template", "push", "slow", dir); err != nil {
		return nil, err
	}
	if _, err := b.berth(ctx, "create", "slow", "--template", "slow", "--stopped"); err != nil {
		return nil, err
	}
	config, err := b.sshConfig(ctx)
	if err != nil {
		return nil, err
	}
	_, port, err := net.SplitHostPort(b.door)
	if err != nil {
		return nil, err
	}
	c := exec.CommandContext(ctx, "ssh", "-F", config, "-o", "ConnectTimeout=5", "-p", port, "slow@127.0.0.1", "echo in-the-shell")
	c.Env = b.env
	var stdout, stderr strings.Builder
	c.Stdout, c.Stderr = &stdout, &stderr
	if err := c.Run(); err != nil {
		return nil, fmt.Errorf("ssh: %w: %s", err, stderr.String())
	}
	lines := map[string]bool{}
	s := bufio.NewScanner(strings.NewReader(stderr.String()))
	for s.Scan() {
		if l := s.Text(); strings.Contains(l, "apply") && strings.Contains(l, "terraform_data.slow") && strings.Contains(l, " s)") {
			lines[l] = true
		}
	}
	_, err = b.berth(ctx, "delete", "slow", "--yes")
	return []figure{{
		name: "progress lines at the door in 20 s", got: fmt.Sprint(len(lines)), limit: "at least 5, then the shell",
		pass: len(lines) >= 5 && strings.Contains(stdout.String(), "in-the-shell"),
	}}, err
}
