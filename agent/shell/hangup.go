package shell

import (
	"os"
	"os/signal"
	"sync"
	"syscall"
)

// heedHangup undoes what nohup did to this process for those that it starts: an ignored signal stays ignored in every
// program after it, and a shell that ignores the hang-up outlives its terminal.
var heedHangup = sync.OnceFunc(func() {
	if signal.Ignored(syscall.SIGHUP) {
		// A signal that is caught is at its default again in what is started. Nobody reads, so here nothing changes.
		signal.Notify(make(chan os.Signal, 1), syscall.SIGHUP)
	}
})
