// Package cli is the berth command: its verbs, what they print, and their exit codes.
//
// Results go to stdout, progress and hints to stderr. What came from the server is escaped before it reaches a
// terminal. Everything is done through the REST API, by package client.
package cli

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"berth/coordinator"
)

// Exit codes beside those of coordinator.Code.
const (
	exitOK        = 0
	exitInterrupt = 130
)

// An app is one run of the command.
type app struct {
	in       io.Reader
	out, err io.Writer
	env      func(string) string
	now      func() time.Time
	lines    *bufio.Reader // of in, made on first use
	console  *Console      // nil outside of the coordinator

	// Flags of every command.
	url       string
	insecure  bool
	configDir string
}

// Main runs the command with the process's own streams and returns its exit code. SIGINT and SIGTERM end what is
// waited for, in order; the second one ends the process.
func Main(args []string) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop)
	a := &app{in: os.Stdin, out: os.Stdout, err: os.Stderr, env: os.Getenv, now: time.Now}
	return a.run(ctx, args)
}

// run parses and runs one command.
func (a *app) run(ctx context.Context, args []string) int {
	root := a.root()
	root.SetArgs(args)
	return a.report(root.ExecuteContext(ctx))
}

// Groups of commands, in the order of the help.
const (
	groupAccount    = "account"
	groupWorkspaces = "workspaces"
	groupReach      = "reach"
	groupTemplates  = "templates"
	groupAdmin      = "admin"
	groupShell      = "shell"
)

// root is the whole tree of commands.
func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "berth",
		Short: "Development workspaces on your own infrastructure",
		Long: `Berth gives people development workspaces on their own infrastructure.

Exit codes: 0 done, 1 failed, 2 usage, 3 not found, 4 denied, 5 conflict, 6 unavailable (try again), 130 interrupted;
"berth ssh" ends with the remote command's own code.

Environment: BERTH_URL and BERTH_TOKEN (or BERTH_TOKEN_FILE) stand for what "berth login" stored; BERTH_CONFIG_DIR is
the directory of the settings; BERTH_INSECURE_HTTP=1 is --insecure-http.`,
		Example: `  berth login https://berth.example.com
  berth create dev --template local
  ssh dev.berth`,
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          cobra.ArbitraryArgs,
		RunE:          unknownOrHelp,
	}
	root.SetIn(a.in)
	root.SetOut(a.out)
	root.SetErr(a.err)
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return usage("%v", err).WithHint(cmd.CommandPath() + " --help")
	})
	if a.console == nil {
		flags := root.PersistentFlags()
		flags.StringVar(&a.url, "url", "", "address of the server, instead of the one signed in to")
		flags.BoolVar(&a.insecure, "insecure-http", false, "allow plain HTTP to another machine")
		flags.StringVar(&a.configDir, "config-dir", "", "directory of the settings")
		flags.SortFlags = false
	}
	for _, g := range []struct{ id, title string }{
		{groupAccount, "Account:"},
		{groupWorkspaces, "Workspaces:"},
		{groupReach, "Reaching them:"},
		{groupTemplates, "Templates:"},
		{groupAdmin, "Administration:"},
		{groupShell, "Shell:"},
	} {
		root.AddGroup(&cobra.Group{ID: g.id, Title: g.title})
	}
	a.addCommands(root)
	root.SetHelpCommandGroupID(groupShell)
	root.SetCompletionCommandGroupID(groupShell)
	if a.console != nil {
		a.console.restrict(root)
		return root
	}
	completeFormats(root)
	return root
}

func init() {
	cobra.EnableCommandSorting = false // the order of addCommands is the one people need them in
}

// addCommands is the table of contents.
func (a *app) addCommands(root *cobra.Command) {
	for _, g := range []struct {
		id       string
		commands []*cobra.Command
	}{
		{groupAccount, []*cobra.Command{
			a.loginCommand(), a.logoutCommand(), a.whoamiCommand(), a.tokensCommand(), a.keysCommand(),
			a.secretsCommand(), a.dotfilesCommand(), a.personalizeCommand(),
		}},
		{groupWorkspaces, []*cobra.Command{
			a.createCommand(), a.listCommand(), a.showCommand(), a.startCommand(), a.stopCommand(), a.restartCommand(),
			a.updateCommand(), a.deleteCommand(), a.cancelCommand(), a.logsCommand(), a.buildsCommand(), a.timingsCommand(),
		}},
		{groupReach, []*cobra.Command{a.sshCommand(), a.connectCommand(), a.sshConfigCommand(), a.openCommand(), a.portForwardCommand(), a.pingCommand(), a.speedtestCommand(), a.doctorCommand()}},
		{groupTemplates, []*cobra.Command{a.templateCommand()}},
		{groupAdmin, []*cobra.Command{a.usersCommand(), a.sessionsCommand(), a.auditCommand()}},
		{groupShell, []*cobra.Command{a.versionCommand(), a.readyCommand(), a.docsCommand()}},
	} {
		for _, c := range g.commands {
			c.GroupID = g.id
			root.AddCommand(c)
		}
	}
}

// parent makes a command that only holds others.
func parent(use, short, example string, commands ...*cobra.Command) *cobra.Command {
	c := &cobra.Command{Use: use, Short: short, Example: example, Args: cobra.ArbitraryArgs, RunE: unknownOrHelp}
	c.AddCommand(commands...)
	return c
}

// unknownOrHelp runs where no subcommand was found.
func unknownOrHelp(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return cmd.Help()
	}
	cmd.SuggestionsMinimumDistance = 2
	e := usage("there is no command %q", strings.TrimSpace(cmd.CommandPath()+" "+coordinator.Clip(args[0], 40)))
	if like := cmd.SuggestionsFor(args[0]); len(like) > 0 {
		return e.WithHint("did you mean " + cmd.CommandPath() + " " + strings.Join(like, ", or "+cmd.CommandPath()+" ") + "?")
	}
	return e.WithHint(cmd.CommandPath() + " --help lists the commands")
}

// usage is the error for a command line that makes no sense.
func usage(format string, args ...any) *coordinator.Error {
	return coordinator.Errorf(coordinator.CodeInvalid, format, args...)
}

// arguments checks the number of arguments against the names in the command's Use.
func arguments(least, most int) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		_, names, _ := strings.Cut(cmd.Use, " ")
		switch {
		case len(args) < least:
			return usage("%s needs %s", cmd.CommandPath(), names).WithHint(cmd.CommandPath() + " --help shows examples")
		case len(args) > most && names == "":
			return usage("%s takes no arguments", cmd.CommandPath())
		case len(args) > most:
			return usage("%s takes only %s, and not %q", cmd.CommandPath(), names, coordinator.Clip(args[most], 40)).
				WithHint(cmd.CommandPath() + " --help shows examples")
		}
		return nil
	}
}

// An exitCode ends the process with a code and without a message: somebody else has said it.
type exitCode int

// Error makes an exitCode an error.
func (exitCode) Error() string { return "exit" }

// report prints err and returns the exit code that it means.
func (a *app) report(err error) int {
	var cut *interruption
	var e *coordinator.Error
	switch {
	case err == nil || errors.As(err, new(exitCode)):
	case errors.As(err, &cut):
		a.complain(cut.explain())
	case errors.As(err, &e):
		a.complain(e)
	case errors.Is(err, context.Canceled):
		a.complain(&coordinator.Error{Msg: "interrupted"})
	default:
		a.complain(&coordinator.Error{Msg: err.Error()})
	}
	return codeOf(err)
}

// codeOf is the exit code that an error means.
func codeOf(err error) int {
	var code exitCode
	var e *coordinator.Error
	switch {
	case err == nil:
		return exitOK
	case errors.As(err, &code):
		return int(code)
	case errors.As(err, new(*interruption)):
		return exitInterrupt
	case errors.As(err, &e):
		return e.Code.Exit()
	case errors.Is(err, context.Canceled):
		return exitInterrupt
	default:
		return coordinator.CodeInternal.Exit()
	}
}

// complain prints one line that says what is wrong, and one that says what to do.
func (a *app) complain(e *coordinator.Error) {
	fmt.Fprintf(a.err, "berth: %s\n", oneLine(e.Msg))
	if e.Hint != "" {
		fmt.Fprintf(a.err, "  %s\n", oneLine(e.Hint))
	}
}
