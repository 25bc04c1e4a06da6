package startup

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
)

// path returns the name of a file in the runtime directory.
func (r *Runner) path(elem ...string) string {
	return filepath.Join(append([]string{r.Dir}, elem...)...)
}

// openDir makes the runtime directory's own directories. Where the agent is root and the user is not, directories are
// root's and can be passed through but not listed, and what the user may read belongs to the user: nothing in a path
// that root writes to is under the user's control.
func (r *Runner) openDir() error {
	mode := os.FileMode(0o700)
	if r.foreign() {
		mode = 0o711
	}
	if err := os.Chmod(r.Dir, mode); err != nil {
		return fmt.Errorf("open runtime directory: %w", err)
	}
	for _, d := range []string{"bin", "secrets", "log", "startup"} {
		if err := os.MkdirAll(r.path(d), mode); err != nil {
			return fmt.Errorf("open runtime directory: %w", err)
		}
		if err := os.Chmod(r.path(d), mode); err != nil {
			return fmt.Errorf("open runtime directory: %w", err)
		}
	}
	return os.Chmod(r.path("startup"), 0o700)
}

// foreign reports whether the user is somebody else than this process.
func (r *Runner) foreign() bool { return int(r.who.User.UID) != os.Geteuid() }

// write puts a file of the runtime directory in place by rename, owned by the user.
func (r *Runner) write(name string, data []byte, mode os.FileMode) error {
	owner := -1
	if r.foreign() {
		owner = int(r.who.User.UID)
	}
	if err := writeFile(r.path(name), data, mode, owner, int(r.who.User.GID)); err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	return nil
}

// writeFile writes a new file beside path and renames it there, so that readers see the old text or the new one. An
// owner below 0 leaves the file with this process's user.
func writeFile(path string, data []byte, mode os.FileMode, uid, gid int) (err error) {
	tmp := filepath.Join(filepath.Dir(path), ".berth-"+randomName())
	f, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(tmp)
		}
	}()
	defer f.Close()
	if _, err := f.Write(data); err != nil {
		return err
	}
	if uid >= 0 {
		if err := f.Chown(uid, gid); err != nil {
			return err
		}
	}
	if err := f.Chmod(mode); err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	return os.Rename(tmp, path)
}

func randomName() string {
	var b [8]byte
	rand.Read(b[:]) //nolint:errcheck // never fails
	return hex.EncodeToString(b[:])
}
