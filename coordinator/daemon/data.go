package daemon

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"

	"berth/coordinator"
	"berth/coordinator/ca"
	"berth/coordinator/seal"
	"berth/coordinator/sqlite"
)

// The data directory:
//
//	berth.db, backups/    the database, and snapshots before its migrations
//	archives/, versions/  templates as pushed, and as imported
//	work/<job>/           builds and imports under way
//	homes/, run/          of workspaces on this machine
//	bin/<sha256>/         programs, extracted
//	setup-token           until the first owner has signed in
type dataDir string

func (d dataDir) path(name string) string { return filepath.Join(string(d), name) }

// prepare makes the directory, or refuses one that others can read or write. Others may be let pass (mode 0711): where
// terraform runs as a user of its own, it has to get to its own directories.
func (d dataDir) prepare() error {
	if err := os.MkdirAll(string(d), 0o700); err != nil {
		return coordinator.Errorf(coordinator.CodeFailed, "the data directory cannot be made: %w", err).WithHint("choose another with --data")
	}
	st, err := os.Stat(string(d))
	if err != nil {
		return err
	}
	if mode := st.Mode().Perm(); mode&0o066 != 0 {
		return coordinator.Errorf(coordinator.CodeDenied, "the data directory %s is open to others (mode %04o)", d, mode).
			WithHint("chmod 700 it")
	}
	return writable(string(d))
}

func writable(dir string) error {
	f, err := os.CreateTemp(dir, ".probe-")
	if err != nil {
		return coordinator.Errorf(coordinator.CodeDenied, "the data directory cannot be written: %w", err).
			WithHint("choose another with --data")
	}
	return errors.Join(f.Close(), os.Remove(f.Name()))
}

// makeDirs makes what the parts expect. passable ones may be passed through by terraform's own user.
func (d dataDir) makeDirs(passable bool) error {
	open := map[string]bool{"": true, "work": true, "versions": true}
	for _, name := range []string{"", "archives", "versions", "work", "homes", "run", "bin"} {
		mode := fs.FileMode(0o700)
		if passable && open[name] {
			mode = 0o711
		}
		p := d.path(name)
		if err := os.Mkdir(p, mode); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
		if err := os.Chmod(p, mode); err != nil {
			return err
		}
	}
	return nil
}

// buildUID is the user that terraform runs as: where the coordinator is root one of its own, if that user can get to
// the data directory.
func (d dataDir) buildUID(log *slog.Logger) int {
	if os.Geteuid() != 0 {
		return 0
	}
	for p := filepath.Dir(string(d)); ; p = filepath.Dir(p) {
		st, err := os.Stat(p)
		if err != nil || st.Mode()&0o001 == 0 {
			log.Warn("terraform runs as root: another user could not get to the data directory", "closed", p)
			return 0
		}
		if p == filepath.Dir(p) {
			return coordinator.HostUIDBase - 1
		}
	}
}

// checkKeyFile refuses a key that lies beside what it seals: who copies the directory would have both.
func checkKeyFile(data, key string) error {
	inside := coordinator.Errorf(coordinator.CodeDenied, "the key file %s lies inside the data directory", key).
		WithHint("choose a place outside of it with --key-file")
	if within(data, key) {
		return inside
	}
	realData, err := filepath.EvalSymlinks(data)
	if err != nil {
		return err
	}
	if realKey, err := realPath(key); err == nil && within(realData, realKey) {
		return inside
	}
	return nil
}

// realPath resolves the links of a path of which the last parts may not be there yet.
func realPath(path string) (string, error) {
	p, err := filepath.EvalSymlinks(path)
	if !errors.Is(err, fs.ErrNotExist) || path == filepath.Dir(path) {
		return p, err
	}
	dir, err := realPath(filepath.Dir(path))
	return filepath.Join(dir, filepath.Base(path)), err
}

func within(dir, path string) bool {
	rel, err := filepath.Rel(dir, path)
	return err == nil && rel != ".." && !strings.HasPrefix(rel, ".."+string(filepath.Separator))
}

// Names of sealed installation values.
const (
	sealedCA   = "ca"
	sealedDoor = "door"
)

// sealed returns the value with a name; the first time it makes one and stores it.
func sealed[T any](ctx context.Context, s *sqlite.Store, name string, fresh func() (T, error)) (T, error) {
	var v T
	b, err := s.Sealed(ctx, name)
	if coordinator.CodeOf(err) == coordinator.CodeNotFound {
		if v, err = fresh(); err != nil {
			return v, err
		}
		if b, err = json.Marshal(v); err != nil {
			return v, err
		}
		return v, s.PutSealed(ctx, name, b)
	}
	if err != nil {
		return v, err
	}
	err = json.Unmarshal(b, &v)
	return v, err
}

// authorities are the installation's two certificate authorities as they are stored.
type authorities struct {
	Host coordinator.Secret `json:"host"`
	User coordinator.Secret `json:"user"`
}

func loadCA(ctx context.Context, s *sqlite.Store) (*ca.CA, error) {
	a, err := sealed(ctx, s, sealedCA, func() (authorities, error) {
		c, err := ca.New()
		if err != nil {
			return authorities{}, err
		}
		host, user, err := c.Marshal()
		return authorities{host, user}, err
	})
	if err != nil {
		return nil, fmt.Errorf("load certificate authorities: %w", err)
	}
	return ca.Parse(a.Host, a.User)
}

func loadKey(path string) (*seal.Key, error) {
	k, err := seal.LoadOrCreate(path)
	if err != nil {
		return nil, coordinator.Errorf(coordinator.CodeDenied, "%w", err).WithHint("the key file is set with --key-file")
	}
	return k, nil
}

// setupToken is the one-time token that makes the first owner. It survives restarts until somebody has signed in.
type setupToken struct {
	store *sqlite.Store
	file  string
	done  atomic.Bool // Done has succeeded
}

// Token returns the token, CodeNotFound if the installation is set up.
func (t *setupToken) Token(ctx context.Context) (coordinator.Secret, error) {
	b, err := t.store.Sealed(ctx, sqlite.SetupToken)
	if err != nil {
		return "", err
	}
	var s coordinator.Secret
	err = json.Unmarshal(b, &s)
	return s, err
}

// Done forgets the token.
func (t *setupToken) Done(ctx context.Context) error {
	if t.done.Load() {
		return nil
	}
	err := os.Remove(t.file)
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	if err = errors.Join(t.store.DeleteSealed(ctx, sqlite.SetupToken), err); err == nil {
		t.done.Store(true)
	}
	return err
}

// offer makes the token of a new installation and writes its file. It returns "" if somebody has signed in already: a
// first owner who has not may ask for their token again.
func (t *setupToken) offer(ctx context.Context) (coordinator.Secret, error) {
	n, err := t.store.CountUsers(ctx)
	if err != nil {
		return "", err
	}
	token, err := t.Token(ctx)
	switch {
	case n > 1, n == 1 && coordinator.CodeOf(err) == coordinator.CodeNotFound:
		return "", t.Done(ctx)
	case n == 0:
		token, err = sealed(ctx, t.store, sqlite.SetupToken, func() (coordinator.Secret, error) {
			s, _ := coordinator.NewAPIToken(coordinator.SetupTokenPrefix)
			return s, nil
		})
	}
	if err != nil {
		return "", err
	}
	return token, writeFile(t.file, []byte(string(token)+"\n"))
}

// writeFile replaces a file by rename; mode 0600 from its first byte on.
func writeFile(path string, b []byte) error {
	tmp := path + ".new-" + rand.Text()[:8]
	f, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(tmp, path)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("write %s: %w", filepath.Base(path), err), os.Remove(tmp))
	}
	return nil
}
