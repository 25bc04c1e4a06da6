package host

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"go.uber.org/goleak"

	"berth/coordinator"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// testGrant returns a grant in a data directory as the coordinator keeps it.
func testGrant(t *testing.T) coordinator.HostGrant {
	t.Helper()
	data := filepath.Join(t.TempDir(), "da ta")
	for _, dir := range []string{data, filepath.Join(data, "homes"), filepath.Join(data, "run")} {
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	return coordinator.HostGrant{
		Homes: filepath.Join(data, "homes"), Run: filepath.Join(data, "run"),
		Agent: filepath.Join(data, "berth-agent"), UID: coordinator.HostUIDBase + 7,
	}
}

func testHost(t *testing.T, g coordinator.HostGrant, ws, owner string) *Host {
	t.Helper()
	return New(g, Workspace{ID: coordinator.WorkspaceID(ws), Name: "dev", Owner: owner, OwnerFullName: "Alice: A\nB"})
}

func wantCode(t *testing.T, err error, want coordinator.Code) {
	t.Helper()
	if got := coordinator.CodeOf(err); got != want {
		t.Errorf("code = %q (%v), want %q", got, err, want)
	}
}

func TestHome(t *testing.T) {
	g := testGrant(t)
	mine, theirs := testHost(t, g, "wsa", "alice"), testHost(t, g, "wsb", "bob")
	id := coordinator.NewID()
	for range 2 { // a second time changes nothing
		if err := mine.EnsureHome(id); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(g.Homes, id, "keep"), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if ok, err := mine.HomeExists(id); !ok || err != nil {
		t.Errorf("HomeExists = %v, %v", ok, err)
	}
	_, err := theirs.HomeExists(id)
	wantCode(t, err, coordinator.CodeDenied)
	wantCode(t, theirs.EnsureHome(id), coordinator.CodeDenied)
	wantCode(t, theirs.RemoveHome(id), coordinator.CodeDenied)
	if _, err := os.Stat(filepath.Join(g.Homes, id, "keep")); err != nil {
		t.Fatal(err)
	}
	if err := mine.RemoveHome(id); err != nil {
		t.Fatal(err)
	}
	if err := mine.RemoveHome(id); err != nil {
		t.Errorf("second removal: %v", err)
	}
	if left, err := os.ReadDir(g.Homes); err != nil || len(left) != 0 {
		t.Errorf("left in homes: %v, %v", left, err)
	}
}

func TestHomeOfNobody(t *testing.T) {
	g := testGrant(t)
	h := testHost(t, g, "wsa", "alice")
	if err := os.Mkdir(filepath.Join(g.Homes, "stray"), 0o700); err != nil {
		t.Fatal(err)
	}
	wantCode(t, h.EnsureHome("stray"), coordinator.CodeDenied)
	wantCode(t, h.RemoveHome("stray"), coordinator.CodeDenied)
	for _, id := range []string{"", ".", "..", "../x", "a/b", "A", "x.json"} {
		wantCode(t, h.EnsureHome(id), coordinator.CodeInvalid)
		wantCode(t, h.RemoveHome(id), coordinator.CodeInvalid)
	}
}

func TestRemoveHomeHoldsOnToNothingOutside(t *testing.T) {
	g := testGrant(t)
	h := testHost(t, g, "wsa", "alice")
	outside := filepath.Join(t.TempDir(), "outside")
	if err := errors.Join(h.EnsureHome("h1"), os.Mkdir(outside, 0o700), os.WriteFile(filepath.Join(outside, "f"), nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(g.Homes, "h1", "mod")
	err := errors.Join(os.MkdirAll(filepath.Join(dir, "deep"), 0o700), os.WriteFile(filepath.Join(dir, "deep", "f"), nil, 0o400),
		os.Symlink(outside, filepath.Join(dir, "link")), os.Chmod(filepath.Join(dir, "deep"), 0o500), os.Chmod(dir, 0o500))
	if err != nil {
		t.Fatal(err)
	}
	if err := h.RemoveHome("h1"); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(outside, "f")); err != nil {
		t.Error(err)
	}
}

func TestResolve(t *testing.T) {
	for _, tt := range []struct {
		name            string
		bwrap, insecure bool
		asked           Isolation
		home            bool
		want            Isolation
		code            coordinator.Code
	}{
		{"auto isolates", true, false, Auto, true, Bubblewrap, ""},
		{"auto isolates with the flag too", true, true, Auto, true, Bubblewrap, ""},
		{"auto without bubblewrap", false, false, Auto, true, "", coordinator.CodeUnavailable},
		{"auto without bubblewrap, flag", false, true, Auto, true, None, ""},
		{"auto without home, flag", true, true, Auto, false, None, ""},
		{"auto without home", true, false, Auto, false, "", coordinator.CodeInvalid},
		{"bubblewrap missing", false, true, Bubblewrap, true, "", coordinator.CodeUnavailable},
		{"bubblewrap without home", true, true, Bubblewrap, false, "", coordinator.CodeInvalid},
		{"none refused", true, false, None, true, "", coordinator.CodeDenied},
		{"none allowed", true, true, None, true, None, ""},
		{"unknown", true, true, "docker", true, "", coordinator.CodeInvalid},
	} {
		t.Run(tt.name, func(t *testing.T) {
			g := coordinator.HostGrant{Insecure: tt.insecure}
			if tt.bwrap {
				g.Bubblewrap = "/usr/bin/bwrap"
			}
			got, err := New(g, Workspace{}).Resolve(tt.asked, tt.home)
			if got != tt.want || coordinator.CodeOf(err) != tt.code {
				t.Errorf("got %q, %v; want %q, %q", got, err, tt.want, tt.code)
			}
			var e *coordinator.Error
			if errors.As(err, &e) && e.Hint == "" {
				t.Errorf("%v: no hint", err)
			}
		})
	}
}
