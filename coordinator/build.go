package coordinator

import (
	"time"
)

// A Transition is what a build does with a workspace.
type Transition string

// Transitions.
const (
	Start  Transition = "start"
	Stop   Transition = "stop"
	Delete Transition = "delete"
)

// A Reason says why a build was made.
type Reason string

// Reasons.
const (
	ReasonUser           Reason = "user"
	ReasonConnect        Reason = "connect"
	ReasonAutostart      Reason = "autostart"
	ReasonAutostop       Reason = "autostop"
	ReasonDormancy       Reason = "dormancy"
	ReasonAutodelete     Reason = "autodelete"
	ReasonFailureCleanup Reason = "failure-cleanup"
	ReasonUpdate         Reason = "update"
	ReasonAdmin          Reason = "admin"
	ReasonRecovery       Reason = "recovery"
)

// A BuildStatus is where a build stands.
type BuildStatus string

// Statuses of a build. Queued and running builds are open; a workspace has at most one open build.
const (
	BuildQueued    BuildStatus = "queued"
	BuildRunning   BuildStatus = "running"
	BuildSucceeded BuildStatus = "succeeded"
	BuildFailed    BuildStatus = "failed"
	BuildCanceled  BuildStatus = "canceled"
)

// Open reports whether a build of this status has yet to end.
func (s BuildStatus) Open() bool { return s == BuildQueued || s == BuildRunning }

// A Build is one run of terraform for a workspace.
type Build struct {
	ID              BuildID
	WorkspaceID     WorkspaceID
	Number          int // 1, 2, 3 within the workspace
	Transition      Transition
	Reason          Reason
	Initiator       UserID // who asked; empty for the coordinator itself
	InitiatorName   string // joined
	VersionID       VersionID
	Params          map[string]string
	AllowDestroy    []string // addresses that the owner lets the plan destroy
	ThenStart       *Then    // a restart: what to start once this stop has succeeded
	Status          BuildStatus
	CancelRequested bool
	Error           string // why it failed, one line
	Address         string // the terraform resource at which it failed, if one
	Timings         []Timing
	Resources       []string // addresses in the state when it ended
	StateSerial     int64
	Created         time.Time
	Started         time.Time
	Ended           time.Time
}

// Then is the start half of a restart or an update. It is kept with the stop build, so that a crash between the two
// does not lose it.
type Then struct {
	VersionID    VersionID         `json:"version_id"`
	Params       map[string]string `json:"params,omitempty"`
	AllowDestroy []string          `json:"allow_destroy,omitempty"`
	Reason       Reason            `json:"reason"`
}

// A Timing is how long a stage, a resource or a startup step took.
type Timing struct {
	Stage    string        `json:"stage"`          // queue, init, plan, apply, boot, connect, startup
	Name     string        `json:"name,omitempty"` // the resource's address or the step, where there is one
	Start    time.Time     `json:"start"`
	Duration time.Duration `json:"duration"` // nanoseconds
}

// A LogLine is one line of a build's log. Seq counts from 0 within a build and source; it is the offset to stream from.
type LogLine struct {
	Source  string    `json:"source,omitempty"` // SourceBuild, or the agent's name for its startup
	Seq     int       `json:"seq"`
	Time    time.Time `json:"time"`
	Stage   string    `json:"stage"`             // queue, init, plan, apply, or a startup step
	Level   string    `json:"level"`             // debug, info, warn, error
	Address string    `json:"address,omitempty"` // the resource that the line is about
	Text    string    `json:"text"`
	// Elapsed is set for progress of a resource: how long it has been going on.
	Elapsed time.Duration `json:"elapsed,omitempty"`
}

// SourceBuild is the source of log lines of the build itself.
const SourceBuild = "build"

// Caps of a build's log.
const (
	MaxLogLine  = 8 << 10 // bytes of text; longer lines are cut
	MaxLogLines = 50_000  // of one build; what follows is counted, not kept
)

// A State is one revision of a workspace's terraform state.
type State struct {
	WorkspaceID WorkspaceID
	BuildID     BuildID
	VersionID   VersionID // the template version that it belongs to
	Serial      int64
	Data        Secret // terraform's own JSON; empty once everything is destroyed
	Created     time.Time
}
