package builder

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"time"

	"berth/coordinator"
)

// A task is a job as the builder carries it: a build or an import.
type task struct {
	id     string                  // of the job
	events coordinator.WorkspaceID // whom it wakes
	// prepare composes the job and the state that it begins with.
	prepare func(ctx context.Context) (coordinator.Job, coordinator.Secret, error)
	// take stores what an update holds beside log lines.
	take func(ctx context.Context, u coordinator.Update) error
	// failed composes the result of a job that could not begin.
	failed func(ctx context.Context, cause error) coordinator.Result
	// finish commits the result.
	finish func(ctx context.Context, r coordinator.Result) error
	// canceled reports whether a cancel was asked for.
	canceled func(ctx context.Context) (bool, error)
	close    func()
}

// maxBegins is how often a runner that leaves no trace is begun.
const maxBegins = 3

// carry takes a job from where it stands to its recorded end. With adopted it may have begun under an earlier
// coordinator. It returns early, with nothing lost, when ctx ends.
func (b *Builder) carry(ctx context.Context, t task, adopted bool) {
	defer t.close()
	log := b.log.With("job", t.id)
	stop := b.watchCancel(ctx, t)
	defer stop()
	if adopted {
		b.passOn(ctx, t) // the coordinator may have died before it did
	}
	for begins := 0; ; {
		var refused error // why the runner may not have been started
		if !adopted {
			if begins++; begins > maxBegins {
				b.end(ctx, t, t.failed(ctx, coordinator.Errorf(coordinator.CodeFailed, "the build's runner does not start")))
				return
			}
			var err error
			if refused, err = b.begin(ctx, t); err != nil {
				b.giveUp(ctx, t, err)
				return
			}
		}
		r, err := b.follow(ctx, t)
		switch {
		case err == nil:
			b.end(ctx, t, r)
			return
		case ctx.Err() != nil:
			return
		case errors.Is(err, coordinator.ErrNeverBegan) && refused != nil:
			b.giveUp(ctx, t, coordinator.Errorf(coordinator.CodeFailed, "cannot start the build's runner: %w", refused))
			return
		case errors.Is(err, coordinator.ErrNeverBegan):
			adopted = false
		default:
			log.Error("cannot follow the runner", "err", err)
			adopted = true
			if pause(ctx, time.Second) != nil {
				return
			}
		}
	}
}

// giveUp ends a job that could not begin, or need not.
func (b *Builder) giveUp(ctx context.Context, t task, cause error) {
	if ctx.Err() != nil {
		return
	}
	b.log.Warn("the job does not begin", "job", t.id, "err", cause)
	r := t.failed(ctx, cause)
	if errors.Is(cause, errCanceled) {
		r.Status = coordinator.BuildCanceled
	}
	b.end(ctx, t, r)
}

var errCanceled = errors.New("canceled before it began")

// begin starts the job's runner. What the runner's start says went wrong is returned apart: only a look at the job
// tells whether it has begun nevertheless.
func (b *Builder) begin(ctx context.Context, t task) (refused, err error) {
	const attempts = 5
	var job coordinator.Job
	var state coordinator.Secret
	for n := 1; ; n++ {
		if job, state, err = t.prepare(ctx); err == nil {
			break
		}
		if permanent(err) || n == attempts {
			return nil, err
		}
		b.log.Error("cannot compose the job", "job", t.id, "err", err)
		if err := pause(ctx, time.Second); err != nil {
			return nil, err
		}
	}
	if canceled, err := t.canceled(ctx); err == nil && canceled {
		return nil, errCanceled
	}
	refused = b.runner.Begin(job, state)
	b.passOn(ctx, t) // asked for while there was nothing to interrupt
	return refused, nil
}

// passOn passes a recorded cancel on to the runner. One that has heard of it already ignores it.
func (b *Builder) passOn(ctx context.Context, t task) {
	canceled, err := t.canceled(ctx)
	if err != nil {
		b.log.Error("cannot tell whether a job is to be canceled", "job", t.id, "err", err)
	}
	if canceled {
		b.interrupt(t.id)
	}
}

// follow stores what the runner tells, until its end.
func (b *Builder) follow(ctx context.Context, t task) (coordinator.Result, error) {
	var lost error // of an update that could not be stored because ctx ended
	r, err := b.runner.Follow(ctx, t.id, func(u coordinator.Update) {
		if lost != nil {
			return
		}
		if lost = t.take(ctx, u); lost == nil {
			lost = b.storeLines(ctx, t.id, u.Lines)
		}
		b.events.Notify(t.events)
	})
	if lost != nil {
		return r, lost
	}
	return r, err
}

// maxBatch is how many log lines are stored in one transaction.
const maxBatch = 500

// storeLines stores log lines of the job itself. Lines that were stored before do no harm.
func (b *Builder) storeLines(ctx context.Context, id string, lines []coordinator.LogLine) error {
	for batch := range slices.Chunk(lines, maxBatch) {
		kept := make([]coordinator.LogLine, 0, len(batch))
		for _, l := range batch {
			if l.Seq >= coordinator.MaxLogLines {
				continue
			}
			if l.Source == "" {
				l.Source = coordinator.SourceBuild
			}
			l.Text = strings.ToValidUTF8(coordinator.Clip(l.Text, coordinator.MaxLogLine), "�")
			kept = append(kept, l)
		}
		if len(kept) == 0 {
			continue
		}
		err := b.insist(ctx, "store log lines", func() error {
			return b.store.AppendLog(ctx, coordinator.BuildID(id), kept)
		})
		if err := b.tolerate(ctx, "log lines were not stored", id, err); err != nil {
			return err
		}
	}
	return nil
}

// tolerate logs what the store refuses for good, and passes on that ctx ended.
func (b *Builder) tolerate(ctx context.Context, msg, id string, err error) error {
	switch {
	case err == nil:
		return nil
	case permanent(err):
		b.log.Error(msg, "job", id, "err", err)
		return nil
	case ctx.Err() != nil:
		return ctx.Err()
	}
	return err
}

// end commits the result and, only then, removes the runner's files.
func (b *Builder) end(ctx context.Context, t task, r coordinator.Result) {
	if r.Status.Open() || r.Status == "" {
		r.Status, r.Error = coordinator.BuildFailed, "the build's runner told no result"
	}
	if err := b.tolerate(ctx, "the result was not stored", t.id, t.finish(ctx, r)); err != nil {
		return
	}
	b.log.Info("job ended", "job", t.id, "status", r.Status, "err", r.Error)
	b.wipe(t.id)
	b.events.Notify(t.events)
}

func (b *Builder) wipe(id string) {
	if err := b.runner.Wipe(id); err != nil {
		b.log.Error("cannot remove the runner's files", "job", id, "err", err)
	}
}

// watchCancel registers the job and passes on a cancel, once, as soon as there is a runner to take it. The returned
// function ends the watch.
func (b *Builder) watchCancel(ctx context.Context, t task) (stop func()) {
	asked := make(chan struct{}, 1)
	b.mu.Lock()
	b.cancels[t.id] = asked
	b.mu.Unlock()
	ctx, cancel := context.WithCancel(ctx)
	var watch sync.WaitGroup
	watch.Go(func() {
		select {
		case <-ctx.Done():
			return
		case <-asked:
		}
		for {
			err := b.runner.Cancel(t.id)
			if err == nil {
				return
			}
			b.log.Warn("cannot cancel yet", "job", t.id, "err", err)
			if pause(ctx, minPause) != nil {
				return
			}
		}
	})
	return func() {
		cancel()
		watch.Wait()
		b.mu.Lock()
		delete(b.cancels, t.id)
		b.mu.Unlock()
	}
}

// interrupt has the watch of a job pass on a cancel.
func (b *Builder) interrupt(id string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if c, ok := b.cancels[id]; ok {
		select {
		case c <- struct{}{}:
		default:
		}
	}
}
