package agent

import "time"

// A Message is one line of the control stream. Type says which of the other fields is set; unknown types and
// fields are ignored, so that an agent two releases older or newer works.
type Message struct {
	Type string `json:"type"`

	Step *StepReport `json:"step,omitempty"` // TypeStep
	Log  *LogReport  `json:"log,omitempty"`  // TypeLog
	Text string      `json:"text,omitempty"` // TypeGoodbye, TypeStopNotice: why
}

// Types of messages.
const (
	// From the agent.
	TypeHeartbeat = "heartbeat"
	TypeStep      = "step"    // a startup step began or ended
	TypeLog       = "log"     // lines of a step's log
	TypeReady     = "ready"   // every startup step has ended; their outcomes were reported before
	TypeGoodbye   = "goodbye" // the agent ends in order

	// From the coordinator.
	TypeManifestChanged = "manifest-changed"
	TypeStopNotice      = "stop-notice"
	TypeGoAway          = "go-away" // dial a second link; this one ends with its last stream
)

// Startup steps, in their order.
const (
	StepSecrets     = "secrets"
	StepConfigure   = "configure"
	StepDotfiles    = "dotfiles"
	StepPersonalize = "personalize"
)

// Outcomes of a step.
const (
	OutcomeRunning = "running"
	OutcomeOK      = "ok"
	OutcomeSkipped = "skipped" // nothing to do, or not allowed; Error says which
	OutcomeFailed  = "failed"
	OutcomeTimeout = "timeout"
)

// A StepReport is the state of one startup step.
type StepReport struct {
	Name     string        `json:"name"`
	Outcome  string        `json:"outcome"`
	ExitCode int           `json:"exit_code,omitempty"`
	Error    string        `json:"error,omitempty"` // one line, in the user's words
	Started  time.Time     `json:"started,omitzero"`
	Duration time.Duration `json:"duration,omitempty"` // nanoseconds
}

// A LogReport carries a piece of a step's log. Seq counts from 0 within a start build, over all steps; a piece
// that was sent before is ignored, so an agent may repeat itself after a reconnect.
type LogReport struct {
	Step string    `json:"step"`
	Seq  int       `json:"seq"`
	Time time.Time `json:"time"`
	Text string    `json:"text"` // at most MaxLogText bytes, without a trailing newline, valid UTF-8
}
