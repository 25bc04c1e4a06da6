package link

import (
	"strings"
	"testing"

	"berth/agent"
)

func drainAll(c *cursor) (out []agent.Message) {
	for {
		m, _ := c.next()
		if len(m) == 0 {
			return out
		}
		out = append(out, m...)
	}
}

func TestOutboxOrder(t *testing.T) {
	o := NewOutbox()
	o.Ready()
	for i := range 200 {
		o.Log(agent.LogReport{Seq: i, Text: "x"})
	}
	o.Step(agent.StepReport{Name: "a", Outcome: agent.OutcomeRunning})
	o.Step(agent.StepReport{Name: "a", Outcome: agent.OutcomeOK})
	c := o.cursor()
	all := drainAll(c)
	if len(all) != 202 || all[len(all)-1].Type != agent.TypeReady {
		t.Fatalf("%d messages, the last %q", len(all), all[len(all)-1].Type)
	}
	if all[0].Step == nil || all[0].Step.Outcome != agent.OutcomeOK {
		t.Errorf("first message %+v", all[0])
	}
	if again := drainAll(c); len(again) != 0 {
		t.Errorf("told again: %v", again)
	}
	if other := drainAll(o.cursor()); len(other) != 202 {
		t.Errorf("another link is told %d messages", len(other))
	}
	o.Reset()
	o.Log(agent.LogReport{Seq: 0, Text: "new build"})
	if m := drainAll(c); len(m) != 1 || m[0].Log.Text != "new build" {
		t.Errorf("after a reset: %v", m)
	}
}

func TestOutboxForgets(t *testing.T) {
	o := NewOutbox()
	c := o.cursor()
	o.Log(agent.LogReport{Seq: 0, Text: "old"})
	drainAll(c)
	for range 4 {
		c.beat()
	}
	if n := len(drainAll(o.cursor())); n != 1 {
		t.Fatalf("forgotten too early: %d left", n)
	}
	o.Log(agent.LogReport{Seq: 1, Text: "not told"})
	c.beat()
	if m := drainAll(o.cursor()); len(m) != 1 || m[0].Log.Text != "not told" {
		t.Errorf("left: %v", m)
	}
}

func TestOutboxCap(t *testing.T) {
	o := NewOutbox()
	line := strings.Repeat("x", agent.MaxLogText)
	for i := range 1000 {
		o.Log(agent.LogReport{Seq: i, Text: line})
	}
	if o.size > maxOutbox {
		t.Errorf("holds %d bytes", o.size)
	}
	c := o.cursor()
	m := drainAll(c)
	if last := m[len(m)-1].Log.Seq; last != 999 || len(m) != maxOutbox/agent.MaxLogText {
		t.Errorf("%d lines, the last is %d", len(m), last)
	}
}
