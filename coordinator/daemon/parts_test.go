package daemon

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"berth/agent"
	"berth/coordinator"
	"berth/coordinator/ca"
	"berth/coordinator/dist"
	"berth/coordinator/seal"
	"berth/coordinator/sqlite"
)

func openStore(t *testing.T) *sqlite.Store {
	t.Helper()
	dir := t.TempDir()
	key, err := seal.LoadOrCreate(filepath.Join(dir, "k", "key"))
	if err != nil {
		t.Fatal(err)
	}
	s, err := sqlite.Open(t.Context(), dir, key, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func must[T any](t *testing.T, v T, err error) T {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// started makes a user with a workspace whose start build has succeeded.
func started(t *testing.T, s *sqlite.Store) (coordinator.User, coordinator.Workspace, coordinator.Build) {
	t.Helper()
	ctx := t.Context()
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	u := coordinator.User{Name: "mary", FullName: "Mary M", Email: "mary@example.com", Role: coordinator.RoleMember}
	check(s.CreateUser(ctx, &u, must2(ca.NewGitKey("mary@berth"))(t)))
	v := coordinator.TemplateVersion{Archive: strings.Repeat("a", 64), Status: coordinator.VersionImporting, Activate: true, CreatedBy: u.ID}
	tpl, err := s.CreateTemplateVersion(ctx, "local", "", &v)
	check(err)
	check(s.FinishImport(ctx, v.ID, coordinator.Result{Status: coordinator.BuildSucceeded, Imported: &coordinator.Import{}}))
	ws := coordinator.Workspace{Name: "dev", OwnerID: u.ID, OwnerName: u.Name, TemplateID: tpl.ID, VersionID: v.ID}
	check(s.CreateWorkspace(ctx, &ws, must2(ca.NewHostIdentity())(t)))
	return u, must(t, ws, nil), startBuild(t, s, ws)
}

func must2[T any](v T, err error) func(*testing.T) T {
	return func(t *testing.T) T {
		t.Helper()
		return must(t, v, err)
	}
}

func startBuild(t *testing.T, s *sqlite.Store, ws coordinator.Workspace) coordinator.Build {
	t.Helper()
	ctx := t.Context()
	b := coordinator.Build{WorkspaceID: ws.ID, Transition: coordinator.Start, Reason: coordinator.ReasonUser, VersionID: ws.VersionID}
	if err := s.CreateBuild(ctx, &b); err != nil {
		t.Fatal(err)
	}
	claimed := must2(s.ClaimBuild(ctx, time.Now()))(t)
	_, err := s.FinishBuild(ctx, claimed.ID, coordinator.Result{Status: coordinator.BuildSucceeded, Agents: []coordinator.AgentRecord{
		{ID: "ag1", Name: "main", OS: "linux", Arch: "amd64", Env: map[string]string{"A": "b"}}, {ID: "ag2", Name: "side", OS: "linux", Arch: "amd64"},
	}}, time.Now())
	return must(t, *claimed, err)
}

func TestManifest(t *testing.T) {
	s := openStore(t)
	u, ws, build := started(t, s)
	ctx := t.Context()
	if err := errors.Join(
		s.SetDotfiles(ctx, u.ID, "https://example.com/dotfiles"),
		s.PutSecret(ctx, coordinator.UserSecret{UserID: u.ID, Name: "npm", Env: "NPM_TOKEN", Value: "v4lue"}),
		s.AddKey(ctx, &coordinator.SSHKey{UserID: u.ID, Name: "laptop", PublicKey: "ssh-ed25519 AAAA", Fingerprint: "SHA256:x"}),
	); err != nil {
		t.Fatal(err)
	}
	c := must2(ca.New())(t)
	programs := t.TempDir()
	write(t, filepath.Join(programs, "berth"), "cli", 0o755)
	tokens := &workspaceTokens{store: s, now: time.Now, live: map[coordinator.WorkspaceID]liveToken{}}
	m := &manifests{
		store: s, ca: c, carried: must2(dist.Beside(programs))(t), tokens: tokens, agentURL: "https://berth.example.com", suffix: "berth",
		gitHosts: knownGitHosts, now: time.Now,
	}
	man := must2(m.Manifest(ctx, ws.ID, "ag1"))(t)
	if man.Workspace != "dev" || man.Owner.Name != "mary" || man.Agent.Name != "main" || man.StartBuild != string(build.ID) ||
		man.DotfilesURL == "" || man.Agent.Env["A"] != "b" || man.Git.PrivateKey == "" || !strings.Contains(man.Git.KnownHosts, "github.com ") {
		t.Errorf("got %#v", *man)
	}
	if len(man.Secrets) != 1 || man.Secrets[0].Value != "v4lue" {
		t.Errorf("secrets: %v", man.Secrets)
	}
	if p := man.SSH.People; len(p) != 1 || p[0].ID != string(u.ID) || !slices.Equal(p[0].Keys, []string{"ssh-ed25519 AAAA"}) {
		t.Errorf("people: %v", p)
	}
	if f, ok := m.carried.Find(dist.CLI, "linux", "amd64"); ok && (man.CLI == nil || man.CLI.URL != "https://berth.example.com/dist/"+f.SHA256+"/berth") {
		t.Errorf("CLI: %v", man.CLI)
	}
	checkHostKeys(t, c, man.SSH.HostKeys)

	// Both agents of one start share a token; the next start has another, and the old one is dead.
	other := must2(m.Manifest(ctx, ws.ID, "ag2"))(t)
	if other.Token != man.Token {
		t.Error("two agents have two tokens")
	}
	row, who, err := s.TokenByHash(ctx, coordinator.HashToken(man.Token), time.Now())
	if err != nil || row.WorkspaceID != ws.ID || who.ID != u.ID {
		t.Errorf("token: %+v, %v", row, err)
	}
	startBuild(t, s, ws)
	next := must2(m.Manifest(ctx, ws.ID, "ag1"))(t)
	if _, _, err := s.TokenByHash(ctx, coordinator.HashToken(man.Token), time.Now()); next.Token == man.Token || coordinator.CodeOf(err) != coordinator.CodeUnauthenticated {
		t.Errorf("the old token: %v", err)
	}
	// A coordinator that starts has forgotten the token: the agent gets one that works.
	tokens.live = map[coordinator.WorkspaceID]liveToken{}
	again := must2(m.Manifest(ctx, ws.ID, "ag1"))(t)
	if _, _, err := s.TokenByHash(ctx, coordinator.HashToken(again.Token), time.Now()); err != nil {
		t.Errorf("after a restart: %v", err)
	}
	if err := tokens.revoke(ctx, ws.ID); err != nil {
		t.Fatal(err)
	}
	if _, _, err := s.TokenByHash(ctx, coordinator.HashToken(again.Token), time.Now()); coordinator.CodeOf(err) != coordinator.CodeUnauthenticated {
		t.Errorf("after the stop: %v", err)
	}
	if _, err := m.Manifest(ctx, ws.ID, "ag3"); coordinator.CodeOf(err) != coordinator.CodeNotFound {
		t.Errorf("an agent that is not there: %v", err)
	}
}

// checkHostKeys checks that the certificates prove the workspace's names, and no other.
func checkHostKeys(t *testing.T, c *ca.CA, keys []agent.HostKey) {
	t.Helper()
	if len(keys) != 2 {
		t.Fatalf("%d host keys", len(keys))
	}
	authority, _, _, _, err := ssh.ParseAuthorizedKey([]byte(c.HostCALine()))
	if err != nil {
		t.Fatal(err)
	}
	for i, k := range keys {
		pub, _, _, _, err := ssh.ParseAuthorizedKey([]byte(k.Certificate))
		if err != nil {
			t.Fatal(err)
		}
		if want := []string{ssh.CertAlgoED25519v01, ssh.CertAlgoECDSA256v01}[i]; pub.Type() != want {
			t.Errorf("key %d is %s", i, pub.Type())
		}
		checker := ssh.CertChecker{IsHostAuthority: func(a ssh.PublicKey, _ string) bool { return string(a.Marshal()) == string(authority.Marshal()) }}
		for name, ok := range map[string]bool{
			"dev": true, "dev.berth": true, "dev.mary.berth": true, "main.dev.mary.berth": true, "other.berth": false, "dev.otto.berth": false,
		} {
			if err := checker.CheckHostKey(name+":22", &net.TCPAddr{}, pub); (err == nil) != ok {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
}

func TestJob(t *testing.T) {
	s := openStore(t)
	u, ws, build := started(t, s)
	path := filepath.Join(t.TempDir(), "terraform")
	write(t, path, "#!/bin/sh\n", 0o755)
	j := &jobs{
		store: s, data: "/data", url: "https://b", agentURL: "https://a", script: "#!/bin/sh", log: slog.New(slog.DiscardHandler),
		grant: coordinator.HostGrant{Homes: "/data/homes", Insecure: true}, terraform: coordinator.Terraform{Path: path, Version: "1.11.4"},
	}
	got := must2(j.Job(t.Context(), build))(t)
	if got.ID != string(build.ID) || got.Import || got.Transition != coordinator.Start || got.Workspace != "dev" || got.WorkspaceID != ws.ID ||
		got.Owner.Name != "mary" || !strings.HasPrefix(got.Owner.PublicKey, "ssh-ed25519 ") || got.Template != "local" || got.Version != 1 ||
		got.ModuleDir != "/data/versions/"+string(build.VersionID) || got.AccessURL != "https://b" || got.AgentURL != "https://a" ||
		len(got.AgentKey) == 0 || got.Host.UID != u.HostUID || !got.Host.Insecure || got.Terraform.Path != path {
		t.Errorf("got %#v", got)
	}
	v := must2(s.Version(t.Context(), build.VersionID))(t)
	imp := must2(j.ImportJob(t.Context(), v))(t)
	if !imp.Import || imp.ID != string(v.ID) || imp.WorkspaceID != "" || len(imp.AgentKey) != 0 || imp.Archive != v.Archive {
		t.Errorf("got %#v", imp)
	}
}

// TestNoTerraform checks that a missing terraform is told, and found once it is there.
func TestNoTerraform(t *testing.T) {
	s := openStore(t)
	_, _, build := started(t, s)
	t.Setenv("PATH", t.TempDir())
	j := &jobs{store: s, data: "/data", log: slog.New(slog.DiscardHandler)}
	_, err := j.Job(t.Context(), build)
	var e *coordinator.Error
	if !errors.As(err, &e) || !strings.Contains(e.Msg, "terraform is not on PATH") || !strings.Contains(e.Hint, "install terraform") {
		t.Fatalf("got %v", err)
	}
	bin := os.Getenv("PATH")
	write(t, filepath.Join(bin, "terraform"), "#!/bin/sh\necho '{\"terraform_version\":\"1.9.0\"}'\n", 0o755)
	got, err := j.Job(t.Context(), build)
	if err != nil || got.Terraform.Version != "1.9.0" {
		t.Errorf("got %v, %v", got.Terraform, err)
	}
	if err := os.Remove(filepath.Join(bin, "terraform")); err != nil {
		t.Fatal(err)
	}
	if _, err := j.Job(t.Context(), build); err == nil {
		t.Error("a terraform that has gone is used")
	}
}

func TestDoorName(t *testing.T) {
	public := must2(url.Parse("https://berth.example.com"))(t)
	for _, tt := range []struct {
		name, sshHost, listen string
		want                  doorName
		known                 string
	}{
		{"loopback", "", "127.0.0.1:7022", doorName{"127.0.0.1", 7022}, "*.berth,[127.0.0.1]:7022,[localhost]:7022,[::1]:7022 "},
		{"all addresses", "", "[::]:22", doorName{"berth.example.com", 22}, "*.berth,berth.example.com "},
		{"one address", "", "192.0.2.1:2222", doorName{"berth.example.com", 2222}, "*.berth,[berth.example.com]:2222 "},
		{"named", "SSH.example.com", "127.0.0.1:7022", doorName{"ssh.example.com", 7022}, "*.berth,[ssh.example.com]:7022 "},
		{"named with a port", "ssh.example.com:22", "127.0.0.1:7022", doorName{"ssh.example.com", 22}, "*.berth,ssh.example.com "},
		{"not a name", "a b", "127.0.0.1:7022", doorName{}, ""},
		{"pattern", "*", "127.0.0.1:7022", doorName{}, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			addr := must2(net.ResolveTCPAddr("tcp", tt.listen))(t)
			got, err := doorAt(settings{sshHost: tt.sshHost, public: public}, addr)
			if got != tt.want || (err != nil) != (tt.known == "") {
				t.Fatalf("got %v, %v", got, err)
			}
			if tt.known != "" {
				c := must2(ca.New())(t)
				if line := got.knownHosts(c, "berth"); !strings.HasPrefix(line, "@cert-authority "+tt.known) {
					t.Errorf("got %s", line)
				}
			}
		})
	}
}

// TestGitHosts checks the pinned keys against the fingerprints that their owners publish.
func TestGitHosts(t *testing.T) {
	want := map[string]bool{
		"github.com SHA256:+DiY3wvvV6TuJJhbpZisF/zLDA0zPMSvHdkr4UvCOqU":    true,
		"github.com SHA256:p2QAMXNIC1TJYWeIOttrVc98/R1BUFWu3/LiyKgUfQM":    true,
		"gitlab.com SHA256:eUXGGm1YGsMAS7vkcx6JOJdOGHPem5gQp4taiCfCLB8":    true,
		"gitlab.com SHA256:HbW3g8zUjNSksFbqTiUWPWg2Bq1x8xdGUrliXFzSnUw":    true,
		"bitbucket.org SHA256:ybgmFkzwOSotHTHLJgHO0QN8L0xErw6vd0VhFA9m3SM": true,
	}
	n := 0
	for rest := []byte(knownGitHosts); ; n++ {
		_, hosts, key, _, more, err := ssh.ParseKnownHosts(rest)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if got := hosts[0] + " " + ssh.FingerprintSHA256(key); !want[got] {
			t.Errorf("unexpected %s", got)
		}
		rest = more
	}
	if n != len(want) {
		t.Errorf("%d keys", n)
	}
	file := filepath.Join(t.TempDir(), "hosts")
	write(t, file, "git.example.com ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIIazEu89wgQZ4bqs3d63QSMzYVa0MuJ2e2gKTKqu+UUO\n", 0o644)
	all, err := gitHosts(file)
	if err != nil || !strings.HasPrefix(all, "git.example.com ") || !strings.Contains(all, "\ngithub.com ") {
		t.Errorf("got %q, %v", all, err)
	}
	write(t, file, "nonsense\n", 0o644)
	if _, err := gitHosts(file); err == nil {
		t.Error("nonsense is taken")
	}
}

// certificate writes a self-signed certificate and its key.
func certificate(t *testing.T, dir string, serial int64) (cert, key string) {
	t.Helper()
	k := must2(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))(t)
	tpl := &x509.Certificate{
		SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: "berth"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der := must2(x509.CreateCertificate(rand.Reader, tpl, tpl, &k.PublicKey, k))(t)
	keyDER := must2(x509.MarshalPKCS8PrivateKey(k))(t)
	cert, key = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	write(t, cert, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})), 0o644)
	write(t, key, string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})), 0o600)
	return cert, key
}

// TestTLS runs berthd with a certificate that nobody knows: it is pinned in what agents get.
func TestTLS(t *testing.T) {
	p := newPlace(t)
	cert, key := certificate(t, t.TempDir(), 1)
	i := start(t, p.args("--tls-cert", cert, "--tls-key", key)...)
	base := i.ready()
	pemBytes := must2(os.ReadFile(cert))(t)
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(pemBytes)
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}}}
	defer client.CloseIdleConnections()
	resp, err := client.Get(base + "/healthz")
	if err != nil || resp.StatusCode != 200 || !strings.HasPrefix(base, "https://127.0.0.1:") {
		t.Fatalf("%s: %v, %v", base, resp, err)
	}
	resp.Body.Close()
	i.stop()
	pin, err := agentCA(settings{tlsCert: cert, tlsKey: key})
	if err != nil || pin != string(pemBytes) {
		t.Errorf("got %q, %v", pin, err)
	}
}

// TestRenewal checks that a renewed certificate is taken, and that half a renewal changes nothing.
func TestRenewal(t *testing.T) {
	dir := t.TempDir()
	cert, key := certificate(t, dir, 1)
	c := &certFiles{cert: cert, key: key}
	now := time.Now()
	serial := func() int64 {
		t.Helper()
		return must2(c.certificate(now))(t).Leaf.SerialNumber.Int64()
	}
	if serial() != 1 {
		t.Error("not the first")
	}
	touch := func(d time.Duration) {
		t.Helper()
		if err := os.Chtimes(cert, now.Add(d), now.Add(d)); err != nil {
			t.Fatal(err)
		}
	}
	certificate(t, dir, 2)
	write(t, key, "half", 0o600)
	touch(time.Second)
	now = now.Add(2 * time.Minute)
	if serial() != 1 {
		t.Error("half a renewal is taken")
	}
	certificate(t, dir, 3)
	touch(2 * time.Second)
	if serial() != 1 {
		t.Error("the files are read more than once a minute")
	}
	now = now.Add(2 * time.Minute)
	if serial() != 3 {
		t.Error("the renewed certificate is not taken")
	}
}

func TestSettings(t *testing.T) {
	env := map[string]string{"HOME": "/home/x", "BERTH_HTTP": "127.0.0.1:1", "BERTH_INSECURE_HTTP": "1", "BERTH_WORKERS": "3"}
	s, err := parseSettings([]string{"--http", "127.0.0.1:2"}, func(k string) string { return env[k] }, io.Discard)
	if err != nil || s.http != "127.0.0.1:2" || !s.insecureHTTP || s.workers != 3 || s.data != "/home/x/.local/share/berth" ||
		s.keyFile != "/home/x/.config/berth/key" || s.ssh != defaultSSH || s.suffix != "berth" {
		t.Errorf("got %+v, %v", s, err)
	}
	env["BERTH_SSH_EXEMPT"] = "192.0.2.0/24, 2001:db8::1"
	if s, err := parseSettings(nil, func(k string) string { return env[k] }, io.Discard); err != nil || s.sshExempt.String() != "192.0.2.0/24,2001:db8::1/128" {
		t.Errorf("got %v, %v", s.sshExempt, err)
	}
	if _, err := parseSettings([]string{"--ssh-exempt", "everybody"}, func(k string) string { return env[k] }, io.Discard); err == nil || !strings.Contains(err.Error(), "is no network") {
		t.Errorf("got %v", err)
	}
	env["BERTH_WORKERS"] = "many"
	if _, err := parseSettings(nil, func(k string) string { return env[k] }, io.Discard); err == nil || !strings.Contains(err.Error(), "BERTH_WORKERS") {
		t.Errorf("got %v", err)
	}
	creds := t.TempDir()
	write(t, filepath.Join(creds, "berth-key"), "x", 0o600)
	if got := defaultKeyFile(func(k string) string { return map[string]string{"CREDENTIALS_DIRECTORY": creds}[k] }); got != filepath.Join(creds, "berth-key") {
		t.Errorf("got %s", got)
	}
	s = settings{tlsACME: "berth.example.com", http: ":443"}
	if err := s.complete(&net.TCPAddr{Port: 443}); err != nil || s.public.String() != "https://berth.example.com" || s.agentsPublic != s.public {
		t.Errorf("got %v, %v", s.public, err)
	}
}

// TestNotify checks what systemd hears.
func TestNotify(t *testing.T) {
	path := filepath.Join(t.TempDir(), "n")
	l := must2(net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"}))(t)
	defer l.Close()
	t.Setenv("NOTIFY_SOCKET", path)
	notify("READY=1")
	buf := make([]byte, 100)
	if n, err := l.Read(buf); err != nil || string(buf[:n]) != "READY=1" {
		t.Errorf("got %q, %v", buf[:n], err)
	}
}
