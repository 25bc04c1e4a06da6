package runner

import (
	"fmt"
	"os"
	"path/filepath"
	"time"

	"berth/coordinator"
	"berth/coordinator/terraform"
)

// makeDirs makes terraform's own directories.
func (r *run) makeDirs() error {
	for _, name := range []string{moduleDir, homeDir, tmpDir} {
		if err := os.MkdirAll(r.dir.path(name), 0o700); err != nil {
			return fmt.Errorf("lay out: %w", err)
		}
	}
	return nil
}

// own writes terraform's configuration and gives terraform's directories to its user, where it has one of its own.
// The directory itself stays this process's: what is in it decides over the build.
func (r *run) own(config []byte) error {
	if err := r.dir.write(configFile, config, false); err != nil {
		return err
	}
	uid := r.job.Host.BuildUID
	if uid == 0 {
		return nil
	}
	for _, name := range []string{moduleDir, homeDir, tmpDir} {
		if err := terraform.Chown(r.dir.path(name), uid); err != nil {
			return err
		}
	}
	if err := os.Chmod(r.dir.path(configFile), 0o644); err != nil {
		return fmt.Errorf("lay out: %w", err)
	}
	if err := os.Chmod(r.dir.root, 0o711); err != nil {
		return fmt.Errorf("lay out: %w", err)
	}
	return reachable(r.dir.root, uid)
}

// reachable returns an error where another user cannot get to a directory.
func reachable(path string, uid int) error {
	for p := path; ; p = filepath.Dir(p) {
		info, err := os.Stat(p)
		if err != nil {
			return fmt.Errorf("lay out: %w", err)
		}
		if info.Mode()&0o001 == 0 {
			return fmt.Errorf("terraform's user %d cannot reach %s: the mode of %s has to let others pass (chmod o+x)", uid, path, p)
		}
		if p == filepath.Dir(p) {
			return nil
		}
	}
}

func (r *run) baseEnvironment(reattach string) terraform.Environment {
	return terraform.Environment{
		Home: r.dir.path(homeDir), Tmp: r.dir.path(tmpDir), CLIConfig: r.dir.path(configFile),
		Reattach: reattach, Lean: r.lean,
	}
}

// grace is how long an interrupted terraform may take to end in order.
func (r *run) grace() time.Duration {
	if r.job.Limits.Cancel > 0 {
		return r.job.Limits.Cancel
	}
	return coordinator.DefaultCancelLimit
}

// A fileID tells whether a file has changed.
type fileID struct {
	size    int64
	changed time.Time
}

func (d dir) id(name string) fileID {
	info, err := os.Lstat(d.path(name))
	if err != nil {
		return fileID{}
	}
	return fileID{info.Size(), info.ModTime()}
}
