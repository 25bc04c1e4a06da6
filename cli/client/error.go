package client

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"syscall"

	"berth/coordinator"
	"berth/coordinator/rest"
)

const (
	maxProblem = 64 << 10 // bytes of an answer that says what is wrong
	maxMessage = 4 << 10  // bytes of its message and of its hint
)

// problem turns an answer that is no success into an Error.
func (c *Client) problem(resp *http.Response) error {
	b, _ := io.ReadAll(io.LimitReader(resp.Body, maxProblem)) // what came is judged below
	var p rest.Problem
	if json.Unmarshal(b, &p) == nil && p.Detail != "" {
		return c.fromProblem(p, resp.StatusCode)
	}
	switch s := resp.StatusCode; {
	case s/100 == 3:
		return coordinator.Errorf(coordinator.CodeFailed, "%s answers with a redirect to %s", c.base, coordinator.Clip(resp.Header.Get("Location"), 200)).
			WithHint("redirects are not followed with a token; give the server's own address to berth login")
	case s == http.StatusUnauthorized:
		return coordinator.Errorf(coordinator.CodeUnauthenticated, "%s does not know your token", c.base).WithHint(c.loginHint())
	case s == http.StatusForbidden:
		return coordinator.Errorf(coordinator.CodeDenied, "%s denies this", c.base)
	case s == http.StatusNotFound:
		return coordinator.Errorf(coordinator.CodeNotFound, "%s has nothing at %s", c.base, resp.Request.URL.Path).
			WithHint("is this the address of a Berth server, and as new as this berth?")
	case s == http.StatusBadGateway, s == http.StatusServiceUnavailable, s == http.StatusGatewayTimeout, s == http.StatusTooManyRequests:
		return coordinator.Errorf(coordinator.CodeUnavailable, "%s is not available: %s", c.base, coordinator.Clip(resp.Status, 80)).
			WithHint("try again in a moment")
	default:
		return coordinator.Errorf(coordinator.CodeInternal, "%s answers %s", c.base, coordinator.Clip(resp.Status, 80))
	}
}

// fromProblem is the Error that a problem stands for.
func (c *Client) fromProblem(p rest.Problem, status int) *coordinator.Error {
	e := &coordinator.Error{
		Code: p.Code,
		Msg:  coordinator.Clip(p.Detail, maxMessage),
		Hint: coordinator.Clip(p.Hint, maxMessage),
	}
	if e.Code == "" {
		e.Code = codeOf(status)
	}
	if e.Code == coordinator.CodeUnauthenticated && e.Hint == "" {
		e.Hint = c.loginHint()
	}
	return e
}

func codeOf(status int) coordinator.Code {
	for _, code := range []coordinator.Code{
		coordinator.CodeUnauthenticated, coordinator.CodeDenied, coordinator.CodeNotFound, coordinator.CodeConflict,
		coordinator.CodeTooLarge, coordinator.CodeInvalid, coordinator.CodeUnavailable,
	} {
		if code.Status() == status {
			return code
		}
	}
	if status/100 == 4 {
		return coordinator.CodeInvalid
	}
	return coordinator.CodeInternal
}

func (c *Client) loginHint() string { return "berth login " + c.base.String() }

// unreachable names why the server cannot be reached, with what to do about it.
func (c *Client) unreachable(err error) error {
	e := coordinator.Errorf(coordinator.CodeUnavailable, "%s cannot be reached", c.base).WithCause(err)
	var (
		dns      *net.DNSError
		unknown  x509.UnknownAuthorityError
		verify   *tls.CertificateVerificationError
		record   tls.RecordHeaderError
		netError net.Error
	)
	switch {
	case errors.As(err, &dns) && dns.IsNotFound:
		e.Msg += ": there is no host " + coordinator.Clip(dns.Name, 100)
		e.Hint = "check the address: berth whoami shows the one in use"
	case errors.Is(err, syscall.ECONNREFUSED):
		e.Msg += ": connection refused"
		e.Hint = "is berthd running there? check the address and the port"
	case errors.As(err, &unknown):
		e.Msg += ": its certificate is signed by an authority that this machine does not know"
		e.Hint = "install that authority's certificate, or name its file in SSL_CERT_FILE"
	case errors.As(err, &verify):
		e.Msg += ": its certificate is not valid: " + verify.Err.Error()
	case errors.Is(err, http.ErrSchemeMismatch), errors.As(err, &record):
		e.Msg += ": it does not speak TLS"
		e.Hint = "is it an http address?"
	case errors.As(err, &netError) && netError.Timeout():
		e.Msg += ": no answer in time"
		e.Hint = "check the network, and HTTPS_PROXY where one is needed"
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		e.Msg = c.base.String() + " ended the connection"
		e.Hint = "try again in a moment"
	default:
		e.Msg += ": " + coordinator.Clip(cause(err), 300)
	}
	return e
}

// cause is the innermost message of a failed request: net/http wraps it in the method and the whole URL.
func cause(err error) string {
	for {
		next := errors.Unwrap(err)
		if next == nil {
			return err.Error()
		}
		err = next
	}
}

// foreign is for answers that no Berth server gives.
func (c *Client) foreign(err error) error {
	return coordinator.Errorf(coordinator.CodeInternal, "%s does not answer like a Berth server", c.base).
		WithHint("check the address: berth whoami shows the one in use").WithCause(err)
}
