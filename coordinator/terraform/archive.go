package terraform

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"unicode"
	"unicode/utf8"

	"berth/coordinator"
)

// Archives keeps templates' tar archives in Dir, each under the SHA-256 of its bytes.
type Archives struct{ Dir string }

var shaRE = regexp.MustCompile(`^[0-9a-f]{64}$`)

// Put reads a tar archive, validates every entry, and keeps it. Anything but plain files and directories with paths
// inside, within the caps of package coordinator and with a *.tf file at the top, is refused with a
// *coordinator.Error, and nothing is kept. Sweep lets the archive be until record, which may be nil, has returned: it
// makes what refers to the archive. What it fails with is returned; the archive is then left to Sweep, because another
// push may have brought the same one.
func (a Archives) Put(ctx context.Context, r io.Reader, record func(sha string, size int64) error) (sha string, size int64, err error) {
	if err := os.MkdirAll(a.Dir, 0o700); err != nil {
		return "", 0, fmt.Errorf("make archive directory: %w", err)
	}
	tmp, err := os.CreateTemp(a.Dir, putPrefix)
	if err != nil {
		return "", 0, fmt.Errorf("create archive: %w", err)
	}
	defer func() {
		tmp.Close()               // closed before where it counts
		_ = os.Remove(tmp.Name()) // renamed where it counts
	}()
	hash := sha256.New()
	in := &cappedReader{ctx: ctx, r: r, left: coordinator.MaxArchive}
	tee := io.TeeReader(in, io.MultiWriter(tmp, hash))
	if err := check(tee); err != nil {
		return "", 0, err
	}
	// What follows the tar's end is padding; it belongs to the bytes that the digest is of.
	if _, err := io.Copy(io.Discard, tee); err != nil {
		return "", 0, readError(err)
	}
	if err := errors.Join(tmp.Sync(), tmp.Close()); err != nil {
		return "", 0, fmt.Errorf("write archive: %w", err)
	}
	sha = hex.EncodeToString(hash.Sum(nil))
	unlock, err := a.lock(ctx, syscall.LOCK_SH)
	if err != nil {
		return "", 0, err
	}
	defer unlock()
	if err := os.Rename(tmp.Name(), a.path(sha)); err != nil {
		return "", 0, fmt.Errorf("keep archive: %w", err)
	}
	size = coordinator.MaxArchive - in.left
	if record != nil {
		err = record(sha, size)
	}
	return sha, size, err
}

// Open returns the bytes of an archive.
func (a Archives) Open(sha string) (io.ReadCloser, error) {
	if !shaRE.MatchString(sha) {
		return nil, coordinator.Errorf(coordinator.CodeNotFound, "no such archive")
	}
	f, err := os.Open(a.path(sha))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, coordinator.Errorf(coordinator.CodeNotFound, "the template's archive %s is not there", sha[:12]).WithCause(err)
	}
	return f, err
}

// Extract unpacks an archive into dir, which it makes.
func (a Archives) Extract(sha, dir string) error {
	f, err := a.Open(sha)
	if err != nil {
		return err
	}
	defer f.Close() // read only
	return ExtractTar(f, dir)
}

func (a Archives) path(sha string) string { return filepath.Join(a.Dir, sha+archiveExt) }

// ExtractTar unpacks a template's tar into dir, which it makes. It validates what Put validates, and writes through
// an os.Root, so that no entry can reach out of dir.
func ExtractTar(r io.Reader, dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("make directory: %w", err)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return fmt.Errorf("open directory: %w", err)
	}
	defer func() { _ = root.Close() }() // a directory handle
	return walkTar(r, func(name string, h *tar.Header, body io.Reader) error {
		if h.Typeflag == tar.TypeDir {
			return root.MkdirAll(name, 0o755)
		}
		if d := path.Dir(name); d != "." {
			if err := root.MkdirAll(d, 0o755); err != nil {
				return fmt.Errorf("extract %q: %w", name, err)
			}
		}
		mode := fs.FileMode(0o644)
		if h.FileInfo().Mode()&0o100 != 0 {
			mode = 0o755
		}
		f, err := root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
		if err != nil {
			return fmt.Errorf("extract %q: %w", name, err)
		}
		_, err = io.Copy(f, body)
		return errors.Join(err, f.Close())
	})
}

// check reads a whole tar and validates it.
func check(r io.Reader) error {
	hasConfig := false
	err := walkTar(r, func(name string, h *tar.Header, body io.Reader) error {
		top := h.Typeflag == tar.TypeReg && !strings.Contains(name, "/")
		if top && (strings.HasSuffix(name, ".tf") || strings.HasSuffix(name, ".tf.json")) {
			hasConfig = true
		}
		_, err := io.Copy(io.Discard, body)
		return err
	})
	if err != nil {
		return err
	}
	if !hasConfig {
		return bad("the archive has no *.tf file at its top").WithHint("pack the files of the template's directory, not the directory itself")
	}
	return nil
}

// walkTar calls each for every file and directory of a tar and stops links, devices, paths that lead outside,
// duplicates, and whatever exceeds the caps: zip slip, symlink and bomb attacks end here. The body counts what it
// really yields, so that a header that lies about its size, or a sparse file, gains nothing.
func walkTar(r io.Reader, each func(name string, h *tar.Header, body io.Reader) error) error {
	tr := tar.NewReader(r)
	seen := map[string]bool{} // path -> is a directory
	var files int
	total := int64(coordinator.MaxArchiveTotal)
	for {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return readError(err)
		}
		if h.Typeflag == tar.TypeXGlobalHeader {
			continue // git archive's comment
		}
		if files++; files > coordinator.MaxArchiveFiles {
			return large("the archive has more than %d entries", coordinator.MaxArchiveFiles)
		}
		name, err := entryName(h)
		if err != nil {
			return err
		}
		if name == "." {
			continue
		}
		if err := note(seen, name, h.Typeflag == tar.TypeDir); err != nil {
			return err
		}
		if h.Size > coordinator.MaxArchiveFile {
			return large("%q in the archive is larger than %d MiB", name, coordinator.MaxArchiveFile>>20)
		}
		if h.Size > total {
			return large("the archive's files are larger than %d MiB together", coordinator.MaxArchiveTotal>>20)
		}
		body := &cappedReader{r: tr, left: h.Size}
		if err := each(name, h, body); err != nil {
			return readError(err)
		}
		total -= h.Size
	}
}

// entryName returns the clean path of an entry, or why it is refused.
func entryName(h *tar.Header) (string, error) {
	shown := fmt.Sprintf("%q", coordinator.Clip(h.Name, 80))
	switch h.Typeflag {
	case tar.TypeReg, tar.TypeDir:
	case tar.TypeSymlink, tar.TypeLink:
		return "", bad("%s in the archive is a link; only files and directories are allowed", shown)
	default:
		return "", bad("%s in the archive is neither a file nor a directory", shown)
	}
	if len(h.Name) > coordinator.MaxArchivePath {
		return "", bad("the path %s in the archive is longer than %d bytes", shown, coordinator.MaxArchivePath)
	}
	name := path.Clean(h.Name)
	odd := func(r rune) bool { return r == '\\' || unicode.IsControl(r) }
	if h.Name == "" || !utf8.ValidString(name) || strings.ContainsFunc(name, odd) {
		return "", bad("the path %s in the archive is not allowed", shown)
	}
	if !filepath.IsLocal(name) || strings.Contains("/"+h.Name+"/", "/../") {
		return "", bad("the path %s in the archive leads outside of it", shown)
	}
	if name == "." && h.Typeflag != tar.TypeDir {
		return "", bad("the path %s in the archive is not allowed", shown)
	}
	return name, nil
}

// note records a path and refuses one that is there already, or that has a file where it needs a directory.
func note(seen map[string]bool, name string, dir bool) error {
	if was, ok := seen[name]; ok && !(was && dir) {
		return bad("the archive has %q twice", coordinator.Clip(name, 80))
	}
	seen[name] = dir
	for d := path.Dir(name); d != "."; d = path.Dir(d) {
		if isDir, ok := seen[d]; ok && !isDir {
			return bad("the archive has %q twice", coordinator.Clip(d, 80))
		}
		seen[d] = true
	}
	return nil
}

func bad(format string, args ...any) *coordinator.Error {
	return coordinator.Errorf(coordinator.CodeInvalid, format, args...)
}

func large(format string, args ...any) *coordinator.Error {
	return coordinator.Errorf(coordinator.CodeTooLarge, format, args...)
}

// readError turns what reading a tar failed with into an Error that a user may see.
func readError(err error) error {
	var e *coordinator.Error
	switch {
	case errors.As(err, &e):
		return err
	case errors.Is(err, tar.ErrHeader), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, tar.ErrFieldTooLong):
		return bad("this is not a whole tar archive").WithCause(err)
	default:
		return fmt.Errorf("read archive: %w", err)
	}
}

// A cappedReader fails with an Error beyond its cap, and when its context has ended.
type cappedReader struct {
	ctx  context.Context // may be nil
	r    io.Reader
	left int64
}

func (c *cappedReader) Read(p []byte) (int, error) {
	if c.ctx != nil && c.ctx.Err() != nil {
		return 0, c.ctx.Err()
	}
	n, err := c.r.Read(p)
	if int64(n) > c.left {
		return 0, large("the archive is larger than %d MiB", coordinator.MaxArchive>>20)
	}
	c.left -= int64(n)
	return n, err
}
