package coordinator

import (
	"fmt"
	"time"
)

// Progress tells a waiting person how far their workspace is.
type Progress struct {
	Build   int           `json:"build,omitempty"`   // the build's number
	Stage   string        `json:"stage"`             // queue, init, plan, apply, connect, startup
	Address string        `json:"address,omitempty"` // the resource that is worked on
	Text    string        `json:"text,omitempty"`
	Elapsed time.Duration `json:"elapsed,omitempty"` // of what is named, nanoseconds
}

// String returns the line that a terminal shows, without a newline: "apply: berth_process.dev: creating (3 s)".
func (p Progress) String() string {
	s := p.Stage
	if p.Address != "" {
		s += ": " + p.Address
	}
	if p.Text != "" {
		s += ": " + p.Text
	}
	if p.Elapsed >= time.Second {
		s += fmt.Sprintf(" (%d s)", int(p.Elapsed/time.Second))
	}
	return s
}

// An Update is what a runner's files hold more than before.
type Update struct {
	Lines  []LogLine     // Seq is the line's index in the runner's log, so that reading again does no harm
	State  Secret        // the newest good state, where it changed
	Serial int64         // of State
	Agents []AgentRecord // of State
}
