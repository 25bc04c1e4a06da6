package daemon

import (
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// openRuntimeDir returns the directory that holds what lives as long as the machine is up. A given one has to do;
// otherwise it is the first that does of /run/berth, $XDG_RUNTIME_DIR/berth, /dev/shm/berth-UID and /tmp/berth-UID.
func openRuntimeDir(given, xdg string) (string, error) {
	if given != "" {
		dir, err := filepath.Abs(given)
		if err != nil {
			return "", fmt.Errorf("open runtime directory: %w", err)
		}
		if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
			return "", fmt.Errorf("open runtime directory: %w", err)
		}
		return dir, claimDir(dir)
	}
	uid := strconv.Itoa(os.Geteuid())
	candidates := []string{"/run/berth"}
	if filepath.IsAbs(xdg) {
		candidates = append(candidates, filepath.Join(xdg, "berth"))
	}
	candidates = append(candidates, "/dev/shm/berth-"+uid, "/tmp/berth-"+uid)
	var errs []error
	for _, dir := range candidates {
		err := claimDir(dir)
		if err == nil {
			return dir, nil
		}
		errs = append(errs, err)
	}
	return "", errors.Join(errs...)
}

// claimDir makes dir, or takes one that is there: ours, a directory and no link, and writable by nobody else. In /tmp
// anybody could have put something else in its place.
func claimDir(dir string) error {
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return fmt.Errorf("open runtime directory: %w", err)
	}
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open runtime directory: %w", &os.PathError{Op: "open", Path: dir, Err: err})
	}
	f := os.NewFile(uintptr(fd), dir)
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return fmt.Errorf("open runtime directory: %w", err)
	}
	st, ok := fi.Sys().(*syscall.Stat_t)
	if !ok || int(st.Uid) != os.Geteuid() {
		return fmt.Errorf("open runtime directory: %s belongs to somebody else", dir)
	}
	if fi.Mode().Perm()&0o022 != 0 {
		return fmt.Errorf("open runtime directory: others can write to %s", dir)
	}
	if fi.Mode().Perm() == 0o711 && os.Geteuid() == 0 {
		return nil // an earlier agent opened it for the workspace's user to pass through
	}
	if err := f.Chmod(0o700); err != nil {
		return fmt.Errorf("open runtime directory: %w", err)
	}
	return nil
}

var errSeed = errors.New("not a key's seed")

// readSeed reads a key's file, which nobody else may read.
func readSeed(path string) ([]byte, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	f := os.NewFile(uintptr(fd), path)
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if fi.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("%s can be read by others", path)
	}
	b, err := io.ReadAll(io.LimitReader(f, 128))
	if err != nil {
		return nil, err
	}
	seed, err := hex.DecodeString(strings.TrimSpace(string(b)))
	if err != nil || len(seed) != 32 {
		return nil, errSeed
	}
	return seed, nil
}

func writeSeed(path string, seed []byte) error {
	tmp := path + ".new"
	if err := os.Remove(tmp); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	f, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = f.WriteString(hex.EncodeToString(seed) + "\n")
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(tmp, path)
	}
	return err
}
