package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// openSSH is OpenSSH's own server as a baseline: a bastion with a reverse tunnel, and what lies behind it.
type openSSH struct {
	config  string // an ssh_config with the hosts target, behind, bastion
	servers []*exec.Cmd
	bastion int // its process id
	tunnel  *exec.Cmd
}

const sshdConfig = `ListenAddress 127.0.0.1
Port %s
HostKey %s
AuthorizedKeysFile %s
PidFile none
UsePAM no
StrictModes no
PasswordAuthentication no
MaxSessions 1000
PermitRootLogin prohibit-password
`

// startOpenSSH starts two servers: the target, and the bastion to which a client by the target's side opens a reverse
// tunnel, as an agent does to a coordinator.
func (b *bed) startOpenSSH(ctx context.Context) (*openSSH, error) {
	sshd, err := findSSHD()
	if err != nil {
		return nil, err
	}
	dir := filepath.Join(b.dir, "openssh")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	hostKey := filepath.Join(dir, "host")
	if _, err := b.command(ctx, "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", hostKey); err != nil {
		return nil, err
	}
	identity := filepath.Join(b.dir, "cli", "id_ed25519")
	o := &openSSH{}
	var ports []string
	for range 3 {
		p, err := freePort()
		if err != nil {
			return nil, err
		}
		ports = append(ports, p)
	}
	target, bastion, behind := ports[0], ports[1], ports[2]
	for _, port := range []string{target, bastion} {
		config := filepath.Join(dir, "sshd_"+port)
		text := fmt.Sprintf(sshdConfig, port, hostKey, identity+".pub")
		if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
			return nil, err
		}
		c := exec.Command(sshd, "-D", "-e", "-f", config)
		log, err := os.Create(config + ".log")
		if err != nil {
			return nil, err
		}
		c.Stderr = log
		err = c.Start()
		_ = log.Close()
		if err != nil {
			return nil, err
		}
		o.servers = append(o.servers, c)
		if port == bastion {
			o.bastion = c.Process.Pid
		}
	}
	if o.config, err = o.writeConfig(dir, hostKey, identity, map[string]string{"target": target, "bastion": bastion, "behind": behind}); err != nil {
		return o, err
	}
	o.tunnel = exec.Command("ssh", "-F", o.config, "-N", "-o", "ExitOnForwardFailure=yes", "-R", "127.0.0.1:"+behind+":127.0.0.1:"+target, "bastion")
	o.tunnel.Env = b.env
	for _, port := range []string{target, bastion} {
		if err := poll(ctx, 10*time.Second, func() bool { return answers("127.0.0.1:" + port) }); err != nil {
			return o, err
		}
	}
	if err := o.tunnel.Start(); err != nil {
		return o, err
	}
	return o, poll(ctx, 10*time.Second, func() bool { return answers("127.0.0.1:" + behind) })
}

func (o *openSSH) writeConfig(dir, hostKey, identity string, hosts map[string]string) (string, error) {
	public, err := os.ReadFile(hostKey + ".pub")
	if err != nil {
		return "", err
	}
	known := filepath.Join(dir, "known_hosts")
	if err := os.WriteFile(known, []byte("openssh "+string(public)), 0o600); err != nil {
		return "", err
	}
	me, err := user.Current()
	if err != nil {
		return "", err
	}
	var text strings.Builder
	for name, port := range hosts {
		fmt.Fprintf(&text, "Host %s\n  HostName 127.0.0.1\n  Port %s\n", name, port)
	}
	fmt.Fprintf(&text, "Host *\n  User %s\n  HostKeyAlias openssh\n  UserKnownHostsFile %s\n  IdentityFile %s\n  IdentitiesOnly yes\n", me.Username, known, identity)
	path := filepath.Join(dir, "ssh_config")
	return path, os.WriteFile(path, []byte(text.String()), 0o600)
}

func (o *openSSH) close() {
	for _, c := range append(o.servers, o.tunnel) {
		if c != nil && c.Process != nil {
			_ = c.Process.Kill()
			_ = c.Wait()
		}
	}
}

func findSSHD() (string, error) {
	for _, p := range []string{"/usr/sbin/sshd", "/usr/local/sbin/sshd"} {
		if _, err := os.Stat(p); err == nil {
			return p, nil
		}
	}
	return "", errors.New("no sshd: scripts/deps installs it")
}

func freePort() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer l.Close()
	_, port, err := net.SplitHostPort(l.Addr().String())
	return port, err
}

func answers(addr string) bool {
	c, err := net.DialTimeout("tcp", addr, time.Second)
	if err != nil {
		return false
	}
	defer c.Close()
	_ = c.SetReadDeadline(time.Now().Add(time.Second))
	n, err := c.Read(make([]byte, 4))
	return err == nil && n > 0
}

// cpu returns the CPU time that a process and its descendants have used, those that have ended and were waited for
// included.
func cpu(pid int) time.Duration {
	all := map[int]int{} // parents
	used := map[int]time.Duration{}
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return 0
	}
	for _, e := range entries {
		p, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		stat, err := os.ReadFile(filepath.Join("/proc", e.Name(), "stat"))
		if err != nil {
			continue
		}
		_, rest, ok := strings.Cut(string(stat), ") ")
		f := strings.Fields(rest)
		if !ok || len(f) < 15 {
			continue
		}
		all[p], _ = strconv.Atoi(f[1])
		var ticks int
		for _, s := range f[11:15] { // utime, stime and those of children
			n, _ := strconv.Atoi(s)
			ticks += n
		}
		used[p] = time.Duration(ticks) * 10 * time.Millisecond // USER_HZ is 100 everywhere
	}
	var sum time.Duration
	for p, d := range used {
		for q := p; q > 1; q = all[q] {
			if q == pid {
				sum += d
				break
			}
		}
	}
	return sum
}
