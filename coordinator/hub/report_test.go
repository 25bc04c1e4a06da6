package hub

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"berth/agent"
	"berth/coordinator"
)

func (w *world) log() []coordinator.LogLine {
	w.t.Helper()
	var all []coordinator.LogLine
	for from := 0; ; {
		lines, err := w.store.Log(ctx, w.start.ID, "main", from, 1000)
		ok(w.t, err)
		if len(lines) == 0 {
			return all
		}
		all = append(all, lines...)
		from = lines[len(lines)-1].Seq + 1
	}
}

func logMessage(seq int, text string) agent.Message {
	return agent.Message{Type: agent.TypeLog, Log: &agent.LogReport{Step: agent.StepConfigure, Seq: seq, Time: time.Now(), Text: text}}
}

func TestReports(t *testing.T) {
	w := newWorld(t).up()
	a := w.agent().link()
	w.connected()
	a.say(agent.Message{Type: "something newer"})
	a.say(agent.Message{Type: agent.TypeStep, Step: &agent.StepReport{Name: agent.StepConfigure, Outcome: agent.OutcomeRunning, Started: time.Now()}})
	a.say(agent.Message{Type: agent.TypeStep, Step: &agent.StepReport{
		Name: agent.StepConfigure, Outcome: agent.OutcomeFailed, ExitCode: 3, Error: "line\none\x1b[2J", Duration: -5, Started: time.Unix(1, 0),
	}})
	a.say(agent.Message{Type: agent.TypeStep, Step: &agent.StepReport{Name: "x", Outcome: "no such outcome"}})
	a.say(agent.Message{Type: agent.TypeStep})
	for i := range maxSteps * 2 {
		a.say(agent.Message{Type: agent.TypeStep, Step: &agent.StepReport{Name: fmt.Sprint("step", i), Outcome: agent.OutcomeOK}})
	}
	for i := range 5 {
		a.say(logMessage(i, fmt.Sprint("line ", i)))
	}
	a.say(logMessage(2, "line 2 again"))
	a.say(logMessage(-1, "before the beginning"))
	a.say(logMessage(coordinator.MaxLogLines, "after the end"))
	a.say(logMessage(5, strings.Repeat("é", agent.MaxLogText)+"\xff"))
	a.say(agent.Message{Type: agent.TypeReady})
	eventually(t, "all stored", func() bool { return w.stored().Ready && len(w.log()) == 6 })

	got := w.stored()
	if len(got.Steps) != maxSteps {
		t.Errorf("%d steps are kept", len(got.Steps))
	}
	s := got.Steps[0]
	if s.Outcome != agent.OutcomeFailed || s.ExitCode != 3 || s.Error != "line one [2J" || s.Duration != 0 || time.Since(s.Started) > time.Minute {
		t.Errorf("the step is %+v", s)
	}
	for i, l := range w.log() {
		if l.Seq != i || l.Stage != agent.StepConfigure || i < 5 && l.Text != fmt.Sprint("line ", i) || len(l.Text) > agent.MaxLogText+len("…") {
			t.Errorf("line %d is %d %q %.40q", i, l.Seq, l.Stage, l.Text)
		}
	}
}

func TestLogFloodIsDropped(t *testing.T) {
	w := newWorld(t).up()
	a := w.agent().link()
	w.connected()
	const n = linesAtOnce + 1500
	for i := range n {
		a.say(logMessage(i, "x"))
	}
	a.say(agent.Message{Type: agent.TypeReady})
	eventually(t, "ready", func() bool { return w.stored().Ready })
	eventually(t, "the last line", func() bool {
		lines := w.log()
		return len(lines) > 0 && lines[len(lines)-1].Seq == n-1
	})
	lines := w.log()
	if len(lines) < linesAtOnce || len(lines) > n-500 {
		t.Errorf("%d of %d lines are kept", len(lines), n)
	}
	dropped := 0
	for _, l := range lines {
		if l.Level == "warn" {
			var d int
			fmt.Sscanf(l.Text, "%d lines were dropped", &d)
			dropped += d - 1 // the notice stands in the place of one
		}
	}
	if dropped+len(lines) != n {
		t.Errorf("%d lines are kept, %d told as dropped, of %d", len(lines), dropped, n)
	}
}

func TestReportsSurviveAFullDisk(t *testing.T) {
	w := newWorld(t).up()
	a := w.agent().link()
	w.connected()
	eventually(t, "linked", func() bool { return !w.stored().FirstConnected.IsZero() })
	w.faults.set(errDisk)
	a.say(logMessage(0, "one"))
	a.say(agent.Message{Type: agent.TypeReady})
	eventually(t, "reported", func() bool {
		l, err := w.hub.newest(w.ws.ID, agentID)
		ok(t, err)
		l.reporter.mu.Lock()
		defer l.reporter.mu.Unlock()
		return l.reporter.rec.Ready && len(l.reporter.lines) == 1
	})
	w.faults.set(nil)
	eventually(t, "stored after all", func() bool { return w.stored().Ready && len(w.log()) == 1 })
}

// TestCloseStoresWhatWasReported: a shutdown does not lose what an agent has said.
func TestCloseStoresWhatWasReported(t *testing.T) {
	w := newWorld(t).up()
	a := w.agent().link()
	w.connected()
	for i := range 700 {
		a.say(logMessage(i, "x"))
	}
	a.say(agent.Message{Type: agent.TypeReady})
	l, err := w.hub.newest(w.ws.ID, agentID)
	ok(t, err)
	eventually(t, "reported", func() bool {
		l.reporter.mu.Lock()
		defer l.reporter.mu.Unlock()
		return l.reporter.rec.Ready
	})
	w.hub.Close()
	if !w.stored().Ready || len(w.log()) != 700 {
		t.Errorf("ready %v, %d lines", w.stored().Ready, len(w.log()))
	}
}

func TestOutboxIsCapped(t *testing.T) {
	w := newWorld(t).up()
	resp, conn := w.agent().dial() // opens no control stream
	if conn == nil {
		t.Fatal(resp.Status)
	}
	defer conn.Close()
	w.connected()
	for range maxOutbox + 1 {
		w.hub.ManifestChanged(w.ws.ID)
	}
	eventually(t, "given up", func() bool { return len(w.hub.Presence(w.ws.ID).Connected) == 0 })
}
