package sshconfig

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
)

// maxUserConfig is the size of the largest ssh_config that is edited, in bytes.
const maxUserConfig = 4 << 20

// Install writes data to own, our file, and makes sure that the user's file begins with a line that includes it. It
// reports whether it changed the user's file. Both are replaced by rename, so a reader sees the old or the new one.
func Install(user, own string, data []byte) (changed bool, err error) {
	line, err := includeLine(own)
	if err != nil {
		return false, err
	}
	if err := WriteFile(own, data, 0o600); err != nil {
		return false, err
	}
	return edit(user, func(old []byte) []byte {
		if included(old, line) {
			return old
		}
		end := "\n"
		if i := bytes.IndexByte(old, '\n'); i > 0 && old[i-1] == '\r' {
			end = "\r\n"
		}
		return append([]byte(line+end), without(old, line)...)
	})
}

// Remove takes our line out of the user's file and removes our own file. It reports whether it changed the user's.
func Remove(user, own string) (changed bool, err error) {
	line, err := includeLine(own)
	if err != nil {
		return false, err
	}
	changed, err = edit(user, func(old []byte) []byte { return without(old, line) })
	if err != nil {
		return false, err
	}
	if err := os.Remove(own); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return changed, fmt.Errorf("remove ssh_config: %w", err)
	}
	return changed, nil
}

// includeLine is the line that reads our file. ssh expands wildcards in it, newer ones tokens as well.
func includeLine(own string) (string, error) {
	path := filepath.ToSlash(own)
	if err := checkPath(path, runtime.GOOS == "windows"); err != nil {
		return "", err
	}
	if strings.ContainsAny(path, "\\\"*?[]{}%$") {
		return "", fmt.Errorf("the path %q cannot be included from an ssh_config file: it holds a quote, a wildcard or a sign that ssh expands", own)
	}
	if strings.ContainsAny(path, " '#") {
		path = `"` + path + `"`
	}
	return "Include " + path, nil
}

// included reports whether the line stands before every Host and Match: behind one it would be read for some only.
func included(config []byte, line string) bool {
	for l := range bytes.Lines(config) {
		s := strings.TrimSpace(string(l))
		if s == line {
			return true
		}
		if word := keyword(s); word == "host" || word == "match" {
			return false
		}
	}
	return false
}

// without returns config with every occurrence of the line taken out.
func without(config []byte, line string) []byte {
	var kept []byte
	for l := range bytes.Lines(config) {
		if strings.TrimSpace(string(l)) != line {
			kept = append(kept, l...)
		}
	}
	return kept
}

// edit replaces the contents of the user's file, following links. A file that need not change is not written.
func edit(path string, change func([]byte) []byte) (bool, error) {
	target, err := resolve(path)
	if err != nil {
		return false, err
	}
	mode := fs.FileMode(0o600)
	old, err := read(target)
	switch info, statErr := os.Stat(target); {
	case err == nil && statErr == nil:
		mode = info.Mode().Perm()
	case !errors.Is(err, fs.ErrNotExist):
		return false, fmt.Errorf("read ssh configuration: %w", errors.Join(err, statErr))
	}
	data := change(old)
	if bytes.Equal(old, data) {
		return false, nil
	}
	return true, WriteFile(target, data, mode)
}

func read(path string) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() || info.Size() > maxUserConfig {
		return nil, fmt.Errorf("%s is not a file of at most %d MiB", path, maxUserConfig>>20)
	}
	return os.ReadFile(path)
}

// resolve follows links to the file that they end in, which need not exist.
func resolve(path string) (string, error) {
	for range 40 {
		to, err := os.Readlink(path)
		if err != nil {
			return path, nil // no link, or nothing there
		}
		if !filepath.IsAbs(to) {
			to = filepath.Join(filepath.Dir(path), to)
		}
		path = to
	}
	return "", fmt.Errorf("%s: too many links", path)
}

// WriteFile replaces a file by rename, with exactly this mode, keeping its owner where there was one. Its directory is
// made, for its owner only, if it is not there.
func WriteFile(path string, data []byte, mode fs.FileMode) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("write %s: %w", path, plain(err))
		}
	}()
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	f, err := os.CreateTemp(dir, ".berth-*")
	if err != nil {
		return err
	}
	defer func() { _ = os.Remove(f.Name()) }() // renamed by then, if all went well
	if err := fill(f, data, mode, path); err != nil {
		return errors.Join(err, f.Close())
	}
	if err := f.Close(); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}

func fill(f *os.File, data []byte, mode fs.FileMode, path string) error {
	if err := f.Chmod(mode); err != nil && runtime.GOOS != "windows" {
		return err
	}
	if info, err := os.Stat(path); err == nil {
		keepOwner(f, info)
	}
	if _, err := f.Write(data); err != nil {
		return err
	}
	return f.Sync()
}

// plain leaves out the temporary file's name, which tells nobody anything.
func plain(err error) error {
	var p *fs.PathError
	if errors.As(err, &p) {
		return p.Err
	}
	return err
}

// keyword is the first word of a line of an ssh_config: the rest follows after blanks or a =.
func keyword(line string) string {
	word := strings.Trim(line, "\"")
	if i := strings.IndexAny(word, " \t=\""); i >= 0 {
		word = word[:i]
	}
	return strings.ToLower(word)
}
