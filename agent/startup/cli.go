package startup

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"berth/agent"
	"berth/agent/shell"
)

// maxCLI caps the CLI's size, whatever the manifest says.
const maxCLI = 128 << 20

// fetchCLI puts the berth command that the manifest names into bin/, unless that very file is there.
func (r *Runner) fetchCLI(ctx context.Context, m *agent.Manifest) error {
	d := m.CLI
	if d == nil {
		return nil
	}
	want, err := hex.DecodeString(d.SHA256)
	if err != nil || len(want) != sha256.Size || d.Size <= 0 || d.Size > maxCLI {
		return errors.New("fetch the berth command: its digest or size is malformed")
	}
	target := r.path("bin", "berth")
	dir, as := r.path("bin"), asSelf
	aside := noExec(dir) && !noExec(r.who.User.Home)
	if aside { // as /run and /dev/shm often are: the user's cache then, and a link to it
		dir = filepath.Join(r.who.User.Home, ".cache", "berth")
		as = func(f func() error) error { return shell.As(r.who.User, f) }
	}
	file := filepath.Join(dir, "berth")
	var have [32]byte
	err = as(func() (err error) {
		have, err = hashFile(file, d.Size)
		return err
	})
	if err != nil || have != [32]byte(want) {
		if err := r.download(ctx, m, dir, as); err != nil {
			return fmt.Errorf("fetch the berth command: %w", err)
		}
	}
	if !aside {
		return nil
	}
	if to, err := os.Readlink(target); err == nil && to == file {
		return nil
	}
	link := r.path("bin", ".berth-"+randomName())
	err = os.Symlink(file, link)
	if err == nil {
		err = os.Rename(link, target)
	}
	if err != nil {
		return fmt.Errorf("fetch the berth command: %w", err)
	}
	return nil
}

// refreshCLI is fetchCLI outside the secrets step.
func (r *Runner) refreshCLI(ctx context.Context, m *agent.Manifest) {
	if err := r.fetchCLI(ctx, m); err != nil && ctx.Err() == nil {
		r.log.Warn("cannot bring the berth command up to date", "error", err)
	}
}

func asSelf(f func() error) error { return f() }

// download puts the command into dir, with the rights that as gives, once its digest is the right one.
func (r *Runner) download(ctx context.Context, m *agent.Manifest, dir string, as func(func() error) error) error {
	tmp := filepath.Join(dir, ".berth-"+randomName())
	var f *os.File
	err := as(func() (err error) {
		if err = os.MkdirAll(dir, 0o700); err == nil {
			f, err = os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o755)
		}
		return err
	})
	if err != nil {
		return err
	}
	err = r.receive(ctx, m, f)
	err = errors.Join(err, f.Close())
	return as(func() error {
		if err == nil {
			err = os.Rename(tmp, filepath.Join(dir, "berth"))
		}
		if err != nil {
			_ = os.Remove(tmp)
		}
		return err
	})
}

// receive writes what the coordinator sends into f, and fails unless it is what the manifest says.
func (r *Runner) receive(ctx context.Context, m *agent.Manifest, f *os.File) error {
	address, err := resolve(m.URL, m.CLI.URL)
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return err
	}
	resp, err := r.HTTP.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("the coordinator answered %s", resp.Status)
	}
	hash := sha256.New()
	n, err := io.Copy(io.MultiWriter(f, hash), io.LimitReader(resp.Body, m.CLI.Size+1))
	if err != nil {
		return err
	}
	if n != m.CLI.Size || !strings.EqualFold(hex.EncodeToString(hash.Sum(nil)), m.CLI.SHA256) {
		return errors.New("what the coordinator sent has another digest than it said")
	}
	return f.Chmod(0o755)
}

// resolve makes ref absolute, as seen from base.
func resolve(base, ref string) (string, error) {
	b, err := url.Parse(base)
	if err != nil {
		return "", err
	}
	u, err := b.Parse(ref)
	if err != nil {
		return "", err
	}
	return u.String(), nil
}

// hashFile returns the digest of a program of the given size. What else may stand there, such as a link or a pipe that
// nobody writes to, is neither followed nor waited for.
func hashFile(path string, size int64) (sum [32]byte, err error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK|unix.O_NOFOLLOW, 0)
	if err != nil {
		return sum, err
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil || !fi.Mode().IsRegular() || fi.Size() != size || fi.Mode().Perm()&0o111 == 0 {
		return sum, errors.Join(err, os.ErrInvalid)
	}
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return sum, err
	}
	return [32]byte(h.Sum(nil)), nil
}

// noExec reports whether programs cannot be run from dir's filesystem.
func noExec(dir string) bool {
	var s unix.Statfs_t
	return unix.Statfs(dir, &s) == nil && s.Flags&mountNoExec != 0
}
