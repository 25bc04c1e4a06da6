package cli

import (
	"context"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"berth/cli/client"
	"berth/coordinator"
	"berth/coordinator/rest"
)

func (a *app) createCommand() *cobra.Command {
	var in rest.CreateWorkspace
	var sets []string
	var w waiting
	cmd := &cobra.Command{
		Use:   "create NAME",
		Short: "Make a workspace and start it",
		Long: `Make a workspace of a template, start it, and wait until it can be entered. On a terminal, parameters that the template
needs and that --set does not give are asked for.`,
		Example: `  berth create dev --template local
  berth create big --template vm --set cpu=16 --set region=fra
  berth create later --template local --stopped`,
		Args: arguments(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			in.Name = args[0]
			return a.create(cmd.Context(), in, sets, w)
		},
	}
	cmd.Flags().StringVar(&in.Template, "template", "", "name of the template")
	cmd.Flags().IntVar(&in.Version, "version", 0, "version of it (the active one by default)")
	cmd.Flags().StringArrayVar(&sets, "set", nil, "parameter, NAME=VALUE (repeat for more)")
	cmd.Flags().BoolVar(&in.Stopped, "stopped", false, "do not start it")
	w.flag(cmd)
	if a.console == nil {
		_ = cmd.RegisterFlagCompletionFunc("template", a.completeTemplate) // the flag is there
	}
	return cmd
}

func (a *app) create(ctx context.Context, in rest.CreateWorkspace, sets []string, w waiting) error {
	if err := coordinator.CheckName("workspace", in.Name); err != nil {
		return err
	}
	if in.Version < 0 {
		return usage("--version takes a number from 1 on")
	}
	params, err := parseParams(sets)
	if err != nil {
		return err
	}
	c, _, err := a.client()
	if err != nil {
		return err
	}
	if in.Template == "" {
		if in.Template, err = a.chooseTemplate(ctx, c); err != nil {
			return err
		}
	}
	version, err := c.Version(ctx, in.Template, in.Version)
	if err != nil {
		return err
	}
	if in.Params, err = a.askParams(ctx, in.Template, version.Import.Parameters, params); err != nil {
		return err
	}
	made, err := c.CreateWorkspace(ctx, in)
	if err != nil {
		return err
	}
	t := coordinator.Target{Workspace: in.Name}
	switch {
	case in.Stopped || made.Build == nil:
		a.printf("Made %s; it is stopped\n", t)
		a.hintf("Start it: berth start %s", t)
		return nil
	case w.not:
		a.printf("Made %s; build %d starts it\n", t, made.Build.Number)
		a.hintf("Follow it: berth logs -f %s", t)
		return nil
	}
	return a.settle(ctx, c, t, *made.Build)
}

// chooseTemplate is for those who named none: the only one, or one of a few.
func (a *app) chooseTemplate(ctx context.Context, c *client.Client) (string, error) {
	templates, err := c.Templates(ctx)
	if err != nil {
		return "", err
	}
	var names []string
	for _, t := range templates {
		if t.ActiveVersion > 0 {
			names = append(names, t.Name)
		}
	}
	switch {
	case len(names) == 0:
		return "", coordinator.Errorf(coordinator.CodeNotFound, "there is no template yet").
			WithHint("an owner pushes one: berth template push NAME DIR")
	case len(names) == 1:
		return names[0], nil
	case !a.interactive():
		return "", usage("berth create needs --template").WithHint("there are " + strings.Join(names, ", "))
	}
	a.hintf("Templates: %s", oneLine(strings.Join(names, ", ")))
	typed, err := a.ask(ctx, "Template: ")
	if err != nil {
		return "", err
	}
	if typed = strings.TrimSpace(typed); !slices.Contains(names, typed) {
		return "", usage("there is no template %q", coordinator.Clip(typed, 40))
	}
	return typed, nil
}

// askParams completes the parameters: a name that the template does not know is refused, a value that it needs and
// nobody gave is asked for.
func (a *app) askParams(ctx context.Context, template string, want []coordinator.Parameter, have map[string]string) (map[string]string, error) {
	var names, missing []string
	for _, p := range want {
		names = append(names, p.Name)
		if _, ok := have[p.Name]; !ok && p.Default == nil {
			missing = append(missing, p.Name)
		}
	}
	for k := range have {
		if !slices.Contains(names, k) {
			e := usage("the template %s has no parameter %q", template, coordinator.Clip(k, 40))
			if len(names) == 0 {
				return nil, e.WithHint("it has none")
			}
			return nil, e.WithHint("it has " + strings.Join(names, ", "))
		}
	}
	if len(missing) > 0 && !a.interactive() {
		return nil, usage("the template %s needs values for: %s", template, strings.Join(missing, ", ")).
			WithHint("give --set " + missing[0] + "=VALUE")
	}
	for _, p := range want {
		if slices.Contains(missing, p.Name) {
			v, err := a.askParam(ctx, p)
			if err != nil {
				return nil, err
			}
			have[p.Name] = v
		}
	}
	return have, nil
}

// askParam asks until the answer fits.
func (a *app) askParam(ctx context.Context, p coordinator.Parameter) (string, error) {
	title := p.DisplayName
	if title == "" {
		title = p.Name
	}
	if p.Description != "" {
		a.hintf("%s", oneLine(p.Description))
	}
	for _, o := range p.Options {
		a.hintf("  %s  %s", oneLine(o.Value), oneLine(o.Name))
	}
	const tries = 3
	for range tries {
		v, err := a.ask(ctx, oneLine(title)+" ("+oneLine(p.Type)+"): ")
		if err != nil {
			return "", err
		}
		v = strings.TrimSpace(v)
		wrong := p.Check(v)
		if wrong == nil {
			return v, nil
		}
		a.hintf("  %s", oneLine(wrong.Error()))
	}
	return "", usage("no usable value for the parameter %s", p.Name)
}
