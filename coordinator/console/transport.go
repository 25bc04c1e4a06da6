package console

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"

	"berth/coordinator"
	"berth/coordinator/rest"
)

// routes are what a console may ask the API. Left out is what would make of a key, which may have been used through an
// agent that its owner forwarded somewhere, a way in that outlives it: new tokens, keys and users, and scripts,
// dotfiles and secrets that later starts would use. So are streams into workspaces, archives of templates, and the
// agents' link.
var routes = []string{
	"GET /server", "GET /whoami",
	"GET /tokens", "DELETE /tokens/{id}",
	"GET /keys", "DELETE /keys/{id}", "GET /keys/git",
	"GET /secrets", "DELETE /secrets/{name}",
	"GET /dotfiles", "GET /personalize",
	"GET /users", "DELETE /users/{name}",
	"GET /templates", "GET /templates/{template}", "GET /templates/{template}/versions", "GET /templates/{template}/versions/{version}",
	"GET /workspaces", "POST /workspaces", "GET /workspaces/{owner}/{name}", "DELETE /workspaces/{owner}/{name}",
	"POST /workspaces/{owner}/{name}/start", "POST /workspaces/{owner}/{name}/restart", "POST /workspaces/{owner}/{name}/stop",
	"GET /workspaces/{owner}/{name}/builds", "GET /workspaces/{owner}/{name}/builds/{build}",
	"POST /workspaces/{owner}/{name}/builds/{build}/cancel", "GET /workspaces/{owner}/{name}/builds/{build}/log",
	"GET /workspaces/{owner}/{name}/ping",
}

// only lets the routes of a console through to the API.
func only(api http.Handler) http.Handler {
	mux := http.NewServeMux()
	for _, r := range routes {
		var method, path string
		_, _ = fmt.Sscan(r, &method, &path) // they are two words
		mux.Handle(method+" "+rest.Prefix+path, api)
	}
	mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/problem+json")
		w.WriteHeader(coordinator.CodeDenied.Status())
		_ = json.NewEncoder(w).Encode(rest.Problem{ // to a pipe
			Code: coordinator.CodeDenied, Detail: "the console may not do this", Hint: "the berth command on your own machine can",
		})
	})
	return mux
}

// An inside carries requests to a handler of this process.
type inside struct {
	handler  http.Handler
	peer     string // for the access log
	identify func(context.Context) context.Context
}

// RoundTrip calls the handler, and returns once it has answered its header. The handler has ended when the body is
// closed or read to its end.
func (t *inside) RoundTrip(r *http.Request) (*http.Response, error) {
	ctx, cancel := context.WithCancel(t.identify(r.Context()))
	in := r.Clone(ctx)
	in.RequestURI, in.RemoteAddr = r.URL.RequestURI(), t.peer
	in.Host = r.URL.Host
	if in.Body == nil {
		in.Body = http.NoBody
	}
	pr, pw := io.Pipe()
	w := &answer{header: http.Header{}, body: pw, ready: make(chan struct{})}
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer func() {
			err := error(nil)
			if v := recover(); v != nil {
				err = errors.New("the answer was cut off")
			}
			w.WriteHeader(http.StatusOK)
			_ = in.Body.Close() // only read from
			_ = pw.CloseWithError(err)
		}()
		t.handler.ServeHTTP(w, in)
	}()
	end := func() {
		cancel()
		_ = pr.Close() // never fails
		<-done
	}
	select {
	case <-w.ready:
	case <-r.Context().Done():
		end()
		return nil, r.Context().Err()
	}
	stop := context.AfterFunc(r.Context(), func() { _ = pr.CloseWithError(r.Context().Err()) })
	return &http.Response{
		Status: fmt.Sprintf("%d %s", w.status, http.StatusText(w.status)), StatusCode: w.status,
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Header: w.sent, ContentLength: -1, Request: r,
		Body: &body{PipeReader: pr, end: sync.OnceFunc(func() { stop(); end() })},
	}, nil
}

// A body is an answer's, whose handler ends with it.
type body struct {
	*io.PipeReader
	end func()
}

// Close ends the handler and waits for it.
func (b *body) Close() error {
	b.end()
	return nil
}

// An answer is what a handler writes to.
type answer struct {
	header http.Header
	body   *io.PipeWriter

	once   sync.Once
	status int         // valid once ready is closed
	sent   http.Header // likewise
	ready  chan struct{}
}

// Header returns the header that is going to be sent.
func (a *answer) Header() http.Header { return a.header }

// WriteHeader sends the header.
func (a *answer) WriteHeader(status int) {
	if status < 200 {
		return
	}
	a.once.Do(func() {
		a.status, a.sent = status, a.header.Clone()
		close(a.ready)
	})
}

// Write writes to whoever reads the answer.
func (a *answer) Write(p []byte) (int, error) {
	a.WriteHeader(http.StatusOK)
	return a.body.Write(p)
}

// Flush does nothing: nothing is held back.
func (a *answer) Flush() { a.WriteHeader(http.StatusOK) }
