package host

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"berth/coordinator"
)

// A home is the record of one persistent directory: Homes/<id>.json beside Homes/<id>, where the workspace cannot
// reach it. It is written before the directory is made and removed after it, so that no directory is without one.
type home struct {
	WorkspaceID coordinator.WorkspaceID `json:"workspace_id"`
	Workspace   string                  `json:"workspace"` // names are for people who look into the directory
	Owner       string                  `json:"owner"`
	Created     time.Time               `json:"created"`
}

func (h *Host) homeDir(id string) string    { return filepath.Join(h.grant.Homes, id) }
func (h *Host) homeRecord(id string) string { return filepath.Join(h.grant.Homes, id+".json") }

// EnsureHome makes the home with that id, empty, unless it is there. It refuses another workspace's.
func (h *Host) EnsureHome(id string) error {
	known, err := h.checkHome(id)
	if err != nil {
		return err
	}
	if !known {
		rec := home{WorkspaceID: h.ws.ID, Workspace: h.ws.Name, Owner: h.ws.Owner, Created: time.Now().UTC()}
		if err := writeRecord(h.homeRecord(id), rec); err != nil {
			return err
		}
	}
	if err := os.Mkdir(h.homeDir(id), 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("make home: %w", err)
	}
	return syncDir(h.grant.Homes)
}

// HomeExists reports whether the home with that id is there. It refuses another workspace's.
func (h *Host) HomeExists(id string) (bool, error) {
	known, err := h.checkHome(id)
	if err != nil || !known {
		return false, err
	}
	info, err := os.Lstat(h.homeDir(id))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("look at home: %w", err)
	}
	return info.IsDir(), nil
}

// RemoveHome removes the home with that id and everything in it. One that is gone is no error; another workspace's is.
func (h *Host) RemoveHome(id string) error {
	known, err := h.checkHome(id)
	if err != nil || !known {
		return err
	}
	dir := h.homeDir(id)
	if err := os.RemoveAll(dir); err != nil {
		// Directories without write permission, such as Go's module cache, keep an ordinary user from removing them.
		if err := unlock(dir); err != nil {
			return fmt.Errorf("remove home: %w", err)
		}
		if err := os.RemoveAll(dir); err != nil {
			return fmt.Errorf("remove home: %w", err)
		}
	}
	if err := remove(h.homeRecord(id)); err != nil {
		return fmt.Errorf("remove home: %w", err)
	}
	return syncDir(h.grant.Homes)
}

// checkHome reports whether there is a record for the home. Without one, a directory of that name is not ours.
func (h *Host) checkHome(id string) (known bool, err error) {
	if err := checkID("home", id); err != nil {
		return false, err
	}
	var rec home
	known, err = readRecord(h.homeRecord(id), &rec)
	if err != nil {
		return false, err
	}
	if known && rec.WorkspaceID != h.ws.ID {
		return false, foreign("home", id)
	}
	if !known {
		if _, err := os.Lstat(h.homeDir(id)); err == nil {
			return false, foreign("home", id)
		}
	}
	return known, nil
}

// openHome opens the home as a root that no link inside leads out of.
func (h *Host) openHome(id string) (*os.Root, error) {
	ok, err := h.HomeExists(id)
	if err != nil {
		return nil, err
	}
	if !ok {
		return nil, coordinator.Errorf(coordinator.CodeNotFound, "home %s is not there", id)
	}
	root, err := os.OpenRoot(h.homeDir(id))
	if err != nil {
		return nil, fmt.Errorf("open home: %w", err)
	}
	return root, nil
}

// ownHome gives the home to uid, with everything in it if it was somebody else's before: isolation may have been
// switched on or off since.
func (h *Host) ownHome(id string, uid int) error {
	root, err := h.openHome(id)
	if err != nil {
		return err
	}
	defer func() { _ = root.Close() }()
	info, err := root.Lstat(".")
	if err != nil {
		return fmt.Errorf("look at home: %w", err)
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok || int(st.Uid) == uid {
		return nil
	}
	err = fs.WalkDir(root.FS(), ".", func(path string, _ fs.DirEntry, err error) error {
		if err != nil || path == "." {
			return err
		}
		return root.Lchown(path, uid, uid)
	})
	if err != nil {
		return fmt.Errorf("give home to uid %d: %w", uid, err)
	}
	// Last, so that a walk that was interrupted is begun again.
	if err := root.Lchown(".", uid, uid); err != nil {
		return fmt.Errorf("give home to uid %d: %w", uid, err)
	}
	return nil
}

// unlock gives the owner every right on the directories below dir, following no link.
func unlock(dir string) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer func() { _ = root.Close() }()
	if err := root.Chmod(".", 0o700); err != nil {
		return err
	}
	return unlockBelow(root, ".")
}

func unlockBelow(root *os.Root, dir string) error {
	d, err := root.Open(dir)
	if err != nil {
		return err
	}
	entries, err := d.ReadDir(-1)
	_ = d.Close()
	if err != nil {
		return err
	}
	for _, e := range entries {
		if !e.IsDir() {
			continue
		}
		path := filepath.Join(dir, e.Name())
		if err := root.Chmod(path, 0o700); err != nil {
			return err
		}
		if err := unlockBelow(root, path); err != nil {
			return err
		}
	}
	return nil
}
