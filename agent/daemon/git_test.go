package daemon

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// gitHost is a Git host on real parts: OpenSSH's server, git, and a repository that one key opens.
func (b *bed) gitHost() (repository, knownHosts string) {
	t := b.t
	t.Helper()
	if _, err := os.Stat("/usr/sbin/sshd"); err != nil {
		t.Skip(err)
	}
	me, err := user.Current()
	must(t, err)
	dir := t.TempDir() // root's alone
	run := func(name string, args ...string) string {
		t.Helper()
		cmd := exec.Command(name, args...)
		cmd.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_SYSTEM=/dev/null")
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%s %v: %v\n%s", name, args, err, out)
		}
		return string(out)
	}
	repo := filepath.Join(dir, "repo.git")
	work := filepath.Join(dir, "work")
	run("git", "init", "-q", "--bare", "-b", "main", repo)
	run("git", "init", "-q", "-b", "main", work)
	must(t, os.WriteFile(filepath.Join(work, ".from-git-host"), []byte("hello"), 0o644))
	run("git", "-C", work, "add", "-A")
	run("git", "-C", work, "-c", "user.name=x", "-c", "user.email=x@example.com", "commit", "-q", "-m", "x")
	run("git", "-C", work, "push", "-q", repo, "main")

	run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", filepath.Join(dir, "host"))
	must(t, os.WriteFile(filepath.Join(dir, "authorized"), []byte(b.manifest.Git.PublicKey+"\n"), 0o600))
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	port := l.Addr().(*net.TCPAddr).Port
	l.Close()
	config := fmt.Sprintf("Port %d\nListenAddress 127.0.0.1\nHostKey %s/host\nAuthorizedKeysFile %s/authorized\nStrictModes no\n"+
		"PasswordAuthentication no\nKbdInteractiveAuthentication no\nUsePAM no\nPidFile none\n", port, dir, dir)
	must(t, os.WriteFile(filepath.Join(dir, "config"), []byte(config), 0o600))
	if os.Geteuid() == 0 {
		must(t, os.MkdirAll("/run/sshd", 0o755)) // where it goes without rights
	}
	sshd := exec.Command("/usr/sbin/sshd", "-D", "-e", "-f", filepath.Join(dir, "config"))
	must(t, sshd.Start())
	t.Cleanup(func() {
		_ = sshd.Process.Kill()
		_ = sshd.Wait()
	})
	poll(t, "sshd", func() bool {
		c, err := net.DialTimeout("tcp", l.Addr().String(), time.Second)
		if err == nil {
			c.Close()
		}
		return err == nil
	})
	public, err := os.ReadFile(filepath.Join(dir, "host.pub"))
	must(t, err)
	f := strings.Fields(string(public))
	return fmt.Sprintf("ssh://%s@127.0.0.1:%d%s", me.Username, port, repo), fmt.Sprintf("[127.0.0.1]:%d %s %s\n", port, f[0], f[1])
}

// TestGitKey clones over ssh with the owner's Git key, which nobody had to unpack, and signs a commit with it.
func TestGitKey(t *testing.T) {
	b := newBed(t)
	repository, knownHosts := b.gitHost()
	b.manifest.Git.KnownHosts = knownHosts
	b.manifest.DotfilesURL = repository
	// nobody, since OpenSSH serves only users that the system knows
	b.run(b.ordinary(65534))
	l := b.next()
	await(t, "startup", l.ready)
	c := b.ssh(l)
	if out := b.exec(c, "cat ~/.from-git-host"); out != "hello" {
		t.Errorf("dotfiles over ssh: %q", out)
	}
	out := b.exec(c, `set -e
git clone -q `+repository+` clone </dev/null
cd clone
echo more > more
git add more
git commit -q -S -m signed
git push -q origin main
git log -1 --format='%an <%ae> %cn'
echo "alice@example.com $(ssh-add -L)" > ../signers
git -c gpg.ssh.allowedSignersFile=../signers log -1 --format='%G?'
git config gpg.format
git config --global user.name Mine
git config user.name`)
	if want := "Alice <alice@example.com> Alice\nG\nssh\nMine\n"; !strings.HasSuffix(out, want) {
		t.Errorf("got %q, want %q", out, want)
	}
	left := b.exec(c, "find ~ -xdev -type f | xargs grep -l 'PRIVATE KEY' || true")
	if left != "" {
		t.Errorf("a private key lies in the home: %s", left)
	}
}
