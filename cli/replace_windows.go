package cli

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
)

// replace runs another program in our place and ends with its exit code. Ctrl-C reaches both; it decides.
func replace(program string, args []string) error {
	signal.Ignore(os.Interrupt)
	c := exec.Command(program, args[1:]...)
	c.Stdin, c.Stdout, c.Stderr = os.Stdin, os.Stdout, os.Stderr
	err := c.Run()
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit):
		return exitCode(exit.ExitCode())
	case err != nil:
		return fmt.Errorf("start %s: %w", program, err)
	}
	return nil
}
