package cli

import (
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"berth/coordinator"
	"berth/coordinator/rest"
)

func (a *app) tokensCommand() *cobra.Command {
	return parent("tokens", "API tokens: what signs you in", "  berth tokens list\n  berth tokens create ci --lifetime 30d",
		a.tokensListCommand(), a.tokensCreateCommand(), a.tokensRevokeCommand())
}

func (a *app) tokensListCommand() *cobra.Command {
	var f format
	cmd := &cobra.Command{
		Use:     "list",
		Short:   "List your API tokens",
		Example: "  berth tokens list",
		Args:    arguments(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, _, err := a.client()
			if err != nil {
				return err
			}
			tokens, err := c.Tokens(cmd.Context())
			if err != nil {
				return err
			}
			return a.show(f, tokens, func() {
				t := a.table("ID", "NAME", "CREATED", "EXPIRES", "LAST USED", "")
				for _, k := range tokens {
					mark := " "
					if k.Current {
						mark = "this one"
					}
					t.row(string(k.ID), k.Name, a.ago(k.Created), a.ago(k.Expires), a.ago(k.LastUsed), mark)
				}
				t.print()
			})
		},
	}
	outputFlag(cmd, &f)
	return cmd
}

func (a *app) tokensCreateCommand() *cobra.Command {
	var f format
	var lifetime string
	cmd := &cobra.Command{
		Use:     "create NAME",
		Short:   "Make an API token and print it, once",
		Example: "  berth tokens create ci\n  berth tokens create ci --lifetime 30d",
		Args:    arguments(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			d, err := parseSpan(lifetime)
			if err != nil {
				return err
			}
			c, _, err := a.client()
			if err != nil {
				return err
			}
			made, err := c.CreateToken(cmd.Context(), rest.CreateToken{Name: args[0], Lifetime: int64(d / time.Second)})
			if err != nil {
				return err
			}
			return a.show(f, made, func() {
				a.printf("%s\n", oneLine(made.Secret))
				a.hintf("It is shown this once. It expires %s; berth tokens revoke %s ends it before.", a.ago(made.Expires), oneLine(string(made.ID)))
			})
		},
	}
	cmd.Flags().StringVar(&lifetime, "lifetime", "", "how long it is valid: 12h, 30d (90 days by default)")
	outputFlag(cmd, &f)
	return cmd
}

// parseSpan reads a duration that may be in days; "" is 0.
func parseSpan(s string) (time.Duration, error) {
	const day = 24 * time.Hour
	bad := usage("%q is not a length of time", coordinator.Clip(s, 40)).WithHint("write 90m, 12h or 30d")
	if s == "" {
		return 0, nil
	}
	if days, ok := strings.CutSuffix(s, "d"); ok {
		n, err := strconv.Atoi(days)
		if err != nil || n < 1 || n > int(math.MaxInt64/day) {
			return 0, bad
		}
		return time.Duration(n) * day, nil
	}
	d, err := time.ParseDuration(s)
	if err != nil || d < time.Second {
		return 0, bad
	}
	return d, nil
}

func (a *app) tokensRevokeCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "revoke ID",
		Short:   "Revoke an API token, and the device key that was registered with it",
		Example: "  berth tokens revoke k3q7…",
		Args:    arguments(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, _, err := a.client()
			if err != nil {
				return err
			}
			if err := c.DeleteToken(cmd.Context(), args[0]); err != nil {
				return err
			}
			a.printf("Revoked %s\n", oneLine(args[0]))
			return nil
		},
	}
}
