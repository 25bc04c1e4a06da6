package agent

import "time"

// A Message is one line of the control stream. Type says which of the other fields is set; unknown types and
// fields are ignored, so that an agent two releases older or newer works.
type Message struct {
	Type string `json:"type"`

	Step *StepReport `json:"step,omitempty"` // TypeStep
	Log  *LogReport  `json:"log,omitempty"`  // TypeLog
	IDEs []IDEServer `json:"ides,omitempty"` // TypeIDEs: all there are
	Text string      `json:"text,omitempty"` // TypeGoodbye, TypeStopNotice: why
}

// Types of messages.
const (
	// From the agent.
	TypeHeartbeat = "heartbeat"
	TypeStep      = "step"    // a startup step began or ended
	TypeLog       = "log"     // lines of a step's log
	TypeIDEs      = "ides"    // which servers of IDEs no session holds, whenever that changed
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

// MaxIDEServers is how many servers of IDEs are told of.
const MaxIDEServers = 32

// An IDEServer is a process that an IDE left in the workspace and that no session holds.
type IDEServer struct {
	PID     int       `json:"pid"`
	Product string    `json:"product"` // "VS Code"
	Command string    `json:"command"` // the program's name
	Started time.Time `json:"started"`
	Memory  int64     `json:"memory"` // resident bytes, of its descendants as well
}
