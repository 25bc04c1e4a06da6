package cli

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"berth/cli/client"
	"berth/coordinator"
	"berth/coordinator/rest"
)

// A Console is the place of somebody who came by ssh, without a berth of their own: commands run inside the
// coordinator, and must reach neither its files nor its environment nor its streams. What it offers is a list of
// commands and flags; all else is refused.
type Console struct {
	Client   *client.Client // in the name of who came
	Name     string         // how they call it: ssh berth@berth.example.com
	In       io.Reader
	Out, Err io.Writer
	Terminal Terminal // nil: there is none
	Term     string   // kind of terminal, the client's TERM
}

// A Terminal stands for a terminal that is no file of this process.
type Terminal interface {
	Width() int                                 // columns; 0: not known
	ReadPassword(prompt string) (string, error) // io.EOF after Ctrl-C and Ctrl-D
}

// Run runs one command and returns its exit code.
func (c Console) Run(ctx context.Context, args []string) int {
	a := c.app()
	if len(args) > 0 && strings.HasPrefix(args[0], cobra.ShellCompRequestCmd) {
		return a.report(usage("the console completes nothing"))
	}
	if args == nil {
		args = []string{} // nil would mean the arguments of this process
	}
	return a.run(ctx, args)
}

func (c Console) app() *app {
	env := func(name string) string {
		if name == "TERM" {
			return c.Term
		}
		return "" // the coordinator's environment is nobody's business
	}
	return &app{in: c.In, out: c.Out, err: c.Err, env: env, now: time.Now, console: &c}
}

// consoleCommands are the commands of a console, each with its flags. What is not here does not exist there. Left out is
// what touches files of the machine it runs on, starts programs, opens streams, or hands out what would outlive the key
// that let somebody in: tokens, keys, users, and what later starts would run: scripts, dotfiles, secrets.
var consoleCommands = map[string][]string{
	"whoami":            {"output"},
	"tokens list":       {"output"},
	"tokens revoke":     {},
	"keys list":         {"output"},
	"keys remove":       {},
	"keys git":          {"output"},
	"secrets list":      {"output"},
	"secrets remove":    {},
	"dotfiles":          {"output"},
	"personalize":       {"show"},
	"create":            {"template", "version", "set", "stopped", "no-wait"},
	"list":              {"all", "quiet", "output"},
	"show":              {"output"},
	"start":             {"allow-destroy", "no-wait"},
	"stop":              {"no-wait"},
	"restart":           {"allow-destroy", "no-wait"},
	"update":            {"set", "version", "allow-destroy", "no-wait"},
	"delete":            {"yes", "no-wait"},
	"cancel":            {"build", "no-wait"},
	"logs":              {"follow", "build", "agent", "output"},
	"builds":            {"output"},
	"timings":           {"build", "output"},
	"ssh-config":        {"stdout"},
	"ping":              {"count", "output"},
	"template list":     {"output"},
	"template versions": {"output"},
	"users list":        {"output"},
	"users delete":      {"yes"},
	"version":           {"output"},
}

// consoleShows are the commands that set what they show, where they are given an argument. A console only shows.
var consoleShows = []string{"dotfiles", "personalize"}

// restrict takes from a tree of commands what the console does not offer.
func (c *Console) restrict(root *cobra.Command) {
	root.CompletionOptions.DisableDefaultCmd = true
	root.Annotations = map[string]string{cobra.CommandDisplayNameAnnotation: c.Name}
	root.Short = "Your workspaces, over ssh"
	root.Long = `The console: your workspaces, over ssh. Without a command it is a screen. Exit codes: 0 done, 1 failed, 2 usage,
3 not found, 4 denied, 5 conflict, 6 unavailable (try again), 130 interrupted.`
	root.Example = fmt.Sprintf("  %s ls --json\n  %s start dev\n  %s", c.Name, c.Name, "ssh dev@"+strings.TrimPrefix(c.Name, "ssh berth@"))
	prune(root, "")
}

// prune removes commands below cmd, whose path is path, and reports whether anything is left.
func prune(cmd *cobra.Command, path string) bool {
	removed := map[string]bool{}
	for _, sub := range slices.Clone(cmd.Commands()) {
		below := strings.TrimSpace(path + " " + sub.Name())
		flags, listed := consoleCommands[below]
		left := prune(sub, below)
		switch {
		case listed:
			keepFlags(sub, flags)
			if slices.Contains(consoleShows, below) {
				onlyShow(sub)
			}
		case !left:
			for _, name := range append(sub.Aliases, sub.Name()) {
				removed[name] = true
			}
			cmd.RemoveCommand(sub)
		}
	}
	if len(cmd.Commands()) == 0 {
		return false
	}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if len(args) > 0 && removed[args[0]] {
			return usage("the console has no %q", strings.TrimSpace(path+" "+args[0])).
				WithHint("the berth command on your own machine has it")
		}
		return unknownOrHelp(cmd, args)
	}
	return true
}

// onlyShow makes of a command that shows or sets one that shows.
func onlyShow(cmd *cobra.Command) {
	cmd.Use = cmd.Name()
	cmd.Short = strings.Replace(strings.Replace(cmd.Short, "Show or set", "Show", 1), "Show or store", "Show", 1)
	cmd.Long, cmd.Example = "", ""
	cmd.Args = func(_ *cobra.Command, args []string) error {
		if len(args) > 0 {
			return usage("the console only shows %s", cmd.Name()).WithHint("the berth command on your own machine sets it")
		}
		return nil
	}
}

// keepFlags takes all flags from a command but some. One that prints JSON gets --json for it.
func keepFlags(cmd *cobra.Command, names []string) {
	old := cmd.Flags()
	cmd.ResetFlags()
	for _, name := range names {
		f := old.Lookup(name)
		if f == nil {
			continue // a test sees to it that there are none
		}
		cmd.Flags().AddFlag(f)
		if name == "output" {
			json := cmd.Flags().VarPF(&jsonValue{f.Value}, "json", "", "the same as -o json")
			json.NoOptDefVal = "true"
		}
	}
}

// A jsonValue is the flag --json.
type jsonValue struct{ output pflag.Value }

// String returns the flag's value.
func (j *jsonValue) String() string {
	return fmt.Sprint(j.output != nil && j.output.String() == string(formatJSON))
}

// Type returns how the help names it.
func (j *jsonValue) Type() string { return "bool" }

// IsBoolFlag says that it needs no value.
func (j *jsonValue) IsBoolFlag() bool { return true }

// Set sets the format.
func (j *jsonValue) Set(s string) error {
	switch s {
	case "true":
		return j.output.Set(string(formatJSON))
	case "false":
		return j.output.Set(string(formatTable))
	}
	return fmt.Errorf("it takes no value")
}

// noFiles refuses the name of a file where there are no files of the person who asks.
func (a *app) noFiles() error {
	if a.console == nil {
		return nil
	}
	return usage("the console reads no files").WithHint("pipe it in, and give - as its name")
}

// sshConfigHere prints what one writes into an ssh_config to go through the door, without a berth command.
func (a *app) sshConfigHere(ctx context.Context) error {
	facts, err := a.console.Client.Server(ctx)
	if err != nil {
		return err
	}
	a.printf("%s", doorConfig(facts))
	return nil
}

func doorConfig(s rest.Server) string {
	return fmt.Sprintf(`# For ~/.ssh/config:
Host berth
	HostName %s
	Port %d

Host *.%s
	ProxyJump %%n@berth

# For ~/.ssh/known_hosts:
# %s
`, oneLine(s.SSHHost), s.SSHPort, oneLine(s.Suffix), strings.ReplaceAll(strings.TrimSpace(safeLines(s.KnownHosts)), "\n", "\n# "))
}

// here is the server and the client of a console.
func (c *Console) here() (*client.Client, server) {
	return c.Client, server{settings: settings{URL: c.Client.URL()}}
}

// noSettings is why a console has no settings directory.
func noSettings() error {
	return coordinator.Errorf(coordinator.CodeInvalid, "the console keeps no settings").
		WithHint("the berth command on your own machine does")
}
