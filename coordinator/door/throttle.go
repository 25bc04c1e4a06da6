package door

import (
	"errors"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"sync"

	"berth/coordinator"
)

// A ramp is a limit with random early drop, as OpenSSH's MaxStartups: nobody is refused before begin, rate percent are
// from there on, ever more of them, and everybody is at full. Somebody honest gets in at the second or third try while
// a flood lasts, where a plain limit would let in whoever knocks most often.
type ramp struct{ begin, rate, full int }

// Limits on connections whose key is not verified yet. They cost a key exchange and a few goroutines each, and anybody
// can open them.
var (
	strangers  = ramp{200, 30, 500}
	fromSource = ramp{50, 30, 100}
)

// refuses decides about one more where there are n; dice returns a number below its argument.
func (r ramp) refuses(n int, dice func(int) int) bool {
	switch {
	case n < r.begin:
		return false
	case n >= r.full:
		return true
	}
	return dice(100) < r.rate+(100-r.rate)*(n-r.begin)/(r.full-r.begin)
}

// A throttle counts connections that have not proved a key, in all and by source.
type throttle struct {
	exempt []netip.Prefix
	dice   func(int) int

	mu     sync.Mutex
	all    int                  // guarded by mu
	source map[netip.Prefix]int // guarded by mu
}

func newThrottle(exempt []netip.Prefix) *throttle {
	return &throttle{exempt: exempt, dice: rand.IntN, source: make(map[netip.Prefix]int)}
}

var errCrowded = errors.New("too many logins are under way; try again in a moment")

// enter counts a connection in, until release is called for the first time.
func (t *throttle) enter(src netip.Prefix) (release func(), err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if strangers.refuses(t.all, t.dice) || !isExempt(src, t.exempt) && fromSource.refuses(t.source[src], t.dice) {
		return nil, errCrowded
	}
	t.all++
	t.source[src]++
	return sync.OnceFunc(func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		t.all--
		if t.source[src]--; t.source[src] == 0 {
			delete(t.source, src)
		}
	}), nil
}

// source is who an address belongs to: itself, or for IPv6 its network of 64 bits, which one host has to itself.
func source(a net.Addr) netip.Prefix {
	ap, err := netip.ParseAddrPort(a.String())
	if err != nil {
		return netip.Prefix{}
	}
	ip, bits := ap.Addr().Unmap().WithZone(""), 32
	switch {
	case ip.Is6() && ip.IsLoopback():
		bits = 128
	case ip.Is6():
		bits = 64
	}
	p, err := ip.Prefix(bits)
	if err != nil {
		return netip.Prefix{}
	}
	return p
}

// isExempt reports whether a source has no limit of its own and is not punished: what comes from this machine, for
// behind it may be a forwarder and everybody, and the networks that the operator named.
func isExempt(src netip.Prefix, exempt []netip.Prefix) bool {
	return src.Addr().IsLoopback() || slices.ContainsFunc(exempt, func(p netip.Prefix) bool {
		return p.Bits() <= src.Bits() && p.Contains(src.Addr())
	})
}

// A quota counts what users hold of something, each and all together.
type quota struct {
	perUser, inAll int

	mu    sync.Mutex
	all   int                        // guarded by mu
	users map[coordinator.UserID]int // guarded by mu
}

func newQuota(perUser, inAll int) *quota {
	return &quota{perUser: perUser, inAll: inAll, users: make(map[coordinator.UserID]int)}
}

// take counts one in, until release is called for the first time. It fails where there are too many.
func (q *quota) take(u coordinator.UserID) (release func(), ok bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.all >= q.inAll || q.users[u] >= q.perUser {
		return nil, false
	}
	q.all++
	q.users[u]++
	return sync.OnceFunc(func() {
		q.mu.Lock()
		defer q.mu.Unlock()
		q.all--
		if q.users[u]--; q.users[u] == 0 {
			delete(q.users, u)
		}
	}), true
}
