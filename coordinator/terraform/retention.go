package terraform

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"berth/coordinator"
)

// Names in the directories of archives and versions.
const (
	archiveExt   = ".tar"
	putPrefix    = ".put-"
	ImportPrefix = ".import-" // of a version whose import is under way, before its id
)

// putTime is longer than any archive takes to arrive. What is older was left by a process that was killed.
const putTime = time.Hour

// lockPoll is how often a lock that another has is tried.
const lockPoll = 5 * time.Millisecond

// lock takes the lock on the archives' directory: shared from the moment that an archive is there until something refers to it, exclusive
// for a sweep. It holds between processes too, for a coordinator that drains may still take a push.
func (a Archives) lock(ctx context.Context, how int) (unlock func(), err error) {
	f, err := os.Open(a.Dir)
	if err != nil {
		return nil, fmt.Errorf("open the archives: %w", err)
	}
	t := time.NewTicker(lockPoll)
	defer t.Stop()
	for {
		err := syscall.Flock(int(f.Fd()), how|syscall.LOCK_NB)
		switch {
		case err == nil:
			return func() { f.Close() }, nil // frees it
		case !errors.Is(err, syscall.EWOULDBLOCK) && !errors.Is(err, syscall.EINTR):
			return nil, errors.Join(fmt.Errorf("lock the archives: %w", err), f.Close())
		}
		select {
		case <-ctx.Done():
			return nil, errors.Join(ctx.Err(), f.Close())
		case <-t.C:
		}
	}
}

// Sweep removes every archive that used does not name, and what interrupted pushes left. No archive is lost that is
// being pushed: used is asked while none lies between being there and being referred to.
func (a Archives) Sweep(ctx context.Context, now time.Time, used func(context.Context) (map[string]bool, error)) (removed int, err error) {
	unlock, err := a.lock(ctx, syscall.LOCK_EX)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil // there was never one
	}
	if err != nil {
		return 0, err
	}
	defer unlock()
	keep, err := used(ctx)
	if err != nil {
		return 0, err
	}
	entries, err := os.ReadDir(a.Dir)
	if err != nil {
		return 0, fmt.Errorf("list archives: %w", err)
	}
	var errs []error
	for _, e := range entries {
		name := e.Name()
		sha, isArchive := strings.CutSuffix(name, archiveExt)
		switch {
		case isArchive && shaRE.MatchString(sha) && !keep[sha]:
		case strings.HasPrefix(name, putPrefix) && olderThan(e, now.Add(-putTime)):
		default:
			continue
		}
		if err := os.Remove(filepath.Join(a.Dir, name)); err != nil {
			errs = append(errs, fmt.Errorf("remove archive: %w", err))
			continue
		}
		removed++
	}
	return removed, errors.Join(errs...)
}

func olderThan(e fs.DirEntry, t time.Time) bool {
	info, err := e.Info()
	return err == nil && info.ModTime().Before(t)
}

// SweepVersions removes every directory of a version in dir that used does not name, and what killed imports left
// unfinished. It asks used after it has looked: an id is in use before its directory is there, and, once it is no
// longer, never again.
func SweepVersions(dir string, used func() (map[coordinator.VersionID]bool, error)) (removed int, err error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("list versions: %w", err)
	}
	keep, err := used()
	if err != nil {
		return 0, err
	}
	var errs []error
	for _, e := range entries {
		id := coordinator.VersionID(strings.TrimPrefix(e.Name(), ImportPrefix))
		if !e.IsDir() || keep[id] {
			continue
		}
		if err := os.RemoveAll(filepath.Join(dir, e.Name())); err != nil {
			errs = append(errs, fmt.Errorf("remove version: %w", err))
			continue
		}
		removed++
	}
	return removed, errors.Join(errs...)
}
