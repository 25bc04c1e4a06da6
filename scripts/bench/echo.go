package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"
)

// The link on which echoes are measured.
const (
	linkDelay = 10 * time.Millisecond // one way: 20 ms there and back
	linkRate  = 20e6 / 8              // bytes a second
)

// echo measures how long a typed character takes to come back while a bulk transfer runs in another connection of the
// same workspace, whose agent is behind a slow link, beside the same without the transfer.
func (b *bed) echo(ctx context.Context) ([]figure, error) {
	far, err := newFarBed(ctx)
	if err != nil {
		return nil, err
	}
	defer far.close()
	if _, err := far.berth(ctx, "create", "dev", "--template", "local"); err != nil {
		return nil, err
	}
	config, err := far.sshConfig(ctx)
	if err != nil {
		return nil, err
	}
	keys, err := far.terminal(ctx, config)
	if err != nil {
		return nil, err
	}
	defer keys.close()
	quiet, err := keys.echoes()
	if err != nil {
		return nil, err
	}
	var figures []figure
	for _, way := range []struct {
		name    string
		command string
		input   string
	}{{"down", "cat /dev/zero", "/dev/null"}, {"up", "cat > /dev/null", "/dev/zero"}} {
		bulk := exec.CommandContext(ctx, "ssh", "-F", config, "dev.berth", way.command)
		bulk.Env = far.env
		if bulk.Stdin, err = os.Open(way.input); err != nil {
			return nil, err
		}
		if err := bulk.Start(); err != nil {
			return nil, err
		}
		time.Sleep(2 * time.Second) // its buffers fill
		busy, err := keys.echoes()
		_ = bulk.Process.Kill()
		_ = bulk.Wait()
		if err != nil {
			return nil, err
		}
		p, q := p95(busy), p95(quiet)
		figures = append(figures, figure{
			name: "95 % of echoes while bulk goes " + way.name, got: fmt.Sprintf("%s = %.1f x", ms(p), float64(p)/float64(q)),
			limit: "60 ms over", baseline: "quiet " + ms(q), pass: p <= q+60*time.Millisecond,
		})
		time.Sleep(time.Second) // what is still on its way
	}
	return figures, nil
}

func p95(d []time.Duration) time.Duration {
	s := slices.Sorted(slices.Values(d))
	return s[len(s)*95/100]
}

// A terminal is a shell's terminal that echoes.
type terminal struct {
	cmd *exec.Cmd
	in  io.WriteCloser
	out io.Reader
}

func (b *bed) terminal(ctx context.Context, config string) (*terminal, error) {
	c := exec.CommandContext(ctx, "ssh", "-F", config, "-tt", "dev.berth", "echo there; exec cat > /dev/null")
	c.Env = b.env
	in, err := c.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := c.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := c.Start(); err != nil {
		return nil, err
	}
	t := &terminal{c, in, out}
	line := make([]byte, len("there\r\n"))
	_, err = io.ReadFull(out, line)
	return t, err
}

// echoes types a hundred characters.
func (t *terminal) echoes() ([]time.Duration, error) {
	var all []time.Duration
	b := make([]byte, 1)
	for range 100 {
		begun := time.Now()
		if _, err := t.in.Write([]byte("x")); err != nil {
			return nil, err
		}
		if _, err := io.ReadFull(t.out, b); err != nil {
			return nil, err
		}
		all = append(all, time.Since(begun))
		time.Sleep(20 * time.Millisecond)
	}
	return all, nil
}

func (t *terminal) close() {
	_ = t.cmd.Process.Kill()
	_ = t.cmd.Wait()
}

// shells opens a hundred shells at once on one connection to the door, and waits until all answer.
func (b *bed) shells(ctx context.Context) ([]figure, error) {
	const count = 100
	if err := b.ensureDev(ctx); err != nil {
		return nil, err
	}
	if _, err := b.sshConfig(ctx); err != nil {
		return nil, err
	}
	client, err := b.doorClient("dev")
	if err != nil {
		return nil, err
	}
	defer client.Close()
	var got []time.Duration
	for range 3 {
		begun := time.Now()
		errs := make([]error, count)
		var all sync.WaitGroup
		for i := range count {
			all.Go(func() { errs[i] = shellAnswers(client) })
		}
		all.Wait()
		if err := errors.Join(errs...); err != nil {
			return nil, err
		}
		got = append(got, time.Since(begun))
	}
	g, noise := median(got)
	return []figure{{
		name: "100 shells at once on one connection", got: fmt.Sprintf("%s ± %s", ms(g), ms(noise)), limit: "3000 ms", pass: g <= 3*time.Second,
	}}, nil
}

// doorClient connects to the door with the CLI's key, whose certificate authority it checks.
func (b *bed) doorClient(login string) (*ssh.Client, error) {
	pem, err := os.ReadFile(filepath.Join(b.dir, "cli", "id_ed25519"))
	if err != nil {
		return nil, err
	}
	key, err := ssh.ParsePrivateKey(pem)
	if err != nil {
		return nil, err
	}
	check, err := knownhosts.New(filepath.Join(b.dir, "cli", "known_hosts"))
	if err != nil {
		return nil, err
	}
	return ssh.Dial("tcp", b.door, &ssh.ClientConfig{
		User: login, Auth: []ssh.AuthMethod{ssh.PublicKeys(key)}, HostKeyCallback: check, Timeout: 10 * time.Second,
		HostKeyAlgorithms: []string{ssh.CertAlgoED25519v01},
	})
}

func shellAnswers(client *ssh.Client) error {
	s, err := client.NewSession()
	if err != nil {
		return err
	}
	defer func() { _ = s.Close() }() // it answered
	in, err := s.StdinPipe()
	if err != nil {
		return err
	}
	out, err := s.StdoutPipe()
	if err != nil {
		return err
	}
	if err := errors.Join(s.RequestPty("xterm", 24, 80, ssh.TerminalModes{}), s.Shell()); err != nil {
		return err
	}
	if _, err := io.WriteString(in, "echo the''re\n"); err != nil {
		return err
	}
	var seen strings.Builder
	b := make([]byte, 4<<10)
	for !strings.Contains(seen.String(), "there") {
		n, err := out.Read(b)
		seen.Write(b[:n])
		if err != nil {
			return fmt.Errorf("shell: %w after %q", err, seen.String())
		}
	}
	return nil
}

// direct pairs `ssh bare true` with `ssh straight true`, to the agent's server in this process.
func (b *bed) direct(ctx context.Context) ([]figure, error) {
	bare, stop, err := b.bareServer()
	if err != nil {
		return nil, err
	}
	defer stop()
	straight, stop2, err := b.straightAgent()
	if err != nil {
		return nil, err
	}
	defer stop2()
	base, got, err := b.paired(ctx, []string{"ssh", "-F", bare, "bare", "true"}, []string{"ssh", "-F", straight, "straight", "true"})
	if err != nil {
		return nil, err
	}
	m, noise := median(base)
	g, _ := median(got)
	return []figure{{
		name: "ssh host true straight to the agent", got: fmt.Sprintf("%s = %.2f x", ms(g), float64(g)/float64(m)), limit: "1.2 x",
		baseline: fmt.Sprintf("bare server %s ± %s", ms(m), ms(noise)), pass: float64(g) <= 1.2*float64(m),
	}}, nil
}

// paired runs two commands in turn; the first pair warms caches.
func (b *bed) paired(ctx context.Context, one, other []string) (base, got []time.Duration, err error) {
	for range *pairs + 1 {
		d, err := b.timed(ctx, one[0], one[1:]...)
		if err != nil {
			return nil, nil, err
		}
		g, err := b.timed(ctx, other[0], other[1:]...)
		if err != nil {
			return nil, nil, err
		}
		base, got = append(base, d), append(got, g)
	}
	return base[1:], got[1:], nil
}

// farLogin pairs a login to a bare server over a link of 50 ms with one through berth connect over such a link.
func (b *bed) farLogin(ctx context.Context) ([]figure, error) {
	const trip = 50 * time.Millisecond
	if err := b.ensureDev(ctx); err != nil {
		return nil, err
	}
	bare, stop, err := b.bareServer()
	if err != nil {
		return nil, err
	}
	defer stop()
	text, err := os.ReadFile(bare)
	if err != nil {
		return nil, err
	}
	port := between(string(text), "Port ", "\n")
	toBare, err := newSlowLink(ctx, "127.0.0.1:"+port, trip/2, 0)
	if err != nil {
		return nil, err
	}
	defer toBare.close()
	_, far, err := net.SplitHostPort(toBare.addr())
	if err != nil {
		return nil, err
	}
	toBerth, err := newSlowLink(ctx, b.http, trip/2, 0)
	if err != nil {
		return nil, err
	}
	defer toBerth.close()
	config, err := b.secondLogin(ctx, "http://"+toBerth.addr())
	if err != nil {
		return nil, err
	}
	process, err := b.timed(ctx, filepath.Join(b.bin, "berth"), "version")
	if err != nil {
		return nil, err
	}
	base, got, err := b.paired(ctx, []string{"ssh", "-F", bare, "-p", far, "bare", "true"}, []string{"ssh", "-F", config, "dev.berth", "true"})
	if err != nil {
		return nil, err
	}
	m, noise := median(base)
	g, _ := median(got)
	limit := m*12/10 + process + 10*time.Millisecond + trip
	return []figure{{
		name: "the same over a link of 50 ms", got: fmt.Sprintf("%s = %.2f x", ms(g), float64(g)/float64(m)), pass: g <= limit,
		limit: ms(limit) + ": as above and one round trip more", baseline: fmt.Sprintf("bare server %s ± %s", ms(m), ms(noise)),
	}}, nil
}

// secondLogin signs in again under another address of the coordinator, and returns an ssh_config that uses it.
func (b *bed) secondLogin(ctx context.Context, url string) (config string, err error) {
	token, err := b.berth(ctx, "tokens", "create", "far")
	if err != nil {
		return "", err
	}
	dir := filepath.Join(b.dir, "far")
	if _, err := b.berth(ctx, "--config-dir", dir, "login", url, "--token", strings.TrimSpace(string(token))); err != nil {
		return "", err
	}
	text, err := b.berth(ctx, "--config-dir", dir, "ssh-config", "--stdout")
	if err != nil {
		return "", err
	}
	config = filepath.Join(b.dir, "far_config")
	return config, os.WriteFile(config, text, 0o600)
}

func between(s, begin, end string) string {
	_, s, _ = strings.Cut(s, begin)
	s, _, _ = strings.Cut(s, end)
	return s
}
