package daemon

import (
	"context"
	"os"
	"slices"
	"time"

	"berth/agent"
	"berth/agent/ide"
)

const idePeriod = time.Minute

// watchIDEs tells the coordinator which servers of IDEs no session holds. While nobody has come in and there are none,
// nothing is looked at.
func (w *worker) watchIDEs(ctx context.Context) {
	select {
	case <-w.started:
	case <-ctx.Done():
		return
	}
	scanner := ide.Scanner{Proc: "/proc", UID: w.user.UID, Self: os.Getpid()}
	told := []agent.IDEServer{}
	looked, wasBusy := int64(-1), false
	ticker := time.NewTicker(idePeriod)
	defer ticker.Stop()
	for {
		active, served := w.quiet.counts()
		busy := active > 0 || served != looked
		if busy || wasBusy || len(told) > 0 { // once more after the last session, whose processes may live on
			if list := scanner.Scan(active > 0); !sameServers(list, told) {
				told = list
				w.outbox.IDEs(list)
			}
		}
		looked, wasBusy = served, busy
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

// sameServers leaves a change of memory by less than a quarter out: it is chatty.
func sameServers(a, b []agent.IDEServer) bool {
	return slices.EqualFunc(a, b, func(x, y agent.IDEServer) bool {
		d := x.Memory - y.Memory
		return x.PID == y.PID && x.Started.Equal(y.Started) && max(d, -d) <= y.Memory/4
	})
}
