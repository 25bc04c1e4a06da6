package api

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"berth/coordinator"
)

// A recorder remembers what was answered, for the access log.
type recorder struct {
	http.ResponseWriter
	status int
	bytes  int64
	user   string
}

// Unwrap lets http.ResponseController reach what is below.
func (r *recorder) Unwrap() http.ResponseWriter { return r.ResponseWriter }

// WriteHeader notes the status.
func (r *recorder) WriteHeader(code int) {
	if r.status == 0 {
		r.status = code
	}
	r.ResponseWriter.WriteHeader(code)
}

// Write notes how much was written.
func (r *recorder) Write(b []byte) (int, error) {
	if r.status == 0 {
		r.status = http.StatusOK
	}
	n, err := r.ResponseWriter.Write(b)
	r.bytes += int64(n)
	return n, err
}

// guard is around everything: it refuses what a browser was tricked into sending, keeps a panic from ending in
// silence, and writes the access log. The log holds no query and no header: a token could stand there.
func (s *server) guard(next http.Handler) http.Handler {
	cross := http.NewCrossOriginProtection()
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		began := time.Now()
		rec := &recorder{ResponseWriter: w}
		defer func() {
			if v := recover(); v != nil {
				if v == http.ErrAbortHandler { //nolint:errorlint // that is how net/http means it
					panic(v)
				}
				s.Logger.Error("handler panicked", "path", r.URL.Path, "panic", fmt.Sprint(v), "stack", string(debug.Stack()))
				if rec.status == 0 {
					problemOf(fmt.Errorf("panic: %v", v)).write(rec)
				}
			}
			s.Logger.LogAttrs(r.Context(), slog.LevelDebug, "request",
				slog.String("method", r.Method), slog.String("path", coordinator.Clip(r.URL.Path, 200)), slog.Int("status", rec.status),
				slog.Int64("bytes", rec.bytes), slog.Duration("took", time.Since(began)), slog.String("peer", r.RemoteAddr),
				slog.String("user", rec.user))
		}()
		rec.Header().Set("X-Content-Type-Options", "nosniff")
		rec.Header().Set("Referrer-Policy", "no-referrer")
		rec.Header().Set("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'")
		if strings.HasPrefix(r.URL.Path, "/api/") {
			rec.Header().Set("Cache-Control", "no-store")
		}
		if !s.rightHost(r) {
			statusProblem(http.StatusMisdirectedRequest, "this server is not known by the name "+oneLine(coordinator.Clip(r.Host, 100)),
				"use the URL that berthd was started with").write(rec)
			return
		}
		if err := cross.Check(r); err != nil {
			statusProblem(http.StatusForbidden, "a page of another site may not use this API", "").write(rec)
			return
		}
		if r.ContentLength != 0 {
			// Also a body that nobody wants is read, up to a point, once the answer is out. Routes that take a body set
			// their own time, and a hijack clears it.
			if err := http.NewResponseController(w).SetReadDeadline(time.Now().Add(bodyTime)); err != nil &&
				!errors.Is(err, http.ErrNotSupported) {
				s.Logger.DebugContext(r.Context(), "limit the time for a body", "err", err)
			}
		}
		next.ServeHTTP(rec, r)
	})
}

// rightHost stops DNS rebinding: a page whose name was made to point at 127.0.0.1 reaches a coordinator that listens
// there, but its name stands in the Host header. Listeners beyond loopback are reached by names that we cannot know.
func (s *server) rightHost(r *http.Request) bool {
	local, ok := r.Context().Value(http.LocalAddrContextKey).(net.Addr)
	if !ok {
		return true
	}
	addr, err := netip.ParseAddrPort(local.String())
	if err != nil || !addr.Addr().Unmap().IsLoopback() {
		return true
	}
	host := r.Host
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	host = strings.ToLower(strings.TrimSuffix(strings.Trim(host, "[]"), "."))
	if host == "localhost" || strings.HasSuffix(host, ".localhost") {
		return true
	}
	if ip, err := netip.ParseAddr(host); err == nil && ip.Unmap().IsLoopback() {
		return true
	}
	return slices.ContainsFunc(s.Hosts, func(h string) bool { return strings.EqualFold(h, host) })
}

// answerAll serves mux, and answers what it does not know with problems too.
func (s *server) answerAll(mux *http.ServeMux) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h, pattern := mux.Handler(r)
		if pattern != "" {
			mux.ServeHTTP(w, r)
			return
		}
		probe := &silent{header: http.Header{}}
		h.ServeHTTP(probe, r)
		if probe.status == http.StatusMethodNotAllowed {
			p := statusProblem(probe.status, r.Method+" is not possible here", "possible: "+probe.header.Get("Allow"))
			p.headers = http.Header{"Allow": probe.header.Values("Allow")}
			p.write(w)
			return
		}
		statusProblem(http.StatusNotFound, "there is nothing at "+oneLine(coordinator.Clip(r.URL.Path, 200)),
			"is the client newer than this coordinator? both tell by the command version").write(w)
	})
}

// silent takes an answer in without sending it.
type silent struct {
	header http.Header
	status int
}

func (s *silent) Header() http.Header         { return s.header }
func (s *silent) Write(b []byte) (int, error) { return len(b), nil }
func (s *silent) WriteHeader(code int)        { s.status = code }
