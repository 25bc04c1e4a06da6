package coordinator

import (
	"fmt"
	"strings"
	"time"

	"berth/agent"
)

// A Status is the derived state of a workspace.
type Status string

// Statuses of a workspace.
const (
	StatusPending   Status = "pending"
	StatusStarting  Status = "starting"
	StatusRunning   Status = "running"
	StatusUnhealthy Status = "unhealthy"
	StatusStopping  Status = "stopping"
	StatusStopped   Status = "stopped"
	StatusDeleting  Status = "deleting"
	StatusDeleted   Status = "deleted"
	StatusFailed    Status = "failed"
	StatusCanceling Status = "canceling"
	StatusCanceled  Status = "canceled"
)

// A Health is a Status and the reason for it in words. Reason is empty where the status says it all.
type Health struct {
	Status Status
	Reason string
}

// A Presence says which agents have a live link. Up since tells how long the coordinator has been listening.
type Presence struct {
	Connected map[string]bool              // by agent id
	Versions  map[string]string            // of those, as they say themselves; by agent id
	IDEs      map[string][]agent.IDEServer // what IDEs left behind, as those say; by agent id
	UpSince   time.Time
}

// Derive returns the status of a workspace whose latest build is b (nil: none yet) and whose latest start build left
// agents.
func Derive(b *Build, agents []WorkspaceAgent, p Presence, now time.Time) Health {
	switch {
	case b == nil:
		return Health{StatusStopped, "never started"}
	case b.Status.Open() && b.CancelRequested:
		return Health{StatusCanceling, ""}
	case b.Status == BuildQueued:
		return Health{StatusPending, fmt.Sprintf("%s build %d waits in the queue", b.Transition, b.Number)}
	case b.Status == BuildRunning:
		return Health{map[Transition]Status{Start: StatusStarting, Stop: StatusStopping, Delete: StatusDeleting}[b.Transition], ""}
	case b.Status == BuildCanceled:
		return Health{StatusCanceled, exists(b)}
	case b.Status == BuildFailed:
		return Health{StatusFailed, failure(b)}
	case b.Transition == Stop:
		return Health{StatusStopped, ""}
	case b.Transition == Delete:
		return Health{StatusDeleted, ""}
	default:
		return started(b, agents, p, now)
	}
}

func failure(b *Build) string {
	s := fmt.Sprintf("%s build %d failed", b.Transition, b.Number)
	if b.Address != "" {
		s += " at " + b.Address
	}
	if b.Error != "" {
		s += ": " + b.Error
	}
	if e := exists(b); e != "" {
		s += "; " + e
	}
	return s
}

func exists(b *Build) string {
	const show = 5
	switch n := len(b.Resources); {
	case n == 0:
		return ""
	case n > show:
		return fmt.Sprintf("%s and %d more exist", strings.Join(b.Resources[:show], ", "), n-show)
	default:
		return "existing: " + strings.Join(b.Resources, ", ")
	}
}

// started is the status after a successful start: what the agents make of it.
func started(b *Build, agents []WorkspaceAgent, p Presence, now time.Time) Health {
	h := Health{Status: StatusRunning}
	for _, a := range agents {
		if s := agentHealth(b, a, p, now); s.Status == StatusUnhealthy {
			return s
		} else if s.Status == StatusStarting {
			h = s
		}
	}
	return h
}

func agentHealth(b *Build, a WorkspaceAgent, p Presence, now time.Time) Health {
	timeout := a.ConnectionTimeout
	if timeout <= 0 {
		timeout = DefaultConnectionTimeout
	}
	switch connected := p.Connected[a.ID]; {
	case !connected && a.FirstConnected.IsZero() && now.Sub(b.Ended) > timeout:
		return Health{StatusUnhealthy, fmt.Sprintf("agent %s did not connect within %v", a.Name, timeout)}
	case !connected && a.FirstConnected.IsZero():
		return Health{StatusStarting, fmt.Sprintf("waiting for agent %s to connect", a.Name)}
	case !connected && now.Sub(p.UpSince) > StartupGrace:
		return Health{StatusUnhealthy, fmt.Sprintf("agent %s has lost its connection", a.Name)}
	}
	var bad string
	for _, s := range a.Steps {
		if bad == "" && (s.Outcome == agent.OutcomeFailed || s.Outcome == agent.OutcomeTimeout) {
			bad = fmt.Sprintf("startup step %s %s: %s", s.Name, word(s.Outcome), s.Error)
		}
	}
	switch {
	case !a.Ready && bad != "":
		return Health{StatusStarting, bad + "; the steps after it still run"}
	case !a.Ready:
		return Health{StatusStarting, fmt.Sprintf("agent %s runs its startup", a.Name)}
	case bad != "":
		return Health{StatusUnhealthy, bad}
	}
	return Health{Status: StatusRunning}
}

func word(outcome string) string {
	if outcome == agent.OutcomeTimeout {
		return "timed out"
	}
	return outcome
}
