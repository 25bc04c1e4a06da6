package cli

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"berth/cli/client"
	"berth/coordinator/rest"
)

// defaultRecords is how many records are listed unless told otherwise.
const defaultRecords = 50

func (a *app) sessionsCommand() *cobra.Command {
	var f format
	var q client.SessionQuery
	cmd := &cobra.Command{
		Use:   "sessions",
		Short: "List who was connected to workspaces, newest first",
		Long: `List the connections to workspaces, newest first: your own and those to your workspaces; an owner sees all.
KEY is what let them in: at the door and by a jump an SSH key, with "berth connect" the name of the API token.`,
		Example: `  berth sessions
  berth sessions --workspace alice/dev --limit 10
  berth sessions --open -o json`,
		Args: arguments(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error { return a.sessions(cmd.Context(), q, f) },
	}
	cmd.Flags().StringVar(&q.Workspace, "workspace", "", "those to this workspace: NAME or OWNER/NAME")
	cmd.Flags().StringVar(&q.User, "user", "", "those of this user")
	cmd.Flags().BoolVar(&q.Open, "open", false, "those only that are open now")
	cmd.Flags().IntVar(&q.Limit, "limit", defaultRecords, "how many at most; 0 for all")
	outputFlag(cmd, &f)
	return cmd
}

func (a *app) sessions(ctx context.Context, q client.SessionQuery, f format) error {
	if q.Limit < 0 {
		return usage("--limit is a number of sessions, 0 for all")
	}
	c, _, err := a.client()
	if err != nil {
		return err
	}
	sessions, err := c.Sessions(ctx, q)
	if err != nil {
		return err
	}
	return a.show(f, sessions, func() {
		t := a.table("STARTED", "USER", "WORKSPACE", "VIA", "FROM", "KEY", "DURATION", "IN", "OUT")
		for _, s := range sessions {
			how, in, out := a.lasted(s), amount(s.BytesIn), amount(s.BytesOut)
			if s.Ended.IsZero() || s.Lost {
				in, out = "-", "-"
			}
			t.row(a.ago(s.Started), s.User, s.Workspace, s.Via, s.Peer, shown(s), how, in, out)
		}
		t.print()
	})
}

// lasted is how long a session lasted.
func (a *app) lasted(s rest.Session) string {
	switch {
	case s.Lost:
		return "lost"
	case s.Ended.IsZero():
		return "open"
	default:
		return s.Ended.Sub(s.Started).Round(time.Millisecond).String()
	}
}

// shown is what let somebody in.
func shown(s rest.Session) string {
	switch {
	case s.Key != "":
		return s.Key
	case s.Token != "":
		return "token " + s.Token
	default:
		return "-"
	}
}

// amount is a number of bytes in its largest unit.
func amount(n int64) string {
	const unit = 1024
	if n < unit {
		return fmt.Sprintf("%d B", n)
	}
	v, i := float64(n)/unit, 0
	for ; v >= unit && i < 3; i++ {
		v /= unit
	}
	return fmt.Sprintf("%.1f %s", v, []string{"KiB", "MiB", "GiB", "TiB"}[i])
}

func (a *app) auditCommand() *cobra.Command {
	var f format
	var q client.AuditQuery
	var since string
	cmd := &cobra.Command{
		Use:   "audit",
		Short: "List who changed what, newest first (owners only)",
		Example: `  berth audit
  berth audit --user alice --since 7d
  berth audit --action user --limit 0 -o json`,
		Args: arguments(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			d, err := parseSpan(since)
			if err != nil {
				return err
			}
			if d > 0 {
				q.Since = a.now().Add(-d)
			}
			return a.audit(cmd.Context(), q, f)
		},
	}
	cmd.Flags().StringVar(&q.User, "user", "", "what this user did")
	cmd.Flags().StringVar(&q.Action, "action", "", "this action (token.create), or all of one noun (token)")
	cmd.Flags().StringVar(&q.Target, "target", "", "what was done to this: alice/dev")
	cmd.Flags().StringVar(&since, "since", "", "no older ones: 12h, 30d")
	cmd.Flags().IntVar(&q.Limit, "limit", defaultRecords, "how many at most; 0 for all")
	outputFlag(cmd, &f)
	return cmd
}

func (a *app) audit(ctx context.Context, q client.AuditQuery, f format) error {
	if q.Limit < 0 {
		return usage("--limit is a number of entries, 0 for all")
	}
	c, _, err := a.client()
	if err != nil {
		return err
	}
	entries, err := c.Audit(ctx, q)
	if err != nil {
		return err
	}
	return a.show(f, entries, func() {
		t := a.table("TIME", "WHO", "ACTION", "TARGET", "DETAIL")
		for _, e := range entries {
			who := e.Actor
			if who == "" {
				who = "berthd"
			}
			t.row(e.Time.UTC().Format("2006-01-02 15:04:05Z"), who, e.Action, e.Target, e.Detail)
		}
		t.print()
	})
}
