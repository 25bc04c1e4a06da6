package cli

import (
	"archive/tar"
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"berth/coordinator"
)

func files(t *testing.T, data map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range data {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func names(t *testing.T, archive []byte) []string {
	t.Helper()
	var out []string
	for r := tar.NewReader(bytes.NewReader(archive)); ; {
		h, err := r.Next()
		if err != nil {
			return out
		}
		if h.Uid != 0 || h.Uname != "" || h.ModTime.Unix() != 0 {
			t.Errorf("%s tells of its machine: %+v", h.Name, h)
		}
		out = append(out, h.Name)
	}
}

// TestPackSame makes the same bytes of the same files, whatever their times, modes and places.
func TestPackSame(t *testing.T) {
	data := map[string]string{"main.tf": "x", "sub/b": "y", "sub-a": "z", strings.Repeat("d/", 60) + "deep": "w"}
	a, b := files(t, data), files(t, data)
	if err := os.Chtimes(filepath.Join(b, "main.tf"), time.Unix(1, 0), time.Unix(1, 0)); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(filepath.Join(b, "sub", "b"), 0o600); err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(b, link); err != nil {
		t.Fatal(err)
	}
	one, err := packTemplate(a)
	if err != nil {
		t.Fatal(err)
	}
	two, err := packTemplate(link)
	if err != nil || !bytes.Equal(one, two) || len(names(t, one)) != len(data) {
		t.Errorf("%v: %q and %q", err, names(t, one), names(t, two))
	}
}

func TestIgnore(t *testing.T) {
	for _, tt := range []struct {
		rules, name string
		dir, want   bool
	}{
		{"", "main.tf", false, false},
		{"", ".terraform", true, true},
		{"", "a/.terraform/b", false, true},
		{"", "terraform.tfstate", false, true},
		{"", "terraform.tfstate.backup", false, true},
		{"", ".terraform.lock.hcl", false, false},
		{"!*.tfstate", "x.tfstate", false, true},
		{"*.txt", "a.txt", false, true},
		{"*.txt", "sub/a.txt", false, true},
		{"/*.txt", "sub/a.txt", false, false},
		{"*.txt\n!keep.txt", "keep.txt", false, false},
		{"doc/", "doc", true, true},
		{"doc/", "doc", false, false},
		{"doc/", "doc/a/b", false, true},
		{"a/**/b", "a/x/y/b", false, true},
		{"a/**/b", "a/b", false, true},
		{"# c\n\n a?c ", "abc", false, false},
		{"a?c", "a/c", false, false},
		{"a.c", "abc", false, false},
		{"build\r\n", "build", false, true},
	} {
		dir := files(t, map[string]string{ignoreFile: tt.rules})
		r, err := readIgnore(filepath.Join(dir, ignoreFile))
		if err != nil {
			t.Fatal(err)
		}
		if got := r.ignored(tt.name, tt.dir); got != tt.want {
			t.Errorf("%q with %q: %v", tt.name, tt.rules, got)
		}
	}
}

func TestPackCaps(t *testing.T) {
	many := map[string]string{"main.tf": ""}
	for i := range coordinator.MaxArchiveFiles {
		many[filepath.Join("d", strings.Repeat("x", 1+i%100), strings.Repeat("y", 1+i/100))] = ""
	}
	big := map[string]string{"main.tf": "", "a": strings.Repeat("x", 6<<20), "b": strings.Repeat("x", 6<<20)}
	for name, data := range map[string]map[string]string{
		"many":     many,
		"big":      big,
		"one file": {"main.tf": strings.Repeat("x", coordinator.MaxArchiveFile+1)},
		"long":     {"main.tf": "", strings.Repeat(strings.Repeat("d", 100)+"/", 3) + "x": ""},
	} {
		if _, err := packTemplate(files(t, data)); coordinator.CodeOf(err) != coordinator.CodeTooLarge {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestUnpack has a server send what no template holds: nothing is written outside the directory.
func TestUnpack(t *testing.T) {
	pack := func(headers ...tar.Header) []byte {
		var b bytes.Buffer
		w := tar.NewWriter(&b)
		for _, h := range headers {
			h.Mode = 0o644
			if h.Typeflag == tar.TypeReg {
				h.Size = 1
			}
			if err := w.WriteHeader(&h); err != nil {
				t.Fatal(err)
			}
			if h.Typeflag == tar.TypeReg {
				w.Write([]byte("x"))
			}
		}
		w.Close()
		return b.Bytes()
	}
	for _, tt := range []struct {
		name    string
		archive []byte
		ok      bool
	}{
		{"good", pack(tar.Header{Typeflag: tar.TypeDir, Name: "a/"}, tar.Header{Typeflag: tar.TypeReg, Name: "a/b"}), true},
		{"up", pack(tar.Header{Typeflag: tar.TypeReg, Name: "../out"}), false},
		{"up later", pack(tar.Header{Typeflag: tar.TypeReg, Name: "a/../../out"}), false},
		{"absolute", pack(tar.Header{Typeflag: tar.TypeReg, Name: "/tmp/berth-was-here"}), false},
		{"link", pack(tar.Header{Typeflag: tar.TypeSymlink, Name: "a", Linkname: "/etc"}), false},
		{"hard link", pack(tar.Header{Typeflag: tar.TypeLink, Name: "a", Linkname: "/etc/passwd"}), false},
		{"device", pack(tar.Header{Typeflag: tar.TypeChar, Name: "a"}), false},
		{"twice", pack(tar.Header{Typeflag: tar.TypeReg, Name: "a"}, tar.Header{Typeflag: tar.TypeReg, Name: "a"}), false},
		{"no tar", bytes.Repeat([]byte("x"), 2048), false},
	} {
		top := t.TempDir()
		_, err := unpackTemplate(tt.archive, filepath.Join(top, "dir"))
		if (err == nil) != tt.ok {
			t.Errorf("%s: %v", tt.name, err)
		}
		if entries, err := os.ReadDir(top); err != nil || len(entries) != 1 {
			t.Errorf("%s: wrote outside", tt.name)
		}
	}
	dir := files(t, map[string]string{"main.tf": "x", "a/b": "y"})
	archive, err := packTemplate(dir)
	if err != nil {
		t.Fatal(err)
	}
	out := filepath.Join(t.TempDir(), "new", "dir")
	if n, err := unpackTemplate(archive, out); n != 2 || err != nil {
		t.Fatalf("%d, %v", n, err)
	}
	again, err := packTemplate(out)
	if err != nil || !bytes.Equal(archive, again) || !slices.Equal(names(t, again), []string{"a/b", "main.tf"}) {
		t.Errorf("there and back: %v, %v", names(t, again), err)
	}
}
