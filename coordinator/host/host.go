// Package host is what a build may do on the coordinator's own machine: keep a workspace's home directories and run
// its agents as processes, each checked against the workspace that the build is for.
//
// Homes and processes are known by records that name their workspace and lie outside of what the workspace can
// write; any later runner finds a process again by its record. The package forgets nothing in memory: a Host may be
// made anew for every build.
package host

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"

	"berth/coordinator"
)

// A Workspace is whom a Host works for. It comes from the build's job.
type Workspace struct {
	ID            coordinator.WorkspaceID
	Name          string
	Owner         string // the owner's name in Berth
	OwnerFullName string
}

// A Host does three things for one workspace: homes, processes, and the removal of both.
type Host struct {
	grant coordinator.HostGrant
	ws    Workspace
	root  bool // the coordinator is root, so that isolated processes get a uid of their own
}

// New returns a Host that acts for ws within grant.
func New(grant coordinator.HostGrant, ws Workspace) *Host {
	return &Host{grant: grant, ws: ws, root: os.Geteuid() == 0}
}

var idRE = regexp.MustCompile(`^[a-z0-9]{1,64}$`)

// checkID keeps anything that is not an id of ours from becoming a part of a path.
func checkID(what, id string) error {
	if !idRE.MatchString(id) {
		return coordinator.Errorf(coordinator.CodeInvalid, "%q is not the id of a %s", coordinator.Clip(id, 40), what)
	}
	return nil
}

// foreign refuses to touch what belongs to another workspace.
func foreign(what, id string) error {
	return coordinator.Errorf(coordinator.CodeDenied, "%s %s belongs to another workspace", what, id).
		WithHint("a template can use what its own workspace made, and nothing else")
}

// readRecord decodes the JSON file at path into v. It reports false if there is none.
func readRecord(path string, v any) (bool, error) {
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("read record: %w", err)
	}
	if err := json.Unmarshal(b, v); err != nil {
		return false, fmt.Errorf("decode record %s: %w", path, err)
	}
	return true, nil
}

// writeRecord writes v to path so that after a crash either the old or the new record is there, whole.
func writeRecord(path string, v any) (err error) {
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode record: %w", err)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return fmt.Errorf("write record: %w", err)
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".record-*")
	if err != nil {
		return fmt.Errorf("write record: %w", err)
	}
	defer func() {
		if err != nil {
			_ = os.Remove(f.Name())
		}
	}()
	_, err = f.Write(append(b, '\n'))
	err = errors.Join(err, f.Sync(), f.Close())
	if err != nil {
		return fmt.Errorf("write record: %w", err)
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return fmt.Errorf("write record: %w", err)
	}
	return syncDir(filepath.Dir(path))
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("sync directory: %w", err)
	}
	defer d.Close() //nolint:errcheck // read only
	if err := d.Sync(); err != nil {
		return fmt.Errorf("sync directory: %w", err)
	}
	return nil
}

// remove deletes files that may be gone already.
func remove(paths ...string) error {
	var errs []error
	for _, p := range paths {
		if err := os.Remove(p); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}
