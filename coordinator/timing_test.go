package coordinator

import (
	"slices"
	"testing"
	"time"

	"berth/agent"
)

func TestStartupTimings(t *testing.T) {
	end := time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)
	b := Build{ID: "b1", Ended: end}
	late := WorkspaceAgent{
		BuildID: "b1", AgentRecord: AgentRecord{Name: "main"}, FirstConnected: end.Add(3 * time.Second),
		Steps: []agent.StepReport{
			{Name: "secrets", Started: end.Add(4 * time.Second), Duration: time.Second},
			{Name: "dotfiles", Outcome: agent.OutcomeSkipped},
		},
	}
	early, other, never := late, late, late
	early.FirstConnected, early.Steps = end.Add(-time.Second), nil
	other.BuildID = "b0"
	never.FirstConnected = time.Time{}
	for _, tt := range []struct {
		name string
		a    WorkspaceAgent
		want []Timing
	}{
		{"after the build", late, []Timing{
			{Stage: "connect", Name: "main", Start: end, Duration: 3 * time.Second},
			{Stage: "startup", Name: "main: secrets", Start: end.Add(4 * time.Second), Duration: time.Second},
		}},
		{"before its end", early, []Timing{{Stage: "connect", Name: "main", Start: end.Add(-time.Second)}}},
		{"of another build", other, nil},
		{"not connected", never, nil},
	} {
		if got := StartupTimings(b, []WorkspaceAgent{tt.a}); !slices.Equal(got, tt.want) {
			t.Errorf("%s: got %v, want %v", tt.name, got, tt.want)
		}
	}
}
