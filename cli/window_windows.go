package cli

import (
	"os"
	"time"
)

// windowChanges tells when the terminal's size may have changed, until stop is called, which closes the channel. Windows
// has no signal for it, so that is twice a second.
func windowChanges() (changed <-chan os.Signal, stop func()) {
	c := make(chan os.Signal)
	done, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		defer close(c)
		t := time.NewTicker(time.Second / 2)
		defer t.Stop()
		for {
			select {
			case <-t.C:
			case <-done:
				return
			}
			select {
			case c <- os.Interrupt: // any will do
			case <-done:
				return
			}
		}
	}()
	return c, func() {
		close(done)
		<-ended
	}
}
