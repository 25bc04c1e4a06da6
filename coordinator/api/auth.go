package api

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"

	"berth/coordinator"
)

type actorKey struct{}

// actor returns who asks; the zero Actor on public routes.
func actor(ctx context.Context) coordinator.Actor {
	a, _ := ctx.Value(actorKey{}).(coordinator.Actor)
	return a
}

type insiderKey struct{}

// An Identify tells who a request from inside this process is for. It is asked at every request, so that somebody who
// has lost their account or their key since they came is nobody any more.
type Identify func(ctx context.Context) (coordinator.Actor, error)

// Inside returns a context for requests that a part of this process makes for somebody whom it has authenticated itself.
// What comes over a network cannot hold one.
func Inside(ctx context.Context, who Identify) context.Context {
	return context.WithValue(ctx, insiderKey{}, who)
}

// authorize is the one place that checks a route's permission.
func (s *server) authorize(perm coordinator.Permission) func(huma.Context, func(huma.Context)) {
	return func(ctx huma.Context, next func(huma.Context)) {
		r, w := humago.Unwrap(ctx)
		if perm == coordinator.PermPublic {
			next(ctx)
			return
		}
		a, err := s.authenticate(r)
		if err == nil && !a.May(perm) {
			err = denied(a)
		}
		if err != nil {
			_ = s.fail(r.Context(), r.Method+" "+r.Pattern, err) // logged; written below
			problemOf(err).write(w)
			return
		}
		if l, ok := w.(*recorder); ok {
			l.user = a.User.Name
		}
		next(huma.WithValue(ctx, actorKey{}, a))
	}
}

func denied(a coordinator.Actor) error {
	if a.Workspace != "" {
		return coordinator.Errorf(coordinator.CodeDenied, "a workspace's own token may not do this").
			WithHint("do it from your own machine, or sign in with berth login")
	}
	return coordinator.Errorf(coordinator.CodeDenied, "your role (%s) may not do this", a.User.Role).
		WithHint("ask an owner of this installation")
}

// authenticate finds the caller by the token's hash: what is compared are hashes of 256 random bits, so that how long
// it takes tells nothing about a token. A source that keeps failing is told to wait, which spares log and database; a
// known token is let through even then, since many people can share one address.
func (s *server) authenticate(r *http.Request) (coordinator.Actor, error) {
	if identify, ok := r.Context().Value(insiderKey{}).(Identify); ok {
		return identify(r.Context())
	}
	scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	if scheme == "" {
		return coordinator.Actor{}, coordinator.Errorf(coordinator.CodeUnauthenticated, "you are not signed in").
			WithHint("run berth login")
	}
	now := s.Now()
	var (
		t   coordinator.Token
		u   coordinator.User
		err error = coordinator.Errorf(coordinator.CodeUnauthenticated, "the token is not valid").WithHint("run berth login")
	)
	if strings.EqualFold(scheme, "Bearer") && len(token) <= 200 && strings.HasPrefix(token, coordinator.APITokenPrefix) {
		t, u, err = s.Store.TokenByHash(r.Context(), coordinator.HashToken(coordinator.Secret(token)), now)
	}
	if coordinator.CodeOf(err) == coordinator.CodeUnauthenticated {
		return coordinator.Actor{}, s.failedAuth(r, err)
	}
	if err != nil {
		return coordinator.Actor{}, err
	}
	if t.LastUsed.IsZero() { // somebody is in; before the use is recorded, so that a crash in between does not keep it
		if err := s.Setup.Done(r.Context()); err != nil {
			return coordinator.Actor{}, err
		}
	}
	if now.Sub(t.LastUsed) > time.Minute {
		if err := s.Store.TouchToken(r.Context(), t.ID, now); err != nil && !errors.Is(err, context.Canceled) {
			s.Logger.WarnContext(r.Context(), "record use of token", "err", err)
		}
	}
	return coordinator.Actor{User: u, TokenID: t.ID, TokenName: t.Name, Workspace: t.WorkspaceID}, nil
}

// failedAuth counts a failed sign-in of r's source. It returns err, or that the source has to wait.
func (s *server) failedAuth(r *http.Request, err error) error {
	if s.limiter.allow(source(r)) {
		return err
	}
	p := statusProblem(http.StatusTooManyRequests, "too many failed sign-ins from your address", "wait a minute and try again")
	p.headers = http.Header{"Retry-After": {"60"}}
	return p
}

// source is the network that a request came from. Forwarded headers are not believed.
func source(r *http.Request) string {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		return r.RemoteAddr
	}
	ip, err := netip.ParseAddr(host)
	if err != nil {
		return host
	}
	ip = ip.Unmap()
	if ip.Is4() {
		return ip.String()
	}
	// One customer has a whole /64.
	p, err := ip.WithZone("").Prefix(64)
	if err != nil {
		return ip.String()
	}
	return p.String()
}

const (
	failBurst   = 30              // failed sign-ins in a row
	failRefill  = 2 * time.Second // until one more
	maxFailures = 10_000          // sources that are remembered
)

// A limiter counts failed sign-ins by source.
type limiter struct {
	now func() time.Time

	mu   sync.Mutex
	free map[string]time.Time // when the source's bucket is full again; guarded by mu
}

func newLimiter(now func() time.Time) *limiter {
	return &limiter{now: now, free: map[string]time.Time{}}
}

// allow takes one failure from the source's bucket, and reports whether there was one left.
func (l *limiter) allow(source string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := l.now()
	if len(l.free) >= maxFailures {
		for k, t := range l.free {
			if !t.After(now) {
				delete(l.free, k)
			}
		}
		if len(l.free) >= maxFailures {
			clear(l.free) // an attack from everywhere: forgetting is cheaper than growing
		}
	}
	full := l.free[source]
	if full.Before(now) {
		full = now
	}
	full = full.Add(failRefill)
	if full.Sub(now) > failBurst*failRefill {
		return false
	}
	l.free[source] = full
	return true
}
