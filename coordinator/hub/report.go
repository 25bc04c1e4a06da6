package hub

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"berth/agent"
	"berth/coordinator"
)

// What an agent may report.
const (
	linesASecond = 200
	linesAtOnce  = 2000
	bytesASecond = 256 << 10
	bytesAtOnce  = 1 << 20
	maxSteps     = 64
	maxStepName  = 64
	maxStepError = 500
	maxBatch     = 500 // log lines stored at once
)

const (
	batchPause = 100 * time.Millisecond // between two writes of one agent's reports
	retryPause = time.Second            // after a write that failed
	seenEvery  = 5 * time.Minute        // how often a heartbeat is written
	storeLimit = 10 * time.Second       // for one write
)

// A reporter takes in what one agent reports and writes it to the store in batches. Nobody waits for it: what comes
// faster than an agent may report is dropped and counted.
type reporter struct {
	hub     *Hub
	ws      coordinator.WorkspaceID
	agentID string

	mu       sync.Mutex
	rec      coordinator.WorkspaceAgent // guarded by mu, like all below
	dirty    bool                       // rec is newer than the store's
	lines    []coordinator.LogLine      // of rec.BuildID, to be stored
	taken    []uint64                   // sequence numbers that were taken, a bit each
	dropped  int
	last     coordinator.LogLine // of those that were dropped
	byLines  bucket
	byBytes  bucket
	flushing bool
	gone     bool // what fails now is not tried again
}

func newReporter(h *Hub, ws coordinator.WorkspaceID, agentID string) *reporter {
	return &reporter{
		hub: h, ws: ws, agentID: agentID,
		byLines: bucket{rate: linesASecond, burst: linesAtOnce},
		byBytes: bucket{rate: bytesASecond, burst: bytesAtOnce},
	}
}

// adopt takes up the store's record: for a new start build all of it, else what only the store can know better. The
// caller may hold the hub's mu, and calls flush once it does not.
func (r *reporter) adopt(rec coordinator.WorkspaceAgent) {
	r.mu.Lock()
	if rec.BuildID != r.rec.BuildID {
		r.rec, r.taken, r.lines, r.dropped = rec, nil, nil, 0
		r.rec.Steps = slices.Clone(rec.Steps)
	} else {
		r.rec.AgentRecord, r.rec.PinnedKey = rec.AgentRecord, rec.PinnedKey
	}
	now := r.hub.now()
	if r.rec.FirstConnected.IsZero() {
		r.rec.FirstConnected = now
	}
	r.rec.LastSeen = now
	r.dirty = true
	r.mu.Unlock()
}

// drop says that the agent's workspace was stopped or deleted.
func (r *reporter) drop() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.gone = true
}

func (r *reporter) reportsOn(build coordinator.BuildID) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.rec.BuildID == build
}

// seen notes a heartbeat.
func (r *reporter) seen() {
	r.mu.Lock()
	now := r.hub.now()
	due := now.Sub(r.rec.LastSeen) >= seenEvery
	if due {
		r.rec.LastSeen, r.dirty = now, true
	}
	r.mu.Unlock()
	if due {
		r.flush()
	}
}

// left notes the end of a link.
func (r *reporter) left() {
	r.mu.Lock()
	if now := r.hub.now(); now.Sub(r.rec.LastSeen) >= time.Minute {
		r.rec.LastSeen, r.dirty = now, true
	}
	r.mu.Unlock()
	r.flush()
}

var outcomes = []string{
	agent.OutcomeRunning, agent.OutcomeOK, agent.OutcomeSkipped, agent.OutcomeFailed, agent.OutcomeTimeout,
}

// step takes a step's state in place of what was known of that step.
func (r *reporter) step(s agent.StepReport) {
	s.Name = plain(s.Name, maxStepName)
	if s.Name == "" || !slices.Contains(outcomes, s.Outcome) {
		return
	}
	s.Error = plain(s.Error, maxStepError)
	s.Started = r.bearable(s.Started)
	s.Duration = max(0, s.Duration)
	r.mu.Lock()
	i := slices.IndexFunc(r.rec.Steps, func(o agent.StepReport) bool { return o.Name == s.Name })
	switch {
	case i >= 0:
		r.rec.Steps = slices.Clone(r.rec.Steps) // a write may be reading the old ones
		r.rec.Steps[i] = s
		r.dirty = true
	case len(r.rec.Steps) < maxSteps:
		r.rec.Steps = append(slices.Clone(r.rec.Steps), s)
		r.dirty = true
	}
	r.mu.Unlock()
	r.flush()
}

// bearable returns t unless it is far from now: an agent's clock is not to be trusted.
func (r *reporter) bearable(t time.Time) time.Time {
	now := r.hub.now()
	if d := now.Sub(t); d > 365*24*time.Hour || d < -time.Hour {
		return now
	}
	return t
}

// ready notes the end of the startup.
func (r *reporter) ready() {
	r.mu.Lock()
	r.dirty = r.dirty || !r.rec.Ready
	r.rec.Ready = true
	r.mu.Unlock()
	r.flush()
}

// line takes a piece of a step's log. One that was taken before, and is repeated after a reconnect, costs nothing.
func (r *reporter) line(g agent.LogReport) {
	if g.Seq < 0 || g.Seq >= coordinator.MaxLogLines {
		return
	}
	l := coordinator.LogLine{
		Seq: g.Seq, Time: r.bearable(g.Time), Stage: plain(g.Step, maxStepName), Level: "info",
		Text: strings.ToValidUTF8(coordinator.Clip(strings.TrimRight(g.Text, "\r\n"), agent.MaxLogText), "�"),
	}
	now := time.Now()
	r.mu.Lock()
	defer r.flush()
	defer r.mu.Unlock()
	if !r.take(g.Seq) {
		return
	}
	l.Source = r.rec.Name
	if len(r.lines) >= linesAtOnce || !r.byLines.take(now, 1) || !r.byBytes.take(now, float64(len(l.Text))) {
		r.dropped++
		r.last = l
		return
	}
	r.noteDropped()
	r.lines = append(r.lines, l)
}

// take notes a sequence number and reports whether it is new. It is called with mu held.
func (r *reporter) take(seq int) bool {
	for len(r.taken) <= seq/64 {
		r.taken = append(r.taken, 0)
	}
	bit := uint64(1) << (seq % 64)
	taken := r.taken[seq/64]&bit != 0
	r.taken[seq/64] |= bit
	return !taken
}

// noteDropped puts one line in the place of those that were dropped. It is called with mu held.
func (r *reporter) noteDropped() {
	if r.dropped == 0 {
		return
	}
	l := r.last
	l.Level = "warn"
	l.Text = fmt.Sprintf("%d lines were dropped: they came faster than %d a second", r.dropped, linesASecond)
	r.lines = append(r.lines, l)
	r.dropped, r.last = 0, coordinator.LogLine{}
}

// flush has one goroutine, and no second, write what there is.
func (r *reporter) flush() {
	r.mu.Lock()
	idle := !r.flushing && r.pending()
	r.flushing = r.flushing || idle
	r.mu.Unlock()
	if idle && !r.hub.spawn(r.write) {
		r.mu.Lock()
		r.flushing = false
		r.mu.Unlock()
	}
}

func (r *reporter) pending() bool { return r.dirty || len(r.lines) > 0 || r.dropped > 0 }

// write writes batches until there is nothing more. What fails is tried again, until the hub closes.
func (r *reporter) write() {
	for last := false; ; {
		pause, err := batchPause, r.writeBatch()
		if err != nil {
			r.hub.log.Error("cannot store an agent's reports", "workspace", r.ws, "agent", r.agentID, "err", err)
			pause = retryPause
		}
		r.mu.Lock()
		if !r.pending() || (last || r.gone) && err != nil {
			r.flushing = false
			r.mu.Unlock()
			return
		}
		r.mu.Unlock()
		t := time.NewTimer(pause)
		select {
		case <-t.C:
		case <-r.hub.done:
			last = true
		}
		t.Stop()
	}
}

func (r *reporter) writeBatch() error {
	r.mu.Lock()
	r.noteDropped()
	rec, dirty := r.rec, r.dirty
	lines := r.lines[:min(len(r.lines), maxBatch)]
	r.dirty = false
	r.mu.Unlock()

	ctx, cancel := context.WithTimeout(context.Background(), storeLimit)
	defer cancel()
	if dirty {
		if err := r.hub.store.UpdateAgent(ctx, rec); err != nil && !hopeless(err) {
			r.mu.Lock()
			r.dirty = true
			r.mu.Unlock()
			return err
		}
	}
	if len(lines) > 0 {
		if err := r.hub.store.AppendLog(ctx, rec.BuildID, lines); err != nil && !hopeless(err) {
			return err
		}
	}
	r.mu.Lock()
	if rec.BuildID == r.rec.BuildID && len(r.lines) >= len(lines) {
		r.lines = slices.Clone(r.lines[len(lines):])
	}
	r.mu.Unlock()
	if dirty || len(lines) > 0 {
		r.hub.events.Notify(r.ws)
	}
	return nil
}

// hopeless reports whether the store will never take this: the agent or its build is gone.
func hopeless(err error) bool {
	switch coordinator.CodeOf(err) {
	case coordinator.CodeNotFound, coordinator.CodeConflict, coordinator.CodeInvalid:
		return true
	}
	return false
}
