package hub

import (
	"slices"

	"berth/agent"
)

// takeIDEs keeps what an agent tells of servers that IDEs left behind, for as long as its link lives.
func (h *Hub) takeIDEs(l *link, list []agent.IDEServer) {
	list = slices.Clone(list[:min(len(list), agent.MaxIDEServers)])
	for i := range list {
		list[i].Product, list[i].Command = plain(list[i].Product, 40), plain(list[i].Command, 80)
		list[i].PID, list[i].Memory = max(0, list[i].PID), max(0, list[i].Memory)
	}
	h.mu.Lock()
	l.ides = list
	h.mu.Unlock()
	h.events.Notify(l.ws)
}
