package coordinator

// StartupTimings returns what came after start build b in the agents that are recorded for it: how long each took to
// connect once the build had ended, and its startup steps. They come after b.Timings.
func StartupTimings(b Build, agents []WorkspaceAgent) []Timing {
	var ts []Timing
	for _, a := range agents {
		if a.BuildID != b.ID || a.FirstConnected.IsZero() {
			continue
		}
		begun := b.Ended
		if begun.IsZero() || a.FirstConnected.Before(begun) {
			begun = a.FirstConnected // it was quicker than the build's last words
		}
		ts = append(ts, Timing{Stage: "connect", Name: a.Name, Start: begun, Duration: a.FirstConnected.Sub(begun)})
		for _, s := range a.Steps {
			if !s.Started.IsZero() {
				ts = append(ts, Timing{Stage: "startup", Name: a.Name + ": " + s.Name, Start: s.Started, Duration: s.Duration})
			}
		}
	}
	return ts
}
