package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"math"

	"berth/coordinator"
)

const templateColumns = `id, name, description, active_id, created`

func scanTemplate(r row) (t coordinator.Template, err error) {
	err = r.Scan(&t.ID, &t.Name, &t.Description, &t.Active, at(&t.Created))
	return t, err
}

const versionColumns = `id, template_id, number, message, archive, status, error, import, activate, created_by, created`

func scanVersion(r row) (v coordinator.TemplateVersion, err error) {
	err = r.Scan(&v.ID, &v.TemplateID, &v.Number, &v.Message, &v.Archive, &v.Status, &v.Error, doc(&v.Import), &v.Activate, &v.CreatedBy, at(&v.Created))
	return v, err
}

// CreateTemplateVersion stores a version that is to be imported, and its template if there is none of that name. It
// fills in ID, TemplateID, Number, Status and Created. A description that is not empty replaces the template's.
func (s *Store) CreateTemplateVersion(ctx context.Context, templateName, description string, v *coordinator.TemplateVersion) (coordinator.Template, error) {
	n := *v
	n.ID, n.Status, n.Created = coordinator.VersionID(coordinator.NewID()), coordinator.VersionImporting, stored(orNow(v.Created))
	var t coordinator.Template
	err := s.in(ctx, "create template version", func(tx *sql.Tx) (err error) {
		t, err = scanTemplate(tx.QueryRowContext(ctx, `INSERT INTO templates (id, name, description, active_id, created) VALUES (?, ?, ?, '', ?)
			ON CONFLICT (name) DO UPDATE SET description = CASE excluded.description WHEN '' THEN description ELSE excluded.description END
			RETURNING `+templateColumns, coordinator.NewID(), templateName, description, ms(n.Created)))
		if err != nil {
			return err
		}
		n.TemplateID = t.ID
		found, err := text(n.Import)
		if err != nil {
			return err
		}
		return tx.QueryRowContext(ctx, `INSERT INTO template_versions (id, template_id, number, message, archive, status, error, import, activate, created_by, created)
			SELECT ?, ?, coalesce(max(number), 0) + 1, ?, ?, ?, '', ?, ?, ?, ? FROM template_versions WHERE template_id = ? RETURNING number`,
			n.ID, n.TemplateID, n.Message, n.Archive, n.Status, found, n.Activate, n.CreatedBy, ms(n.Created), n.TemplateID).Scan(&n.Number)
	})
	if err != nil {
		return coordinator.Template{}, err
	}
	*v = n
	return t, nil
}

// Template returns the template of that name.
func (s *Store) Template(ctx context.Context, name string) (coordinator.Template, error) {
	t, err := scanTemplate(s.read.QueryRowContext(ctx, `SELECT `+templateColumns+` FROM templates WHERE name = ?`, name))
	return t, lookup("read template", err, "template: %q", coordinator.Clip(name, 40))
}

// TemplateByID returns the template with that id.
func (s *Store) TemplateByID(ctx context.Context, id coordinator.TemplateID) (coordinator.Template, error) {
	t, err := scanTemplate(s.read.QueryRowContext(ctx, `SELECT `+templateColumns+` FROM templates WHERE id = ?`, id))
	return t, lookup("read template", err, "template")
}

// Templates returns a page of templates by name, those after the name given.
func (s *Store) Templates(ctx context.Context, after string, limit int) ([]coordinator.Template, error) {
	ts, err := list(ctx, s.read, scanTemplate, `SELECT `+templateColumns+` FROM templates WHERE name > ? ORDER BY name LIMIT ?`, after, page(limit))
	return ts, wrap("list templates", err)
}

// DeleteTemplate deletes a template with its versions and their logs. It is CodeConflict while a workspace uses it.
func (s *Store) DeleteTemplate(ctx context.Context, name string) error {
	return s.in(ctx, "delete template", func(tx *sql.Tx) error {
		var id coordinator.TemplateID
		var users int
		err := tx.QueryRowContext(ctx, `SELECT id, (SELECT count(*) FROM workspaces WHERE template_id = templates.id) FROM templates WHERE name = ?`, name).Scan(&id, &users)
		switch {
		case err != nil:
			return lookup("read template", err, "template: %q", coordinator.Clip(name, 40))
		case users > 0:
			return coordinator.Errorf(coordinator.CodeConflict, "template %q is used by %s", name, count(users, "workspace")).
				WithHint("delete the workspaces first")
		}
		_, err = tx.ExecContext(ctx, `DELETE FROM templates WHERE id = ?`, id)
		return err
	})
}

// Version returns the template version with that id.
func (s *Store) Version(ctx context.Context, id coordinator.VersionID) (coordinator.TemplateVersion, error) {
	v, err := scanVersion(s.read.QueryRowContext(ctx, `SELECT `+versionColumns+` FROM template_versions WHERE id = ?`, id))
	return v, lookup("read template version", err, "template version")
}

// VersionByNumber returns a template's version of that number.
func (s *Store) VersionByNumber(ctx context.Context, id coordinator.TemplateID, n int) (coordinator.TemplateVersion, error) {
	v, err := scanVersion(s.read.QueryRowContext(ctx, `SELECT `+versionColumns+` FROM template_versions WHERE template_id = ? AND number = ?`, id, n))
	return v, lookup("read template version", err, "template version: %d", n)
}

// Versions returns a page of a template's versions, newest first: those before the number given, or from the newest
// on if that is 0.
func (s *Store) Versions(ctx context.Context, id coordinator.TemplateID, before, limit int) ([]coordinator.TemplateVersion, error) {
	vs, err := list(ctx, s.read, scanVersion, `SELECT `+versionColumns+` FROM template_versions WHERE template_id = ? AND number < ? ORDER BY number DESC LIMIT ?`,
		id, orLast(before), page(limit))
	return vs, wrap("list template versions", err)
}

// orLast is the cursor of a listing that runs backwards.
func orLast(before int) int {
	if before <= 0 {
		return math.MaxInt
	}
	return before
}

// ImportingVersions returns the versions whose import has not ended, oldest first.
func (s *Store) ImportingVersions(ctx context.Context) ([]coordinator.TemplateVersion, error) {
	vs, err := list(ctx, s.read, scanVersion, `SELECT `+versionColumns+` FROM template_versions WHERE status = 'importing' ORDER BY created`)
	return vs, wrap("list importing versions", err)
}

// FinishImport records how the import of a version ended. A version that was pushed to become the active one becomes
// it if the import succeeded, unless a newer one is active already: imports may end in another order than they began.
func (s *Store) FinishImport(ctx context.Context, id coordinator.VersionID, r coordinator.Result) error {
	return s.in(ctx, "finish import", func(tx *sql.Tx) error {
		v, err := scanVersion(tx.QueryRowContext(ctx, `SELECT `+versionColumns+` FROM template_versions WHERE id = ?`, id))
		if err != nil {
			return lookup("read template version", err, "template version")
		}
		if v.Status != coordinator.VersionImporting {
			return coordinator.Errorf(coordinator.CodeConflict, "the import of version %d has ended already", v.Number)
		}
		status := coordinator.VersionFailed
		if r.Status == coordinator.BuildSucceeded {
			status = coordinator.VersionReady
		}
		if r.Imported != nil {
			v.Import = *r.Imported
		}
		found, err := text(v.Import)
		if err != nil {
			return err
		}
		if _, err := tx.ExecContext(ctx, `UPDATE template_versions SET status = ?, error = ?, import = ? WHERE id = ?`, status, r.Error, found, id); err != nil {
			return err
		}
		if status != coordinator.VersionReady || !v.Activate {
			return nil
		}
		_, err = tx.ExecContext(ctx, `UPDATE templates SET active_id = ? WHERE id = ?
			AND NOT EXISTS (SELECT 1 FROM template_versions a WHERE a.id = templates.active_id AND a.number > ?)`, id, v.TemplateID, v.Number)
		return err
	})
}

// ActivateVersion makes a version the active one of its template. It is CodeConflict unless its import succeeded.
func (s *Store) ActivateVersion(ctx context.Context, template coordinator.TemplateID, id coordinator.VersionID) error {
	return s.in(ctx, "activate version", func(tx *sql.Tx) error {
		var number int
		var status coordinator.VersionStatus
		err := tx.QueryRowContext(ctx, `SELECT number, status FROM template_versions WHERE id = ? AND template_id = ?`, id, template).Scan(&number, &status)
		switch {
		case errors.Is(err, sql.ErrNoRows):
			return notFound("template version")
		case err != nil:
			return err
		case status == coordinator.VersionImporting:
			return coordinator.Errorf(coordinator.CodeConflict, "version %d is still being imported", number).WithHint("try again in a moment")
		case status != coordinator.VersionReady:
			return coordinator.Errorf(coordinator.CodeConflict, "the import of version %d failed", number).WithHint("push a version that imports")
		}
		_, err = tx.ExecContext(ctx, `UPDATE templates SET active_id = ? WHERE id = ?`, id, template)
		return err
	})
}

// CountWorkspaces returns how many workspaces use a template.
func (s *Store) CountWorkspaces(ctx context.Context, id coordinator.TemplateID) (int, error) {
	var n int
	err := s.read.QueryRowContext(ctx, `SELECT count(*) FROM workspaces WHERE template_id = ?`, id).Scan(&n)
	return n, wrap("count workspaces", err)
}
