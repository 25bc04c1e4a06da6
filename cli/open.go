package cli

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os/exec"
	"path"
	"regexp"
	"runtime"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/crypto/ssh"

	"berth/coordinator"
)

// openTime is how long a program that opens a link may take to fail; some stay as long as what they have opened.
const openTime = 5 * time.Second

// An ide is a program on this machine that works in a workspace over ssh.
type ide struct {
	name     string
	title    string
	link     func(host, folder string, fresh bool) string
	programs []string                           // that open it without a link
	args     func(host, folder string) []string // of those programs
	hint     string                             // to be told afterwards
}

// ides are the ones that berth open knows. docs/ides.md says where the forms of their links come from.
var ides = []ide{
	vscodeLike("vscode", "VS Code", "vscode", "code"),
	vscodeLike("vscode-insiders", "VS Code Insiders", "vscode-insiders", "code-insiders"),
	vscodeLike("cursor", "Cursor", "cursor", "cursor"),
	vscodeLike("windsurf", "Windsurf", "windsurf", "windsurf"),
	{
		name: "zed", title: "Zed", programs: []string{"zed", "zeditor"},
		link: func(host, folder string, _ bool) string { return "zed://ssh/" + host + escapePath(folder) },
		args: func(host, folder string) []string { return []string{"ssh://" + host + escapePath(folder)} },
	},
	{
		name: "jetbrains", title: "JetBrains Gateway",
		link: func(host, folder string, _ bool) string {
			return "jetbrains-gateway://connect#" + strings.ReplaceAll(url.Values{
				"type": {"ssh"}, "host": {host}, "port": {"22"}, "user": {"berth"}, "deploy": {"false"}, "projectPath": {folder},
			}.Encode(), "+", "%20")
		},
		hint: "Gateway fills in the connection: choose Check Connection and Continue, with the OpenSSH config and authentication agent.",
	},
}

// vscodeLike is VS Code or one of those made of it.
//
//	SCHEME://vscode-remote/ssh-remote+HOST/FOLDER
func vscodeLike(name, title, scheme, program string) ide {
	return ide{
		name: name, title: title, programs: []string{program},
		link: func(host, folder string, fresh bool) string {
			s := scheme + "://vscode-remote/ssh-remote+" + host + escapePath(folder)
			if fresh {
				s += "?windowId=_blank"
			}
			return s
		},
		args: func(host, folder string) []string {
			return []string{"--folder-uri", "vscode-remote://ssh-remote+" + host + escapePath(folder)}
		},
	}
}

// position is the end of a path that is taken for a line, and perhaps a column, of a file.
var position = regexp.MustCompile(`:\d+$`)

// escapePath escapes an absolute path for a link, each of its parts.
func escapePath(folder string) string {
	parts := strings.Split(folder, "/")
	for i, p := range parts {
		parts[i] = strings.NewReplacer("+", "%2B", "&", "%26", "=", "%3D", ":", "%3A", "'", "%27").Replace(url.PathEscape(p))
	}
	s := strings.Join(parts, "/")
	if position.MatchString(folder) {
		s += "/" // a folder all the same
	}
	return s
}

func (a *app) openCommand() *cobra.Command {
	var onlyPrint, fresh bool
	names := make([]string, len(ides))
	for i, d := range ides {
		names[i] = d.name
	}
	cmd := &cobra.Command{
		Use:   "open IDE NAME [FOLDER]",
		Short: "Open a workspace in an IDE on this machine",
		Long: `Open a workspace in an IDE on this machine, which enters it over ssh: ` + strings.Join(names, ", ") + `.
The ssh configuration is written first, as by "berth ssh-config", and a stopped workspace is started, so that the IDE finds
it running. FOLDER is a path in the workspace, relative to the home directory, which it is by default.

The system opens the IDE's link, or the IDE's own program does where there is nothing to open links with. --print prints
the link and does nothing else; it needs a running workspace unless FOLDER is absolute.`,
		Example: `  berth open vscode dev
  berth open zed dev src/project
  berth open cursor alice/dev /srv/data --print`,
		Args: arguments(2, 3),
		ValidArgsFunction: func(cmd *cobra.Command, args []string, typed string) ([]string, cobra.ShellCompDirective) {
			if len(args) == 0 {
				return names, cobra.ShellCompDirectiveNoFileComp
			}
			return a.completeWorkspace(cmd, args[1:], typed)
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			folder := ""
			if len(args) == 3 {
				folder = args[2]
			}
			for _, d := range ides {
				if d.name == args[0] {
					return a.openIn(cmd.Context(), d, args[1], opening{folder, onlyPrint, fresh})
				}
			}
			return usage("berth open knows no %q", coordinator.Clip(args[0], 40)).WithHint("it knows " + strings.Join(names, ", "))
		},
	}
	cmd.Flags().BoolVar(&onlyPrint, "print", false, "print the link, and open nothing")
	cmd.Flags().BoolVar(&fresh, "new-window", false, "in a window of its own (VS Code and those made of it)")
	return cmd
}

// An opening is what is to be opened, and how.
type opening struct {
	folder    string
	onlyPrint bool
	fresh     bool
}

func (a *app) openIn(ctx context.Context, d ide, name string, o opening) error {
	p, err := a.passage(ctx, name)
	if err != nil {
		return err
	}
	if !o.onlyPrint {
		if err := a.ensureSSHConfig(ctx, p.client); err != nil {
			return err
		}
	}
	folder := o.folder
	if !o.onlyPrint || !path.IsAbs(folder) {
		if folder, err = a.findFolder(ctx, p, o); err != nil {
			return err
		}
	}
	if folder = path.Clean(folder); strings.ContainsFunc(folder, func(r rune) bool { return r < ' ' || r == 0x7f }) {
		return usage("the folder %q holds a control character", coordinator.Clip(folder, 80))
	}
	host := p.host()
	link := d.link(host, folder, o.fresh)
	if o.onlyPrint {
		a.printf("%s\n", link)
		return nil
	}
	if err := a.launch(ctx, d, host, folder, link); err != nil {
		return err
	}
	a.printf("Opened %s of %s in %s\n", oneLine(folder), p.target, d.title)
	if d.hint != "" {
		a.hintf("%s", d.hint)
	}
	return nil
}

// host is the name by which ssh reaches the workspace, as the generated configuration lists it.
func (p *passage) host() string {
	if p.target.Owner == "" && p.target.Agent == "" {
		return p.target.Workspace + "." + p.facts.Suffix
	}
	return p.target.HostName(p.owner, p.facts.Suffix)
}

// findFolder starts the workspace, unless only the link is asked for, and finds the folder in it.
func (a *app) findFolder(ctx context.Context, p *passage, o opening) (string, error) {
	c, err := p.open(ctx, o.onlyPrint)
	if err != nil {
		return "", err
	}
	defer func() { _ = c.Close() }() // only asked
	stop := context.AfterFunc(ctx, func() { _ = c.Close() })
	defer stop()
	// In the home directory, from where the folder is found; where it is not, nothing comes out.
	folder := strings.TrimPrefix(o.folder, "~/")
	if folder == "" || folder == "~" {
		folder = "."
	}
	out, err := script(c, "cd && cd -- "+shellQuote(folder)+" 2>/dev/null && pwd\n", 64<<10)
	if ctx.Err() != nil {
		return "", ctx.Err()
	}
	var exit *ssh.ExitError
	if err != nil && !errors.As(err, &exit) {
		return "", coordinator.Errorf(coordinator.CodeUnavailable, "the connection to %s was lost", p.target).WithHint("try again").WithCause(err)
	}
	found := strings.TrimSuffix(out, "\n")
	if err != nil || !path.IsAbs(found) {
		return "", coordinator.Errorf(coordinator.CodeNotFound, "there is no folder %s in %s", coordinator.Clip(folder, 200), p.target).
			WithHint("berth ssh " + p.target.String() + " -- ls")
	}
	return found, nil
}

// shellQuote quotes a word for sh.
func shellQuote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }

// script runs a script of sh in the workspace and returns at most limit bytes of what it prints. It is given to sh as
// stdin, so that nothing has to be quoted for the login shell.
func script(c *ssh.Client, text string, limit int) (string, error) {
	s, err := c.NewSession()
	if err != nil {
		return "", fmt.Errorf("open session: %w", err)
	}
	defer func() { _ = s.Close() }() // it has ended
	out := &limited{left: limit}
	s.Stdin, s.Stdout = strings.NewReader(text), out
	err = s.Run("sh -s")
	if err != nil {
		err = fmt.Errorf("run a script in the workspace: %w", err)
	}
	return out.String(), err
}

// limited keeps the first bytes that are written to it.
type limited struct {
	strings.Builder
	left int
}

func (l *limited) Write(p []byte) (int, error) {
	n := min(len(p), l.left)
	l.left -= n
	l.Builder.Write(p[:n])
	return len(p), nil
}

// launch opens the link, or runs the IDE's own program where nothing opens links. No shell is between.
func (a *app) launch(ctx context.Context, d ide, host, folder, link string) error {
	var failed []string
	try := func(program string, args ...string) bool {
		file, err := exec.LookPath(program)
		if err != nil {
			return false
		}
		if err := run(ctx, file, args); err != nil {
			failed = append(failed, program+": "+err.Error())
			return false
		}
		return true
	}
	opener := map[string][]string{"darwin": {"open"}, "windows": {"rundll32", "url.dll,FileProtocolHandler"}}[runtime.GOOS]
	if opener == nil {
		opener = []string{"xdg-open"}
	}
	if try(opener[0], append(opener[1:], link)...) {
		return nil
	}
	for _, program := range d.programs {
		if try(program, d.args(host, folder)...) {
			return nil
		}
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	e := coordinator.Errorf(coordinator.CodeFailed, "nothing on this machine opens %s", d.title).WithHint("install it, or open this link yourself: " + link)
	if len(failed) > 0 {
		e.Msg += " (" + oneLine(strings.Join(failed, "; ")) + ")"
	}
	return e
}

// run starts a program that may stay on, and returns an error if it fails soon.
func run(ctx context.Context, file string, args []string) error {
	c := exec.Command(file, args...)
	if err := c.Start(); err != nil {
		return err
	}
	ended := make(chan error, 1)
	go func() { ended <- c.Wait() }() // it outlives us where it stays
	t := time.NewTimer(openTime)
	defer t.Stop()
	select {
	case err := <-ended:
		return err
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
