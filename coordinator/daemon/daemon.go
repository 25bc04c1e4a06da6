// Package daemon is one running coordinator: its flags, the checks before it starts, the wiring of all its parts, its
// listeners, and the order in which it begins and ends. It also composes what needs facts of several parts: an agent's
// manifest and a build's job.
package daemon

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"

	"berth/agent"
	"berth/coordinator"
	"berth/coordinator/host"
	"berth/coordinator/runner"
)

const usage = `usage: berthd COMMAND

  serve      run the coordinator; berthd serve --help lists its settings
  isolation  tell how workspaces on this machine are isolated: bubblewrap or none
  build      carry one build (started by serve)
  version    print the version
  help       print this
`

// Exit statuses.
const (
	exitOK     = 0
	exitFailed = 1
	exitUsage  = 2
)

// Main runs berthd with its arguments and returns its exit status.
func Main(args []string) int {
	if len(args) == 0 {
		fmt.Fprint(os.Stderr, usage)
		return exitUsage
	}
	switch args[0] {
	case "serve":
		return serve(args[1:])
	case "build":
		return runner.Main(args[1:])
	case "isolation":
		return isolation(os.Stdout)
	case "version", "--version":
		fmt.Printf("berthd %s %s/%s %s\n", agent.Version, runtime.GOOS, runtime.GOARCH, runtime.Version())
		return exitOK
	case "help", "--help", "-h":
		fmt.Print(usage)
		return exitOK
	}
	fmt.Fprintf(os.Stderr, "berthd: unknown command %q\n%s", coordinator.Clip(args[0], 40), usage)
	return exitUsage
}

func isolation(w io.Writer) int {
	way := "bubblewrap"
	if host.ProbeBubblewrap(context.Background()) == "" {
		way = "none"
	}
	fmt.Fprintln(w, way)
	return exitOK
}

// complain writes one line about err, with its hint, and returns the exit status.
func complain(w io.Writer, err error) int {
	var e *coordinator.Error
	var u *usageError
	switch {
	case errors.As(err, &u):
		fmt.Fprintf(w, "berthd: %v (berthd serve --help lists the settings)\n", err)
		return exitUsage
	case errors.As(err, &e) && e.Hint != "":
		fmt.Fprintf(w, "berthd: %v; %s\n", err, e.Hint)
	default:
		fmt.Fprintf(w, "berthd: %v\n", err)
	}
	return exitFailed
}

// A usageError is a setting that makes no sense.
type usageError struct{ msg string }

func (e *usageError) Error() string { return e.msg }

func usagef(format string, args ...any) error { return &usageError{fmt.Sprintf(format, args...)} }
