package cli

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"berth/cli/client"
	"berth/coordinator"
	"berth/coordinator/rest"
)

// logPatience is how long a wait goes on while the server cannot be reached: a restart of it.
const logPatience = 2 * time.Minute

// How often a state is asked for again: soon at first, for most waits are short.
const (
	sleepMin = 20 * time.Millisecond
	sleepMax = 500 * time.Millisecond
)

// A waiting says whether a command waits for its build.
type waiting struct {
	not bool
}

func (w *waiting) flag(cmd *cobra.Command) {
	cmd.Flags().BoolVar(&w.not, "no-wait", false, "do not wait for the end")
}

// wait follows a build to its end and returns it as it ended. A failed one is an error.
func (a *app) wait(ctx context.Context, c *client.Client, t coordinator.Target, b rest.Build) (rest.Build, error) {
	if b.Status.Open() {
		p := a.progress("", 0)
		defer p.stop()
		end, err := a.follow(ctx, c.Patient(logPatience), t, b, p)
		if err != nil {
			return b, interrupted(t, b.Number, err)
		}
		b = end
	}
	if b.Status != coordinator.BuildSucceeded {
		return b, failure(t, b)
	}
	return b, nil
}

// follow shows the build's log as progress until the build has ended.
func (a *app) follow(ctx context.Context, c *client.Client, t coordinator.Target, b rest.Build, p *progress) (rest.Build, error) {
	stopQueue := a.watchQueue(ctx, c, t, b, p)
	err := c.BuildLog(t, b.Number, coordinator.SourceBuild).Read(ctx, true, func(l coordinator.LogLine) error {
		stopQueue()
		showLine(p, b.Number, l)
		return nil
	})
	stopQueue()
	for pause := sleepMin; err == nil; pause = min(2*pause, sleepMax) {
		var now rest.Build
		if now, err = c.Build(ctx, t, b.Number); err == nil && !now.Status.Open() {
			return now, nil
		}
		if err == nil {
			err = sleep(ctx, pause)
		}
	}
	if b.Transition == coordinator.Delete && coordinator.CodeOf(err) == coordinator.CodeNotFound {
		b.Status = coordinator.BuildSucceeded // a deleted workspace is gone, with its builds
		return b, nil
	}
	return b, err
}

// showLine makes a log line the progress; a warning stays.
func showLine(p *progress, number int, l coordinator.LogLine) {
	switch {
	case l.Level == "debug":
	case l.Level == "warn":
		p.say("%s", oneLine("warning: "+l.Text))
	case strings.HasPrefix(l.Address, "data."): // read in no time, and nothing that anybody waits for
	default:
		p.set(coordinator.Progress{Build: number, Stage: l.Stage, Address: l.Address, Text: l.Text, Elapsed: l.Elapsed})
	}
}

// watchQueue shows the build's place in the queue until it is stopped: a build that waits writes no log.
func (a *app) watchQueue(ctx context.Context, c *client.Client, t coordinator.Target, b rest.Build, p *progress) (stop func()) {
	if b.Status != coordinator.BuildQueued {
		return func() {}
	}
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	begin := time.Now()
	show := func(b rest.Build) {
		text := fmt.Sprintf("%s build %d", b.Transition, b.Number)
		if b.Ahead > 0 {
			text += fmt.Sprintf(" waits behind %d others", b.Ahead)
		}
		p.set(coordinator.Progress{Build: b.Number, Stage: "queue", Text: text, Elapsed: time.Since(begin)})
	}
	show(b)
	go func() {
		defer close(done)
		for sleep(ctx, time.Second) == nil {
			if now, err := c.Build(ctx, t, b.Number); err != nil || now.Status != coordinator.BuildQueued {
				return
			} else if ctx.Err() == nil {
				show(now)
			}
		}
	}()
	return func() {
		cancel()
		<-done
	}
}

// ready waits until the agents of a started workspace are there and have ended their startup, and says how to enter.
func (a *app) ready(ctx context.Context, c *client.Client, t coordinator.Target, fresh bool) error {
	p := a.progress("", hesitate)
	defer p.stop()
	w, err := a.settled(ctx, c.Patient(logPatience), t, p)
	if err != nil {
		return interrupted(t, 0, err)
	}
	p.stop()
	connected := len(w.Agents) > 0
	for _, g := range w.Agents {
		connected = connected && g.Connected
	}
	switch {
	case w.Status == coordinator.StatusRunning:
	case w.Status == coordinator.StatusUnhealthy && connected:
		a.hintf("%s is unhealthy: %s", t, oneLine(w.Reason))
		a.hintf("  its log: berth logs %s", t)
	default:
		return coordinator.Errorf(coordinator.CodeFailed, "%s is %s: %s", t, w.Status, w.Reason).WithHint("its log: berth logs " + t.String())
	}
	a.welcome(ctx, c, t, w, fresh)
	return nil
}

// welcome says how to enter a workspace that is up.
func (a *app) welcome(ctx context.Context, c *client.Client, t coordinator.Target, w rest.Workspace, fresh bool) {
	state := "running"
	if !fresh {
		state = "running already"
	}
	host := t.String()
	if len(w.HostNames) > 0 {
		host = w.HostNames[0]
		if t.Owner != "" {
			host = w.HostNames[len(w.HostNames)-1]
		}
	}
	if a.console != nil {
		a.printf("%s is %s. Connect with: ssh %s@%s\n", t, state, t, strings.TrimPrefix(a.console.Name, "ssh berth@"))
		return
	}
	a.printf("%s is %s. Connect with: ssh %s\n", t, state, oneLine(host))
	if !a.sshConfigured() {
		a.hintf("  ssh finds it after: berth ssh-config; or right now: berth ssh %s", t)
		return
	}
	a.refreshSSHConfig(ctx, c)
}

// settled polls a workspace until its status says that nothing is under way.
func (a *app) settled(ctx context.Context, c *client.Client, t coordinator.Target, p *progress) (rest.Workspace, error) {
	begin := time.Now()
	for pause := sleepMin; ; pause = min(2*pause, sleepMax) {
		w, err := c.Workspace(ctx, t)
		if err != nil {
			return w, err
		}
		switch w.Status {
		case coordinator.StatusPending, coordinator.StatusStarting:
			p.set(startup(w, time.Since(begin)))
		default:
			return w, nil
		}
		if err := sleep(ctx, pause); err != nil {
			return w, err
		}
	}
}

// startup is how far the agents of a workspace are.
func startup(w rest.Workspace, elapsed time.Duration) coordinator.Progress {
	for _, g := range w.Agents {
		for _, s := range g.Steps {
			if s.Outcome == "running" {
				return coordinator.Progress{Stage: "startup", Text: g.Name + ": " + s.Name, Elapsed: elapsed}
			}
		}
	}
	return coordinator.Progress{Stage: "connect", Text: w.Reason, Elapsed: elapsed}
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}
