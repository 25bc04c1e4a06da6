package runner

import (
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"berth/coordinator"
)

// A full disk must not make terraform forget what it has made, so a build holds back some room. Once less than that is
// free beside it, terraform is ended in order, and gets the room to store its state and to say so.
const (
	reserveSize = 4 << 20 // bytes, held back beside as much that has to be free
	logRoom     = 1 << 20 // bytes of the log that are allocated ahead: what terraform begins is told in any case
	fullPause   = 250 * time.Millisecond
)

var errFull = errors.New("the coordinator's disk is full: terraform was ended in order; free some space, then build again")

// reserve holds back the room of a build.
func (d dir) reserve() error {
	f, err := os.OpenFile(d.path(reserveFile), os.O_WRONLY|os.O_CREATE, 0o600)
	if err == nil {
		err = errors.Join(allocate(f, reserveSize, false), f.Close())
	}
	if err != nil && !full(err) {
		return fmt.Errorf("reserve space: %w", err)
	}
	if err != nil || d.low() {
		d.release()
		return fmt.Errorf("the coordinator's disk is full: a build needs %d MiB where the data directory is; nothing was changed; "+
			"free some space, then build again", 2*reserveSize>>20)
	}
	return nil
}

// release gives the room back.
func (d dir) release() { _ = os.Remove(d.path(reserveFile)) } // gone already, or with the directory

// low reports whether so little is free that terraform had better end.
func (d dir) low() bool {
	var st unix.Statfs_t
	return unix.Statfs(d.root, &st) == nil && int64(st.Bavail)*int64(st.Bsize) < reserveSize
}

// full reports whether err is for want of space.
func full(err error) bool { return errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) }

// patiently calls f until it fails for want of space no longer: what it stores is in no other place. A runner that is
// killed meanwhile has lost nothing, because whoever buries it does the same.
func (r *run) patiently(what string, f func() error) error {
	for told := false; ; {
		err := f()
		if !full(err) {
			return err
		}
		r.dir.release()
		if !told {
			told = true
			r.write(coordinator.LogLine{Level: "error", Text: "the coordinator's disk is full: waiting for space to store " + what})
			fmt.Fprintln(os.Stderr, "waiting for space:", err)
		}
		time.Sleep(fullPause)
	}
}
