package sqlite

import (
	"context"
	"database/sql"

	"berth/coordinator"
)

// TemplateFiles returns what rows refer to. An archive is kept with its version; if the import of that failed, as long
// as its log. The imported files of a version are kept from its import on, unless that failed, and in any case while a
// workspace, a build or a state refers to it.
func (s *Store) TemplateFiles(ctx context.Context) (coordinator.TemplateFiles, error) {
	f := coordinator.TemplateFiles{Archives: make(map[string]bool), Versions: make(map[coordinator.VersionID]bool)}
	const verb = "list the files of templates"
	tx, err := s.read.BeginTx(ctx, &sql.TxOptions{ReadOnly: true}) // both lists are of one moment
	if err != nil {
		return f, wrap(verb, err)
	}
	defer func() { _ = tx.Rollback() }() // nothing was written
	archives, err := list(ctx, tx, scanText, `SELECT archive FROM (
			SELECT archive, status, row_number() OVER (PARTITION BY template_id ORDER BY number DESC) AS place FROM template_versions
		) WHERE status <> 'failed' OR place <= ?`, coordinator.KeepBuildLogs)
	if err != nil {
		return f, wrap(verb, err)
	}
	versions, err := list(ctx, tx, scanText, `SELECT id FROM template_versions WHERE status <> 'failed'
		UNION SELECT version_id FROM workspaces UNION SELECT version_id FROM builds UNION SELECT version_id FROM states`)
	if err != nil {
		return f, wrap(verb, err)
	}
	for _, sha := range archives {
		f.Archives[sha] = true
	}
	for _, id := range versions {
		f.Versions[coordinator.VersionID(id)] = true
	}
	return f, nil
}

func scanText(r row) (s string, err error) {
	err = r.Scan(&s)
	return s, err
}
