package cli

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"berth/cli/client"
	"berth/coordinator"
	"berth/coordinator/rest"
)

func (a *app) listCommand() *cobra.Command {
	var f format
	var all, names bool
	cmd := &cobra.Command{
		Use:     "list",
		Aliases: []string{"ls"},
		Short:   "List your workspaces",
		Example: "  berth list\n  berth list --all -o json",
		Args:    arguments(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, _, err := a.client()
			if err != nil {
				return err
			}
			list, err := c.Workspaces(cmd.Context(), all)
			if err != nil {
				return err
			}
			return a.show(f, list, func() {
				if !names {
					a.workspaceTable(list, all)
					return
				}
				for _, w := range list {
					a.printf("%s\n", oneLine(shownName(w, all)))
				}
			})
		},
	}
	cmd.Flags().BoolVar(&all, "all", false, "everybody's workspaces (owners only)")
	cmd.Flags().BoolVarP(&names, "quiet", "q", false, "only the names")
	outputFlag(cmd, &f)
	return cmd
}

// shownName is a workspace's name, with its owner where others' are listed too.
func shownName(w rest.Workspace, all bool) string {
	if all {
		return w.Owner + "/" + w.Name
	}
	return w.Name
}

func (a *app) workspaceTable(list []rest.Workspace, all bool) {
	if len(list) == 0 {
		a.hintf("No workspaces yet. Make one: berth create dev --template NAME (berth template list)")
		return
	}
	t := a.table("NAME", "STATUS", "TEMPLATE", "VERSION", "BUILD", "LAST USED", "REASON")
	for _, w := range list {
		version := fmt.Sprint(w.Version)
		if w.Outdated {
			version += " (outdated)"
		}
		build := ""
		if w.Build != nil {
			build = fmt.Sprint(w.Build.Number)
		}
		t.row(shownName(w, all), string(w.Status), w.Template, version, build, a.ago(w.LastUsed), coordinator.Clip(w.Reason, 100))
	}
	t.print()
}

func (a *app) showCommand() *cobra.Command {
	var f format
	cmd := &cobra.Command{
		Use:     "show NAME",
		Short:   "Show a workspace: status, agents, parameters",
		Example: "  berth show dev\n  berth show alice/dev -o json",
		Args:    arguments(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, t, err := a.workspace(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			w, err := c.Workspace(cmd.Context(), t)
			if err != nil {
				return err
			}
			return a.show(f, w, func() { a.showWorkspace(w) })
		},
		ValidArgsFunction: a.completeWorkspace,
	}
	outputFlag(cmd, &f)
	return cmd
}

func (a *app) showWorkspace(w rest.Workspace) {
	version := fmt.Sprintf("%s, version %d", w.Template, w.Version)
	if w.Outdated {
		version += " (a newer one is active: berth update " + w.Name + ")"
	}
	build := ""
	if b := w.Build; b != nil {
		build = fmt.Sprintf("%d (%s, %s, %s)", b.Number, b.Transition, b.Status, a.ago(b.Created))
	}
	a.fields(
		"Name", w.Owner+"/"+w.Name,
		"Status", string(w.Status),
		"Reason", w.Reason,
		"Notice", w.Notice,
		"Template", version,
		"Latest build", build,
		"Host names", strings.Join(w.HostNames, ", "),
		"Created", a.ago(w.Created),
		"Last used", a.ago(w.LastUsed),
	)
	if len(w.Params) > 0 {
		a.printf("\nParameters\n")
		for _, k := range slices.Sorted(maps.Keys(w.Params)) {
			a.printf("  %s = %s\n", oneLine(k), oneLine(w.Params[k]))
		}
	}
	for _, g := range w.Agents {
		state := "not connected"
		switch {
		case g.Connected && g.Ready:
			state = "connected, ready"
		case g.Connected:
			state = "connected, in its startup"
		}
		a.printf("\nAgent %s (%s): %s\n", oneLine(g.Name), oneLine(g.Resource), state)
		for _, s := range g.Steps {
			line := fmt.Sprintf("%s: %s", s.Name, s.Outcome)
			if s.Duration > 0 {
				line += " in " + took(s.Duration)
			}
			if s.Error != "" {
				line += ": " + s.Error
			}
			a.printf("  %s\n", oneLine(line))
		}
		a.showIDEs(w, g)
	}
}

// showIDEs lists what IDEs left behind: they find it again, or it takes memory until somebody ends it.
func (a *app) showIDEs(w rest.Workspace, g rest.Agent) {
	if len(g.IDEs) == 0 {
		return
	}
	name := w.Name
	if len(w.Agents) > 1 {
		name += "." + g.Name
	}
	a.printf("  servers of IDEs that no session holds (to end one: berth ssh %s -- kill PID)\n", name)
	for _, i := range g.IDEs {
		a.printf("    %d  %s\n", i.PID, oneLine(fmt.Sprintf("%s (%s), started %s, %d MiB", i.Product, i.Command, a.ago(i.Started), i.Memory>>20)))
	}
}

// completeWorkspace offers the names of the caller's workspaces to the shell.
func (a *app) completeWorkspace(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	c, _, err := a.client()
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	list, err := c.Workspaces(cmd.Context(), false)
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	var names []string
	for _, w := range list {
		if coordinator.CheckName("workspace", w.Name) == nil {
			names = append(names, w.Name)
		}
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}

// parseParams reads k=v pairs.
func parseParams(sets []string) (map[string]string, error) {
	params := map[string]string{}
	for _, s := range sets {
		k, v, ok := strings.Cut(s, "=")
		if !ok || k == "" {
			return nil, usage("--set %q is not NAME=VALUE", coordinator.Clip(s, 40)).WithHint("--set cpu=4")
		}
		if _, twice := params[k]; twice {
			return nil, usage("the parameter %q is set twice", k)
		}
		if len(v) > coordinator.MaxParameter {
			return nil, usage("the value of the parameter %q is longer than %d KiB", k, coordinator.MaxParameter>>10)
		}
		params[k] = v
	}
	return params, nil
}

func (a *app) cancelCommand() *cobra.Command {
	var number int
	var w waiting
	cmd := &cobra.Command{
		Use:   "cancel NAME",
		Short: "Cancel the build under way",
		Long: `Cancel a build. One that waits is canceled at once; one that runs is asked to end in order, so that nothing it has
made is forgotten. What exists then is shown by "berth show".`,
		Example:           "  berth cancel dev\n  berth cancel dev --build 7",
		Args:              arguments(1, 1),
		ValidArgsFunction: a.completeWorkspace,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.cancel(cmd.Context(), args[0], number, w)
		},
	}
	cmd.Flags().IntVar(&number, "build", 0, "number of the build (the latest by default)")
	w.flag(cmd)
	return cmd
}

func (a *app) cancel(ctx context.Context, name string, number int, w waiting) error {
	c, t, err := a.workspace(ctx, name)
	if err != nil {
		return err
	}
	b, err := c.Cancel(ctx, t, number)
	if err != nil {
		return err
	}
	if w.not && b.Status.Open() {
		a.printf("Build %d of %s is asked to end\n", b.Number, t)
		return nil
	}
	if b, err = a.wait(ctx, c, t, b); err != nil && (b.Number == 0 || b.Status.Open()) {
		return err
	}
	if b.Status != coordinator.BuildCanceled {
		return coordinator.Errorf(coordinator.CodeConflict, "build %d of %s had ended before it could be canceled: %s", b.Number, t, b.Status).
			WithHint("berth show " + t.String())
	}
	a.printf("Build %d of %s is canceled\n", b.Number, t)
	return nil
}

func (a *app) pingCommand() *cobra.Command {
	var f format
	var count int
	cmd := &cobra.Command{
		Use:               "ping NAME",
		Short:             "Measure the way to a workspace's agent",
		Example:           "  berth ping dev\n  berth ping dev.tools -c 10",
		Args:              arguments(1, 1),
		ValidArgsFunction: a.completeWorkspace,
		RunE: func(cmd *cobra.Command, args []string) error {
			if count < 1 || count > 1000 {
				return usage("-c takes 1 to 1000")
			}
			c, s, err := a.client()
			if err != nil {
				return err
			}
			t, err := a.target(cmd.Context(), c, s, args[0])
			if err != nil {
				return err
			}
			return a.ping(cmd.Context(), c, t, count, f)
		},
	}
	cmd.Flags().IntVarP(&count, "count", "c", 3, "how often")
	outputFlag(cmd, &f)
	return cmd
}

// A pong is one measurement: to the agent as the server sees it, and with the way to the server.
type pong struct {
	Agent   string `json:"agent"`
	AgentNS int64  `json:"agent_ns"` // from the server to the agent and back
	TotalNS int64  `json:"total_ns"` // from here and back
}

func (a *app) ping(ctx context.Context, c *client.Client, t coordinator.Target, count int, f format) error {
	pongs := make([]pong, 0, count)
	for range count {
		begin := a.now()
		p, err := c.Ping(ctx, t)
		if err != nil {
			return err
		}
		total := a.now().Sub(begin)
		pongs = append(pongs, pong{p.Agent, int64(p.RTT), int64(total)})
		if f == formatTable {
			a.printf("%s: %s from here, of which %s from the server\n", oneLine(p.Agent), fine(total), fine(p.RTT))
		}
	}
	if f == formatJSON {
		return a.printJSON(pongs)
	}
	return nil
}
