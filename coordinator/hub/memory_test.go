package hub

import (
	"runtime"
	"testing"

	"berth/agent"
)

// TestIdleLinkIsSmall measures what one idle link costs the coordinator, beyond the kernel's buffers.
func TestIdleLinkIsSmall(t *testing.T) {
	const (
		n     = 50
		limit = 2 * 48 << 10 // heap and stacks of both ends
	)
	w := newWorld(t).up()
	size := func() uint64 {
		runtime.GC()
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc + m.StackInuse
	}
	before := size()
	agents := make([]*fakeAgent, 0, n)
	h := w.hub
	for range n {
		// Each is an agent of its own, as far as the hub's seats go.
		h.mu.Lock()
		delete(h.seats, w.ws.ID)
		h.mu.Unlock()
		a := w.agent().link()
		w.connected()
		a.say(agent.Message{Type: agent.TypeHeartbeat})
		agents = append(agents, a)
	}
	after := size()
	each := (after - min(before, after)) / n
	t.Logf("one idle link costs %d KiB, the test's own end of it included", each>>10)
	if each > limit {
		t.Errorf("one idle link and its other end cost %d KiB", each>>10)
	}
	for _, a := range agents {
		a.close()
	}
	eventually(t, "all gone", func() bool { return runtime.NumGoroutine() < 60 })
}
