// Package events wakes those who watch a workspace. A wake-up carries nothing and may stand for many: who is woken
// reads again from the store. It forgets everything that nobody watches.
package events

import (
	"sync"

	"berth/coordinator"
)

// A Bus passes wake-ups from those who change a workspace to those who watch it.
type Bus struct {
	mu      sync.Mutex
	watches map[coordinator.WorkspaceID]map[chan struct{}]struct{} // guarded by mu
}

// New returns a Bus that nobody watches.
func New() *Bus {
	return &Bus{watches: make(map[coordinator.WorkspaceID]map[chan struct{}]struct{})}
}

// Notify wakes all who watch ws and all who watch everything. It never blocks.
func (b *Bus) Notify(ws coordinator.WorkspaceID) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.wake(ws)
	if ws != "" {
		b.wake("")
	}
}

func (b *Bus) wake(ws coordinator.WorkspaceID) {
	for c := range b.watches[ws] {
		select {
		case c <- struct{}{}:
		default: // a wake-up is pending already
		}
	}
}

// Watch returns a channel that gets a value after ws changed; ws "" watches every workspace. Changes that come
// faster than they are received become one value. The returned function ends the watch; the channel is not closed.
func (b *Bus) Watch(ws coordinator.WorkspaceID) (<-chan struct{}, func()) {
	c := make(chan struct{}, 1)
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.watches[ws] == nil {
		b.watches[ws] = make(map[chan struct{}]struct{})
	}
	b.watches[ws][c] = struct{}{}
	return c, func() { b.end(ws, c) }
}

func (b *Bus) end(ws coordinator.WorkspaceID, c chan struct{}) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.watches[ws], c)
	if len(b.watches[ws]) == 0 {
		delete(b.watches, ws)
	}
}
