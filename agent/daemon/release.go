package daemon

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"runtime/debug"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// release gives memory back to the system: the heap's free pages, and the pages of the program itself that starting
// has read. The latter are clean copies of the file; what is needed again is mapped again from the page cache.
func release() {
	debug.FreeOSMemory()
	exe, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return
	}
	f, err := os.Open("/proc/self/maps")
	if err != nil {
		return
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if from, to, ok := programText(lines.Text(), exe); ok {
			_, _, _ = unix.Syscall(unix.SYS_MADVISE, from, to-from, unix.MADV_DONTNEED)
		}
	}
}

// programText reads a line of /proc/self/maps, and reports whether it is a mapping of exe that nobody can have written
// to. Of any other, MADV_DONTNEED would lose what was written.
//
//	00400000-007af000 r-xp 00000000 fe:00 9995160   /usr/local/bin/berth-agent
func programText(line, exe string) (from, to uintptr, ok bool) {
	var perms string
	if _, err := fmt.Sscanf(line, "%x-%x %4s", &from, &to, &perms); err != nil {
		return 0, 0, false
	}
	return from, to, (perms == "r-xp" || perms == "r--p") && strings.HasSuffix(line, " "+exe) && to > from
}

// A quiet counts streams, so that memory is released when none is served.
type quiet struct {
	active atomic.Int32
	served atomic.Int64 // streams since the start
}

func (q *quiet) enter() {
	q.active.Add(1)
	q.served.Add(1)
}

func (q *quiet) exit() { q.active.Add(-1) }

// trim releases memory once in every time of quiet: after startup, and after the last session.
func (q *quiet) trim(ctx context.Context) {
	ticker := time.NewTicker(trimPeriod)
	defer ticker.Stop()
	seen, released := q.served.Load(), false
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		now := q.served.Load()
		switch {
		case q.active.Load() > 0 || now != seen:
			seen, released = now, false
		case !released:
			release()
			released = true
		}
	}
}
