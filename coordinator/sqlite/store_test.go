package sqlite

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"berth/coordinator"
	"berth/coordinator/seal"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(writerDir); dir != "" {
		fmt.Fprintln(os.Stderr, writer(dir))
		os.Exit(1)
	}
	goleak.VerifyTestMain(m)
}

var (
	ctx  = context.Background()
	noon = time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)
)

func newKey(t testing.TB) *seal.Key {
	t.Helper()
	k, err := seal.LoadOrCreate(filepath.Join(t.TempDir(), "key"))
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func openAt(t testing.TB, dir string, k *seal.Key) *Store {
	t.Helper()
	s, err := Open(ctx, dir, k, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func newStore(t testing.TB) *Store {
	t.Helper()
	return openAt(t, t.TempDir(), newKey(t))
}

// ok fails the test at once where err is not nil.
func ok(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// code fails the test unless err has the code.
func code(t testing.TB, err error, want coordinator.Code) {
	t.Helper()
	if got := coordinator.CodeOf(err); got != want {
		t.Errorf("got %v (code %q), want code %q", err, got, want)
	}
}

func must[T any](v T, err error) func(testing.TB) T {
	return func(t testing.TB) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

var serial atomic.Int64

// keyLine returns a line that is a public key in form and no other's.
func keyLine() string {
	sum := sha256.Sum256([]byte(fmt.Sprint(serial.Add(1))))
	return "ssh-ed25519 " + base64.StdEncoding.EncodeToString(sum[:])
}

func newUser(t testing.TB, s *Store, name string) coordinator.User {
	t.Helper()
	u := coordinator.User{Name: name, Role: coordinator.RoleMember}
	ok(t, s.CreateUser(ctx, &u, coordinator.GitKey{PrivateKey: "git private of " + coordinator.Secret(name), PublicKey: keyLine()}))
	return u
}

func newVersion(t testing.TB, s *Store, template string) coordinator.TemplateVersion {
	t.Helper()
	v := coordinator.TemplateVersion{Archive: "abc", Activate: true}
	must(s.CreateTemplateVersion(ctx, template, "", &v))(t)
	ok(t, s.FinishImport(ctx, v.ID, coordinator.Result{Status: coordinator.BuildSucceeded, Imported: &coordinator.Import{Persistent: []string{"berth_home.home"}}}))
	return v
}

func newWorkspace(t testing.TB, s *Store, owner coordinator.User, v coordinator.TemplateVersion, name string) coordinator.Workspace {
	t.Helper()
	w := coordinator.Workspace{Name: name, OwnerID: owner.ID, TemplateID: v.TemplateID, VersionID: v.ID}
	ok(t, s.CreateWorkspace(ctx, &w, coordinator.HostIdentity{Ed25519: "host ed25519 key", ECDSA: "host ecdsa key"}))
	return w
}

// a world is a store with a user, a template version and a workspace.
type world struct {
	*Store
	user coordinator.User
	v    coordinator.TemplateVersion
	ws   coordinator.Workspace
}

func newWorld(t testing.TB) world {
	t.Helper()
	return worldIn(t, newStore(t))
}

func worldIn(t testing.TB, s *Store) world {
	t.Helper()
	w := world{Store: s}
	w.user = newUser(t, s, "alice")
	w.v = newVersion(t, s, "local")
	w.ws = newWorkspace(t, s, w.user, w.v, "dev")
	return w
}

func (w world) build(t testing.TB, tr coordinator.Transition) coordinator.Build {
	t.Helper()
	b := coordinator.Build{WorkspaceID: w.ws.ID, Transition: tr, Reason: coordinator.ReasonUser, Initiator: w.user.ID, VersionID: w.v.ID}
	ok(t, w.CreateBuild(ctx, &b))
	return b
}

// run queues, claims and finishes a build.
func (w world) run(t testing.TB, tr coordinator.Transition, r coordinator.Result) coordinator.Build {
	t.Helper()
	b := w.build(t, tr)
	claimed := must(w.ClaimBuild(ctx, noon))(t)
	if claimed == nil || claimed.ID != b.ID {
		t.Fatalf("claimed %+v, want build %d", claimed, b.Number)
	}
	must(w.FinishBuild(ctx, b.ID, r, noon.Add(time.Second)))(t)
	return must(w.Build(ctx, b.ID))(t)
}

var succeeded = coordinator.Result{Status: coordinator.BuildSucceeded}

func names[T any](vs []T, name func(T) string) string {
	var out []string
	for _, v := range vs {
		out = append(out, name(v))
	}
	return strings.Join(out, " ")
}

func rowCount(t testing.TB, s *Store, query string, args ...any) int {
	t.Helper()
	var n int
	ok(t, s.read.QueryRowContext(ctx, query, args...).Scan(&n))
	return n
}
