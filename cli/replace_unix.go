//go:build unix

package cli

import (
	"fmt"
	"os"
	"syscall"
)

// replace becomes another program: its signals, its terminal and its exit code are then the user's own.
func replace(program string, args []string) error {
	return fmt.Errorf("start %s: %w", program, syscall.Exec(program, args, os.Environ()))
}
