package link

import (
	"slices"
	"sync"

	"berth/agent"
)

// maxOutbox caps the text of the log lines that an outbox keeps; the oldest go first.
const maxOutbox = 1 << 20

// An Outbox holds what the agent has to tell of its startup: the state of each step, log lines, and whether all is
// done. Every new link begins by telling it again, since the coordinator may have lost what it had not yet written
// down; it drops what it has by sequence number.
type Outbox struct {
	mu      sync.Mutex
	changed chan struct{} // closed and replaced at every change

	logs  []agent.LogReport
	base  int // position of logs[0] since the beginning
	size  int // bytes of text in logs
	epoch int // counts resets

	steps []step
	seq   int // version of the newest step
	ready bool

	ides    []agent.IDEServer
	idesSeq int // version of ides; 0: never told
}

type step struct {
	report  agent.StepReport
	version int
}

// NewOutbox returns an empty outbox.
func NewOutbox() *Outbox { return &Outbox{changed: make(chan struct{})} }

// Step tells the state of a step, in place of what was told of it before.
func (o *Outbox) Step(r agent.StepReport) {
	o.change(func() {
		o.seq++
		i := slices.IndexFunc(o.steps, func(s step) bool { return s.report.Name == r.Name })
		if i < 0 {
			o.steps = append(o.steps, step{r, o.seq})
			return
		}
		o.steps[i] = step{r, o.seq}
	})
}

// Log tells a line of a step's log.
func (o *Outbox) Log(r agent.LogReport) {
	o.change(func() {
		o.logs = append(o.logs, r)
		o.size += len(r.Text)
		for o.size > maxOutbox {
			o.drop(1)
		}
	})
}

// IDEs tells which servers of IDEs no session holds, in place of what was told before.
func (o *Outbox) IDEs(list []agent.IDEServer) {
	o.change(func() {
		o.ides = list
		o.idesSeq++
	})
}

// Ready tells that every step has ended.
func (o *Outbox) Ready() { o.change(func() { o.ready = true }) }

// Reset forgets everything: another start build begins.
func (o *Outbox) Reset() {
	o.change(func() {
		o.drop(len(o.logs))
		o.base, o.steps, o.ready = 0, nil, false
		o.epoch++
	})
}

func (o *Outbox) change(f func()) {
	o.mu.Lock()
	defer o.mu.Unlock()
	f()
	close(o.changed)
	o.changed = make(chan struct{})
}

// drop forgets the n oldest lines. The caller holds mu.
func (o *Outbox) drop(n int) {
	for _, r := range o.logs[:n] {
		o.size -= len(r.Text)
	}
	o.logs = slices.Delete(o.logs, 0, n)
	o.base += n
}

// A cursor is how far one link has told an outbox. It is used by one goroutine.
type cursor struct {
	o     *Outbox
	epoch int
	log   int   // position of the next line
	step  int   // version of the newest step told
	ready bool  // told
	ides  int   // version told
	beats []int // log at each of the last heartbeats
}

func (o *Outbox) cursor() *cursor {
	o.mu.Lock()
	defer o.mu.Unlock()
	return &cursor{o: o, epoch: o.epoch}
}

// maxBatch is how many messages are taken at a time.
const maxBatch = 64

// next returns messages to send, or none and a channel that is closed when there may be some.
func (c *cursor) next() ([]agent.Message, <-chan struct{}) {
	o := c.o
	o.mu.Lock()
	defer o.mu.Unlock()
	if c.epoch != o.epoch {
		*c = cursor{o: o, epoch: o.epoch}
	}
	var out []agent.Message
	newest := c.step
	for _, s := range o.steps {
		if s.version > c.step {
			r := s.report
			out = append(out, agent.Message{Type: agent.TypeStep, Step: &r})
			newest = max(newest, s.version)
		}
	}
	c.step = newest
	if o.idesSeq > c.ides {
		c.ides = o.idesSeq
		out = append(out, agent.Message{Type: agent.TypeIDEs, IDEs: o.ides})
	}
	c.log = max(c.log, o.base)
	for c.log < o.base+len(o.logs) && len(out) < maxBatch {
		r := o.logs[c.log-o.base]
		out = append(out, agent.Message{Type: agent.TypeLog, Log: &r})
		c.log++
	}
	if len(out) == 0 && o.ready && !c.ready {
		c.ready = true
		out = append(out, agent.Message{Type: agent.TypeReady})
	}
	return out, o.changed
}

// beat is called at every heartbeat. Lines that were told four heartbeats ago, on a link that still lives, have been
// written down by the coordinator, and are forgotten.
func (c *cursor) beat() {
	c.beats = append(c.beats, c.log)
	if len(c.beats) <= 4 {
		return
	}
	o := c.o
	o.mu.Lock()
	defer o.mu.Unlock()
	if n := c.beats[0] - o.base; c.epoch == o.epoch && n > 0 {
		o.drop(min(n, len(o.logs)))
	}
	c.beats = slices.Delete(c.beats, 0, 1)
}
