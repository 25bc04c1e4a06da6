package api

import (
	"context"
	"encoding/json"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"testing"

	"berth/coordinator"
	"berth/coordinator/rest"
)

// fill puts the member's workspace and other real things into a route's path.
func fill(path string) string {
	return strings.NewReplacer("{owner}", "mary", "{name}", "dev", "{template}", "local", "{version}", "1", "{build}", "1",
		"{id}", "nothing", "{sha256}", "00").Replace(path)
}

// TestPermissions asks for every route as everybody, and compares with what the table says.
func TestPermissions(t *testing.T) {
	w := newWorld(t).populate()
	w.entry.enter = func(context.Context, enterRequest) (Stream, error) {
		return nil, coordinator.Errorf(coordinator.CodeUnavailable, "not here")
	}
	all := []string{"anonymous", "workspace", "other", "member", "owner"}
	may := map[coordinator.Permission][]string{
		coordinator.PermPublic:        all,
		coordinator.PermRead:          all[1:],
		coordinator.PermStopSelf:      all[1:],
		coordinator.PermAccount:       all[2:],
		coordinator.PermWorkspace:     all[2:],
		coordinator.PermConnect:       all[2:],
		coordinator.PermTemplateAdmin: {"owner"},
		coordinator.PermUserAdmin:     {"owner"},
		coordinator.PermAudit:         {"owner"},
	}
	if len(w.routes) < 45 {
		t.Fatalf("only %d routes", len(w.routes))
	}
	for _, r := range w.routes {
		if r.path == rest.Prefix+"/setup" {
			continue // its token is its permission: TestSetup
		}
		t.Run(r.method+" "+r.path, func(t *testing.T) {
			allowed, ok := may[r.perm]
			if !ok {
				t.Fatalf("permission %q", r.perm)
			}
			for _, who := range all {
				req := w.request(who, r.method, "", nil)
				req.URL.Path = fill(r.path)
				a := w.send(req)
				switch {
				case slices.Contains(allowed, who):
					if a.status == http.StatusUnauthorized || a.status == http.StatusForbidden && !strings.Contains(a.body, "only its owner") {
						t.Errorf("%s: %d %s", who, a.status, a.body)
					}
				case who == "anonymous":
					if a.status != http.StatusUnauthorized || a.problem(t).Code != coordinator.CodeUnauthenticated {
						t.Errorf("%s: %d %s", who, a.status, a.body)
					}
				default:
					if a.status != http.StatusForbidden || a.problem(t).Code != coordinator.CodeDenied {
						t.Errorf("%s: %d %s", who, a.status, a.body)
					}
				}
				if strings.Contains(r.path, "{owner}") && who == "other" && a.status != http.StatusNotFound && a.status != http.StatusUpgradeRequired {
					t.Errorf("another member got %d %s", a.status, a.body)
				}
			}
		})
	}
}

// TestNoPermission checks that a route nobody thought about is not served.
func TestNoPermission(t *testing.T) {
	for _, perm := range []coordinator.Permission{"", "reed"} {
		s := &server{}
		defer func() {
			if recover() == nil {
				t.Errorf("a route with the permission %q was registered", perm)
			}
		}()
		s.register(http.NewServeMux(), []route{typed("GET", "/x", perm, "X", s.health)})
	}
}

func TestOpenAPI(t *testing.T) {
	w := newWorld(t)
	a := w.do("", "GET", "/openapi.json", nil)
	var doc struct {
		OpenAPI    string                                `json:"openapi"`
		Paths      map[string]map[string]json.RawMessage `json:"paths"`
		Components struct {
			Schemas map[string]json.RawMessage `json:"schemas"`
		} `json:"components"`
	}
	if err := json.Unmarshal([]byte(a.body), &doc); err != nil || a.status != 200 || !strings.HasPrefix(doc.OpenAPI, "3.1") {
		t.Fatalf("got %d, %v: %.200s", a.status, err, a.body)
	}
	for _, r := range w.routes {
		var op struct {
			Parameters []struct{ Name, In string } `json:"parameters"`
		}
		if err := json.Unmarshal(doc.Paths[r.path][strings.ToLower(r.method)], &op); err != nil {
			t.Errorf("%s %s is not described: %v", r.method, r.path, err)
		}
		for _, m := range regexp.MustCompile(`{(\w+)}`).FindAllStringSubmatch(r.path, -1) {
			found := false
			for _, p := range op.Parameters {
				found = found || p.In == "path" && p.Name == m[1]
			}
			if !found {
				t.Errorf("%s %s: the handler does not see %s", r.method, r.path, m[1])
			}
		}
	}
	for _, name := range []string{"Problem", "Workspace", "CreateWorkspace", "Build"} {
		if doc.Components.Schemas[name] == nil {
			t.Errorf("there is no schema %s", name)
		}
	}
	if strings.Contains(a.body, "ErrorModel") {
		t.Error("errors are described as the framework's")
	}
}

func TestUnknown(t *testing.T) {
	w := newWorld(t)
	for _, tt := range []struct {
		name, method, path string
		status             int
	}{
		{"path", "GET", "/nothing", 404},
		{"path outside of the API", "GET", "/api/v2/x", 404},
		{"method", "PATCH", "/whoami", 405},
	} {
		t.Run(tt.name, func(t *testing.T) {
			a := w.do("", tt.method, tt.path, nil)
			if a.status != tt.status || a.problem(t).Hint == "" {
				t.Errorf("got %d %s", a.status, a.body)
			}
		})
	}
}
