package cli

import (
	"context"
	"strings"

	"github.com/spf13/cobra"

	"berth/coordinator"
	"berth/coordinator/rest"
)

func (a *app) usersCommand() *cobra.Command {
	return parent("users", "The people of this installation", "  berth users list\n  berth users create bob --ssh-key bob.pub",
		a.usersListCommand(), a.usersCreateCommand(), a.usersDeleteCommand())
}

func (a *app) usersListCommand() *cobra.Command {
	var f format
	cmd := &cobra.Command{
		Use:     "list",
		Short:   "List the users",
		Example: "  berth users list -o json",
		Args:    arguments(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, _, err := a.client()
			if err != nil {
				return err
			}
			users, err := c.Users(cmd.Context())
			if err != nil {
				return err
			}
			return a.show(f, users, func() {
				t := a.table("NAME", "FULL NAME", "E-MAIL", "ROLE", "CREATED")
				for _, u := range users {
					t.row(u.Name, u.FullName, u.Email, string(u.Role), a.ago(u.Created))
				}
				t.print()
			})
		},
	}
	outputFlag(cmd, &f)
	return cmd
}

func (a *app) usersCreateCommand() *cobra.Command {
	var f format
	var in rest.CreateUser
	var role string
	var keys []string
	cmd := &cobra.Command{
		Use:   "create NAME",
		Short: "Make a user and print the token with which they sign in first",
		Example: `  berth users create bob --full-name "Bob Bee" --email bob@example.com
  berth users create bob --ssh-key bob.pub --role member`,
		Args: arguments(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			in.Name, in.Role = args[0], coordinator.Role(role)
			return a.createUser(cmd.Context(), in, keys, f)
		},
	}
	cmd.Flags().StringVar(&in.FullName, "full-name", "", "full name")
	cmd.Flags().StringVar(&in.Email, "email", "", "e-mail address")
	cmd.Flags().StringVar(&role, "role", string(coordinator.RoleMember), "owner or member")
	cmd.Flags().StringArrayVar(&keys, "ssh-key", nil, "SSH public key: a file, or its text in quotes (repeat for more)")
	outputFlag(cmd, &f)
	return cmd
}

func (a *app) createUser(ctx context.Context, in rest.CreateUser, keys []string, f format) error {
	if err := coordinator.CheckName("user", in.Name); err != nil {
		return err
	}
	if in.Role != coordinator.RoleOwner && in.Role != coordinator.RoleMember {
		return usage("%q is not a role", coordinator.Clip(string(in.Role), 40)).WithHint("it is owner or member")
	}
	for _, k := range keys {
		text, _, err := a.keyText(k)
		if err != nil {
			return err
		}
		if _, _, err := publicKey(text, oneLine(coordinator.Clip(k, 40))); err != nil {
			return err
		}
		in.SSHKeys = append(in.SSHKeys, strings.TrimSpace(text))
	}
	c, _, err := a.client()
	if err != nil {
		return err
	}
	made, err := c.CreateUser(ctx, in)
	if err != nil {
		return err
	}
	return a.show(f, made, func() {
		a.printf("%s\n", oneLine(made.Token))
		a.hintf("That is %s's first token, shown this once. They sign in with: berth login %s", oneLine(made.User.Name), c.URL())
	})
}

func (a *app) usersDeleteCommand() *cobra.Command {
	var yes bool
	cmd := &cobra.Command{
		Use:     "delete NAME",
		Short:   "Delete a user who has no workspaces left",
		Example: "  berth users delete bob",
		Args:    arguments(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, _, err := a.client()
			if err != nil {
				return err
			}
			if err := coordinator.CheckName("user", args[0]); err != nil {
				return err
			}
			if err := a.confirm(cmd.Context(), yes, "the user "+args[0]+" with their keys, tokens and secrets", args[0]); err != nil {
				return err
			}
			if err := c.DeleteUser(cmd.Context(), args[0]); err != nil {
				return err
			}
			a.printf("Deleted %s\n", args[0])
			return nil
		},
	}
	cmd.Flags().BoolVar(&yes, "yes", false, "do not ask")
	return cmd
}
