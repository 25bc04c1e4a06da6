package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"berth/coordinator"
	"berth/coordinator/rest"
)

func (a *app) logsCommand() *cobra.Command {
	var follow bool
	var number int
	var source string
	var f format
	cmd := &cobra.Command{
		Use:   "logs NAME",
		Short: "Show a build's log, and the startup logs of its agents",
		Long: `Show the log of a build, then the startup logs of the agents that it made: secrets, configure, dotfiles, personalize.
With -f it goes on until nothing more will come, also over a restart of the server. With -o json every line is an object.`,
		Example:           "  berth logs dev\n  berth logs -f dev\n  berth logs dev --build 3 --agent main",
		Args:              arguments(1, 1),
		ValidArgsFunction: a.completeWorkspace,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.logs(cmd.Context(), args[0], number, source, follow, f)
		},
	}
	cmd.Flags().BoolVarP(&follow, "follow", "f", false, "go on until the end")
	cmd.Flags().IntVar(&number, "build", 0, "number of the build (the latest by default)")
	cmd.Flags().StringVar(&source, "agent", "", `only this agent's startup log; "build" is the build's own`)
	outputFlag(cmd, &f)
	return cmd
}

func (a *app) logs(ctx context.Context, name string, number int, source string, follow bool, f format) error {
	c, s, err := a.client()
	if err != nil {
		return err
	}
	t, err := a.target(ctx, c, s, name)
	if err != nil {
		return err
	}
	if source == "" {
		source = t.Agent
	}
	if source == "" {
		source = "*"
	}
	return c.BuildLog(t, number, source).Read(ctx, follow, func(l coordinator.LogLine) error {
		if f == formatJSON {
			b, err := json.Marshal(l)
			if err != nil {
				return fmt.Errorf("encode output: %w", err)
			}
			_, err = a.out.Write(append(safeJSON(b), '\n'))
			return err
		}
		a.printf("%s\n", logText(l))
		return nil
	})
}

// logText is a line of a log for people: where it comes from, and what it says.
func logText(l coordinator.LogLine) string {
	where := l.Stage
	if l.Source != "" && l.Source != coordinator.SourceBuild {
		where = l.Source + "/" + l.Stage
	}
	if l.Level == "error" || l.Level == "warn" {
		where += " " + l.Level
	}
	text := l.Text
	if l.Address != "" && !strings.HasPrefix(text, l.Address) {
		text = l.Address + ": " + text
	}
	if l.Elapsed >= time.Second {
		text += fmt.Sprintf(" (%d s)", int(l.Elapsed/time.Second))
	}
	return safe(fmt.Sprintf("%s | %s", oneLine(where), strings.TrimRight(text, "\r\n")))
}

func (a *app) buildsCommand() *cobra.Command {
	var f format
	cmd := &cobra.Command{
		Use:               "builds NAME",
		Short:             "List the builds of a workspace, newest first",
		Example:           "  berth builds dev",
		Args:              arguments(1, 1),
		ValidArgsFunction: a.completeWorkspace,
		RunE: func(cmd *cobra.Command, args []string) error {
			c, t, err := a.workspace(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			builds, err := c.Builds(cmd.Context(), t)
			if err != nil {
				return err
			}
			return a.show(f, builds, func() { a.buildTable(builds) })
		},
	}
	outputFlag(cmd, &f)
	return cmd
}

func (a *app) buildTable(builds []rest.Build) {
	t := a.table("BUILD", "DOES", "STATUS", "VERSION", "REASON", "BY", "WHEN", "TOOK", "ERROR")
	for _, b := range builds {
		does := string(b.Transition)
		if b.ThenStart {
			does = "restart"
		}
		length := ""
		switch {
		case !b.Ended.IsZero() && !b.Started.IsZero():
			length = took(b.Ended.Sub(b.Started))
		case !b.Started.IsZero():
			length = took(a.now().Sub(b.Started)) + " so far"
		}
		msg := b.Error
		if b.Address != "" {
			msg = b.Address + ": " + msg
		}
		t.row(fmt.Sprint(b.Number), does, string(b.Status), fmt.Sprint(b.Version), string(b.Reason), b.Initiator,
			a.ago(b.Created), length, coordinator.Clip(msg, 120))
	}
	t.print()
}

func (a *app) timingsCommand() *cobra.Command {
	var f format
	var number int
	cmd := &cobra.Command{
		Use:               "timings NAME",
		Short:             "Draw how long each part of a build took",
		Example:           "  berth timings dev\n  berth timings dev --build 3 -o json",
		Args:              arguments(1, 1),
		ValidArgsFunction: a.completeWorkspace,
		RunE: func(cmd *cobra.Command, args []string) error {
			c, t, err := a.workspace(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			b, err := c.Build(cmd.Context(), t, number)
			if err != nil {
				return err
			}
			w, err := c.Workspace(cmd.Context(), t)
			if err != nil {
				return err
			}
			b.Timings = append(b.Timings, startupTimings(w, b)...)
			if b.Timings == nil {
				b.Timings = []coordinator.Timing{}
			}
			return a.show(f, b.Timings, func() { a.drawTimings(b) })
		},
	}
	cmd.Flags().IntVar(&number, "build", 0, "number of the build (the latest by default)")
	outputFlag(cmd, &f)
	return cmd
}

// startupTimings are the startup steps that followed a build, as the agents tell them: of the latest build only, and
// unless the build knows them itself.
func startupTimings(w rest.Workspace, b rest.Build) []coordinator.Timing {
	if b.Transition != coordinator.Start || w.Build == nil || w.Build.Number != b.Number {
		return nil
	}
	const stage = "startup"
	if slices.ContainsFunc(b.Timings, func(t coordinator.Timing) bool { return t.Stage == stage }) {
		return nil
	}
	var timings []coordinator.Timing
	for _, g := range w.Agents {
		for _, s := range g.Steps {
			if !s.Started.IsZero() {
				timings = append(timings, coordinator.Timing{Stage: stage, Name: g.Name + ": " + s.Name, Start: s.Started, Duration: s.Duration})
			}
		}
	}
	return timings
}

// chartWidth is the width of the bars of a chart, in columns.
const chartWidth = 40

// drawTimings draws one bar for each part, all on one scale of time.
func (a *app) drawTimings(b rest.Build) {
	if len(b.Timings) == 0 {
		a.hintf("Build %d has no timings yet.", b.Number)
		return
	}
	begin, end := b.Timings[0].Start, b.Timings[0].Start
	for _, t := range b.Timings {
		if t.Start.Before(begin) {
			begin = t.Start
		}
		if e := t.Start.Add(t.Duration); e.After(end) {
			end = e
		}
	}
	total := max(end.Sub(begin), 1)
	t := a.table("STAGE", "PART", "TOOK", fmt.Sprintf("build %d: %s, %s in all", b.Number, b.Transition, took(total)))
	for _, x := range b.Timings {
		t.row(x.Stage, coordinator.Clip(x.Name, 60), took(x.Duration), bar(x.Start.Sub(begin), x.Duration, total))
	}
	t.print()
}

// bar is a bar of chartWidth columns for a span within a total: dots, then the bar, at least one column of it.
func bar(start, length, total time.Duration) string {
	column := func(d time.Duration) int {
		return int(float64(min(max(d, 0), total)) / float64(total) * chartWidth)
	}
	from := min(column(start), chartWidth-1)
	to := min(max(column(start+length), from+1), chartWidth)
	return strings.Repeat("·", from) + strings.Repeat("█", to-from) + strings.Repeat("·", chartWidth-to)
}
