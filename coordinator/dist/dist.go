// Package dist holds the agent and CLI binaries that the coordinator carries, serves them by their digest, and makes the
// bootstrap script that fetches the agent. It knows nothing of workspaces and keeps no state but extracted files.
package dist

import (
	"compress/gzip"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
)

//go:embed assets
var assets embed.FS

// Names of the programs that are carried.
const (
	Agent = "berth-agent"
	CLI   = "berth"
)

// A File is one program for one platform.
type File struct {
	Name   string `json:"name"` // Agent or CLI
	OS     string `json:"os"`
	Arch   string `json:"arch"`
	SHA256 string `json:"sha256"` // of the program, hexadecimal
	Size   int64  `json:"size"`   // of the program
	Gzip   string `json:"file"`   // name of the compressed file beside the manifest

	open func() (io.ReadCloser, error)
}

// A Set is the files that one coordinator carries. It is immutable.
type Set struct{ files []File }

// Embedded returns the files that were built into this program; none in a build without assets.
func Embedded() (*Set, error) {
	dir, err := fs.Sub(assets, "assets")
	if err != nil {
		return nil, fmt.Errorf("open assets: %w", err)
	}
	return read(dir)
}

// read makes a Set of a directory with a manifest.json and the files that it names.
func read(dir fs.FS) (*Set, error) {
	b, err := fs.ReadFile(dir, "manifest.json")
	if errors.Is(err, fs.ErrNotExist) {
		return &Set{}, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read manifest of assets: %w", err)
	}
	var manifest struct {
		Files []File `json:"files"`
	}
	if err := json.Unmarshal(b, &manifest); err != nil {
		return nil, fmt.Errorf("decode manifest of assets: %w", err)
	}
	files := manifest.Files
	for i, f := range files {
		files[i].open = func() (io.ReadCloser, error) {
			z, err := dir.Open(f.Gzip)
			if err != nil {
				return nil, fmt.Errorf("open asset: %w", err)
			}
			r, err := gzip.NewReader(z)
			if err != nil {
				return nil, errors.Join(fmt.Errorf("open asset %s: %w", f.Gzip, err), z.Close())
			}
			return &unpacked{r, z}, nil
		}
	}
	return &Set{files}, nil
}

// unpacked closes the compressed file with its reader.
type unpacked struct {
	*gzip.Reader
	file io.Closer
}

func (u *unpacked) Close() error { return errors.Join(u.Reader.Close(), u.file.Close()) }

// Beside returns the programs that lie in dir, taken to be for this machine's platform. It stands in for Embedded in a
// build without assets.
func Beside(dir string) (*Set, error) {
	s := &Set{}
	for _, name := range []string{Agent, CLI} {
		path := filepath.Join(dir, name)
		f, err := os.Open(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		h := sha256.New()
		n, err := io.Copy(h, f)
		if err := errors.Join(err, f.Close()); err != nil {
			return nil, fmt.Errorf("read %s: %w", path, err)
		}
		s.files = append(s.files, File{
			Name: name, OS: runtime.GOOS, Arch: runtime.GOARCH, SHA256: hex.EncodeToString(h.Sum(nil)), Size: n,
			open: func() (io.ReadCloser, error) { return os.Open(path) },
		})
	}
	return s, nil
}

// Empty reports whether s carries nothing.
func (s *Set) Empty() bool { return len(s.files) == 0 }

// Find returns the named program for a platform.
func (s *Set) Find(name, goos, arch string) (File, bool) {
	i := slices.IndexFunc(s.files, func(f File) bool { return f.Name == name && f.OS == goos && f.Arch == arch })
	if i < 0 {
		return File{}, false
	}
	return s.files[i], true
}

// digest returns the file with a digest and a name.
func (s *Set) digest(sum, name string) (File, bool) {
	i := slices.IndexFunc(s.files, func(f File) bool { return f.SHA256 == sum && f.Name == name })
	if i < 0 {
		return File{}, false
	}
	return s.files[i], true
}

// copyTo writes f to w and fails if it was not what its digest says. It holds little of it in memory at a time.
func (f File) copyTo(w io.Writer) error {
	r, err := f.open()
	if err != nil {
		return err
	}
	h := sha256.New()
	_, err = io.Copy(io.MultiWriter(w, h), io.LimitReader(r, f.Size+1))
	if err := errors.Join(err, r.Close()); err != nil {
		return fmt.Errorf("read %s: %w", f.Name, err)
	}
	if hex.EncodeToString(h.Sum(nil)) != f.SHA256 {
		return fmt.Errorf("read %s for %s/%s: its digest is not the manifest's", f.Name, f.OS, f.Arch)
	}
	return nil
}
