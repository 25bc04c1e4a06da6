package hub

import (
	"strings"
	"testing"
	"time"

	"berth/agent"
)

// What an agent tells of IDEs' servers is there while it is connected, without what could fool a terminal.
func TestIDEs(t *testing.T) {
	w := newWorld(t).up()
	a := w.agent().link()
	w.connected()
	ides := func() []agent.IDEServer {
		for _, list := range w.hub.Presence(w.ws.ID).IDEs {
			return list
		}
		return nil
	}
	many := make([]agent.IDEServer, 2*agent.MaxIDEServers)
	many[0] = agent.IDEServer{PID: -1, Product: "VS\x1b[2J Code", Command: strings.Repeat("x", 500), Memory: -1, Started: time.Unix(1, 0)}
	a.say(agent.Message{Type: agent.TypeIDEs, IDEs: many})
	eventually(t, "taken in", func() bool { return len(ides()) == agent.MaxIDEServers })
	if i := ides()[0]; i.PID != 0 || i.Memory != 0 || i.Product != "VS [2J Code" || len(i.Command) > 90 {
		t.Errorf("got %+v", i)
	}
	a.say(agent.Message{Type: agent.TypeIDEs})
	eventually(t, "taken back", func() bool { return len(ides()) == 0 })
}
