package door

import (
	"errors"
	"net"
	"net/netip"
	"sync"
)

// Caps of connections whose key is not verified yet. They cost a key exchange and a goroutine each, and anybody can
// open them.
const (
	maxStrangers  = 400
	maxFromSource = 100
)

// A throttle counts connections that have not proved a key, in all and by source.
type throttle struct {
	mu     sync.Mutex
	all    int                  // guarded by mu
	source map[netip.Prefix]int // guarded by mu
}

func newThrottle() *throttle { return &throttle{source: make(map[netip.Prefix]int)} }

// enter counts a connection in, until release is called for the first time.
func (t *throttle) enter(a net.Addr) (release func(), err error) {
	src := source(a)
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.all >= maxStrangers || t.source[src] >= maxFromSource {
		return nil, errors.New("too many logins are under way; try again in a moment")
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
	if ip.Is6() {
		bits = 64
	}
	p, err := ip.Prefix(bits)
	if err != nil {
		return netip.Prefix{}
	}
	return p
}
