package link

import (
	"errors"
	"math/rand/v2"
	"time"

	"berth/agent"
)

// A refusal is an answer of the coordinator that is not a link.
type refusal struct {
	status int
	code   string // agent.Code constant, where the coordinator gave one
	after  time.Duration
	text   string
}

func (r *refusal) Error() string { return r.text }

// slow reports whether asking again soon is of no use: the coordinator knows us, or knows that it does not.
func (r *refusal) slow() bool {
	return r.status == 401 || r.status == 403 || r.status == 426
}

const (
	slowMin       = 5 * time.Second // first wait after a refusal that will not change soon
	maxRetryAfter = 5 * time.Minute
)

// A pacer says how long to wait before the next attempt: not at all after a link was lost, then with full jitter up
// to a bound that grows with the outage. The bound stays small at first, because a coordinator that restarts is back
// within seconds and refused connections cost it nothing; when it is there and busy it says so by Retry-After.
type pacer struct {
	tries int       // failures since the last link
	since time.Time // of the first of them
	said  time.Time // when the last failure was logged
	last  string    // what it was
}

func (p *pacer) connected() { *p = pacer{} }

// failed counts a failure and returns the wait before the next attempt, and whether to log this failure: each kind
// once, and again every five minutes.
func (p *pacer) failed(err error, now time.Time) (wait time.Duration, say bool) {
	if p.tries == 0 {
		p.since = now
	}
	p.tries++
	if err.Error() != p.last || now.Sub(p.said) >= 5*time.Minute {
		p.last, p.said, say = err.Error(), now, true
	}
	var r *refusal
	switch {
	case errors.As(err, &r) && r.after > 0:
		after := min(r.after, maxRetryAfter)
		return after + jitter(after/4), say
	case errors.As(err, &r) && r.slow():
		bound := grow(slowMin, p.tries-1, agent.ReconnectMax)
		return bound/2 + jitter(bound/2), say
	case p.tries == 1:
		return 0, say
	}
	return jitter(grow(agent.ReconnectMin, p.tries-1, p.bound(now))), say
}

func (p *pacer) bound(now time.Time) time.Duration {
	switch outage := now.Sub(p.since); {
	case outage < 2*time.Minute:
		return time.Second
	case outage < 10*time.Minute:
		return 5 * time.Second
	}
	return agent.ReconnectMax
}

// grow doubles d n times, up to bound.
func grow(d time.Duration, n int, bound time.Duration) time.Duration {
	for ; n > 0 && d < bound; n-- {
		d *= 2
	}
	return min(d, bound)
}

func jitter(d time.Duration) time.Duration {
	if d <= 0 {
		return 0
	}
	return rand.N(d)
}
