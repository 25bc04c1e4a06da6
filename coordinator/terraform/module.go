package terraform

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sort"
	"strings"
)

// Directories of a template version, below its directory.
const (
	ModuleDir = "module" // the template's files and .terraform.lock.hcl
	DataDir   = "data"   // TF_DATA_DIR: modules and providers that init fetched
)

// RelativeDataDir is TF_DATA_DIR as seen from the module. It is relative, because init writes the modules' places
// down by this path, and the version's directory is renamed afterwards and linked from every build's directory.
const RelativeDataDir = "../" + DataDir

// StateFile is where terraform keeps its state, below the module's copy.
const StateFile = "terraform.tfstate"

// ErroredState is where terraform puts a state that it could not write to its place.
const ErroredState = "errored.tfstate"

// own reports whether a file at the top of a module is terraform's: a template does not bring its own state.
func own(name string) bool {
	return name == ".terraform" || name == ErroredState || strings.HasPrefix(name, StateFile) ||
		name == "."+StateFile+".lock.info"
}

// Disown removes what a template brought along of terraform's own: a state that it would pass for every workspace's.
func Disown(module string) error {
	entries, err := os.ReadDir(module)
	if err != nil {
		return fmt.Errorf("read module: %w", err)
	}
	for _, e := range entries {
		if !own(e.Name()) {
			continue
		}
		if err := os.RemoveAll(filepath.Join(module, e.Name())); err != nil {
			return fmt.Errorf("clear module: %w", err)
		}
	}
	return nil
}

// Copy copies the module in src to dst, which it makes, with plain files and directories only. It reports whether
// terraform itself would start programs of the template's (local-exec).
func Copy(src, dst string) (localExec bool, err error) {
	err = filepath.WalkDir(src, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(src, path)
		if err != nil {
			return err
		}
		if own(rel) {
			if d.IsDir() {
				return fs.SkipDir
			}
			return nil
		}
		to := filepath.Join(dst, rel)
		switch {
		case d.IsDir():
			return os.MkdirAll(to, 0o755)
		case !d.Type().IsRegular():
			return nil
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		localExec = localExec || startsPrograms(rel, b)
		info, err := d.Info()
		if err != nil {
			return err
		}
		return os.WriteFile(to, b, info.Mode().Perm()|0o600)
	})
	if err != nil {
		return localExec, fmt.Errorf("copy module: %w", err)
	}
	return localExec, nil
}

func startsPrograms(name string, b []byte) bool {
	config := strings.HasSuffix(name, ".tf") || strings.HasSuffix(name, ".tf.json")
	return config && bytes.Contains(b, []byte("local-exec"))
}

// DataStartsPrograms reports whether what init fetched into data makes terraform start programs: providers, or
// modules with local-exec.
func DataStartsPrograms(data string) (bool, error) {
	entries, err := os.ReadDir(filepath.Join(data, "providers"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false, fmt.Errorf("read providers: %w", err)
	}
	if len(entries) > 0 {
		return true, nil
	}
	found := false
	err = filepath.WalkDir(filepath.Join(data, "modules"), func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return fs.SkipAll
		}
		if err != nil || !d.Type().IsRegular() || !strings.Contains(path, ".tf") {
			return err
		}
		b, err := os.ReadFile(path)
		if found = found || startsPrograms(path, b); found {
			return fs.SkipAll
		}
		return err
	})
	if err != nil {
		return false, fmt.Errorf("read modules: %w", err)
	}
	return found, nil
}

// CLIConfig returns terraform's configuration file for builds of a version whose data directory is data: its
// providers as development overrides, which saves hashing each of them at every command. Without any it is empty but
// for switching the update check off; in both cases the host's own file is not read.
func CLIConfig(data string) ([]byte, error) {
	// providers/<host>/<namespace>/<type>/<version>/<os>_<arch>/terraform-provider-...
	dirs, err := filepath.Glob(filepath.Join(data, "providers", "*", "*", "*", "*", "*_*"))
	if err != nil {
		return nil, fmt.Errorf("list providers: %w", err)
	}
	var b bytes.Buffer
	b.WriteString("disable_checkpoint = true\n")
	if len(dirs) == 0 {
		return b.Bytes(), nil
	}
	sort.Strings(dirs)
	b.WriteString("provider_installation {\n  dev_overrides {\n")
	for _, dir := range dirs {
		p := strings.Split(filepath.ToSlash(dir), "/")
		source := strings.Join(p[len(p)-5:len(p)-2], "/")
		fmt.Fprintf(&b, "    %q = %q\n", source, dir)
	}
	b.WriteString("  }\n  direct {}\n}\n")
	return b.Bytes(), nil
}

// Seal gives a tree to this process's user and takes others' right to write, links not followed.
func Seal(dir string) error {
	if err := Chown(dir, os.Getuid()); err != nil {
		return err
	}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.Type()&fs.ModeSymlink != 0 {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		mode := info.Mode().Perm()&0o755 | 0o444
		if mode&0o100 != 0 {
			mode |= 0o111
		}
		return os.Chmod(path, mode)
	})
	if err != nil {
		return fmt.Errorf("seal directory: %w", err)
	}
	return nil
}

// Chown gives a tree to a user, links not followed.
func Chown(dir string, uid int) error {
	err := filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return os.Lchown(path, uid, uid)
	})
	if err != nil {
		return fmt.Errorf("give directory to uid %d: %w", uid, err)
	}
	return nil
}
