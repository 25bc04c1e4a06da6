package link

import (
	"context"
	"crypto/ed25519"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/hashicorp/yamux"

	"berth/agent"
)

const (
	dialTimeout   = 10 * time.Second
	answerTimeout = 30 * time.Second // the coordinator may hold a link for a while before it answers
	userTimeout   = 30 * time.Second // TCP_USER_TIMEOUT: a peer that acknowledges nothing for so long is gone
	writeTimeout  = 75 * time.Second // of one frame, which may wait behind bulk on a slow line
)

// checkURL returns the URL of the coordinator's link below base, or says why base cannot be used. Plain HTTP shows
// the token and everything after it to whoever listens, so beyond this machine it has to be asked for.
func checkURL(base string, insecure bool) (string, error) {
	if base == "" {
		return "", errors.New("no coordinator: set " + agent.EnvURL + " to its URL")
	}
	u, err := url.Parse(base)
	if err != nil || u.Host == "" || u.User != nil || (u.Scheme != "http" && u.Scheme != "https") {
		return "", fmt.Errorf("%q is not a coordinator's URL: it begins with https:// and has no user", base)
	}
	if u.Scheme == "http" && !insecure && !isLoopback(u.Hostname()) {
		return "", fmt.Errorf("refusing plain HTTP to %s, which is not this machine: use https, or say --insecure-http", u.Host)
	}
	u.RawQuery, u.Fragment = "", ""
	return strings.TrimRight(u.String(), "/") + agent.LinkPath, nil
}

func isLoopback(host string) bool {
	if strings.EqualFold(host, "localhost") {
		return true
	}
	ip := net.ParseIP(host)
	return ip != nil && ip.IsLoopback()
}

// NewTransport returns how the agent reaches the coordinator: through the proxies that the environment names, trusting
// the certificates of caFile alone where that is set.
func NewTransport(caFile string) (*http.Transport, error) {
	config := &tls.Config{MinVersion: tls.VersionTLS12}
	if caFile != "" {
		pem, err := os.ReadFile(caFile)
		if err != nil {
			return nil, fmt.Errorf("read CA file: %w", err)
		}
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("read CA file: %s holds no certificate", caFile)
		}
	}
	dialer := &net.Dialer{Timeout: dialTimeout, Control: tuneSocket}
	return &http.Transport{
		Proxy:                 http.ProxyFromEnvironment,
		DialContext:           dialer.DialContext,
		TLSClientConfig:       config,
		TLSHandshakeTimeout:   dialTimeout,
		TLSNextProto:          map[string]func(string, *tls.Conn) http.RoundTripper{}, // HTTP/1.1 only: HTTP/2 has no Upgrade
		ResponseHeaderTimeout: answerTimeout,
		IdleConnTimeout:       5 * time.Second,
		MaxIdleConnsPerHost:   1,
		DisableCompression:    true,
		ReadBufferSize:        2 << 10, // it stays for the life of the link
		WriteBufferSize:       2 << 10,
	}, nil
}

// connect asks for a link, answers the challenge, and begins yamux.
func (l *linker) connect(ctx context.Context) (*session, error) {
	conn, err := l.upgrade(ctx, "")
	var r *refusal
	if errors.As(err, &r) && r.code == agent.CodeChallenge {
		conn, err = l.upgrade(ctx, r.text)
		if errors.As(err, &r) && r.code == agent.CodeChallenge {
			return nil, errors.New("the coordinator did not accept the answer to its challenge")
		}
	}
	if err != nil {
		return nil, err
	}
	config := yamux.DefaultConfig()
	config.EnableKeepAlive = false // a ping queues behind bulk data, and one missed would end the link
	config.ConnectionWriteTimeout = writeTimeout
	config.MaxStreamWindowSize = streamWindow
	config.StreamCloseTimeout = 0 // it would cut a half-closed stream that is still being read
	config.LogOutput = nil
	config.Logger = log.New(io.Discard, "", 0)
	mux, err := yamux.Client(newJoinConn(conn), config)
	if err != nil {
		conn.Close()
		return nil, fmt.Errorf("begin yamux: %w", err)
	}
	return newSession(l, mux), nil
}

// upgrade sends one GET. With a nonce it carries the answer to the challenge.
//
//	GET /api/v1/agent/link            -> 401 Berth-Code: challenge, Berth-Nonce: N
//	GET with Berth-Nonce, -Key, -Signature -> 101, then yamux
func (l *linker) upgrade(ctx context.Context, nonce string) (io.ReadWriteCloser, error) {
	// The request's context must not end with this call: the connection would end with it.
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, l.URL, nil)
	if err != nil {
		return nil, fmt.Errorf("make link request: %w", err)
	}
	h := req.Header
	h.Set("Connection", "Upgrade")
	h.Set("Upgrade", agent.LinkUpgrade)
	h.Set("Authorization", "Bearer "+string(l.Token))
	h.Set("User-Agent", "berth-agent/"+l.Version)
	h.Set(agent.HeaderVersion, l.Version)
	h.Set(agent.HeaderFeatures, strings.Join(l.Features, ","))
	h.Set(agent.HeaderInstance, l.instance)
	if nonce != "" {
		sig := ed25519.Sign(l.Key, agent.LinkMessage(nonce, l.workspace, l.instance))
		h.Set(agent.HeaderNonce, nonce)
		h.Set(agent.HeaderKey, base64.StdEncoding.EncodeToString(l.Key.Public().(ed25519.PublicKey)))
		h.Set(agent.HeaderSignature, base64.StdEncoding.EncodeToString(sig))
	}
	resp, err := l.transport.RoundTrip(req) // not a Client: redirects are not followed
	if err != nil {
		return nil, fmt.Errorf("reach the coordinator: %w", err)
	}
	if resp.StatusCode == http.StatusSwitchingProtocols && strings.EqualFold(resp.Header.Get("Upgrade"), agent.LinkUpgrade) {
		if conn, ok := resp.Body.(io.ReadWriteCloser); ok {
			return conn, nil
		}
	}
	defer resp.Body.Close()
	_, _ = io.CopyN(io.Discard, resp.Body, 4<<10) // so that the connection serves the answer to a challenge
	return nil, refused(resp)
}

// refused makes an error of an answer. The text of a challenge is its nonce.
func refused(resp *http.Response) error {
	r := &refusal{status: resp.StatusCode, code: resp.Header.Get(agent.HeaderCode)}
	if s, err := strconv.Atoi(resp.Header.Get("Retry-After")); err == nil && s > 0 {
		r.after = time.Duration(min(s, 24*60*60)) * time.Second
	}
	switch {
	case r.status == http.StatusUnauthorized && r.code == agent.CodeChallenge:
		if r.text = resp.Header.Get(agent.HeaderNonce); r.text == "" || len(r.text) > 256 {
			return errors.New("the coordinator sent a challenge without a nonce")
		}
	case r.status == http.StatusConflict && r.code == agent.CodeReplaced:
		return ErrReplaced
	case r.status == http.StatusUnauthorized:
		r.text = "the coordinator does not know this agent's token (401 " + r.code + "): the workspace was rebuilt or deleted"
	case r.code == agent.CodeOtherKey:
		r.text = "another agent with this token and another key is connected (403 other-key)"
	case r.status == http.StatusForbidden:
		r.text = "this workspace may not run now (403 " + r.code + ")"
	case r.status == http.StatusUpgradeRequired:
		r.text = "this agent is too old for the coordinator (426): rebuild the workspace"
	default:
		r.text = fmt.Sprintf("the coordinator answered %d %s", r.status, r.code)
	}
	return r
}
