package cli

import (
	"context"
	"os"
	"os/user"
	"strings"

	"github.com/spf13/cobra"

	"berth/cli/client"
	"berth/cli/sshconfig"
	"berth/coordinator"
	"berth/coordinator/rest"
)

// A login is the flags of berth login.
type login struct {
	token, name, fullName, email string
}

func (a *app) loginCommand() *cobra.Command {
	var l login
	cmd := &cobra.Command{
		Use:   "login [URL]",
		Short: "Sign in to a server and register this machine's key",
		Long: `Sign in to a server with an API token, and make a device key: an SSH key of this machine, registered with the server
and revoked together with the token, with which ssh enters workspaces.

The token is asked for, or read from stdin where that is no terminal; --token shows it to other users of this machine.
With the one-time setup token that "berthd serve" prints at its first start, the first owner is made.`,
		Example: `  berth login https://berth.example.com
  berth login https://berth.example.com < token-file
  berth login http://127.0.0.1:7080 --name alice < setup-token`,
		Args: arguments(0, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.login(cmd.Context(), l, args)
		},
	}
	cmd.Flags().StringVar(&l.token, "token", "", "API token or setup token; - for stdin")
	cmd.Flags().StringVar(&l.name, "name", "", "name of the first owner (setup token only)")
	cmd.Flags().StringVar(&l.fullName, "full-name", "", "full name of the first owner (setup token only)")
	cmd.Flags().StringVar(&l.email, "email", "", "e-mail address of the first owner (setup token only)")
	return cmd
}

func (a *app) login(ctx context.Context, l login, args []string) error {
	was, err := a.load()
	if err != nil {
		return err
	}
	s := settings{URL: was.URL, InsecureHTTP: a.insecureHTTP()}
	switch {
	case len(args) > 0:
		s.URL = args[0]
	case a.url != "":
		s.URL = a.url
	case a.env("BERTH_URL") != "":
		s.URL = a.env("BERTH_URL")
	case s.URL == "":
		return usage("berth login needs the address of a server").WithHint("berth login https://berth.example.com")
	}
	if sameServer(s.URL, was.URL) {
		s.InsecureHTTP = s.InsecureHTTP || was.InsecureHTTP
	}
	anonymous, err := a.open(s.URL, "", s.InsecureHTTP)
	if err != nil {
		return err
	}
	s.URL = anonymous.URL()
	facts, err := anonymous.Server(ctx)
	if err != nil {
		return err
	}
	// Before a setup token is spent: what this server says of its hosts must be usable.
	if err := sshconfig.CheckKnownHosts(facts.KnownHosts); err != nil {
		return err
	}
	token, err := a.loginToken(ctx, l, facts)
	if err != nil {
		return err
	}
	before, err := a.storedLogin()
	if err != nil {
		before = server{} // what cannot be read cannot be taken back
	}
	if strings.HasPrefix(string(token), coordinator.SetupTokenPrefix) {
		if token, err = a.setUp(ctx, anonymous, l, token); err != nil {
			return err
		}
		// Kept before its first use: until then the setup token can be exchanged once more, from then on it cannot.
		if err := a.writeSetting(tokenFile, string(token)+"\n", 0o600); err != nil {
			return err
		}
	}
	return a.signIn(ctx, server{settings: s, token: token}, facts, before)
}

// loginToken is the token from the flag, the terminal or stdin.
func (a *app) loginToken(ctx context.Context, l login, facts rest.Server) (coordinator.Secret, error) {
	token := coordinator.Secret(strings.TrimSpace(l.token))
	switch token {
	case "-":
		line, err := a.readLine(ctx)
		if err != nil {
			return "", err
		}
		token = coordinator.Secret(strings.TrimSpace(line))
	case "":
		question := "Token: "
		if !facts.SetUp {
			question = "Setup token (berthd printed it at its first start): "
		}
		typed, err := a.askHidden(ctx, question)
		if err != nil {
			return "", err
		}
		token = coordinator.Secret(strings.TrimSpace(string(typed)))
	}
	switch {
	case token == "":
		return "", usage("no token was given").WithHint("type it, pipe it in, or give --token")
	case strings.HasPrefix(string(token), coordinator.AgentTokenPrefix):
		return "", usage("this is the token of a workspace's agent, which signs nobody in").
			WithHint("an API token begins with " + coordinator.APITokenPrefix)
	}
	return token, nil
}

// setUp makes the first owner.
func (a *app) setUp(ctx context.Context, c *client.Client, l login, token coordinator.Secret) (coordinator.Secret, error) {
	if l.name == "" {
		if !a.interactive() {
			return "", usage("a setup token makes the first owner, who needs a name").WithHint("give --name alice")
		}
		suggestion := ""
		if u, err := user.Current(); err == nil && coordinator.CheckName("user", u.Username) == nil {
			suggestion = u.Username
		}
		question := "Your user name: "
		if suggestion != "" {
			question = "Your user name [" + suggestion + "]: "
		}
		typed, err := a.ask(ctx, question)
		if err != nil {
			return "", err
		}
		if l.name = strings.TrimSpace(typed); l.name == "" {
			l.name = suggestion
		}
	}
	if err := coordinator.CheckName("user", l.name); err != nil {
		return "", err
	}
	made, err := c.Setup(ctx, rest.Setup{
		Token: string(token), Name: l.name, FullName: l.fullName, Email: l.email, Device: deviceName(),
	})
	if err != nil {
		return "", err
	}
	return coordinator.Secret(made.Token), nil
}

// signIn checks the token, stores it, makes the device key, and takes back the token of the login before.
func (a *app) signIn(ctx context.Context, now server, facts rest.Server, before server) error {
	s, token := now.settings, now.token
	c, err := a.open(s.URL, token, s.InsecureHTTP)
	if err != nil {
		return err
	}
	me, err := c.Whoami(ctx)
	if err != nil {
		return err
	}
	if me.Workspace != "" {
		return coordinator.Errorf(coordinator.CodeDenied, "this is the token of the workspace %s, which signs nobody in", me.Workspace).
			WithHint("berth tokens create makes an API token")
	}
	s.User, s.Suffix = me.Name, facts.Suffix
	// The token is stored before anything else that may fail.
	if err := a.writeSetting(tokenFile, string(token)+"\n", 0o600); err != nil {
		return err
	}
	if err := a.save(s); err != nil {
		return err
	}
	if err := a.writeKnownHosts(facts); err != nil {
		return err
	}
	if err := a.replaceDeviceKey(ctx, c, me.ID); err != nil {
		return err
	}
	if before.token != "" && before.token != token {
		a.revokeOld(ctx, before)
	}
	a.printf("You are %s at %s.\n", oneLine(me.Name), oneLine(s.URL))
	if !a.sshConfigured() {
		a.hintf("Next: berth ssh-config lets ssh and every IDE reach your workspaces as NAME.%s", oneLine(facts.Suffix))
	}
	return nil
}

// storedLogin is what an earlier login stored, whatever flags and environment say. Its token is "" if there was none.
func (a *app) storedLogin() (server, error) {
	s, err := a.load()
	if err != nil {
		return server{}, err
	}
	text, err := a.readSetting(tokenFile)
	if err != nil || s.URL == "" {
		return server{}, err
	}
	return server{settings: s, token: coordinator.Secret(strings.TrimSpace(text)), stored: true}, nil
}

// revokeOld revokes the token of an earlier login, and its device key with it.
func (a *app) revokeOld(ctx context.Context, was server) {
	c, err := a.open(was.URL, was.token, was.InsecureHTTP)
	if err == nil {
		err = c.DeleteToken(ctx, "current")
	}
	if err != nil && coordinator.CodeOf(err) != coordinator.CodeUnauthenticated {
		a.hintf("The token of the login before is still valid (%s); berth tokens lists it.", oneLine(err.Error()))
	}
}

// writeKnownHosts stores the server's host certificate authority, after a look at what it is.
func (a *app) writeKnownHosts(facts rest.Server) error {
	if err := sshconfig.CheckKnownHosts(facts.KnownHosts); err != nil {
		return err
	}
	return a.writeSetting(knownHostsFile, strings.TrimRight(facts.KnownHosts, "\n")+"\n", 0o600)
}

func deviceName() string {
	host, err := os.Hostname()
	if err != nil || host == "" {
		host = "unknown"
	}
	return "berth login on " + coordinator.Clip(host, 60)
}

func (a *app) logoutCommand() *cobra.Command {
	var local bool
	cmd := &cobra.Command{
		Use:   "logout",
		Short: "Revoke this machine's token and device key",
		Long: `Revoke the token that "berth login" stored, and the device key with it, and remove both from this machine.
With --local they are only removed here: for a server that is gone.`,
		Example: `  berth logout`,
		Args:    arguments(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.logout(cmd.Context(), local)
		},
	}
	cmd.Flags().BoolVar(&local, "local", false, "only remove them from this machine")
	return cmd
}

func (a *app) logout(ctx context.Context, local bool) error {
	c, s, err := a.client()
	switch {
	case local:
	case err != nil:
		return err
	case !s.stored:
		return usage("the token comes from the environment, and is not this command's to revoke").
			WithHint("unset BERTH_TOKEN and BERTH_TOKEN_FILE, or see berth tokens revoke")
	default:
		// A token that the server no longer knows is as good as revoked.
		if err := c.DeleteToken(ctx, "current"); err != nil && coordinator.CodeOf(err) != coordinator.CodeUnauthenticated {
			return err
		}
	}
	if err := a.removeSettings(tokenFile, identityFile, identityFile+".pub"); err != nil {
		return err
	}
	a.printf("You are signed out.\n")
	return nil
}

func (a *app) whoamiCommand() *cobra.Command {
	var f format
	cmd := &cobra.Command{
		Use:     "whoami",
		Short:   "Show who you are and where",
		Example: "  berth whoami\n  berth whoami -o json",
		Args:    arguments(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, _, err := a.client()
			if err != nil {
				return err
			}
			me, err := c.Whoami(cmd.Context())
			if err != nil {
				return err
			}
			return a.show(f, me, func() {
				what := me.Name + ", " + string(me.Role) + " at " + c.URL()
				if me.Workspace != "" {
					what += ", as the workspace " + me.Workspace
				}
				a.printf("%s\n", oneLine(what))
			})
		},
	}
	outputFlag(cmd, &f)
	return cmd
}
