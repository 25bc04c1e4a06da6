package sshd

import (
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/pkg/sftp"
)

// Main runs one of the subcommands that the server starts in a process of the user's own: "sftp", and "scp" where
// the image has none. It returns the exit status. The agent's main calls it with its arguments.
func Main(args []string) int {
	err := fmt.Errorf("unknown subcommand")
	if len(args) > 0 {
		switch args[0] {
		case "sftp":
			err = serveSFTP(stdio{os.Stdin, os.Stdout})
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

// serveSFTP serves until its input ends, which is success. Relative paths start in the process's directory, the
// home; the library's own working directory would make the targets of symbolic links absolute.
func serveSFTP(rw io.ReadWriteCloser) error {
	srv, err := sftp.NewServer(rw)
	if err != nil {
		return fmt.Errorf("serve sftp: %w", err)
	}
	if err := srv.Serve(); err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("serve sftp: %w", err)
	}
	return nil
}

type stdio struct {
	io.ReadCloser
	out io.WriteCloser
}

func (s stdio) Write(b []byte) (int, error) { return s.out.Write(b) }

func (s stdio) Close() error { return errors.Join(s.ReadCloser.Close(), s.out.Close()) }
