package builder

import (
	"context"

	"berth/coordinator"
)

// Import queues the import of a template version. One that is queued already is not queued again.
func (b *Builder) Import(_ context.Context, v coordinator.TemplateVersion) {
	b.mu.Lock()
	if !b.taken[v.ID] {
		b.taken[v.ID] = true
		b.imports = append(b.imports, v)
	}
	b.mu.Unlock()
	b.poke()
}

func (b *Builder) nextImport() (coordinator.TemplateVersion, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.imports) == 0 {
		return coordinator.TemplateVersion{}, false
	}
	v := b.imports[0]
	b.imports = b.imports[1:]
	return v, true
}

// importTask returns the task of an import. Who follows its log watches the version's id.
func (b *Builder) importTask(v coordinator.TemplateVersion) task {
	return task{
		id: string(v.ID), events: coordinator.WorkspaceID(v.ID),
		prepare: func(ctx context.Context) (coordinator.Job, coordinator.Secret, error) {
			job, err := b.jobs.ImportJob(ctx, v)
			return job, "", err
		},
		take: func(context.Context, coordinator.Update) error { return nil },
		failed: func(_ context.Context, cause error) coordinator.Result {
			return coordinator.Result{Status: coordinator.BuildFailed, Error: oneLine(cause)}
		},
		finish: func(ctx context.Context, r coordinator.Result) error {
			return b.insist(ctx, "record the import", func() error { return b.store.FinishImport(ctx, v.ID, r) })
		},
		canceled: func(context.Context) (bool, error) { return false, nil },
		close: func() {
			b.mu.Lock()
			delete(b.taken, v.ID)
			b.mu.Unlock()
			b.imported()
		},
	}
}
