package cli

import (
	"context"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/crypto/ssh"

	"berth/coordinator/rest"
)

func (a *app) keysCommand() *cobra.Command {
	return parent("keys", "The SSH keys with which you enter workspaces", "  berth keys list\n  berth keys add ~/.ssh/id_ed25519.pub",
		a.keysListCommand(), a.keysAddCommand(), a.keysRemoveCommand(), a.keysGitCommand())
}

func (a *app) keysListCommand() *cobra.Command {
	var f format
	cmd := &cobra.Command{
		Use:     "list",
		Short:   "List your registered SSH public keys",
		Example: "  berth keys list",
		Args:    arguments(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, _, err := a.client()
			if err != nil {
				return err
			}
			keys, err := c.Keys(cmd.Context())
			if err != nil {
				return err
			}
			return a.show(f, keys, func() {
				t := a.table("NAME", "FINGERPRINT", "KIND", "ADDED", "LAST USED")
				for _, k := range keys {
					kind := "own"
					if k.Device {
						kind = "device"
					}
					t.row(k.Name, k.Fingerprint, kind, a.ago(k.Created), a.ago(k.LastUsed))
				}
				t.print()
			})
		},
	}
	outputFlag(cmd, &f)
	return cmd
}

func (a *app) keysAddCommand() *cobra.Command {
	var name string
	cmd := &cobra.Command{
		Use:   "add KEY",
		Short: "Register an SSH public key",
		Long: `Register an SSH public key: a file, the key's text in quotes, or - for stdin. A registered key belongs to one person,
so its private half signs a proof: it is looked for in the ssh-agent, then in the file beside the .pub file.`,
		Example: `  berth keys add ~/.ssh/id_ed25519.pub
  ssh-add -L | grep work | berth keys add - --name work`,
		Args: arguments(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.addKey(cmd.Context(), args[0], name)
		},
	}
	cmd.Flags().StringVar(&name, "name", "", "name of the key (its comment by default)")
	return cmd
}

func (a *app) addKey(ctx context.Context, arg, name string) error {
	text, file, err := a.keyText(arg)
	if err != nil {
		return err
	}
	shown := file
	if shown == "" {
		shown = "the text"
	}
	key, comment, err := publicKey(text, shown)
	if err != nil {
		return err
	}
	c, _, err := a.client()
	if err != nil {
		return err
	}
	me, err := c.Whoami(ctx)
	if err != nil {
		return err
	}
	s, end, err := a.signer(ctx, key, file)
	if err != nil {
		return err
	}
	defer end()
	proof, err := proveKey(s, me.ID)
	if err != nil {
		return err
	}
	if name == "" {
		name = comment
	}
	added, err := c.AddKey(ctx, rest.AddKey{
		Name: name, PublicKey: strings.TrimSpace(string(ssh.MarshalAuthorizedKey(key))), Proof: proof,
	})
	if err != nil {
		return err
	}
	a.printf("Registered %s %s\n", oneLine(added.Name), oneLine(added.Fingerprint))
	return nil
}

func (a *app) keysRemoveCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "remove KEY",
		Short:   "Remove a registered key by its name, fingerprint or id",
		Example: "  berth keys remove laptop\n  berth keys remove SHA256:6rTx…",
		Args:    arguments(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, _, err := a.client()
			if err != nil {
				return err
			}
			if err := c.DeleteKey(cmd.Context(), args[0]); err != nil {
				return err
			}
			a.printf("Removed %s\n", oneLine(args[0]))
			return nil
		},
	}
}

func (a *app) keysGitCommand() *cobra.Command {
	var f format
	cmd := &cobra.Command{
		Use:   "git",
		Short: "Print the public key that your workspaces present to Git hosts",
		Long: `Print the public half of the key that your workspaces present to Git hosts. Register it with them; the private half
lives in your workspaces' memory only, and opens no workspace.`,
		Example: "  berth keys git | gh ssh-key add -",
		Args:    arguments(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, _, err := a.client()
			if err != nil {
				return err
			}
			key, err := c.GitKey(cmd.Context())
			if err != nil {
				return err
			}
			return a.show(f, key, func() { a.printf("%s\n", oneLine(key.PublicKey)) })
		},
	}
	outputFlag(cmd, &f)
	return cmd
}
