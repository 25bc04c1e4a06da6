package daemon

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"runtime/debug"
	"strings"
	"sync"
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

// A quiet counts streams, so that memory is released when none is served. While one is, memory may grow more before it
// is collected: each packet of SSH leaves some behind.
type quiet struct {
	mu     sync.Mutex
	active int   // guarded by mu
	served int64 // guarded by mu; streams since the start
}

func (q *quiet) enter() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.served++
	if q.active++; q.active == 1 {
		debug.SetGCPercent(gcBusy)
	}
}

func (q *quiet) exit() {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.active--; q.active == 0 {
		debug.SetGCPercent(gcPercent)
	}
}

func (q *quiet) counts() (active int, served int64) {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.active, q.served
}

// trim releases memory once in every time of quiet: after startup, and after the last session.
func (q *quiet) trim(ctx context.Context) {
	ticker := time.NewTicker(trimPeriod)
	defer ticker.Stop()
	_, seen := q.counts()
	released := false
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		active, now := q.counts()
		switch {
		case active > 0 || now != seen:
			seen, released = now, false
		case !released:
			release()
			released = true
		}
	}
}
