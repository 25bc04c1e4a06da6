package link

import (
	"testing"

	"berth/agent"
)

// Every link is told the newest list once, and nothing where there was never any.
func TestIDEs(t *testing.T) {
	o := NewOutbox()
	c := o.cursor()
	if m, _ := c.next(); len(m) != 0 {
		t.Fatalf("told %+v", m)
	}
	o.IDEs([]agent.IDEServer{{PID: 1}})
	o.IDEs([]agent.IDEServer{{PID: 2}})
	for _, c := range []*cursor{c, o.cursor()} {
		if m, _ := c.next(); len(m) != 1 || m[0].Type != agent.TypeIDEs || len(m[0].IDEs) != 1 || m[0].IDEs[0].PID != 2 {
			t.Errorf("told %+v", m)
		}
		if m, _ := c.next(); len(m) != 0 {
			t.Errorf("told again %+v", m)
		}
	}
	o.IDEs(nil)
	if m, _ := c.next(); len(m) != 1 || len(m[0].IDEs) != 0 {
		t.Errorf("told %+v", m)
	}
}
