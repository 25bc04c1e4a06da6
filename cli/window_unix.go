//go:build unix

package cli

import (
	"os"
	"os/signal"
	"syscall"
)

// windowChanges tells when the terminal's size may have changed, until stop is called, which closes the channel.
func windowChanges() (changed <-chan os.Signal, stop func()) {
	c := make(chan os.Signal, 1)
	signal.Notify(c, syscall.SIGWINCH)
	return c, func() {
		signal.Stop(c)
		close(c)
	}
}
