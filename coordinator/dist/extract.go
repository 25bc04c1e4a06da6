package dist

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
)

// keepReleases is how many extracted programs stay in the directory: what older releases handed out is still served by
// its digest, for init scripts that stand in terraform's state.
const keepReleases = 12

// Extract writes every agent to dir/<sha256>/berth-agent, where it is not there yet, and forgets the oldest beyond
// keepReleases. It returns the path of the agent for a platform, or "" if none is carried.
func (s *Set) Extract(dir, goos, arch string) (string, error) {
	var path string
	for _, f := range s.files {
		if f.Name != Agent {
			continue
		}
		p, err := f.extract(dir)
		if err != nil {
			return "", err
		}
		if f.OS == goos && f.Arch == arch {
			path = p
		}
	}
	return path, s.prune(dir)
}

// extract writes f by rename, so that a reader never meets half a file.
func (f File) extract(dir string) (string, error) {
	path := filepath.Join(dir, f.SHA256, f.Name)
	if st, err := os.Lstat(path); err == nil && st.Mode().IsRegular() && st.Size() == f.Size {
		return path, nil
	}
	// Other users run the agent: host processes have a uid of their own.
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return "", fmt.Errorf("extract %s: %w", f.Name, err)
	}
	tmp, err := os.CreateTemp(filepath.Dir(path), ".new-")
	if err != nil {
		return "", fmt.Errorf("extract %s: %w", f.Name, err)
	}
	err = f.copyTo(tmp)
	err = errors.Join(err, tmp.Chmod(0o755), tmp.Sync(), tmp.Close())
	if err == nil {
		err = os.Rename(tmp.Name(), path)
	}
	if err != nil {
		return "", errors.Join(fmt.Errorf("extract %s: %w", f.Name, err), os.Remove(tmp.Name()))
	}
	return path, nil
}

// prune removes the oldest extracted programs that s does not carry itself.
func (s *Set) prune(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("prune extracted programs: %w", err)
	}
	var old []fs.FileInfo
	for _, e := range entries {
		carried := slices.ContainsFunc(s.files, func(f File) bool { return f.SHA256 == e.Name() })
		if info, err := e.Info(); err == nil && e.IsDir() && isDigest(e.Name()) && !carried {
			old = append(old, info)
		}
	}
	slices.SortFunc(old, func(a, b fs.FileInfo) int { return b.ModTime().Compare(a.ModTime()) })
	for i := keepReleases; i < len(old); i++ {
		if err := os.RemoveAll(filepath.Join(dir, old[i].Name())); err != nil {
			return fmt.Errorf("prune extracted programs: %w", err)
		}
	}
	return nil
}

// isDigest reports whether s is a SHA-256 in lower-case hexadecimal.
func isDigest(s string) bool {
	if len(s) != 64 {
		return false
	}
	for _, c := range s {
		if (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}
