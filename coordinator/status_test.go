package coordinator

import (
	"testing"
	"time"

	"berth/agent"
)

func TestDerive(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	build := func(tr Transition, s BuildStatus) *Build {
		return &Build{Number: 7, Transition: tr, Status: s, Ended: now.Add(-time.Minute)}
	}
	canceling := build(Start, BuildRunning)
	canceling.CancelRequested = true
	failed := build(Start, BuildFailed)
	failed.Address, failed.Error, failed.Resources = "x.y", "no space", []string{"berth_home.home"}
	ready := WorkspaceAgent{ID: "a", AgentRecord: AgentRecord{Name: "main"}, FirstConnected: now, Ready: true}
	silent := WorkspaceAgent{ID: "a", AgentRecord: AgentRecord{Name: "main"}}
	slow := silent
	slow.ConnectionTimeout = 30 * time.Second
	step := func(outcome string, done bool) WorkspaceAgent {
		a := ready
		a.Ready = done
		a.Steps = []agent.StepReport{{Name: "configure", Outcome: outcome, Error: "exited with 9"}}
		return a
	}
	up := map[string]bool{"a": true}
	for _, tt := range []struct {
		name   string
		build  *Build
		agent  WorkspaceAgent
		up     map[string]bool
		since  time.Duration // since the coordinator's start
		status Status
		reason string
	}{
		{"no build", nil, ready, nil, time.Hour, StatusStopped, "never started"},
		{"queued", build(Start, BuildQueued), ready, nil, time.Hour, StatusPending, "start build 7 waits in the queue"},
		{"starting", build(Start, BuildRunning), ready, nil, time.Hour, StatusStarting, ""},
		{"stopping", build(Stop, BuildRunning), ready, nil, time.Hour, StatusStopping, ""},
		{"deleting", build(Delete, BuildRunning), ready, nil, time.Hour, StatusDeleting, ""},
		{"canceling", canceling, ready, nil, time.Hour, StatusCanceling, ""},
		{"canceled", build(Start, BuildCanceled), ready, nil, time.Hour, StatusCanceled, ""},
		{"failed", failed, ready, nil, time.Hour, StatusFailed, "start build 7 failed at x.y: no space; existing: berth_home.home"},
		{"stopped", build(Stop, BuildSucceeded), ready, nil, time.Hour, StatusStopped, ""},
		{"deleted", build(Delete, BuildSucceeded), ready, nil, time.Hour, StatusDeleted, ""},
		{"running", build(Start, BuildSucceeded), ready, up, time.Hour, StatusRunning, ""},
		{"agent not there yet", build(Start, BuildSucceeded), silent, nil, time.Hour, StatusStarting, "waiting for agent main to connect"},
		{"agent never came", build(Start, BuildSucceeded), slow, nil, time.Hour, StatusUnhealthy, "agent main did not connect within 30s"},
		{"agent lost", build(Start, BuildSucceeded), ready, nil, time.Hour, StatusUnhealthy, "agent main has lost its connection"},
		{"lost, but the coordinator is fresh", build(Start, BuildSucceeded), ready, nil, time.Minute, StatusRunning, ""},
		{"startup runs", build(Start, BuildSucceeded), step(agent.OutcomeRunning, false), up, time.Hour, StatusStarting, "agent main runs its startup"},
		{"a step failed, others run", build(Start, BuildSucceeded), step(agent.OutcomeFailed, false), up, time.Hour, StatusStarting, "startup step configure failed: exited with 9; the steps after it still run"},
		{"a step failed", build(Start, BuildSucceeded), step(agent.OutcomeFailed, true), up, time.Hour, StatusUnhealthy, "startup step configure failed: exited with 9"},
		{"a step timed out", build(Start, BuildSucceeded), step(agent.OutcomeTimeout, true), up, time.Hour, StatusUnhealthy, "startup step configure timed out: exited with 9"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := Derive(tt.build, []WorkspaceAgent{tt.agent}, Presence{Connected: tt.up, UpSince: now.Add(-tt.since)}, now)
			if want := (Health{tt.status, tt.reason}); got != want {
				t.Errorf("got %q, want %q", got, want)
			}
		})
	}
}

func TestParseTarget(t *testing.T) {
	for _, tt := range []struct {
		in   string
		want Target
		host bool
		ok   bool
	}{
		{"dev", Target{Workspace: "dev"}, false, true},
		{"alice/dev", Target{Owner: "alice", Workspace: "dev"}, false, true},
		{"alice/dev.gpu", Target{Owner: "alice", Workspace: "dev", Agent: "gpu"}, false, true},
		{"dev.gpu", Target{Workspace: "dev", Agent: "gpu"}, false, true},
		{"dev.berth", Target{Workspace: "dev"}, true, true},
		{"Dev.Alice.Berth", Target{Owner: "alice", Workspace: "dev"}, true, true},
		{"gpu.dev.alice.berth", Target{Owner: "alice", Workspace: "dev", Agent: "gpu"}, true, true},
		{"a.b.c.d.berth", Target{}, true, false},
		{".berth", Target{}, true, false},
		{"dev.", Target{}, false, false},
		{"dev;reboot", Target{}, false, false},
		{"-oProxyCommand=x", Target{}, false, false},
		{"a/b/c", Target{}, false, false},
		{"", Target{}, false, false},
	} {
		got, host, err := ParseTarget(tt.in, "berth")
		if got != tt.want || host != tt.host || (err == nil) != tt.ok {
			t.Errorf("%q: got %+v, host %v, %v", tt.in, got, host, err)
		}
	}
}

func TestAgentToken(t *testing.T) {
	key := []byte("0123456789abcdef0123456789abcdef")
	token := AgentToken(key, "ws", "agent1", 1)
	ws, id, ok := SplitAgentToken(token)
	if !ok || ws != "ws" || id != "agent1" || !VerifyAgentToken(token, key, ws, id, 1) {
		t.Fatalf("own token refused: %v %v %v", ws, id, ok)
	}
	for name, bad := range map[string]bool{
		"another workspace":  VerifyAgentToken(token, key, "ws2", id, 1),
		"another agent":      VerifyAgentToken(token, key, ws, "agent2", 1),
		"another generation": VerifyAgentToken(token, key, ws, id, 2),
		"another key":        VerifyAgentToken(token, []byte("x"), ws, id, 1),
	} {
		if bad {
			t.Errorf("accepted for %s", name)
		}
	}
}
