package cli

import (
	"context"

	"github.com/spf13/cobra"

	"berth/cli/client"
	"berth/coordinator"
	"berth/coordinator/rest"
)

// A change is the flags of the commands that start a workspace.
type change struct {
	sets         []string
	version      int
	allowDestroy []string
}

func (ch *change) flags(cmd *cobra.Command, params bool) {
	if params {
		cmd.Flags().StringArrayVar(&ch.sets, "set", nil, "parameter to change, NAME=VALUE (repeat for more)")
		cmd.Flags().IntVar(&ch.version, "version", 0, "template version to move to")
	}
	cmd.Flags().StringArrayVar(&ch.allowDestroy, "allow-destroy", nil,
		"address of a persistent resource that may be destroyed or replaced (repeat for more)")
}

func (ch *change) request() (rest.StartWorkspace, error) {
	params, err := parseParams(ch.sets)
	if err == nil && ch.version < 0 {
		err = usage("--version takes a number from 1 on")
	}
	return rest.StartWorkspace{Version: ch.version, Params: params, AllowDestroy: ch.allowDestroy}, err
}

func (a *app) startCommand() *cobra.Command {
	var ch change
	var w waiting
	cmd := &cobra.Command{
		Use:   "start NAME",
		Short: "Start a workspace",
		Long: `Start a workspace and wait until its agents are there and have finished their startup. A startup step that fails is
told, and does not fail the command: ssh lets you in to look.`,
		Example:           "  berth start dev\n  berth start dev --no-wait",
		Args:              arguments(1, 1),
		ValidArgsFunction: a.completeWorkspace,
		RunE: func(cmd *cobra.Command, args []string) error {
			in, err := ch.request()
			if err != nil {
				return err
			}
			return a.change(cmd.Context(), args[0], w, func(ctx context.Context, c *client.Client, t coordinator.Target) (rest.Build, error) {
				return c.Start(ctx, t, in)
			})
		},
	}
	ch.flags(cmd, false)
	w.flag(cmd)
	return cmd
}

func (a *app) restartCommand() *cobra.Command {
	var ch change
	var w waiting
	cmd := &cobra.Command{
		Use:   "restart NAME",
		Short: "Stop a workspace and start it again",
		Long: `Stop a workspace and start it again, as one request: the start follows even if you go away in between. What the
template keeps, a home directory for example, is as it was; everything else is new.`,
		Example:           "  berth restart dev\n  berth restart dev --allow-destroy docker_volume.cache",
		Args:              arguments(1, 1),
		ValidArgsFunction: a.completeWorkspace,
		RunE: func(cmd *cobra.Command, args []string) error {
			in, err := ch.request()
			if err != nil {
				return err
			}
			return a.change(cmd.Context(), args[0], w, func(ctx context.Context, c *client.Client, t coordinator.Target) (rest.Build, error) {
				return c.Restart(ctx, t, in)
			})
		},
	}
	ch.flags(cmd, false)
	w.flag(cmd)
	return cmd
}

func (a *app) updateCommand() *cobra.Command {
	var ch change
	var w waiting
	cmd := &cobra.Command{
		Use:   "update NAME",
		Short: "Move a workspace to its template's active version, or change parameters",
		Long: `Move a workspace to its template's active version, or to --version, and change parameters with --set. A workspace that
runs is restarted; one that is stopped is started. Where the new version would destroy what is to be kept, nothing is
changed and the reason told; the workspace is as it was, on the version it had, and one that ran is started again.`,
		Example:           "  berth update dev\n  berth update dev --set cpu=8\n  berth update dev --version 3",
		Args:              arguments(1, 1),
		ValidArgsFunction: a.completeWorkspace,
		RunE: func(cmd *cobra.Command, args []string) error {
			in, err := ch.request()
			if err != nil {
				return err
			}
			in.Update = in.Version == 0
			return a.change(cmd.Context(), args[0], w, func(ctx context.Context, c *client.Client, t coordinator.Target) (rest.Build, error) {
				return update(ctx, c, t, in)
			})
		},
	}
	ch.flags(cmd, true)
	w.flag(cmd)
	return cmd
}

// update restarts a workspace that is up, so that everything the template does not keep is made anew.
func update(ctx context.Context, c *client.Client, t coordinator.Target, in rest.StartWorkspace) (rest.Build, error) {
	w, err := c.Workspace(ctx, t)
	if err != nil {
		return rest.Build{}, err
	}
	switch w.Status {
	case coordinator.StatusRunning, coordinator.StatusStarting, coordinator.StatusUnhealthy:
		return c.Restart(ctx, t, in)
	default:
		return c.Start(ctx, t, in)
	}
}

func (a *app) stopCommand() *cobra.Command {
	var w waiting
	cmd := &cobra.Command{
		Use:               "stop NAME",
		Short:             "Stop a workspace; what its template keeps is kept",
		Example:           "  berth stop dev",
		Args:              arguments(1, 1),
		ValidArgsFunction: a.completeWorkspace,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.change(cmd.Context(), args[0], w, func(ctx context.Context, c *client.Client, t coordinator.Target) (rest.Build, error) {
				return c.Stop(ctx, t)
			})
		},
	}
	w.flag(cmd)
	return cmd
}

func (a *app) deleteCommand() *cobra.Command {
	var w waiting
	var yes bool
	cmd := &cobra.Command{
		Use:   "delete NAME",
		Short: "Delete a workspace and everything in it",
		Long: `Delete a workspace and everything in it, its home directory included. It cannot be undone, so its name has to be typed,
unless --yes is given.`,
		Example:           "  berth delete dev\n  berth delete dev --yes",
		Args:              arguments(1, 1),
		ValidArgsFunction: a.completeWorkspace,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.change(cmd.Context(), args[0], w, func(ctx context.Context, c *client.Client, t coordinator.Target) (rest.Build, error) {
				if _, err := c.Workspace(ctx, t); err != nil {
					return rest.Build{}, err
				}
				if err := a.confirm(ctx, yes, "the workspace "+t.String()+" and everything in it", t.Workspace); err != nil {
					return rest.Build{}, err
				}
				return c.Delete(ctx, t)
			})
		},
	}
	cmd.Flags().BoolVar(&yes, "yes", false, "do not ask")
	w.flag(cmd)
	return cmd
}

// change asks for a build and waits for what it brings.
func (a *app) change(ctx context.Context, name string, w waiting, ask func(context.Context, *client.Client, coordinator.Target) (rest.Build, error)) error {
	c, t, err := a.workspace(ctx, name)
	if err != nil {
		return err
	}
	b, err := ask(ctx, c, t)
	if err != nil {
		return err
	}
	if w.not {
		a.printf("Build %d of %s is on its way\n", b.Number, t)
		a.hintf("Follow it: berth logs -f %s", t)
		return nil
	}
	return a.settle(ctx, c, t, b)
}

// settle waits for a build, for the one that follows it in a restart, and for the agents of a start, and says how it
// ended.
func (a *app) settle(ctx context.Context, c *client.Client, t coordinator.Target, b rest.Build) error {
	fresh := b.Status.Open()
	b, err := a.wait(ctx, c, t, b)
	if err != nil {
		return err
	}
	switch {
	case b.Transition == coordinator.Delete:
		a.printf("Deleted %s\n", t)
		a.refreshSSHConfig(ctx, c)
		return nil
	case b.Transition == coordinator.Stop && b.ThenStart:
		next, err := c.Patient(logPatience).Build(ctx, t, b.Number+1)
		if err != nil {
			return err
		}
		return a.settleRestart(ctx, c, t, next)
	case b.Transition == coordinator.Stop:
		a.printf("Stopped %s\n", t)
		return nil
	}
	return a.ready(ctx, c, t, fresh)
}

// settleRestart waits for the second half of a restart. Where the plan guard refused it, the server starts the workspace
// again as it was; that is waited for as well, and the refusal is the error.
func (a *app) settleRestart(ctx context.Context, c *client.Client, t coordinator.Target, b rest.Build) error {
	refusal := a.settle(ctx, c, t, b)
	if coordinator.CodeOf(refusal) != coordinator.CodeFailed {
		return refusal
	}
	again, err := c.Patient(logPatience).Build(ctx, t, b.Number+1)
	if err != nil || again.Transition != coordinator.Start {
		return refusal // the server did nothing more
	}
	a.hintf("Build %d was refused and changed nothing; %s starts again as it was, on version %d", b.Number, t, again.Version)
	if err := a.settle(ctx, c, t, again); err != nil {
		a.hintf("%s", oneLine(err.Error()))
	}
	return refusal
}

// failure is the error of a build that did not succeed.
func failure(t coordinator.Target, b rest.Build) error {
	if b.Status == coordinator.BuildCanceled {
		return coordinator.Errorf(coordinator.CodeFailed, "build %d of %s was canceled", b.Number, t).
			WithHint("berth show " + t.String() + " tells what exists")
	}
	msg := b.Error
	if msg == "" {
		msg = "it does not say why"
	}
	e := coordinator.Errorf(coordinator.CodeFailed, "%s build %d of %s failed: %s", b.Transition, b.Number, t, msg)
	if b.Address != "" {
		e.Msg = coordinator.Errorf(coordinator.CodeFailed, "%s build %d of %s failed at %s: %s", b.Transition, b.Number, t, b.Address, msg).Msg
	}
	return e.WithHint("its log: berth logs " + t.String())
}
