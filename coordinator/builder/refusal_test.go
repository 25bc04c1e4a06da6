package builder

import (
	"testing"

	"berth/coordinator"
)

// An update that the guard refuses, after the stop that came before it, ends with the workspace up on what it had, in
// whichever coordinator's time; and what was refused can be allowed.
func TestRefusedUpdate(t *testing.T) {
	w := newWorld(t, func(j coordinator.Job) script {
		s := plain(j)
		if j.Transition == coordinator.Start && j.Params["disk"] == "large" && len(j.AllowDestroy) == 0 {
			guard := []coordinator.Violation{{Address: "disk.a", Action: "replace", Attributes: []string{"size"}}}
			s = script{result: coordinator.Result{Status: coordinator.BuildFailed, Error: "the plan would replace disk.a", Address: "disk.a", Guard: guard, Serial: 3}}
		}
		return s
	})
	w.succeed(Request{Transition: coordinator.Start, Params: map[string]string{"disk": "small"}})
	newer := w.version("berth_home.home")
	update := Request{
		Transition: coordinator.Start, Restart: true, VersionID: newer.ID, Params: map[string]string{"disk": "large"}, Reason: coordinator.ReasonUpdate,
	}
	stop := w.ask(update)
	number := func(n int) coordinator.Build {
		t.Helper()
		var id coordinator.BuildID
		eventually(t, "the build is there", func() bool {
			b, err := w.store.BuildByNumber(ctx, w.ws.ID, n)
			id = b.ID
			return err == nil
		})
		return w.ends(id)
	}
	refused, again := number(stop.Number+1), number(stop.Number+2)
	if refused.Status != coordinator.BuildFailed || refused.Address != "disk.a" || refused.VersionID != newer.ID {
		t.Errorf("the update is %+v", refused)
	}
	if again.Status != coordinator.BuildSucceeded || again.Transition != coordinator.Start || again.Reason != coordinator.ReasonRecovery ||
		again.VersionID != w.v.ID || again.Params["disk"] != "small" {
		t.Errorf("after the refusal comes %+v", again)
	}
	if b := w.ask(startIt); b.ID != again.ID {
		t.Errorf("a start of what runs as it was made %+v", b)
	}

	w.succeed(stopIt)
	plainly := update
	plainly.Restart = false
	if b := w.ends(w.ask(plainly).ID); b.Status != coordinator.BuildFailed {
		t.Errorf("the update of a stopped workspace is %+v", b)
	}
	if b := w.succeed(startIt); b.VersionID != w.v.ID || b.Params["disk"] != "small" {
		t.Errorf("the next start is %+v", b)
	}
	allowed := plainly
	allowed.AllowDestroy = []string{"disk.a"}
	if b := w.succeed(allowed); b.VersionID != newer.ID || b.Params["disk"] != "large" {
		t.Errorf("the allowed update is %+v", b)
	}
}
