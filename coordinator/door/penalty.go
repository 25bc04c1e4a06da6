package door

import (
	"crypto/rsa"
	"errors"
	"net/netip"
	"strings"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"
)

// An offence is what a source is punished for, as by OpenSSH's PerSourcePenalties. Offering keys that are not
// registered is none: people have many, and a client offers them all.
type offence struct {
	name    string
	penalty time.Duration
}

var (
	// badSignature is a key that was claimed and not held. The library ends a connection at the first, so the third
	// within moments is the last of a source for a while.
	badSignature = offence{"failed signature", 6 * time.Second}
	// guesses are passwords, which are asked for nowhere, and more keys than maxOffers.
	guesses = offence{"too many authentication failures", 5 * time.Second}
	// tooSlow is a login that was not over at the end of its grace, of somebody who offered no registered key: with one,
	// a person may have been slow to type a passphrase or to touch a security key.
	tooSlow = offence{"login took too long", 10 * time.Second}
)

const (
	leastPenalty = 15 * time.Second // what has to come together before anybody is refused
	mostPenalty  = 10 * time.Minute
	maxPenalties = 16384 // sources that are remembered
)

// A penalty of a source ends by itself.
type penalty struct {
	until  time.Time
	active bool // leastPenalty was reached once
}

// penalties are what sources have earned.
type penalties struct {
	exempt []netip.Prefix

	mu     sync.Mutex
	source map[netip.Prefix]penalty // guarded by mu
}

func newPenalties(exempt []netip.Prefix) *penalties {
	return &penalties{exempt: exempt, source: make(map[netip.Prefix]penalty)}
}

// add punishes a source.
func (p *penalties) add(src netip.Prefix, o offence, now time.Time) {
	if isExempt(src, p.exempt) {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	x, known := p.source[src]
	if !known && len(p.source) >= maxPenalties {
		p.makeRoom(now)
	}
	if x.until.Before(now) {
		x = penalty{until: now}
	}
	x.until = x.until.Add(o.penalty)
	if last := now.Add(mostPenalty); x.until.After(last) {
		x.until = last
	}
	x.active = x.active || x.until.Sub(now) >= leastPenalty
	p.source[src] = x
}

// left is how long a source is refused yet.
func (p *penalties) left(src netip.Prefix, now time.Time) time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	x, known := p.source[src]
	switch {
	case !known:
		return 0
	case !x.until.After(now):
		delete(p.source, src)
		return 0
	case !x.active:
		return 0
	}
	return x.until.Sub(now)
}

// makeRoom forgets what is over, or else, of a few, the source that would be free first: a table that is full must not
// refuse those who are not in it.
func (p *penalties) makeRoom(now time.Time) {
	const look = 16
	var first netip.Prefix
	var until time.Time
	n := 0
	for src, x := range p.source { // in no order
		if !x.until.After(now) {
			delete(p.source, src)
			continue
		}
		if until.IsZero() || x.until.Before(until) {
			first, until = src, x.until
		}
		if n++; n >= look {
			break
		}
	}
	if len(p.source) >= maxPenalties {
		delete(p.source, first)
	}
}

// offended returns what a login that failed is punished for, if it is.
func (c *conn) offended(err error) (offence, bool) {
	switch {
	case c.user.ID != "": // a key was proved; what came then is nobody's attack
		return offence{}, false
	case isBadSignature(err):
		return badSignature, true
	case c.late.Load() && c.known:
		return offence{}, false
	case c.late.Load():
		return tooSlow, true
	case c.guessed || strings.Contains(err.Error(), "too many authentication "):
		return guesses, true
	}
	return offence{}, false
}

// isBadSignature recognizes the library's errors for a signature that does not verify: it ends the connection there,
// without a callback.
func isBadSignature(err error) bool {
	var auth *ssh.ServerAuthError
	if errors.As(err, &auth) {
		return false // it went on
	}
	s := err.Error()
	return errors.Is(err, rsa.ErrVerification) || strings.Contains(s, "signature did not verify") || strings.Contains(s, "ssh: signature type ")
}
