package cli

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"berth/coordinator"
)

// A grade says how good a finding is.
type grade string

const (
	gradeOK   grade = "ok"
	gradeWarn grade = "warn" // something works less well, or not in every program
	gradeFail grade = "fail"
	gradeSkip grade = "skip" // not looked at
)

// A finding is one thing that was looked at.
type finding struct {
	Area   string `json:"area"` // way, or inside
	Check  string `json:"check"`
	Status grade  `json:"status"`
	Text   string `json:"text"`
	Hint   string `json:"hint,omitempty"` // what to do
}

// A diagnosis is all of them.
type diagnosis struct {
	Workspace string    `json:"workspace"`
	OK        bool      `json:"ok"` // nothing fails
	Findings  []finding `json:"findings"`

	area string // of what is found next
}

func (d *diagnosis) add(check string, g grade, hint, format string, args ...any) {
	d.Findings = append(d.Findings, finding{d.area, check, g, fmt.Sprintf(format, args...), hint})
	d.OK = d.OK && g != gradeFail
}

// failed adds an error, with its own hint.
func (d *diagnosis) failed(check string, err error) {
	e := explained(err)
	d.add(check, gradeFail, e.Hint, "%s", e.Msg)
}

func (a *app) doctorCommand() *cobra.Command {
	var f format
	var start bool
	cmd := &cobra.Command{
		Use:   "doctor NAME",
		Short: "Look for what keeps ssh and IDEs out of a workspace",
		Long: `Look at the way into a workspace (address, DNS, TCP, TLS, clock, token, this machine's key, ssh's configuration, host
certificate, versions, latency) and at what IDEs need inside (tar, gzip, curl or wget, bash, libc and libstdc++, disk,
memory, inotify, a home to write to, programs to start from it and from /tmp, python for Ansible).

Each line is ok, warn or fail, with what to do. It exits with 1 if one fails. A stopped workspace is not started, so that
only the way is looked at, unless --start is given. It needs no ssh program, and leaves nothing behind inside.`,
		Example:           "  berth doctor dev\n  berth doctor dev --start\n  berth doctor dev -o json",
		Args:              arguments(1, 1),
		ValidArgsFunction: a.completeWorkspace,
		RunE: func(cmd *cobra.Command, args []string) error {
			d := &diagnosis{Workspace: args[0], OK: true, Findings: []finding{}}
			a.diagnose(cmd.Context(), d, start)
			if err := cmd.Context().Err(); err != nil {
				return err
			}
			if err := a.show(f, d, func() { a.printDiagnosis(d) }); err != nil {
				return err
			}
			if !d.OK {
				return exitCode(coordinator.CodeFailed.Exit())
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&start, "start", false, "start a stopped workspace, to look inside")
	outputFlag(cmd, &f)
	return cmd
}

// diagnose looks at the way, then inside. What depends on something that failed is not looked at.
func (a *app) diagnose(ctx context.Context, d *diagnosis, start bool) {
	d.area = "way"
	w := &way{app: a, diagnosis: d}
	if !w.server(ctx) || !w.account(ctx) {
		return
	}
	w.sshConfig(ctx)
	c := w.enter(ctx, start)
	if c == nil {
		return
	}
	defer func() { _ = c.Close() }() // all has been looked at
	stop := context.AfterFunc(ctx, func() { _ = c.Close() })
	defer stop()
	w.latency(ctx, c)
	d.area = "inside"
	out, err := script(c, insideScript, maxInside)
	facts, noise := parseInside(out)
	if err != nil && facts["end"] == "" {
		d.add("script", gradeFail, "does berth ssh "+d.Workspace+" give a shell?", "sh in the workspace does not run a script: %v", plainCause(err))
		return
	}
	inspect(d, facts, noise)
}

func (a *app) printDiagnosis(d *diagnosis) {
	count := map[grade]int{}
	area := ""
	for _, f := range d.Findings {
		if f.Area != area {
			area = f.Area
			a.printf("%s\n", map[string]string{"way": "The way there:", "inside": "Inside, for IDEs:"}[area])
		}
		count[f.Status]++
		a.printf("  %-4s  %-12s  %s\n", f.Status, f.Check, oneLine(f.Text))
		if f.Hint != "" && f.Status != gradeOK {
			a.printf("        %-12s  %s\n", "", oneLine(f.Hint))
		}
	}
	switch {
	case count[gradeFail] == 0 && count[gradeWarn] == 0:
		a.printf("Nothing is wrong.\n")
	default:
		a.printf("%d of %d fail, %d warn.\n", count[gradeFail], len(d.Findings), count[gradeWarn])
	}
}
