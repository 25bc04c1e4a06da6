package daemon

import (
	"context"
	"log/slog"
	"time"

	"berth/coordinator"
	"berth/coordinator/sqlite"
	"berth/coordinator/terraform"
)

// A sweeper removes the files of templates to which nothing refers any more: archives, and what was imported of them.
type sweeper struct {
	store *sqlite.Store
	data  dataDir
	jobs  func() ([]string, error) // ids of builds and imports that have files: their runners may live
	log   *slog.Logger
	wake  chan struct{} // capacity 1
}

func newSweeper(store *sqlite.Store, data dataDir, jobs func() ([]string, error), log *slog.Logger) *sweeper {
	return &sweeper{store: store, data: data, jobs: jobs, log: log, wake: make(chan struct{}, 1)}
}

// poke asks for a sweep.
func (s *sweeper) poke() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// run sweeps at once, when it is asked to, and now and then, until ctx ends.
func (s *sweeper) run(ctx context.Context) {
	t := time.NewTicker(pruneEvery)
	defer t.Stop()
	for {
		if err := s.sweep(ctx); err != nil && ctx.Err() == nil {
			s.log.Error("remove files of templates", "err", err) // the next sweep tries again
		}
		select {
		case <-ctx.Done():
			return
		case <-s.wake:
		case <-t.C:
		}
	}
}

func (s *sweeper) sweep(ctx context.Context) error {
	archives, err := terraform.Archives{Dir: s.data.path("archives")}.Sweep(ctx, time.Now(), func(ctx context.Context) (map[string]bool, error) {
		f, err := s.store.TemplateFiles(ctx)
		return f.Archives, err
	})
	if err != nil {
		return err
	}
	versions, err := terraform.SweepVersions(s.data.path("versions"), func() (map[coordinator.VersionID]bool, error) {
		return s.versions(ctx)
	})
	if archives+versions > 0 {
		s.log.Info("removed files of templates that are no longer needed", "archives", archives, "versions", versions)
	}
	return err
}

// versions returns the ids of versions that are referred to, or at which a runner may be at work although its template
// has been deleted.
func (s *sweeper) versions(ctx context.Context) (map[coordinator.VersionID]bool, error) {
	jobs, err := s.jobs()
	if err != nil {
		return nil, err
	}
	f, err := s.store.TemplateFiles(ctx)
	if err != nil {
		return nil, err
	}
	for _, id := range jobs {
		f.Versions[coordinator.VersionID(id)] = true
	}
	return f.Versions, nil
}
