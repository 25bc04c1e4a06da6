package api

import (
	"bytes"
	"net/http"
	"strings"
	"testing"

	"berth/coordinator"
	"berth/coordinator/rest"
)

func TestPush(t *testing.T) {
	w := newWorld(t).populate()
	archive := []byte("not really a tar")
	v := get[rest.TemplateVersion](w, "owner", "POST", "/templates/go/versions?message=first%20try&description=Go", archive)
	if v.Number != 1 || v.Status != coordinator.VersionImporting || v.Message != "first try" || v.CreatedBy != "olga" || v.Active {
		t.Errorf("got %+v", v)
	}
	if len(w.builder.imports) != 1 || !w.builder.imports[0].Activate {
		t.Fatalf("imports: %+v", w.builder.imports)
	}
	get[rest.TemplateVersion](w, "owner", "POST", "/templates/go/versions?activate=false", archive)
	if w.builder.imports[1].Activate {
		t.Error("activated against the pusher's word")
	}
	a := w.do("owner", "GET", "/templates/go/versions/1/archive", nil)
	if a.status != 200 || a.body != string(archive) || a.header.Get("Content-Type") != "application/x-tar" {
		t.Errorf("got %d %v", a.status, a.header)
	}
	for _, tt := range []struct {
		name, path string
		body       []byte
		status     int
	}{
		{"bad name", "/templates/Go/versions", archive, 422},
		{"reserved name", "/templates/berth/versions", archive, 422},
		{"nothing", "/templates/go/versions", nil, 422},
		{"bomb", "/templates/go/versions", make([]byte, coordinator.MaxArchive+1), 413},
		{"long message", "/templates/go/versions?message=" + strings.Repeat("x", 501), archive, 422},
	} {
		t.Run(tt.name, func(t *testing.T) {
			req := w.request("owner", "POST", tt.path, tt.body)
			if a := w.send(req); a.status != tt.status {
				t.Errorf("got %d %s", a.status, a.body)
			}
		})
	}
	list := get[rest.Page[rest.TemplateVersion]](w, "member", "GET", "/templates/go/versions", nil)
	if len(list.Items) != 2 || list.Items[0].Number != 2 {
		t.Errorf("got %+v", list)
	}
	if a := w.do("member", "GET", "/templates/go/versions/active", nil); a.status != http.StatusConflict {
		t.Errorf("active before the import: %d %s", a.status, a.body)
	}
	if a := w.do("owner", "POST", "/templates/go/versions/1/activate", nil); a.status != http.StatusConflict {
		t.Errorf("activated before the import: %d %s", a.status, a.body)
	}
	w.check(w.store.FinishImport(t.Context(), w.builder.imports[0].ID, coordinator.Result{Status: coordinator.BuildSucceeded, Imported: &coordinator.Import{}}))
	w.check(w.store.FinishImport(t.Context(), w.builder.imports[1].ID, coordinator.Result{Status: coordinator.BuildFailed, Error: "no agent"}))
	if x := get[rest.Template](w, "member", "GET", "/templates/go", nil); x.ActiveVersion != 1 || x.Description != "Go" {
		t.Errorf("got %+v", x)
	}
	if a := w.do("member", "POST", "/workspaces", rest.CreateWorkspace{Name: "x", Template: "go", Version: 2}); a.status != 409 || !strings.Contains(a.body, "no agent") {
		t.Errorf("a failed version is used: %d %s", a.status, a.body)
	}
	if a := w.do("owner", "DELETE", "/templates/local", nil); a.status != 409 {
		t.Errorf("a template in use is deleted: %d %s", a.status, a.body)
	}
	if a := w.do("owner", "DELETE", "/templates/go", nil); a.status != 204 {
		t.Errorf("got %d %s", a.status, a.body)
	}
	if names := get[rest.Page[rest.Template]](w, "member", "GET", "/templates", nil); len(names.Items) != 1 || names.Items[0].Workspaces != 1 {
		t.Errorf("got %+v", names)
	}
}

// TestPushWithoutLength checks the cap on an archive whose length is not told.
func TestPushWithoutLength(t *testing.T) {
	w := newWorld(t).populate()
	req := w.request("owner", "POST", "/templates/go/versions", []byte{})
	req.Body, req.ContentLength = http.NoBody, -1
	req, err := http.NewRequestWithContext(t.Context(), "POST", req.URL.String(), struct{ *bytes.Reader }{bytes.NewReader(make([]byte, coordinator.MaxArchive+1))})
	w.check(err)
	req.Header.Set("Authorization", "Bearer "+w.tokens["owner"])
	if a := w.send(req); a.status != http.StatusRequestEntityTooLarge {
		t.Errorf("got %d %s", a.status, a.body)
	}
}
