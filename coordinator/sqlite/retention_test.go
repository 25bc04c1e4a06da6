package sqlite

import (
	"testing"

	"berth/coordinator"
)

// Archives go with the last row that refers to them, those of failed imports with their logs; a version that something
// still has is kept, whatever became of its import.
func TestTemplateFiles(t *testing.T) {
	w := newWorld(t)
	push := func(archive string, status coordinator.BuildStatus) coordinator.TemplateVersion {
		t.Helper()
		v := coordinator.TemplateVersion{Archive: archive}
		must(w.CreateTemplateVersion(ctx, "other", "", &v))(t)
		if status != "" {
			ok(t, w.FinishImport(ctx, v.ID, coordinator.Result{Status: status}))
		}
		return v
	}
	check := func(name string, archives, versions map[string]bool) {
		t.Helper()
		f := must(w.TemplateFiles(ctx))(t)
		for sha, want := range archives {
			if f.Archives[sha] != want {
				t.Errorf("%s: archive %s is referred to: %v, want %v", name, sha, f.Archives[sha], want)
			}
		}
		for id, want := range versions {
			if f.Versions[coordinator.VersionID(id)] != want {
				t.Errorf("%s: version %s is referred to: %v, want %v", name, id, f.Versions[coordinator.VersionID(id)], want)
			}
		}
	}
	ready, failed, importing := push("ready", succeeded.Status), push("failed", coordinator.BuildFailed), push("importing", "")
	check("at first", map[string]bool{"abc": true, "ready": true, "failed": true, "importing": true},
		map[string]bool{string(w.v.ID): true, string(ready.ID): true, string(failed.ID): false, string(importing.ID): true})
	for range coordinator.KeepBuildLogs {
		push("again", coordinator.BuildFailed)
	}
	check("after many failures", map[string]bool{"ready": true, "failed": false, "importing": true, "again": true}, nil)

	ok(t, w.DeleteTemplate(ctx, "other"))
	check("after the template", map[string]bool{"abc": true, "ready": false, "importing": false, "again": false},
		map[string]bool{string(w.v.ID): true, string(ready.ID): false, string(importing.ID): false})

	ok(t, w.PutState(ctx, coordinator.State{WorkspaceID: w.ws.ID, VersionID: "of a state", Serial: 1, Data: `{"lineage":"l","serial":1}`}))
	check("with a state", nil, map[string]bool{"of a state": true})
}
