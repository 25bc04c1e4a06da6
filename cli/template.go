package cli

import (
	"context"
	"fmt"
	"path/filepath"
	"strconv"

	"github.com/spf13/cobra"

	"berth/cli/client"
	"berth/coordinator"
	"berth/coordinator/rest"
)

func (a *app) templateCommand() *cobra.Command {
	cmd := parent("template", "Templates: what workspaces are made of", "  berth template push local ./template\n  berth template list",
		a.templatePushCommand(), a.templateListCommand(), a.templateVersionsCommand(), a.templatePullCommand(),
		a.templateActivateCommand(), a.templateDeleteCommand())
	cmd.Aliases = []string{"templates"}
	return cmd
}

// A push is the flags of berth template push.
type push struct {
	name, message, description string
	activate                   bool
}

func (a *app) templatePushCommand() *cobra.Command {
	var p push
	cmd := &cobra.Command{
		Use:   "push [NAME] DIR",
		Short: "Push a directory as a new version of a template",
		Long: `Push a directory with a Terraform module as a new, immutable version of a template, and follow its import. The name is
the directory's unless it is given. What .berthignore lists (as .gitignore does) stays behind, and so do .git, .terraform and
terraform's state. A version whose import fails is kept for its log, and never becomes active.`,
		Example: `  berth template push local ./template
  berth template push ./local --message "more memory"
  berth template push local . --activate=false`,
		Args: arguments(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 2 {
				if p.name != "" && p.name != args[0] {
					return usage("the template is called %q or %q, not both", args[0], p.name)
				}
				p.name = args[0]
			}
			return a.push(cmd.Context(), args[len(args)-1], p)
		},
	}
	cmd.Flags().StringVar(&p.name, "name", "", "name of the template (the directory's by default)")
	cmd.Flags().StringVar(&p.message, "message", "", "what is new")
	cmd.Flags().StringVar(&p.description, "description", "", "what the template is for")
	cmd.Flags().BoolVar(&p.activate, "activate", true, "make it the active version once it is imported")
	return cmd
}

func (a *app) push(ctx context.Context, dir string, p push) error {
	if p.name == "" {
		abs, err := filepath.Abs(dir)
		if err != nil {
			return fmt.Errorf("find the directory: %w", err)
		}
		p.name = filepath.Base(abs)
	}
	if err := coordinator.CheckName("template", p.name); err != nil {
		return err
	}
	archive, err := packTemplate(dir)
	if err != nil {
		return err
	}
	c, _, err := a.client()
	if err != nil {
		return err
	}
	v, err := c.PushTemplate(ctx, client.Push{
		Template: p.name, Message: p.message, Description: p.description, Activate: p.activate, Archive: archive,
	})
	if err != nil {
		return err
	}
	return a.followImport(ctx, c, p, v)
}

// followImport waits for the end of a version's import.
func (a *app) followImport(ctx context.Context, c *client.Client, p push, v rest.TemplateVersion) error {
	show := a.progress("", 0)
	defer show.stop()
	show.set(coordinator.Progress{Stage: "queue", Text: fmt.Sprintf("import of version %d", v.Number)})
	c = c.Patient(logPatience)
	err := c.VersionLog(p.name, v.Number).Read(ctx, true, func(l coordinator.LogLine) error {
		if l.Level == "error" {
			show.say("%s", logText(l))
			return nil
		}
		showLine(show, 0, l)
		return nil
	})
	for pause := sleepMin; err == nil && v.Status == coordinator.VersionImporting; pause = min(2*pause, sleepMax) {
		number := v.Number
		if v, err = c.Version(ctx, p.name, number); err == nil && v.Status == coordinator.VersionImporting {
			err = sleep(ctx, pause)
		}
	}
	if err != nil {
		return err
	}
	show.stop()
	if v.Status != coordinator.VersionReady {
		return coordinator.Errorf(coordinator.CodeFailed, "version %d of %s cannot be used: %s", v.Number, p.name, v.Error).
			WithHint("mend the template and push it again; what was active before still is")
	}
	for _, w := range v.Import.Warnings {
		a.hintf("warning: %s", oneLine(w))
	}
	state := "ready; berth template activate " + p.name + " " + strconv.Itoa(v.Number) + " makes it the active one"
	if v.Active {
		state = "active"
	}
	a.printf("Version %d of %s is %s\n", v.Number, p.name, state)
	return nil
}

func (a *app) templateListCommand() *cobra.Command {
	var f format
	cmd := &cobra.Command{
		Use:     "list",
		Aliases: []string{"ls"},
		Short:   "List the templates",
		Example: "  berth template list",
		Args:    arguments(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, _, err := a.client()
			if err != nil {
				return err
			}
			templates, err := c.Templates(cmd.Context())
			if err != nil {
				return err
			}
			return a.show(f, templates, func() {
				t := a.table("NAME", "ACTIVE VERSION", "WORKSPACES", "CREATED", "DESCRIPTION")
				for _, x := range templates {
					active := ""
					if x.ActiveVersion > 0 {
						active = strconv.Itoa(x.ActiveVersion)
					}
					t.row(x.Name, active, strconv.Itoa(x.Workspaces), a.ago(x.Created), coordinator.Clip(x.Description, 100))
				}
				t.print()
			})
		},
	}
	outputFlag(cmd, &f)
	return cmd
}

func (a *app) templateVersionsCommand() *cobra.Command {
	var f format
	cmd := &cobra.Command{
		Use:               "versions NAME",
		Short:             "List the versions of a template, newest first",
		Example:           "  berth template versions local",
		Args:              arguments(1, 1),
		ValidArgsFunction: a.completeTemplate,
		RunE: func(cmd *cobra.Command, args []string) error {
			c, _, err := a.client()
			if err != nil {
				return err
			}
			versions, err := c.Versions(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			return a.show(f, versions, func() {
				t := a.table("VERSION", "STATUS", "BY", "CREATED", "MESSAGE", "ERROR")
				for _, v := range versions {
					status := string(v.Status)
					if v.Active {
						status = "active"
					}
					t.row(strconv.Itoa(v.Number), status, v.CreatedBy, a.ago(v.Created), coordinator.Clip(v.Message, 80), coordinator.Clip(v.Error, 120))
				}
				t.print()
			})
		},
	}
	outputFlag(cmd, &f)
	return cmd
}

func (a *app) templatePullCommand() *cobra.Command {
	var number int
	cmd := &cobra.Command{
		Use:               "pull NAME [DIR]",
		Short:             "Write a version's files into a new directory",
		Example:           "  berth template pull local\n  berth template pull local ./old --version 2",
		Args:              arguments(1, 2),
		ValidArgsFunction: a.completeTemplate,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := coordinator.CheckName("template", args[0]); err != nil {
				return err
			}
			dir := args[len(args)-1]
			c, _, err := a.client()
			if err != nil {
				return err
			}
			archive, err := c.Archive(cmd.Context(), args[0], number)
			if err != nil {
				return err
			}
			n, err := unpackTemplate(archive, dir)
			if err != nil {
				return err
			}
			a.printf("Wrote %d files to %s\n", n, dir)
			return nil
		},
	}
	cmd.Flags().IntVar(&number, "version", 0, "number of the version (the active one by default)")
	return cmd
}

func (a *app) templateActivateCommand() *cobra.Command {
	return &cobra.Command{
		Use:               "activate NAME VERSION",
		Short:             "Make a version the active one",
		Example:           "  berth template activate local 3",
		Args:              arguments(2, 2),
		ValidArgsFunction: a.completeTemplate,
		RunE: func(cmd *cobra.Command, args []string) error {
			n, err := strconv.Atoi(args[1])
			if err != nil || n < 1 {
				return usage("%q is not the number of a version", coordinator.Clip(args[1], 40)).WithHint("berth template versions " + args[0])
			}
			c, _, err := a.client()
			if err != nil {
				return err
			}
			if err := c.ActivateVersion(cmd.Context(), args[0], n); err != nil {
				return err
			}
			a.printf("Version %d of %s is active\n", n, oneLine(args[0]))
			return nil
		},
	}
}

func (a *app) templateDeleteCommand() *cobra.Command {
	var yes bool
	cmd := &cobra.Command{
		Use:               "delete NAME",
		Short:             "Delete a template that no workspace uses, with all its versions",
		Example:           "  berth template delete old",
		Args:              arguments(1, 1),
		ValidArgsFunction: a.completeTemplate,
		RunE: func(cmd *cobra.Command, args []string) error {
			c, _, err := a.client()
			if err != nil {
				return err
			}
			if _, err := c.Template(cmd.Context(), args[0]); err != nil {
				return err
			}
			if err := a.confirm(cmd.Context(), yes, "the template "+oneLine(args[0])+" with all its versions", args[0]); err != nil {
				return err
			}
			if err := c.DeleteTemplate(cmd.Context(), args[0]); err != nil {
				return err
			}
			a.printf("Deleted %s\n", oneLine(args[0]))
			return nil
		},
	}
	cmd.Flags().BoolVar(&yes, "yes", false, "do not ask")
	return cmd
}

// completeTemplate offers the names of templates to the shell.
func (a *app) completeTemplate(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	c, _, err := a.client()
	if err != nil || len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	templates, err := c.Templates(cmd.Context())
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	var names []string
	for _, t := range templates {
		if coordinator.CheckName("template", t.Name) == nil {
			names = append(names, t.Name)
		}
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}
