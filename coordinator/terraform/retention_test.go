package terraform

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"berth/coordinator"
)

func nothing(context.Context) (map[string]bool, error) { return nil, nil }

func names(t *testing.T, dir string) (found []string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		found = append(found, e.Name())
	}
	return found
}

func TestSweep(t *testing.T) {
	a := Archives{filepath.Join(t.TempDir(), "archives")}
	if n, err := a.Sweep(t.Context(), time.Now(), nothing); n != 0 || err != nil {
		t.Errorf("Sweep without a directory = %d, %v", n, err)
	}
	kept, _, err := a.Put(t.Context(), bytes.NewReader(tarOf(t, entry{name: "main.tf", body: "# kept"})), nil)
	if err != nil {
		t.Fatal(err)
	}
	refused := errors.New("no row")
	_, _, err = a.Put(t.Context(), bytes.NewReader(tarOf(t, entry{name: "main.tf"})), func(string, int64) error { return refused })
	if !errors.Is(err, refused) {
		t.Errorf("Put = %v, want what record said", err)
	}
	for _, name := range []string{".put-now", ".put-old", "README"} {
		if err := os.WriteFile(filepath.Join(a.Dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	now := time.Now()
	if err := os.Chtimes(filepath.Join(a.Dir, ".put-old"), now, now.Add(-2*putTime)); err != nil {
		t.Fatal(err)
	}
	if _, err := a.Sweep(t.Context(), now, func(context.Context) (map[string]bool, error) { return nil, refused }); !errors.Is(err, refused) {
		t.Errorf("Sweep = %v, want that nobody knows what is used", err)
	}
	if got := names(t, a.Dir); len(got) != 5 {
		t.Errorf("without knowledge of what is used there is left %q", got)
	}
	used := func(context.Context) (map[string]bool, error) { return map[string]bool{kept: true}, nil }
	if n, err := a.Sweep(t.Context(), now, used); n != 2 || err != nil {
		t.Errorf("Sweep = %d, %v, want 2", n, err)
	}
	got, want := names(t, a.Dir), []string{".put-now", kept + archiveExt, "README"}
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("left %q, want %q", got, want)
	}
}

// What is pushed while sweeps go on is there once it is referred to, also where another pushed and lost the same.
func TestSweepRacesWithPut(t *testing.T) {
	a := Archives{t.TempDir()}
	var mu sync.Mutex
	rows := map[string]bool{}
	used := func(context.Context) (map[string]bool, error) {
		mu.Lock()
		defer mu.Unlock()
		all := map[string]bool{}
		for sha := range rows {
			all[sha] = true
		}
		return all, nil
	}
	stop, swept := make(chan struct{}), make(chan struct{})
	var sweeps, pushes sync.WaitGroup
	for range 2 {
		sweeps.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if _, err := a.Sweep(t.Context(), time.Now(), used); err != nil {
					t.Error(err)
				}
				select {
				case swept <- struct{}{}:
				default:
				}
			}
		})
	}
	for p := range 3 {
		pushes.Go(func() {
			for n := range 15 {
				data := tarOf(t, entry{name: "main.tf", body: fmt.Sprint(n)}) // the pushers push the same ones
				sha, _, err := a.Put(t.Context(), bytes.NewReader(data), func(sha string, _ int64) error {
					select { // a sweep would come in between here, if it could
					case <-swept:
					case <-time.After(2 * time.Millisecond):
					}
					mu.Lock()
					defer mu.Unlock()
					rows[sha] = true
					return nil
				})
				if err != nil {
					t.Error(err)
				} else if f, err := a.Open(sha); err != nil {
					t.Errorf("pusher %d: %v", p, err)
				} else {
					f.Close() // read only
				}
			}
		})
	}
	pushes.Wait()
	close(stop)
	sweeps.Wait()
	for sha := range rows {
		if _, err := os.Stat(a.path(sha)); err != nil {
			t.Error(err)
		}
	}
}

// Who waits for the lock can be interrupted.
func TestSweepEndsWithItsContext(t *testing.T) {
	a := Archives{t.TempDir()}
	_, _, err := a.Put(t.Context(), bytes.NewReader(tarOf(t, entry{name: "main.tf"})), func(string, int64) error {
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		if _, err := a.Sweep(ctx, time.Now(), nothing); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Sweep during a push = %v", err)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

func TestSweepVersions(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"used/module", "gone/module", ImportPrefix + "used", ImportPrefix + "gone"} {
		if err := os.MkdirAll(filepath.Join(dir, name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	used := func() (map[coordinator.VersionID]bool, error) {
		return map[coordinator.VersionID]bool{"used": true}, nil
	}
	unknown := func() (map[coordinator.VersionID]bool, error) { return nil, fs.ErrPermission }
	if n, err := SweepVersions(dir, unknown); n != 0 || !errors.Is(err, fs.ErrPermission) {
		t.Errorf("SweepVersions = %d, %v, want that nobody knows what is used", n, err)
	}
	if n, err := SweepVersions(dir, used); n != 2 || err != nil {
		t.Errorf("SweepVersions = %d, %v, want 2", n, err)
	}
	if got, want := names(t, dir), []string{ImportPrefix + "used", "used"}; !slices.Equal(got, want) {
		t.Errorf("left %q, want %q", got, want)
	}
	if n, err := SweepVersions(filepath.Join(dir, "none"), used); n != 0 || err != nil {
		t.Errorf("SweepVersions without a directory = %d, %v", n, err)
	}
}
