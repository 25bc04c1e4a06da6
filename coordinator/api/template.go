package api

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strconv"
	"time"

	"berth/coordinator"
	"berth/coordinator/rest"
)

// archiveTime is how long an archive may take to arrive.
const archiveTime = 5 * time.Minute

func (s *server) restTemplate(ctx context.Context, t coordinator.Template) (rest.Template, error) {
	r := rest.Template{ID: t.ID, Name: t.Name, Description: t.Description, Created: t.Created}
	if t.Active != "" {
		v, err := s.Store.Version(ctx, t.Active)
		if err != nil {
			return r, err
		}
		r.ActiveVersion = v.Number
	}
	var err error
	r.Workspaces, err = s.Store.CountWorkspaces(ctx, t.ID)
	return r, err
}

func (s *server) listTemplates(ctx context.Context, in *PageInput) (*output[rest.Page[rest.Template]], error) {
	after, err := in.after()
	if err != nil {
		return nil, err
	}
	rows, err := s.Store.Templates(ctx, after, in.Limit+1)
	if err != nil {
		return nil, err
	}
	p := page(rows, in.Limit, func(t coordinator.Template) string { return t.Name }, func(t coordinator.Template) rest.Template {
		x, templateErr := s.restTemplate(ctx, t)
		if templateErr != nil {
			err = templateErr
		}
		return x
	})
	return out(p), err
}

// A TemplatePath names a template in a route.
type TemplatePath struct {
	Template string `path:"template" maxLength:"200"`
}

func (s *server) showTemplate(ctx context.Context, in *TemplatePath) (*output[rest.Template], error) {
	t, err := s.Store.Template(ctx, in.Template)
	if err != nil {
		return nil, err
	}
	x, err := s.restTemplate(ctx, t)
	return out(x), err
}

func (s *server) deleteTemplate(ctx context.Context, in *TemplatePath) (*empty, error) {
	if err := s.Store.DeleteTemplate(ctx, in.Template); err != nil {
		return nil, err
	}
	s.Freed()
	return nil, s.audit(ctx, actor(ctx), "template.delete", in.Template, "")
}

// restVersion makes the API's version of a row. names remembers users.
func (s *server) restVersion(ctx context.Context, t coordinator.Template, v coordinator.TemplateVersion, names map[coordinator.UserID]string) rest.TemplateVersion {
	by, ok := names[v.CreatedBy]
	if !ok {
		if u, err := s.Store.User(ctx, v.CreatedBy); err == nil {
			by = u.Name
		}
		names[v.CreatedBy] = by
	}
	return rest.TemplateVersion{
		Number: v.Number, Active: v.ID == t.Active, Status: v.Status, Error: oneLine(v.Error), Message: v.Message, Archive: v.Archive,
		Import: v.Import, CreatedBy: by, Created: v.Created,
	}
}

type listVersionsInput struct {
	TemplatePath
	PageInput
}

func (s *server) listVersions(ctx context.Context, in *listVersionsInput) (*output[rest.Page[rest.TemplateVersion]], error) {
	t, err := s.Store.Template(ctx, in.Template)
	if err != nil {
		return nil, err
	}
	before, err := in.before()
	if err != nil {
		return nil, err
	}
	rows, err := s.Store.Versions(ctx, t.ID, before, in.Limit+1)
	if err != nil {
		return nil, err
	}
	names := map[coordinator.UserID]string{}
	return out(page(rows, in.Limit, func(v coordinator.TemplateVersion) string { return strconv.Itoa(v.Number) },
		func(v coordinator.TemplateVersion) rest.TemplateVersion { return s.restVersion(ctx, t, v, names) })), nil
}

type pushInput struct {
	TemplatePath
	Upload
	Message     string `query:"message" maxLength:"500"`
	Description string `query:"description" maxLength:"500"`
	Activate    bool   `query:"activate" default:"true" doc:"make it the active version once its import has succeeded"`
}

func (s *server) pushVersion(ctx context.Context, in *pushInput) (*output[rest.TemplateVersion], error) {
	a := actor(ctx)
	if err := coordinator.CheckName("template", in.Template); err != nil {
		return nil, err
	}
	v := coordinator.TemplateVersion{
		Message: oneLine(in.Message), Status: coordinator.VersionImporting, Activate: in.Activate, CreatedBy: a.User.ID,
	}
	var t coordinator.Template
	_, _, err := s.Archives.Put(ctx, in.body, func(sha string, n int64) (err error) {
		if n == 0 {
			return coordinator.Errorf(coordinator.CodeInvalid, "the archive is empty").WithHint("push a directory with a Terraform module")
		}
		v.Archive = sha
		t, err = s.Store.CreateTemplateVersion(ctx, in.Template, oneLine(in.Description), &v)
		return err
	})
	if err != nil {
		s.Freed() // the archive may be there nevertheless
		return nil, err
	}
	s.Builder.Import(ctx, v)
	names := map[coordinator.UserID]string{a.User.ID: a.User.Name}
	return out(s.restVersion(ctx, t, v, names)), s.audit(ctx, a, "template.push", t.Name, "version "+strconv.Itoa(v.Number))
}

// A VersionPath names a version in a route.
type VersionPath struct {
	TemplatePath
	Version string `path:"version" maxLength:"20" doc:"number of a version, or active"`
}

func (s *server) findVersion(ctx context.Context, p VersionPath) (coordinator.Template, coordinator.TemplateVersion, error) {
	t, err := s.Store.Template(ctx, p.Template)
	if err != nil {
		return t, coordinator.TemplateVersion{}, err
	}
	if p.Version == "active" {
		if t.Active == "" {
			return t, coordinator.TemplateVersion{}, noActive(t)
		}
		v, err := s.Store.Version(ctx, t.Active)
		return t, v, err
	}
	none := coordinator.Errorf(coordinator.CodeNotFound, "template %s has no version %s", t.Name, oneLine(p.Version)).
		WithHint("berth template versions " + t.Name + " lists them")
	n, err := strconv.Atoi(p.Version)
	if err != nil || n < 1 {
		return t, coordinator.TemplateVersion{}, none
	}
	v, err := s.Store.VersionByNumber(ctx, t.ID, n)
	return t, v, replace(err, coordinator.CodeNotFound, none)
}

func noActive(t coordinator.Template) error {
	return coordinator.Errorf(coordinator.CodeConflict, "template %s has no active version yet", t.Name).
		WithHint("berth template versions " + t.Name + " tells why; its import may still run or have failed")
}

// usable is version n of t, or the active one for 0, if workspaces can be made of it.
func (s *server) usable(ctx context.Context, t coordinator.Template, n int) (coordinator.TemplateVersion, error) {
	name := "active"
	if n > 0 {
		name = strconv.Itoa(n)
	}
	_, v, err := s.findVersion(ctx, VersionPath{TemplatePath{t.Name}, name})
	if err != nil {
		return v, err
	}
	switch v.Status {
	case coordinator.VersionReady:
		return v, nil
	case coordinator.VersionFailed:
		return v, coordinator.Errorf(coordinator.CodeConflict, "version %d of template %s cannot be used: its import failed: %s", v.Number, t.Name, oneLine(v.Error)).
			WithHint("push a corrected version")
	default:
		return v, coordinator.Errorf(coordinator.CodeConflict, "version %d of template %s is still being imported", v.Number, t.Name).
			WithHint("try again in a moment")
	}
}

func (s *server) showVersion(ctx context.Context, in *VersionPath) (*output[rest.TemplateVersion], error) {
	t, v, err := s.findVersion(ctx, *in)
	if err != nil {
		return nil, err
	}
	return out(s.restVersion(ctx, t, v, map[coordinator.UserID]string{})), nil
}

func (s *server) versionArchive(ctx context.Context, in *VersionPath) (*streamed, error) {
	t, v, err := s.findVersion(ctx, *in)
	if err != nil {
		return nil, err
	}
	f, err := s.Archives.Open(v.Archive)
	if err != nil {
		return nil, err
	}
	return stream(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/x-tar")
		w.Header().Set("Content-Disposition", `attachment; filename="`+t.Name+"-"+strconv.Itoa(v.Number)+`.tar"`)
		_, err := io.Copy(w, f)
		if err := errors.Join(err, f.Close()); err != nil {
			s.Logger.DebugContext(ctx, "send archive", "err", err)
			panic(http.ErrAbortHandler) // half an archive must not look whole
		}
	}), nil
}

func (s *server) activateVersion(ctx context.Context, in *VersionPath) (*output[rest.TemplateVersion], error) {
	t, v, err := s.findVersion(ctx, *in)
	if err != nil {
		return nil, err
	}
	if err := s.Store.ActivateVersion(ctx, t.ID, v.ID); err != nil {
		return nil, err
	}
	t.Active = v.ID
	return out(s.restVersion(ctx, t, v, map[coordinator.UserID]string{})),
		s.audit(ctx, actor(ctx), "template.activate", t.Name, "version "+strconv.Itoa(v.Number))
}
