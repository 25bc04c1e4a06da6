package cli

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"os"
	"runtime"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"

	"berth/agent"
	"berth/cli/client"
	"berth/coordinator"
	"berth/coordinator/rest"
)

const (
	stepTime    = 10 * time.Second // for one step on the network
	certSoon    = 14 * 24 * time.Hour
	tokenSoon   = 7 * 24 * time.Hour
	skewWarn    = 30 * time.Second
	skewFail    = 5 * time.Minute
	slowLatency = 250 * time.Millisecond
)

// A way is what is known of the way into the workspace so far.
type way struct {
	*app
	*diagnosis
	client *client.Client
	signed server
	facts  rest.Server
	me     rest.Whoami
}

// explained is what a person reads of an error.
func explained(err error) *coordinator.Error {
	var e *coordinator.Error
	switch {
	case errors.As(err, &e):
		return e
	case errors.Is(err, context.DeadlineExceeded):
		return &coordinator.Error{Msg: "no answer in time", Hint: "check the network, and HTTPS_PROXY where one is needed"}
	default:
		return &coordinator.Error{Msg: err.Error()}
	}
}

// server looks at the address and what is behind it. It reports whether the server answers.
func (w *way) server(ctx context.Context) bool {
	var err error
	if w.client, w.signed, err = w.app.client(); err != nil {
		w.failed("settings", err)
		return false
	}
	w.add("settings", gradeOK, "", "%s", w.client.URL())
	u, err := url.Parse(w.client.URL())
	if err != nil {
		w.failed("settings", err)
		return false
	}
	if !w.network(ctx, u) {
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, stepTime)
	defer cancel()
	if w.facts, err = w.client.Server(ctx); err != nil {
		w.failed("coordinator", err)
		return false
	}
	if w.facts.Version == agent.Version {
		w.add("coordinator", gradeOK, "", "version %s, as this berth", w.facts.Version)
	} else {
		w.add("coordinator", gradeWarn, "install the coordinator's berth, if something does not work", "version %s, and this berth is %s", w.facts.Version, agent.Version)
	}
	clock, err := w.client.Clock(ctx)
	skew := clock.Ahead.Abs()
	switch {
	case err != nil:
		w.failed("clock", err)
	case !clock.Known:
		w.add("clock", gradeSkip, "", "the server does not tell its time")
	case skew >= skewFail:
		w.add("clock", gradeFail, "set this machine's clock, by NTP best; certificates and tokens have times", "this machine's differs from the coordinator's by %s", span(skew))
	case skew >= skewWarn:
		w.add("clock", gradeWarn, "set this machine's clock, by NTP best", "this machine's differs from the coordinator's by %s", span(skew))
	default:
		w.add("clock", gradeOK, "", "within %s of the coordinator's", span(max(skew, time.Second)))
	}
	return true
}

// network looks at name, connection and TLS by itself, where there is no proxy that would do it.
func (w *way) network(ctx context.Context, u *url.URL) bool {
	proxy, err := http.ProxyFromEnvironment(&http.Request{URL: u})
	if err != nil {
		w.add("proxy", gradeFail, "mend HTTPS_PROXY, HTTP_PROXY or NO_PROXY", "the environment's proxy makes no sense: %v", err)
		return false
	}
	if proxy != nil {
		w.add("proxy", gradeOK, "", "%s goes through %s, which also finds the name", u.Host, proxy.Redacted())
		return true
	}
	port := u.Port()
	if port == "" {
		port = map[string]string{"https": "443", "http": "80"}[u.Scheme]
	}
	ctx, cancel := context.WithTimeout(ctx, stepTime)
	defer cancel()
	addrs, err := net.DefaultResolver.LookupHost(ctx, u.Hostname())
	if err != nil {
		w.add("dns", gradeFail, "check the address (berth whoami) and this machine's DNS, or VPN", "%s has no address: %s", u.Hostname(), plainCause(err))
		return false
	}
	w.add("dns", gradeOK, "", "%s is %s", u.Hostname(), strings.Join(addrs[:min(len(addrs), 4)], ", "))
	begin := time.Now()
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", net.JoinHostPort(u.Hostname(), port))
	if err != nil {
		w.add("tcp", gradeFail, "is berthd running there, and no firewall in between?", "port %s takes no connection: %s", port, plainCause(err))
		return false
	}
	defer func() { _ = conn.Close() }() // only tried
	w.add("tcp", gradeOK, "", "port %s connects within %s", port, fine(time.Since(begin)))
	if u.Scheme != "https" {
		return true
	}
	t := tls.Client(conn, &tls.Config{ServerName: u.Hostname(), MinVersion: tls.VersionTLS12})
	if err := t.HandshakeContext(ctx); err != nil {
		w.add("tls", gradeFail, "a private authority's certificate is named in SSL_CERT_FILE", "no TLS: %s", plainCause(err))
		return false
	}
	until := t.ConnectionState().PeerCertificates[0].NotAfter
	if left := until.Sub(w.now()); left < certSoon {
		w.add("tls", gradeWarn, "tell who runs the coordinator", "its certificate ends in %s", span(left))
	} else {
		w.add("tls", gradeOK, "", "%s, certificate until %s", tls.VersionName(t.ConnectionState().Version), until.Format(time.DateOnly))
	}
	return true
}

// account looks at the token and at this machine's key. It reports whether the token is good.
func (w *way) account(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, stepTime)
	defer cancel()
	var err error
	if w.me, err = w.client.Whoami(ctx); err != nil {
		w.failed("token", err)
		return false
	}
	g, hint, text := gradeOK, "", "signed in as "+w.me.Name
	if tokens, err := w.client.Tokens(ctx); err == nil {
		for _, t := range tokens {
			if left := t.Expires.Sub(w.now()); t.Current && !t.Expires.IsZero() {
				text += fmt.Sprintf(", for %s", span(left))
				if left < tokenSoon {
					g, hint = gradeWarn, "berth login "+w.client.URL()
				}
			}
		}
	}
	w.add("token", g, hint, "%s", text)
	w.deviceKey(ctx)
	return true
}

// deviceKey looks at the key that ssh shows.
func (w *way) deviceKey(ctx context.Context) {
	const check = "device key"
	login := "berth login " + w.client.URL()
	path, err := w.path(identityFile)
	if err != nil {
		w.failed(check, err)
		return
	}
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		w.add(check, gradeWarn, login+" makes one; or berth keys add registers yours", "there is none on this machine; ssh shows your own keys")
		return
	case err != nil:
		w.failed(check, err)
		return
	case info.Mode().Perm()&0o077 != 0 && runtime.GOOS != "windows":
		w.add(check, gradeFail, "chmod 600 "+path, "others may read %s, so that ssh does not use it", path)
		return
	}
	s := readSigner(path)
	if s == nil {
		w.add(check, gradeFail, login+" makes a new one", "%s is no private key without a passphrase", path)
		return
	}
	keys, err := w.client.Keys(ctx)
	if err != nil {
		e := explained(err)
		w.add(check, gradeWarn, e.Hint, "whether it is registered cannot be told: %s", e.Msg)
		return
	}
	fingerprint := ssh.FingerprintSHA256(s.PublicKey())
	for _, k := range keys {
		if k.Fingerprint == fingerprint {
			w.add(check, gradeOK, "", "%s, registered as %q", fingerprint, k.Name)
			return
		}
	}
	w.add(check, gradeFail, login+" registers one", "%s is not registered with %s: it was revoked, or belongs to somebody else", fingerprint, w.me.Name)
}

// sshConfig asks ssh what it would do.
func (w *way) sshConfig(ctx context.Context) {
	const check = "ssh config"
	list, err := w.client.Workspaces(ctx, false)
	if err != nil {
		w.failed(check, err)
		return
	}
	problems, err := w.verifySSHConfig(ctx, w.facts, sshHosts(list, w.facts.Suffix))
	if err != nil {
		e := explained(err)
		w.add(check, gradeWarn, e.Hint, "what ssh makes of it cannot be told: %s", e.Msg)
		return
	}
	for _, p := range problems {
		g := gradeWarn
		if p.Fail {
			g = gradeFail
		}
		w.add(check, g, p.Hint, "%s", p)
	}
	if len(problems) == 0 {
		w.add(check, gradeOK, "", "ssh does what berth ssh-config says")
	}
}

// enter opens an SSH connection into the workspace; nil if there is none to be had, which is told.
func (w *way) enter(ctx context.Context, start bool) *ssh.Client {
	p, err := w.passage(ctx, w.Workspace)
	if err != nil {
		w.failed("workspace", err)
		return nil
	}
	ws, err := w.client.Workspace(ctx, p.target)
	if err != nil {
		w.failed("workspace", err)
		return nil
	}
	w.Workspace = p.target.String()
	state := string(ws.Status)
	if ws.Reason != "" {
		state += ": " + ws.Reason
	}
	switch {
	case ws.Status == coordinator.StatusRunning:
		w.add("workspace", gradeOK, "", "%s/%s is running", ws.Owner, ws.Name)
	case ws.Status == coordinator.StatusStopped && !start:
		w.add("workspace", gradeSkip, "berth doctor "+w.Workspace+" --start starts it and looks inside", "%s/%s is stopped, so that only the way there was looked at", ws.Owner, ws.Name)
		return nil
	case ws.Status == coordinator.StatusUnhealthy, ws.Status == coordinator.StatusFailed:
		w.add("workspace", gradeWarn, "berth logs "+w.Workspace, "%s/%s is %s", ws.Owner, ws.Name, state)
	default:
		w.add("workspace", gradeOK, "", "%s/%s is %s", ws.Owner, ws.Name, state)
	}
	c, err := p.open(ctx, !start)
	if err != nil {
		w.failed("connection", err)
		return nil
	}
	w.certificate(p)
	if ws, err := w.client.Workspace(ctx, p.target); err == nil { // again, for it may have been started
		w.agentVersion(p, ws)
	}
	return c
}

// certificate tells of the host certificate, which has been checked by then.
func (w *way) certificate(p *passage) {
	cert, ok := p.shown.(*ssh.Certificate)
	if !ok {
		w.add("host key", gradeOK, "", "%s is known", ssh.FingerprintSHA256(p.shown))
		return
	}
	until := "for ever"
	if cert.ValidBefore != ssh.CertTimeInfinity {
		end := time.Unix(int64(min(cert.ValidBefore, 1<<62)), 0) // a time that fits
		until = "until " + end.Format(time.DateOnly)
		if left := end.Sub(w.now()); left < 24*time.Hour {
			w.add("host key", gradeWarn, "a restart of the agent gets a new one: berth restart "+w.Workspace, "the certificate of %s ends in %s", p.alias, span(left))
			return
		}
	}
	w.add("host key", gradeOK, "", "certified for %s by %s, valid %s", p.alias, ssh.FingerprintSHA256(cert.SignatureKey), until)
}

// latency measures the whole way, and the part of it behind the coordinator.
func (w *way) latency(ctx context.Context, c *ssh.Client) {
	l, err := roundTrips(c, 5)
	if err != nil {
		w.failed("latency", err)
		return
	}
	text := "a round trip on ssh takes " + fine(time.Duration(l.MedianNS))
	if t, err := w.target(ctx, w.client, w.signed, w.Workspace); err == nil {
		if p, err := w.client.Ping(ctx, t); err == nil {
			text += ", of it " + fine(p.RTT) + " from the coordinator to the agent"
		}
	}
	if time.Duration(l.MedianNS) > slowLatency {
		w.add("latency", gradeWarn, "an IDE will feel slow; is the coordinator far away, or a VPN in between?", "%s", text)
		return
	}
	w.add("latency", gradeOK, "", "%s", text)
}

// agentVersion compares the agent's version with the coordinator's.
func (w *way) agentVersion(p *passage, ws rest.Workspace) {
	for _, g := range ws.Agents {
		switch {
		case p.target.Agent != "" && g.Name != p.target.Agent || g.Version == "":
		case g.Version == w.facts.Version:
			w.add("agent", gradeOK, "", "%s has version %s, as the coordinator", g.Name, g.Version)
		default:
			w.add("agent", gradeWarn, "berth restart "+w.Workspace+" brings the coordinator's", "%s has version %s, and the coordinator is %s", g.Name, g.Version, w.facts.Version)
		}
	}
}
