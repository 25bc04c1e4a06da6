package api

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"berth/coordinator"
	"berth/coordinator/rest"
)

// TestOthersWorkspace checks that another's workspace and none look the same to a member.
func TestOthersWorkspace(t *testing.T) {
	w := newWorld(t).populate()
	for _, r := range w.routes {
		if !strings.Contains(r.path, "/workspaces/{owner}") || strings.HasSuffix(r.path, "/connect") {
			continue // connect is the entry's
		}
		ask := func(name string) answer {
			req := w.request("other", r.method, "", nil)
			req.URL.Path = strings.Replace(fill(r.path), "/dev", "/"+name, 1)
			return w.send(req)
		}
		there, none := ask("dev"), ask("abc")
		if there.status != 404 || none.status != 404 || strings.ReplaceAll(there.body, "mary/dev", "mary/abc") != none.body {
			t.Errorf("%s %s: %d %s, but for none %d %s", r.method, r.path, there.status, there.body, none.status, none.body)
		}
	}
	list := get[rest.Page[rest.Workspace]](w, "other", "GET", "/workspaces", nil)
	if len(list.Items) != 0 {
		t.Errorf("another's list: %+v", list)
	}
	for _, q := range []string{"?all=true", "?owner=mary"} {
		if a := w.do("other", "GET", "/workspaces"+q, nil); a.status != 403 {
			t.Errorf("%s: %d %s", q, a.status, a.body)
		}
	}
}

func TestOwnWorkspace(t *testing.T) {
	w := newWorld(t).populate()
	w.hub.connected["ag1"] = true
	for _, path := range []string{"/workspaces/mary/dev", "/workspaces/me/dev"} {
		x := get[rest.Workspace](w, "member", "GET", path, nil)
		if x.Name != "dev" || x.Owner != "mary" || x.Template != "local" || x.Version != 1 || x.Status != coordinator.StatusStarting ||
			!slices.Equal(x.HostNames, []string{"dev.berth", "dev.mary.berth"}) || len(x.Agents) != 1 || !x.Agents[0].Connected || x.Build == nil {
			t.Errorf("%s: got %+v", path, x)
		}
	}
	if p := get[rest.Ping](w, "member", "GET", "/workspaces/me/dev/ping", nil); p.Agent != "main" || p.RTT <= 0 {
		t.Errorf("got %+v", p)
	}
	if a := w.do("member", "GET", "/workspaces/me/dev/ping?agent=side", nil); a.status != 404 || !strings.Contains(a.body, "main") {
		t.Errorf("got %d %s", a.status, a.body)
	}
	b := get[rest.Build](w, "member", "POST", "/workspaces/me/dev/stop", nil)
	if b.Transition != coordinator.Stop || b.Workspace != "mary/dev" || w.builder.request.Reason != coordinator.ReasonUser {
		t.Errorf("got %+v of %+v", b, w.builder.request)
	}
	if a := w.do("member", "GET", "/workspaces/me/dev/builds/7", nil); a.status != 404 {
		t.Errorf("got %d", a.status)
	}
	if got := get[rest.Build](w, "member", "POST", "/workspaces/me/dev/builds/2/cancel", nil); got.Status != coordinator.BuildCanceled {
		t.Errorf("got %+v", got)
	}
	if got := get[rest.Build](w, "member", "GET", "/workspaces/me/dev/builds/latest", nil); got.Number != 2 {
		t.Errorf("got %+v", got)
	}
	list := get[rest.Page[rest.Build]](w, "member", "GET", "/workspaces/me/dev/builds?limit=1", nil)
	if len(list.Items) != 1 || list.Items[0].Number != 2 || list.Next == "" {
		t.Fatalf("got %+v", list)
	}
	list = get[rest.Page[rest.Build]](w, "member", "GET", "/workspaces/me/dev/builds?limit=1&cursor="+list.Next, nil)
	if len(list.Items) != 1 || list.Items[0].Number != 1 || list.Next != "" {
		t.Errorf("got %+v", list)
	}
}

// TestInstallationOwner checks what an owner of the installation does to others' workspaces: all but enter them.
func TestInstallationOwner(t *testing.T) {
	w := newWorld(t).populate()
	if list := get[rest.Page[rest.Workspace]](w, "owner", "GET", "/workspaces", nil); len(list.Items) != 0 {
		t.Errorf("their own: %+v", list)
	}
	for _, q := range []string{"?all=true", "?owner=mary"} {
		if list := get[rest.Page[rest.Workspace]](w, "owner", "GET", "/workspaces"+q, nil); len(list.Items) != 1 {
			t.Errorf("%s: %+v", q, list)
		}
	}
	if a := w.do("owner", "GET", "/workspaces/mary/dev/ping", nil); a.status != 403 {
		t.Errorf("ping: %d", a.status)
	}
	req := w.request("owner", "GET", "/workspaces/mary/dev/connect", nil)
	req.Header.Set("Connection", "Upgrade")
	req.Header.Set("Upgrade", "berth-stream/1")
	if a := w.send(req); a.status != 404 {
		t.Errorf("connect: %d %s", a.status, a.body)
	}
	get[rest.Build](w, "owner", "POST", "/workspaces/mary/dev/stop", nil)
	if w.builder.request.Reason != coordinator.ReasonAdmin {
		t.Errorf("reason %s", w.builder.request.Reason)
	}
}

// TestWorkspaceToken checks that a workspace's token reads itself and the lists, stops itself, and no more.
func TestWorkspaceToken(t *testing.T) {
	w := newWorld(t).populate()
	v := w.version(coordinator.Import{})
	w.workspace(w.member, "second")
	_ = v
	if me := get[rest.Whoami](w, "workspace", "GET", "/whoami", nil); me.Workspace != "mary/dev" || me.Name != "mary" {
		t.Errorf("got %+v", me)
	}
	if x := get[rest.Workspace](w, "workspace", "GET", "/workspaces/me/dev", nil); x.Name != "dev" {
		t.Errorf("got %+v", x)
	}
	list := get[rest.Page[rest.Workspace]](w, "workspace", "GET", "/workspaces", nil)
	if len(list.Items) != 2 || list.Items[1].Build != nil || list.Items[1].Agents != nil {
		t.Errorf("got %+v", list)
	}
	for _, tt := range []struct {
		method, path string
		want         int
	}{
		{"GET", "/templates", 200},
		{"GET", "/templates/local/versions/active", 200},
		{"GET", "/workspaces/me/second", 403},
		{"GET", "/workspaces/me/second/builds/1/log", 403},
		{"POST", "/workspaces/me/second/stop", 403},
		{"GET", "/workspaces/otto/dev", 404},
		{"GET", "/workspaces?all=true", 403},
		{"POST", "/workspaces/me/dev/start", 403},
		{"POST", "/workspaces/me/dev/restart", 403},
		{"POST", "/workspaces/me/dev/builds/1/cancel", 403},
		{"DELETE", "/workspaces/me/dev", 403},
		{"GET", "/workspaces/me/dev/connect", 403},
		{"GET", "/tokens", 403},
		{"GET", "/keys", 403},
		{"GET", "/keys/git", 403},
		{"GET", "/secrets", 403},
		{"DELETE", "/tokens/current", 403},
		{"POST", "/workspaces/me/dev/stop", 202},
	} {
		if a := w.do("workspace", tt.method, tt.path, nil); a.status != tt.want {
			t.Errorf("%s %s: %d %s", tt.method, tt.path, a.status, a.body)
		}
	}
	// An installation owner's workspace is no way to others' either.
	own := w.workspace(w.owner, "boss")
	w.tokens["boss"] = w.token(w.owner, own.ID)
	for path, want := range map[string]int{
		"/workspaces/mary/dev": 404, "/workspaces?all=true": 403, "/workspaces?owner=mary": 403, "/users": 403, "/workspaces/me/boss": 200,
	} {
		if a := w.do("boss", "GET", path, nil); a.status != want {
			t.Errorf("boss %s: %d %s", path, a.status, a.body)
		}
	}
	w.check(w.store.DeleteWorkspaceTokens(t.Context(), w.dev.ID))
	if a := w.do("workspace", "GET", "/whoami", nil); a.status != 401 {
		t.Errorf("a dead token: %d", a.status)
	}
}

func TestCreateWorkspace(t *testing.T) {
	w := newWorld(t).populate()
	for _, tt := range []struct {
		name   string
		body   any
		status int
		want   string
	}{
		{"bad name", rest.CreateWorkspace{Name: "Dev", Template: "local"}, 422, "not a valid workspace name"},
		{"long name", rest.CreateWorkspace{Name: strings.Repeat("a", 33), Template: "local"}, 422, "name"},
		{"reserved", rest.CreateWorkspace{Name: "berth", Template: "local"}, 422, "reserved"},
		{"duplicate", rest.CreateWorkspace{Name: "dev", Template: "local"}, 409, "dev"},
		{"no template", rest.CreateWorkspace{Name: "x", Template: "loca"}, 404, "loca"},
		{"no version", rest.CreateWorkspace{Name: "x", Template: "local", Version: 9}, 404, "no version 9"},
		{"unknown parameter", rest.CreateWorkspace{Name: "x", Template: "local", Params: map[string]string{"cpu": "2"}}, 422, `no parameter "cpu"`},
		{"wrong type", `{"name":"x","template":7}`, 422, "template"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			a := w.do("member", "POST", "/workspaces", tt.body)
			if a.status != tt.status || !strings.Contains(a.problem(t).Detail, tt.want) {
				t.Errorf("got %d %s", a.status, a.body)
			}
		})
	}
	if rows, err := w.store.Workspaces(t.Context(), w.member.ID, "", 10); err != nil || len(rows) != 1 {
		t.Errorf("something was made: %v, %v", rows, err)
	}
	x := get[rest.Workspace](w, "member", "POST", "/workspaces", rest.CreateWorkspace{Name: "new", Template: "local"})
	if x.Status != coordinator.StatusPending || x.Build == nil || x.Build.Initiator != "mary" {
		t.Errorf("got %+v", x)
	}
	x = get[rest.Workspace](w, "member", "POST", "/workspaces", rest.CreateWorkspace{Name: "idle", Template: "local", Stopped: true})
	if x.Build != nil {
		t.Errorf("got %+v", x)
	}
	var importing coordinator.TemplateVersion = coordinator.TemplateVersion{Archive: strings.Repeat("b", 64), Status: coordinator.VersionImporting, CreatedBy: w.owner.ID}
	_, err := w.store.CreateTemplateVersion(t.Context(), "fresh", "", &importing)
	w.check(err)
	for _, version := range []int{0, 1} {
		if a := w.do("member", "POST", "/workspaces", rest.CreateWorkspace{Name: "x", Template: "fresh", Version: version}); a.status != 409 {
			t.Errorf("version %d of a template that is imported: %d %s", version, a.status, a.body)
		}
	}
}

func TestUpdate(t *testing.T) {
	w := newWorld(t).populate()
	two := "2"
	v2 := w.version(coordinator.Import{Parameters: []coordinator.Parameter{{Name: "cpu", Type: "number", Mutable: true, Default: &two}}})
	if x := get[rest.Workspace](w, "member", "GET", "/workspaces/me/dev", nil); !x.Outdated {
		t.Error("not outdated")
	}
	if a := w.do("member", "POST", "/workspaces/me/dev/start", rest.StartWorkspace{Params: map[string]string{"cpu": "4"}}); a.status != 422 {
		t.Errorf("the old version has no such parameter: %d %s", a.status, a.body)
	}
	b := get[rest.Build](w, "member", "POST", "/workspaces/me/dev/restart",
		rest.StartWorkspace{Update: true, Params: map[string]string{"cpu": "4"}, AllowDestroy: []string{"x.y"}})
	r := w.builder.request
	if !b.ThenStart || !r.Restart || r.VersionID != v2.ID || r.Params["cpu"] != "4" || r.Reason != coordinator.ReasonUpdate || !slices.Equal(r.AllowDestroy, []string{"x.y"}) {
		t.Errorf("got %+v of %+v", b, r)
	}
}

func TestListPages(t *testing.T) {
	w := newWorld(t).populate()
	var want []string
	for i := range 7 {
		name := fmt.Sprintf("w%d", i)
		w.workspace(w.other, name)
		want = append(want, name)
	}
	var got []string
	for cursor := ""; ; {
		p := get[rest.Page[rest.Workspace]](w, "other", "GET", "/workspaces?limit=3&cursor="+cursor, nil)
		for _, x := range p.Items {
			got = append(got, x.Name)
		}
		if cursor = p.Next; cursor == "" {
			break
		}
	}
	if !slices.Equal(got, want) {
		t.Errorf("got %v", got)
	}
	for _, q := range []string{"limit=0", "limit=201", "limit=x", "cursor=***"} {
		if a := w.do("other", "GET", "/workspaces?"+q, nil); a.status != 422 {
			t.Errorf("%s: %d", q, a.status)
		}
	}
}

func TestBodyCap(t *testing.T) {
	w := newWorld(t).populate()
	a := w.do("member", "PUT", "/personalize", `{"script":"`+strings.Repeat("x", maxJSON)+`"}`)
	if a.status != http.StatusRequestEntityTooLarge || a.problem(t).Code != coordinator.CodeTooLarge {
		t.Errorf("got %d %.200s", a.status, a.body)
	}
}

// TestAudit checks that changes are written down, with who made them, and readings are not.
func TestAudit(t *testing.T) {
	w := newWorld(t).populate()
	for _, tt := range []struct {
		who, method, path string
		body              any
		want              string
	}{
		{"member", "GET", "/workspaces/me/dev", nil, ""},
		{"member", "PUT", "/dotfiles", rest.Dotfiles{URL: "https://x/y"}, "mary dotfiles.set mary"},
		{"member", "PUT", "/personalize", `{"script":null}`, "mary personalize.set mary"},
		{"member", "PUT", "/secrets/npm", rest.PutSecret{Env: "NPM", Value: "x"}, "mary secret.put npm"},
		{"member", "DELETE", "/secrets/npm", nil, "mary secret.delete npm"},
		{"member", "POST", "/tokens", rest.CreateToken{Name: "ci"}, "mary token.create ci"},
		{"workspace", "POST", "/workspaces/me/dev/stop", nil, "mary workspace.stop mary/dev"},
		{"owner", "POST", "/workspaces/mary/dev/builds/latest/cancel", nil, "olga build.cancel mary/dev"},
		{"owner", "POST", "/users", rest.CreateUser{Name: "nina"}, "olga user.create nina"},
		{"owner", "DELETE", "/users/nina", nil, "olga user.delete nina"},
		{"owner", "POST", "/templates/go/versions", "tar", "olga template.push go"},
		{"member", "POST", "/workspaces", rest.CreateWorkspace{Name: "x", Template: "local"}, "mary workspace.create mary/x"},
		{"owner", "DELETE", "/workspaces/mary/dev", nil, "olga workspace.delete mary/dev"},
		{"member", "DELETE", "/workspaces/mary/nothing", nil, ""},
	} {
		w.audits = nil
		a := w.do(tt.who, tt.method, tt.path, tt.body)
		if got := strings.Join(w.audits, ", "); got != tt.want {
			t.Errorf("%s %s: %d, written down: %q", tt.method, tt.path, a.status, got)
		}
	}
}
