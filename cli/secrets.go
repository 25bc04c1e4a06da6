package cli

import (
	"bytes"
	"context"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"berth/coordinator"
	"berth/coordinator/rest"
)

func (a *app) secretsCommand() *cobra.Command {
	return parent("secrets", "Your own secrets in your workspaces", "  berth secrets list\n  berth secrets set npm --env NPM_TOKEN < token",
		a.secretsListCommand(), a.secretsSetCommand(), a.secretsRemoveCommand())
}

func (a *app) secretsListCommand() *cobra.Command {
	var f format
	cmd := &cobra.Command{
		Use:     "list",
		Short:   "List your secrets, without their values",
		Example: "  berth secrets list",
		Args:    arguments(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, _, err := a.client()
			if err != nil {
				return err
			}
			secrets, err := c.Secrets(cmd.Context())
			if err != nil {
				return err
			}
			return a.show(f, secrets, func() {
				t := a.table("NAME", "ENVIRONMENT", "FILE", "UPDATED")
				for _, s := range secrets {
					t.row(s.Name, s.Env, s.File, a.ago(s.Updated))
				}
				t.print()
			})
		},
	}
	outputFlag(cmd, &f)
	return cmd
}

func (a *app) secretsSetCommand() *cobra.Command {
	var in rest.PutSecret
	cmd := &cobra.Command{
		Use:   "set NAME",
		Short: "Store a secret: an environment variable or a file in your workspaces",
		Long: `Store a secret. The value is asked for, or read from stdin where that is no terminal; it is never an argument, which
other users of this machine could read. For an environment variable one line break at the end is taken off; a file
gets every byte. Workspaces have it from their next start.`,
		Example: `  berth secrets set npm --env NPM_TOKEN < token
  berth secrets set kube --file kubeconfig < ~/.kube/config`,
		Args: arguments(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.setSecret(cmd.Context(), args[0], in)
		},
	}
	cmd.Flags().StringVar(&in.Env, "env", "", "name of the environment variable")
	cmd.Flags().StringVar(&in.File, "file", "", "name of the file, below the workspace's secrets directory")
	return cmd
}

func (a *app) setSecret(ctx context.Context, name string, in rest.PutSecret) error {
	if (in.Env == "") == (in.File == "") {
		return usage("a secret is either an environment variable or a file").WithHint("give --env NAME or --file NAME")
	}
	c, _, err := a.client()
	if err != nil {
		return err
	}
	value, err := a.secretValue(ctx, in.Env != "")
	if err != nil {
		return err
	}
	in.Value = value
	if err := c.PutSecret(ctx, name, in); err != nil {
		return err
	}
	a.printf("Stored %s\n", oneLine(name))
	return nil
}

func (a *app) secretValue(ctx context.Context, env bool) (string, error) {
	if a.interactive() {
		typed, err := a.askHidden(ctx, "Value: ")
		if err == nil && typed == "" {
			err = usage("no value was given")
		}
		return string(typed), err
	}
	b, err := a.readAll(coordinator.MaxSecretValue + 2)
	if err != nil {
		return "", err
	}
	if env {
		b = bytes.TrimSuffix(bytes.TrimSuffix(b, []byte("\n")), []byte("\r"))
	}
	switch {
	case len(b) == 0:
		return "", usage("no value was given").WithHint("pipe it in: berth secrets set NAME … < file")
	case len(b) > coordinator.MaxSecretValue:
		return "", coordinator.Errorf(coordinator.CodeTooLarge, "the value is longer than %d KiB", coordinator.MaxSecretValue>>10)
	case !utf8.Valid(b):
		return "", usage("the value is not text in UTF-8").WithHint("encode it first, with base64 for example")
	}
	return string(b), nil
}

func (a *app) secretsRemoveCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "remove NAME",
		Short:   "Remove a secret",
		Example: "  berth secrets remove npm",
		Args:    arguments(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, _, err := a.client()
			if err != nil {
				return err
			}
			if err := c.DeleteSecret(cmd.Context(), args[0]); err != nil {
				return err
			}
			a.printf("Removed %s\n", oneLine(args[0]))
			return nil
		},
	}
}
