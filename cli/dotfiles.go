package cli

import (
	"context"
	"os"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"berth/coordinator"
	"berth/coordinator/rest"
)

func (a *app) dotfilesCommand() *cobra.Command {
	var f format
	var none bool
	cmd := &cobra.Command{
		Use:   "dotfiles [URL]",
		Short: "Show or set the dotfiles repository that your workspaces clone",
		Long: `Show or set the Git repository that your workspaces clone at their start. Its install script (install.sh, bootstrap.sh,
setup.sh, script/...) is run; without one, its dot files are linked into the home directory.`,
		Example: `  berth dotfiles
  berth dotfiles git@github.com:alice/dotfiles.git
  berth dotfiles --none`,
		Args: arguments(0, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.dotfiles(cmd.Context(), args, none, f)
		},
	}
	cmd.Flags().BoolVar(&none, "none", false, "clone none")
	outputFlag(cmd, &f)
	return cmd
}

func (a *app) dotfiles(ctx context.Context, args []string, none bool, f format) error {
	if none && len(args) > 0 {
		return usage("give either a repository or --none")
	}
	c, _, err := a.client()
	if err != nil {
		return err
	}
	switch {
	case none:
		err = c.PutDotfiles(ctx, rest.Dotfiles{})
	case len(args) > 0:
		err = c.PutDotfiles(ctx, rest.Dotfiles{URL: args[0]})
	}
	if err != nil {
		return err
	}
	d, err := c.Dotfiles(ctx)
	if err != nil {
		return err
	}
	return a.show(f, d, func() {
		if d.URL == "" {
			a.hintf("No dotfiles repository is set.")
			return
		}
		a.printf("%s\n", oneLine(d.URL))
	})
}

func (a *app) personalizeCommand() *cobra.Command {
	var none, show bool
	cmd := &cobra.Command{
		Use:   "personalize [FILE]",
		Short: "Show or store the ~/personalize script that your workspaces run",
		Long: `Show or store the script that your workspaces write to ~/personalize and run at the end of their start. FILE may be -
for stdin. Without a stored script a ~/personalize of your own making is run, and left alone.`,
		Example: `  berth personalize personalize.sh
  berth personalize --show
  berth personalize --none`,
		Args: arguments(0, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.personalize(cmd.Context(), args, none, show)
		},
	}
	cmd.Flags().BoolVar(&none, "none", false, "store none")
	cmd.Flags().BoolVar(&show, "show", false, "print the stored script")
	return cmd
}

func (a *app) personalize(ctx context.Context, args []string, none, show bool) error {
	if none && show || len(args) > 0 && (none || show) {
		return usage("give one of FILE, --none and --show")
	}
	c, _, err := a.client()
	if err != nil {
		return err
	}
	var in rest.Personalize
	if len(args) > 0 {
		script, err := a.script(args[0])
		if err != nil {
			return err
		}
		in.Script = &script
	}
	if none || len(args) > 0 {
		if err := c.PutPersonalize(ctx, in); err != nil {
			return err
		}
		if none {
			a.printf("No ~/personalize is stored.\n")
			return nil
		}
		a.printf("Stored %d bytes. Workspaces run it from their next start.\n", len(*in.Script))
		return nil
	}
	p, err := c.Personalize(ctx)
	if err != nil {
		return err
	}
	if p.Script == nil {
		a.hintf("No ~/personalize is stored.")
		return nil
	}
	a.printf("%s", a.raw(*p.Script))
	return nil
}

// raw is text for stdout: every byte for a file or a pipe, escaped for a terminal.
func (a *app) raw(s string) string {
	if !a.isTerminal(a.out) {
		return s
	}
	return safeLines(s)
}

// script reads a script from a file or from stdin.
func (a *app) script(file string) (string, error) {
	var b []byte
	var err error
	if file == "-" {
		b, err = a.readAll(coordinator.MaxPersonalize)
	} else if err = a.noFiles(); err == nil {
		var info os.FileInfo
		if info, err = os.Stat(file); err == nil && (!info.Mode().IsRegular() || info.Size() > coordinator.MaxPersonalize) {
			return "", coordinator.Errorf(coordinator.CodeTooLarge, "%s is not a file of at most %d KiB", file, coordinator.MaxPersonalize>>10)
		}
		if err == nil {
			b, err = os.ReadFile(file)
		}
	}
	switch {
	case os.IsNotExist(err):
		return "", coordinator.Errorf(coordinator.CodeNotFound, "there is no file %s", file)
	case err != nil:
		return "", err
	case len(b) == 0:
		return "", usage("the script is empty").WithHint("berth personalize --none stores none")
	case !utf8.Valid(b):
		return "", usage("the script is not text in UTF-8")
	}
	return string(b), nil
}
