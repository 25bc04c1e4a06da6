package cli

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"

	"berth/coordinator"
)

// packTemplate makes the tar of a template's directory: regular files only, in the order of their paths, without
// times and owners, so that the same files always make the same bytes. What the server would refuse is refused here,
// before anything is sent.
func packTemplate(dir string) ([]byte, error) {
	switch info, err := os.Stat(dir); {
	case errors.Is(err, fs.ErrNotExist):
		return nil, coordinator.Errorf(coordinator.CodeNotFound, "there is no directory %s", dir)
	case err != nil:
		return nil, fmt.Errorf("pack template: %w", err)
	case !info.IsDir():
		return nil, usage("%s is not a directory", dir)
	}
	rules, err := readIgnore(filepath.Join(dir, ignoreFile))
	if err != nil {
		return nil, err
	}
	p := packer{root: dir, rules: rules}
	p.w = tar.NewWriter(&p.buf)
	// The separator at the end has a link to the directory followed.
	if err := filepath.WalkDir(dir+string(filepath.Separator), p.visit); err != nil {
		return nil, err
	}
	if !p.module {
		return nil, usage("%s holds no Terraform module: there is no .tf file in it", dir).WithHint("name the directory that holds main.tf")
	}
	if err := p.w.Close(); err != nil {
		return nil, fmt.Errorf("pack template: %w", err)
	}
	if p.buf.Len() > coordinator.MaxArchive {
		return nil, tooLarge("the template is larger than %d MiB", coordinator.MaxArchive>>20)
	}
	return p.buf.Bytes(), nil
}

func tooLarge(format string, args ...any) *coordinator.Error {
	return coordinator.Errorf(coordinator.CodeTooLarge, format, args...).
		WithHint("list what is not part of the template in " + ignoreFile)
}

type packer struct {
	root   string
	rules  ignoreRules
	w      *tar.Writer
	buf    bytes.Buffer
	files  int
	total  int64
	module bool // a .tf file was seen at the top
}

func (p *packer) visit(file string, d fs.DirEntry, err error) error {
	if err != nil {
		return err
	}
	rel, err := filepath.Rel(p.root, file)
	if err != nil {
		return err
	}
	name := filepath.ToSlash(rel)
	switch {
	case name == ".":
		return nil
	case p.rules.ignored(name, d.IsDir()):
		if d.IsDir() && !p.rules.negated {
			return fs.SkipDir
		}
		if d.IsDir() && alwaysIgnored(name) {
			return fs.SkipDir
		}
		return nil
	case d.IsDir():
		return nil
	case !d.Type().IsRegular():
		return usage("%s is not a regular file, and a template holds nothing else", name).
			WithHint("put the file itself there, or list it in " + ignoreFile)
	}
	return p.add(file, name)
}

func (p *packer) add(file, name string) error {
	f, err := os.Open(file)
	if err != nil {
		return fmt.Errorf("pack template: %w", err)
	}
	defer f.Close() // only read from
	info, err := f.Stat()
	if err != nil {
		return fmt.Errorf("pack template: %w", err)
	}
	p.files++
	p.total += info.Size()
	switch {
	case p.files > coordinator.MaxArchiveFiles:
		return tooLarge("the template holds more than %d files", coordinator.MaxArchiveFiles)
	case len(name) > coordinator.MaxArchivePath:
		return tooLarge("the path %s is longer than %d bytes", name, coordinator.MaxArchivePath)
	case info.Size() > coordinator.MaxArchiveFile:
		return tooLarge("%s is larger than %d MiB", name, coordinator.MaxArchiveFile>>20)
	case p.total > coordinator.MaxArchiveTotal, p.buf.Len() > coordinator.MaxArchive:
		return tooLarge("the template is larger than %d MiB", coordinator.MaxArchive>>20)
	}
	mode := int64(0o644)
	if info.Mode()&0o111 != 0 {
		mode = 0o755
	}
	p.module = p.module || path.Dir(name) == "." && (strings.HasSuffix(name, ".tf") || strings.HasSuffix(name, ".tf.json"))
	if err := p.w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Size: info.Size(), Mode: mode, ModTime: time.Unix(0, 0)}); err != nil {
		return fmt.Errorf("pack %s: %w", name, err)
	}
	if _, err := io.CopyN(p.w, f, info.Size()); err != nil {
		return fmt.Errorf("pack %s: it changed while it was read: %w", name, err)
	}
	return nil
}

// unpackTemplate writes a template's tar into a directory that is new or empty, and returns the number of files. The
// server is not trusted with where that is: nothing leaves the directory, and there are no links.
func unpackTemplate(archive []byte, dir string) (int, error) {
	if entries, err := os.ReadDir(dir); err == nil && len(entries) > 0 {
		return 0, coordinator.Errorf(coordinator.CodeConflict, "%s is there and not empty", dir).WithHint("name another directory")
	} else if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return 0, fmt.Errorf("pull template: %w", err)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return 0, fmt.Errorf("pull template: %w", err)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return 0, fmt.Errorf("pull template: %w", err)
	}
	defer func() { _ = root.Close() }() // nothing was written through it
	files, total := 0, int64(0)
	for r := tar.NewReader(bytes.NewReader(archive)); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return files, nil
		}
		if err != nil {
			return files, fmt.Errorf("read the server's archive: %w", err)
		}
		if h.Typeflag == tar.TypeDir && filepath.IsLocal(h.Name) {
			continue
		}
		files++
		total += h.Size
		if h.Typeflag != tar.TypeReg || !filepath.IsLocal(h.Name) || files > coordinator.MaxArchiveFiles || total > coordinator.MaxArchiveTotal {
			return files, coordinator.Errorf(coordinator.CodeFailed, "the server's archive is not one of a template: %q", coordinator.Clip(h.Name, 80))
		}
		if err := unpackFile(root, h, r); err != nil {
			return files, err
		}
	}
}

func unpackFile(root *os.Root, h *tar.Header, r io.Reader) error {
	name := filepath.FromSlash(path.Clean(h.Name))
	if err := root.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return fmt.Errorf("pull template: %w", err)
	}
	mode := fs.FileMode(0o644)
	if h.Mode&0o111 != 0 {
		mode = 0o755
	}
	f, err := root.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, mode)
	if err != nil {
		return fmt.Errorf("pull template: %w", err)
	}
	_, err = io.Copy(f, r)
	if err = errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("pull template: %w", err)
	}
	return nil
}
