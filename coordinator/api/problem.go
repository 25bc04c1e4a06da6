package api

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"syscall"

	"github.com/danielgtaylor/huma/v2"

	"berth/coordinator"
	"berth/coordinator/rest"
)

// A problem is the answer to every request that fails.
type problem struct {
	rest.Problem
	headers http.Header
}

// Error returns the message.
func (p *problem) Error() string { return p.Detail }

// GetStatus returns the HTTP status.
func (p *problem) GetStatus() int { return p.Status }

// GetHeaders returns what the answer's header holds besides.
func (p *problem) GetHeaders() http.Header { return p.headers }

// ContentType makes it a problem of RFC 9457.
func (p *problem) ContentType(string) string { return "application/problem+json" }

// statusCodes gives the code of errors that the HTTP layer makes itself.
var statusCodes = map[int]coordinator.Code{
	http.StatusBadRequest:            coordinator.CodeInvalid,
	http.StatusUnauthorized:          coordinator.CodeUnauthenticated,
	http.StatusForbidden:             coordinator.CodeDenied,
	http.StatusNotFound:              coordinator.CodeNotFound,
	http.StatusMethodNotAllowed:      coordinator.CodeInvalid,
	http.StatusNotAcceptable:         coordinator.CodeInvalid,
	http.StatusRequestTimeout:        coordinator.CodeUnavailable,
	http.StatusConflict:              coordinator.CodeConflict,
	http.StatusRequestEntityTooLarge: coordinator.CodeTooLarge,
	http.StatusUnsupportedMediaType:  coordinator.CodeInvalid,
	http.StatusMisdirectedRequest:    coordinator.CodeDenied,
	http.StatusUnprocessableEntity:   coordinator.CodeInvalid,
	http.StatusUpgradeRequired:       coordinator.CodeInvalid,
	http.StatusTooManyRequests:       coordinator.CodeUnavailable,
	http.StatusServiceUnavailable:    coordinator.CodeUnavailable,
}

func init() {
	// huma offers this hook only as a variable; it makes its validation errors, and the OpenAPI document, ours.
	huma.NewError = func(status int, msg string, errs ...error) huma.StatusError {
		return statusProblem(status, join(msg, errs), "")
	}
}

// statusProblem is a problem of the HTTP layer.
func statusProblem(status int, detail, hint string) *problem {
	code, ok := statusCodes[status]
	if !ok {
		code = coordinator.CodeInternal
	}
	return &problem{Problem: rest.Problem{
		Title: http.StatusText(status), Status: status, Detail: detail, Code: code, Hint: hint,
	}}
}

// problemOf is the problem that stands for err. What is not meant for users becomes "internal error".
func problemOf(err error) *problem {
	var p *problem
	if errors.As(err, &p) {
		return p
	}
	var tooLarge *http.MaxBytesError
	if errors.As(err, &tooLarge) {
		return statusProblem(http.StatusRequestEntityTooLarge, "the request is larger than "+size(tooLarge.Limit), "")
	}
	var e *coordinator.Error
	switch {
	case errors.As(err, &e):
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		e = coordinator.Errorf(coordinator.CodeUnavailable, "the request was given up").WithHint("try again")
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		e = coordinator.Errorf(coordinator.CodeUnavailable, "the coordinator's disk is full").WithHint("free some space where its data directory is, then try again")
	default:
		e = coordinator.Errorf(coordinator.CodeInternal, "internal error").WithHint("the coordinator's log says more")
	}
	status := e.Code.Status()
	p = &problem{Problem: rest.Problem{
		Title: http.StatusText(status), Status: status, Detail: oneLine(e.Msg), Code: e.Code, Hint: oneLine(e.Hint),
	}}
	switch e.Code {
	case coordinator.CodeUnavailable:
		p.headers = http.Header{"Retry-After": {"1"}}
	case coordinator.CodeUnauthenticated:
		p.headers = http.Header{"WWW-Authenticate": {`Bearer realm="berth"`}}
	}
	return p
}

// fail logs what a user does not see, and returns the problem that they see.
func (s *server) fail(ctx context.Context, what string, err error) error {
	if err == nil {
		return nil
	}
	p := problemOf(err)
	var e *coordinator.Error
	switch {
	case p.Code == coordinator.CodeInternal && ctx.Err() == nil:
		attrs := []any{"route", what, "err", err}
		if errors.As(err, &e) && e.Err != nil {
			attrs = append(attrs, "cause", e.Err)
		}
		s.Logger.ErrorContext(ctx, "request failed", attrs...)
	case errors.As(err, &e) && e.Err != nil:
		s.Logger.DebugContext(ctx, "request refused", "route", what, "err", err, "cause", e.Err)
	}
	return p
}

// write answers with p outside of huma.
func (p *problem) write(w http.ResponseWriter) {
	for k, v := range p.headers {
		w.Header()[k] = v
	}
	w.Header().Set("Content-Type", "application/problem+json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(p.Status)
	_ = json.NewEncoder(w).Encode(p.Problem) // the client is gone, if this fails
}

// join makes one line of huma's message and its details. The values, which may be secrets, are left out.
func join(msg string, errs []error) string {
	var parts []string
	for _, err := range errs {
		var d huma.ErrorDetailer
		if err == nil {
			continue
		}
		if !errors.As(err, &d) {
			parts = append(parts, err.Error())
			continue
		}
		detail := d.ErrorDetail()
		where := strings.TrimPrefix(strings.TrimPrefix(detail.Location, "body."), "query.")
		if where == "" || where == "body" {
			parts = append(parts, detail.Message)
			continue
		}
		parts = append(parts, where+": "+detail.Message)
	}
	if len(parts) == 0 {
		return oneLine(msg)
	}
	return oneLine(strings.Join(parts, "; "))
}

// oneLine keeps a message on one line and short, and free of what a terminal would take for a command.
func oneLine(s string) string {
	s = strings.Map(func(r rune) rune {
		switch {
		case r == '\n' || r == '\t' || r == '\r':
			return ' '
		case r < ' ' || r == 0x7f || r >= 0x80 && r < 0xa0:
			return -1
		}
		return r
	}, strings.ToValidUTF8(s, "?"))
	return coordinator.Clip(s, 2000)
}
