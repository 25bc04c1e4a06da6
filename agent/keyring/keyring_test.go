package keyring

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/binary"
	"encoding/pem"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/crypto/ssh"
	sshagent "golang.org/x/crypto/ssh/agent"

	"berth/agent"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func newKey(t testing.TB) (agent.Secret, ed25519.PublicKey) {
	t.Helper()
	private := ed25519.NewKeyFromSeed(bytes.Repeat([]byte{7}, ed25519.SeedSize))
	block, err := ssh.MarshalPrivateKey(private, "")
	if err != nil {
		t.Fatal(err)
	}
	return agent.Secret(pem.EncodeToMemory(block)), private.Public().(ed25519.PublicKey)
}

// serve serves a keyring with a key on a socket and returns both.
func serve(t *testing.T) (*Keyring, string) {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "berth-keyring-") // short, for a socket's path; others may pass through
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	os.Chmod(dir, 0o755)
	path := filepath.Join(dir, "agent.sock")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	k := New(slog.New(slog.DiscardHandler))
	secret, _ := newKey(t)
	if err := k.Set(secret, "git key"); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- k.Serve(ctx, l) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	return k, path
}

func dial(t *testing.T, path string) net.Conn {
	t.Helper()
	c, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(5 * time.Second))
	return c
}

func TestListAndSign(t *testing.T) {
	k, path := serve(t)
	client := sshagent.NewClient(dial(t, path))
	keys, err := client.List()
	if err != nil || len(keys) != 1 || keys[0].Comment != "git key" || keys[0].Type() != ssh.KeyAlgoED25519 {
		t.Fatalf("List: %v, %v", keys, err)
	}
	sig, err := client.Sign(keys[0], []byte("data"))
	if err != nil {
		t.Fatal(err)
	}
	public, err := ssh.ParsePublicKey(keys[0].Blob)
	if err != nil {
		t.Fatal(err)
	}
	if err := public.Verify([]byte("data"), sig); err != nil {
		t.Errorf("Verify: %v", err)
	}
	if err := k.Set("", ""); err != nil {
		t.Fatal(err)
	}
	if left, err := client.List(); err != nil || len(left) != 0 {
		t.Errorf("List without a key: %v, %v", left, err)
	}
	if _, err := client.Sign(keys[0], []byte("data")); err == nil {
		t.Error("signed with a key that was taken away")
	}
}

func TestEverythingElseIsRefused(t *testing.T) {
	_, path := serve(t)
	client := sshagent.NewClient(dial(t, path))
	_, other, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	otherPublic, err := ssh.NewPublicKey(other.Public())
	if err != nil {
		t.Fatal(err)
	}
	for name, call := range map[string]func() error{
		"add":        func() error { return client.Add(sshagent.AddedKey{PrivateKey: &other}) },
		"remove all": client.RemoveAll,
		"remove":     func() error { return client.Remove(otherPublic) },
		"lock":       func() error { return client.Lock([]byte("x")) },
		"unlock":     func() error { return client.Unlock([]byte("x")) },
		"other key":  func() error { _, err := client.Sign(otherPublic, []byte("x")); return err },
		"extension":  func() error { _, err := client.Extension("session-bind@openssh.com", []byte("x")); return err },
	} {
		if err := call(); err == nil {
			t.Errorf("%s: not refused", name)
		}
	}
	if keys, err := client.List(); err != nil || len(keys) != 1 {
		t.Errorf("afterwards: %v, %v", keys, err)
	}
}

func TestMalformedFramesEndTheConnection(t *testing.T) {
	_, path := serve(t)
	for _, tt := range []struct {
		name string
		send []byte
	}{
		{"nothing", binary.BigEndian.AppendUint32(nil, 0)},
		{"huge", binary.BigEndian.AppendUint32(nil, 1<<31)},
		{"beyond the cap", binary.BigEndian.AppendUint32(nil, maxFrame+1)},
	} {
		c := dial(t, path)
		c.Write(tt.send)
		if b, err := io.ReadAll(c); err != nil || len(b) != 0 {
			t.Errorf("%s: %q, %v", tt.name, b, err)
		}
	}
}

func TestOpenSSH(t *testing.T) {
	_, path := serve(t)
	for _, tool := range []string{"ssh-add", "ssh-keygen"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skip(err)
		}
	}
	run := func(name string, args ...string) string {
		t.Helper()
		cmd := exec.Command(name, args...)
		cmd.Stdin = strings.NewReader("a commit")
		cmd.Env = append(os.Environ(), "SSH_AUTH_SOCK="+path)
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%s: %v\n%s", name, err, out)
		}
		return string(out)
	}
	public := run("ssh-add", "-L")
	if !strings.HasPrefix(public, "ssh-ed25519 ") {
		t.Fatalf("ssh-add -L: %s", public)
	}
	dir := t.TempDir()
	pub, msg := filepath.Join(dir, "key.pub"), filepath.Join(dir, "message")
	os.WriteFile(pub, []byte(public), 0o600)
	os.WriteFile(msg, []byte("a commit"), 0o600)
	run("ssh-keygen", "-Y", "sign", "-n", "git", "-f", pub, msg)
	run("ssh-keygen", "-Y", "check-novalidate", "-n", "git", "-s", msg+".sig")
}

func TestOtherUsersAreRefused(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root, to be somebody else")
	}
	k, path := serve(t)
	os.Chmod(path, 0o777) // so that the uid alone decides
	list := func(uid uint32) string {
		cmd := exec.Command("ssh-add", "-l")
		cmd.Env = []string{"SSH_AUTH_SOCK=" + path}
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
		out, _ := cmd.CombinedOutput()
		return string(out)
	}
	if out := list(54321); strings.Contains(out, "ED25519") {
		t.Errorf("another user lists keys: %s", out)
	}
	k.Allow(54321)
	if out := list(54321); !strings.Contains(out, "ED25519") {
		t.Errorf("the workspace's user cannot list keys: %s", out)
	}
}

func TestKeysOfOtherKindsAreRefused(t *testing.T) {
	k := New(slog.New(slog.DiscardHandler))
	for _, pem := range []agent.Secret{"x", "-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n-----END OPENSSH PRIVATE KEY-----\n"} {
		if err := k.Set(pem, ""); err == nil || strings.Contains(err.Error(), "AAAA") {
			t.Errorf("Set: %v", err)
		}
	}
}

// forwardAgent forwards an agent that holds one fresh key with the given comment. Closing broken ends its channels.
func forwardAgent(t *testing.T, k *Keyring, comment string, broken <-chan struct{}) (stop func()) {
	t.Helper()
	_, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	far := sshagent.NewKeyring()
	if err := far.Add(sshagent.AddedKey{PrivateKey: private, Comment: comment}); err != nil {
		t.Fatal(err)
	}
	return k.Forward(func() (io.ReadWriteCloser, error) {
		select {
		case <-broken:
			return nil, errors.New("gone")
		default:
		}
		near, end := net.Pipe()
		go sshagent.ServeAgent(far, end)
		go func() {
			<-broken
			near.Close()
		}()
		return near, nil
	})
}

func comments(keys []*sshagent.Key) string {
	var all []string
	for _, k := range keys {
		all = append(all, k.Comment)
	}
	return strings.Join(all, ", ")
}

func TestForwardedAgents(t *testing.T) {
	k, path := serve(t)
	oldest, newest := make(chan struct{}), make(chan struct{})
	defer close(oldest)
	stopOld := forwardAgent(t, k, "old", oldest)
	defer stopOld()
	stopNew := forwardAgent(t, k, "new", newest)
	defer stopNew()
	c := sshagent.NewClient(dial(t, path))
	keys, err := c.List()
	if err != nil || comments(keys) != "new, git key" {
		t.Fatalf("List: %s, %v", comments(keys), err)
	}
	for _, key := range keys {
		sig, err := c.Sign(key, []byte("data"))
		if err != nil {
			t.Fatalf("Sign with %s: %v", key.Comment, err)
		}
		if err := key.Verify([]byte("data"), sig); err != nil {
			t.Errorf("Verify %s: %v", key.Comment, err)
		}
	}
	// What is not about the Git key is the forwarded agent's to answer.
	_, private, _ := ed25519.GenerateKey(nil)
	if err := c.Add(sshagent.AddedKey{PrivateKey: private, Comment: "added"}); err != nil {
		t.Errorf("Add: %v", err)
	}
	if keys, err := c.List(); err != nil || comments(keys) != "new, added, git key" {
		t.Errorf("List after Add: %s, %v", comments(keys), err)
	}
	close(newest)
	if keys, err := c.List(); err != nil || comments(keys) != "old, git key" {
		t.Errorf("List without the newest: %s, %v", comments(keys), err)
	}
	stopOld()
	if keys, err := c.List(); err != nil || comments(keys) != "git key" {
		t.Errorf("List without any: %s, %v", comments(keys), err)
	}
	if keys, err := sshagent.NewClient(dial(t, path)).List(); err != nil || comments(keys) != "git key" {
		t.Errorf("List of another client: %s, %v", comments(keys), err)
	}
}

// A forwarded agent that lists nonsense is left, and the Git key is offered all the same.
func TestForwardedNonsense(t *testing.T) {
	for name, answer := range map[string][]byte{
		"too many":  {identitiesAnswer, 0xff, 0xff, 0xff, 0xff},
		"cut off":   {identitiesAnswer, 0, 0, 0, 1, 0, 0, 0, 9},
		"a failure": {failure},
	} {
		t.Run(name, func(t *testing.T) {
			k, path := serve(t)
			defer k.Forward(func() (io.ReadWriteCloser, error) {
				near, end := net.Pipe()
				go func() {
					defer end.Close()
					if _, err := readFrame(end); err == nil {
						writeFrame(end, answer)
					}
				}()
				return near, nil
			})()
			if keys, err := sshagent.NewClient(dial(t, path)).List(); err != nil || comments(keys) != "git key" {
				t.Errorf("List: %s, %v", comments(keys), err)
			}
		})
	}
}

// An agent whose client is silent, as one is whose lid was closed, holds up one request for a while and no other.
func TestSilentAgent(t *testing.T) {
	k, path := serve(t)
	k.patience = 50 * time.Millisecond
	release := make(chan struct{})
	asked := make(chan struct{}, 100)
	defer k.Forward(func() (io.ReadWriteCloser, error) {
		asked <- struct{}{}
		<-release
		return nil, errors.New("the connection has ended")
	})()
	defer close(release)
	for range 3 {
		if keys, err := sshagent.NewClient(dial(t, path)).List(); err != nil || comments(keys) != "git key" {
			t.Errorf("List: %s, %v", comments(keys), err)
		}
	}
	if len(asked) != 1 {
		t.Errorf("a silent agent was asked %d times", len(asked))
	}
}

// A client that hangs up frees its place, whatever the forwarded agent does.
func TestClientHangsUp(t *testing.T) {
	k, path := serve(t)
	release := make(chan struct{})
	asked := make(chan struct{}, maxClients+1)
	defer k.Forward(func() (io.ReadWriteCloser, error) {
		asked <- struct{}{}
		<-release
		return nil, errors.New("the connection has ended")
	})()
	defer close(release)
	for range maxClients {
		c := dial(t, path)
		if err := writeFrame(c, []byte{requestIdentities}); err != nil {
			t.Fatal(err)
		}
		<-asked
		c.Close()
	}
	k.Set("", "")
	for end := time.Now().Add(5 * time.Second); ; {
		c := dial(t, path)
		if err := writeFrame(c, []byte{signRequest}); err != nil {
			t.Fatal(err)
		}
		c.SetReadDeadline(time.Now().Add(200 * time.Millisecond))
		if _, err := c.Read(make([]byte, 1)); errors.Is(err, os.ErrDeadlineExceeded) {
			break // it was not turned away
		}
		if time.Now().After(end) {
			t.Fatal("clients that have gone hold all places")
		}
	}
}

func FuzzIdentities(f *testing.F) {
	f.Add([]byte{identitiesAnswer, 0, 0, 0, 1, 0, 0, 0, 1, 'k', 0, 0, 0, 1, 'c'})
	f.Add([]byte{identitiesAnswer, 0, 0, 0, 2, 0, 0, 0, 1, 'k'})
	f.Fuzz(func(t *testing.T, answer []byte) {
		n, entries, ok := parseIdentities(answer)
		if ok && (len(entries) > len(answer)-5 || uint64(n)*8 > uint64(len(entries))) {
			t.Errorf("%d entries in %d bytes", n, len(entries))
		}
	})
}

func FuzzAnswer(f *testing.F) {
	k := New(slog.New(slog.DiscardHandler))
	secret, public := newKey(f)
	if err := k.Set(secret, "c"); err != nil {
		f.Fatal(err)
	}
	blob := k.key.Load().blob
	sign := appendString(appendString([]byte{signRequest}, blob), []byte("data"))
	f.Add([]byte{requestIdentities})
	f.Add(append(sign, 0, 0, 0, 0))
	f.Add(sign)
	f.Add([]byte{signRequest, 0xff, 0xff, 0xff, 0xff})
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, request []byte) {
		var frame bytes.Buffer
		writeFrame(&frame, request)
		got, err := readFrame(&frame)
		if err != nil {
			return
		}
		answer := (&client{keys: k, ctx: t.Context()}).answer(got)
		switch answer[0] {
		case failure, identitiesAnswer:
		case signResponse:
			_, data, ok := parseSign(got[1:])
			sig := answer[len(answer)-ed25519.SignatureSize:]
			if !ok || !ed25519.Verify(public, data, sig) {
				t.Errorf("a signature that does not verify, for %x", request)
			}
		default:
			t.Errorf("answer of type %d", answer[0])
		}
	})
}
