// Package client is the typed client of the REST API, and Connect, which opens a stream into a workspace.
//
// It owns the connection: where the token may go, how long to wait, how much to read. It forgets everything between
// two calls. Failures that a person can do something about are *coordinator.Error.
package client

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"time"

	"berth/coordinator"
	"berth/coordinator/rest"
)

// Limits of one exchange.
const (
	maxBody       = 16 << 20 // bytes of an answer in JSON
	maxItems      = 20_000   // rows of a listing over all pages
	dialTimeout   = 10 * time.Second
	headerTimeout = 60 * time.Second
)

// A Config says who asks and how. The zero value asks as nobody.
type Config struct {
	Token        coordinator.Secret
	InsecureHTTP bool   // allow plain HTTP beyond loopback
	UserAgent    string // "berth" if empty
	// Transport takes requests to a coordinator of the same process; nil: they go over the network.
	Transport http.RoundTripper
	Patience  time.Duration // how long a GET is repeated while the server cannot be reached; 0: not at all
}

// A Client talks to one installation.
type Client struct {
	base  *url.URL
	token coordinator.Secret
	agent string
	wait  time.Duration
	http  *http.Client
}

// Open returns a client of the installation at rawURL. It sends nothing yet.
func Open(rawURL string, c Config) (*Client, error) {
	base, err := ParseURL(rawURL, c.InsecureHTTP)
	if err != nil {
		return nil, err
	}
	if strings.ContainsFunc(string(c.Token), func(r rune) bool { return r <= ' ' || r > '~' }) {
		return nil, coordinator.Errorf(coordinator.CodeInvalid, "the token holds characters that no token has")
	}
	if c.UserAgent == "" {
		c.UserAgent = "berth"
	}
	if c.Transport == nil {
		c.Transport = network()
	}
	return &Client{
		base: base, token: c.Token, agent: c.UserAgent, wait: c.Patience,
		http: &http.Client{
			Transport: c.Transport,
			// A redirect is never followed: the token goes to the installation that it is for.
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
	}, nil
}

// network is the way over the network.
func network() *http.Transport {
	dialer := &net.Dialer{Timeout: dialTimeout, KeepAlive: 15 * time.Second}
	// HTTP/1.1 only: the stream into a workspace needs an upgrade.
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	return &http.Transport{
		Proxy:                  http.ProxyFromEnvironment,
		DialContext:            dialer.DialContext,
		Protocols:              protocols,
		TLSHandshakeTimeout:    dialTimeout,
		ResponseHeaderTimeout:  headerTimeout,
		MaxResponseHeaderBytes: 64 << 10,
		IdleConnTimeout:        30 * time.Second,
		ReadBufferSize:         32 << 10,
		WriteBufferSize:        32 << 10,
	}
}

// ParseURL reads the address of an installation as a person types it. Without a scheme it is https, or http for this
// machine. Plain HTTP to another machine is refused unless insecure: it would show the token to the network.
func ParseURL(raw string, insecure bool) (*url.URL, error) {
	bad := func() error {
		return coordinator.Errorf(coordinator.CodeInvalid, "%q is not the address of a Berth server", coordinator.Clip(raw, 80)).
			WithHint("write https://berth.example.com")
	}
	s := strings.TrimSpace(raw)
	if !strings.Contains(s, "://") {
		u, err := url.Parse("https://" + s)
		if err != nil {
			return nil, bad()
		}
		s = u.String()
		if loopback(u.Hostname()) {
			s = "http://" + strings.TrimPrefix(s, "https://")
		}
	}
	u, err := url.Parse(s)
	if err != nil || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" || u.Opaque != "" {
		return nil, bad()
	}
	switch {
	case u.Scheme == "https", u.Scheme == "http" && loopback(u.Hostname()), u.Scheme == "http" && insecure:
	case u.Scheme == "http":
		return nil, coordinator.Errorf(coordinator.CodeInvalid, "%s is plain HTTP to another machine, which would show your token to the network", u.Redacted()).
			WithHint("use https, or give --insecure-http if the network is trusted")
	default:
		return nil, bad()
	}
	u.Path = strings.TrimRight(strings.TrimSuffix(strings.TrimRight(u.Path, "/"), rest.Prefix), "/")
	u.RawPath = ""
	return u, nil
}

func loopback(host string) bool {
	if strings.EqualFold(host, "localhost") {
		return true
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.IsLoopback()
}

// URL returns the installation's address.
func (c *Client) URL() string { return c.base.String() }

// Patient returns a client like c that repeats a GET for d while the server cannot be reached. It is for callers who
// wait for something that outlives a restart of the server.
func (c *Client) Patient(d time.Duration) *Client {
	p := *c
	p.wait = d
	return &p
}

// Close closes idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// route joins the elements of a path below the API's prefix.
func route(elems ...string) string {
	var b strings.Builder
	for _, e := range elems {
		b.WriteByte('/')
		b.WriteString(url.PathEscape(e))
	}
	return b.String()
}

// request makes a request for a route. A query is attached where there is one.
func (c *Client) request(ctx context.Context, method, route string, query url.Values, body io.Reader) (*http.Request, error) {
	u := c.base.String() + rest.Prefix + route
	if len(query) > 0 {
		u += "?" + query.Encode()
	}
	r, err := http.NewRequestWithContext(ctx, method, u, body)
	if err != nil {
		return nil, fmt.Errorf("make request: %w", err)
	}
	r.Header.Set("User-Agent", c.agent)
	if c.token != "" {
		r.Header.Set("Authorization", "Bearer "+string(c.token))
	}
	return r, nil
}

// do sends in as JSON, if it is not nil, and decodes the answer into out, if it is not nil.
func (c *Client) do(ctx context.Context, method, route string, query url.Values, in, out any) error {
	var body []byte
	if in != nil {
		var err error
		if body, err = json.Marshal(in); err != nil {
			return fmt.Errorf("encode request: %w", err)
		}
	}
	send := func() error {
		var r io.Reader
		if in != nil {
			r = bytes.NewReader(body)
		}
		req, err := c.request(ctx, method, route, query, r)
		if err != nil {
			return err
		}
		req.Header.Set("Accept", "application/json")
		if in != nil {
			req.Header.Set("Content-Type", "application/json")
		}
		return c.roundTrip(req, out)
	}
	if method != http.MethodGet || c.wait <= 0 {
		return send()
	}
	return persist(ctx, c.wait, send)
}

// roundTrip sends req and decodes the answer into out.
func (c *Client) roundTrip(req *http.Request, out any) error {
	resp, err := c.send(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close() // only read from
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxBody+1))
	if err != nil {
		return c.unreachable(err)
	}
	if len(b) > maxBody {
		return coordinator.Errorf(coordinator.CodeTooLarge, "the server's answer is longer than %d MiB", maxBody>>20)
	}
	if out == nil || resp.StatusCode == http.StatusNoContent {
		return nil
	}
	if err := json.Unmarshal(b, out); err != nil {
		return c.foreign(fmt.Errorf("decode answer: %w", err))
	}
	return nil
}

// send sends req and returns a 2xx or 101 answer. Every other answer is returned as an error, its body closed.
func (c *Client) send(req *http.Request) (*http.Response, error) {
	resp, err := c.http.Do(req)
	if err != nil {
		if ctxErr := req.Context().Err(); ctxErr != nil {
			return nil, ctxErr
		}
		return nil, c.unreachable(err)
	}
	if resp.StatusCode/100 == 2 || resp.StatusCode == http.StatusSwitchingProtocols {
		return resp, nil
	}
	defer resp.Body.Close() // only read from
	return nil, c.problem(resp)
}

// persist calls f again while it fails with CodeUnavailable, for at most d.
func persist(ctx context.Context, d time.Duration, f func() error) error {
	deadline := time.Now().Add(d)
	for pause := 50 * time.Millisecond; ; pause = min(2*pause, time.Second) {
		err := f()
		if coordinator.CodeOf(err) != coordinator.CodeUnavailable || time.Now().Add(pause).After(deadline) {
			return err
		}
		if ctxErr := sleep(ctx, pause); ctxErr != nil {
			return ctxErr
		}
	}
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}

// list reads every page of a listing.
func list[T any](ctx context.Context, c *Client, route string, query url.Values) ([]T, error) {
	if query == nil {
		query = url.Values{}
	}
	items := []T{} // a listing of nothing is [] in JSON
	for seen := map[string]bool{}; ; {
		var page rest.Page[T]
		if err := c.do(ctx, http.MethodGet, route, query, nil, &page); err != nil {
			return nil, err
		}
		items = append(items, page.Items...)
		if page.Next == "" {
			return items, nil
		}
		if seen[page.Next] || len(items) > maxItems {
			return nil, c.foreign(errors.New("a listing does not end"))
		}
		seen[page.Next] = true
		query.Set("cursor", page.Next)
	}
}
