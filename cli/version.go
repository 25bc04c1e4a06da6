package cli

import (
	"fmt"
	"io"
	"runtime"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"berth/agent"
	"berth/coordinator"
)

func (a *app) versionCommand() *cobra.Command {
	var f format
	cmd := &cobra.Command{
		Use:     "version",
		Short:   "Print this berth's version",
		Example: "  berth version -o json",
		Args:    arguments(0, 0),
		RunE: func(*cobra.Command, []string) error {
			v := struct {
				Version string `json:"version"`
				Go      string `json:"go"`
				OS      string `json:"os"`
				Arch    string `json:"arch"`
			}{agent.Version, runtime.Version(), runtime.GOOS, runtime.GOARCH}
			return a.show(f, v, func() { a.printf("berth %s (%s, %s/%s)\n", v.Version, v.Go, v.OS, v.Arch) })
		},
	}
	outputFlag(cmd, &f)
	return cmd
}

// readyCommand is for scripts that have started a server and wait for it.
func (a *app) readyCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "ready",
		Short:   "Tell whether the server answers",
		Long:    "Tell whether the server answers: exit code 0 if it does, 6 if not. It needs no token.",
		Example: "  until berth ready 2>/dev/null; do sleep 1; done",
		Args:    arguments(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := a.server()
			if s.URL == "" {
				return err
			}
			c, err := a.open(s.URL, "", s.InsecureHTTP)
			if err != nil {
				return err
			}
			facts, err := c.Server(cmd.Context())
			if err != nil {
				return err
			}
			a.printf("%s answers, version %s\n", c.URL(), oneLine(facts.Version))
			return nil
		},
	}
}

// docsCommand prints the reference of all commands; docs/cli.md is made of it.
func (a *app) docsCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "docs",
		Short:   "Print the reference of all commands in Markdown",
		Example: "  berth docs > docs/cli.md",
		Hidden:  true,
		Args:    arguments(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return writeDocs(a.out, cmd.Root())
		},
	}
}

// writeDocs writes the reference.
func writeDocs(w io.Writer, root *cobra.Command) error {
	var b strings.Builder
	fmt.Fprintf(&b, "# The berth command\n\n<!-- Made by `berth docs`; do not edit. -->\n\n%s\n\n", root.Long)
	fmt.Fprintf(&b, "```\n%s\n```\n\nEvery command takes these flags:\n\n```\n%s```\n", root.Example, flagTable(root.PersistentFlags()))
	for _, g := range root.Groups() {
		fmt.Fprintf(&b, "\n## %s\n", strings.TrimSuffix(g.Title, ":"))
		for _, c := range root.Commands() {
			if c.GroupID == g.ID && !c.Hidden && c.Name() != "help" {
				docsOf(&b, c)
			}
		}
	}
	b.WriteString("\n## Exit codes\n\n| code | meaning |\n| --- | --- |\n| 0 | done |\n")
	meanings := map[int][]string{exitInterrupt: {"interrupted; what was waited for goes on"}}
	for code, what := range map[coordinator.Code]string{
		coordinator.CodeFailed: "failed", coordinator.CodeInvalid: "usage: the command or a value makes no sense",
		coordinator.CodeNotFound: "not found", coordinator.CodeDenied: "denied, or not signed in",
		coordinator.CodeConflict: "conflict with what is there or what runs", coordinator.CodeUnavailable: "unavailable: try again",
	} {
		meanings[code.Exit()] = append(meanings[code.Exit()], what)
	}
	var codes []int
	for code := range meanings {
		codes = append(codes, code)
	}
	slices.Sort(codes)
	for _, code := range codes {
		fmt.Fprintf(&b, "| %d | %s |\n", code, strings.Join(meanings[code], ", "))
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// docsOf writes one command, or those below it.
func docsOf(b *strings.Builder, c *cobra.Command) {
	if c.HasSubCommands() && c.Name() != "completion" {
		fmt.Fprintf(b, "\n### %s\n\n%s.\n", c.CommandPath(), strings.TrimSuffix(c.Short, "."))
		for _, s := range c.Commands() {
			if s.IsAvailableCommand() {
				docsOf(b, s)
			}
		}
		return
	}
	text := c.Long
	if text == "" || c.Name() == "completion" {
		text = strings.TrimSuffix(c.Short, ".") + "."
	}
	fmt.Fprintf(b, "\n### %s\n\n%s\n\n```\n%s\n```\n", c.CommandPath(), text, c.UseLine())
	if c.Example != "" {
		fmt.Fprintf(b, "\n```\n%s\n```\n", strings.TrimRight(c.Example, "\n"))
	}
	if t := flagTable(c.LocalNonPersistentFlags()); t != "" {
		fmt.Fprintf(b, "\n```\n%s```\n", t)
	}
}

// flagTable is the flags as the help shows them, without --help.
func flagTable(flags *pflag.FlagSet) string {
	shown := pflag.NewFlagSet("", pflag.ContinueOnError)
	shown.SortFlags = flags.SortFlags
	flags.VisitAll(func(f *pflag.Flag) {
		if f.Name != "help" && !f.Hidden {
			shown.AddFlag(f)
		}
	})
	return shown.FlagUsages()
}
