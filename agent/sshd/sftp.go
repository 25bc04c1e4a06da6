package sshd

import (
	"errors"
	"fmt"
	"io"
	"os"

	"berth/agent/sftp"
)

// Main runs one of the subcommands that the server starts in a process of the user's own: "sftp", and "scp" where
// the image has none. It returns the exit status. The agent's main calls it with its arguments.
func Main(args []string) int {
	err := errors.New("unknown subcommand")
	if len(args) > 0 {
		switch args[0] {
		case "sftp":
			err = sftp.Serve(os.Stdin, os.Stdout)
		case "scp":
			err = runSCP(args[1:], stdio{os.Stdin, os.Stdout})
		}
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "%v\n", err)
		return 1
	}
	return 0
}

type stdio struct {
	io.Reader
	io.Writer
}
