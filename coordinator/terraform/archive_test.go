package terraform

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"berth/coordinator"
)

type entry struct {
	name string
	typ  byte
	body string
	size int64 // declared; the body's if zero
	link string
	mode int64
}

func tarOf(t *testing.T, entries ...entry) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, e := range entries {
		h := &tar.Header{Name: e.name, Typeflag: e.typ, Size: int64(len(e.body)), Linkname: e.link, Mode: e.mode}
		if h.Typeflag == 0 {
			h.Typeflag = tar.TypeReg
		}
		if e.size != 0 {
			h.Size = e.size
		}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, e.body); err != nil {
			t.Fatal(err)
		}
		if e.size != 0 { // what is declared does not follow
			return b.Bytes()
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestArchiveRefusals(t *testing.T) {
	ok := entry{name: "main.tf", body: "# nothing"}
	many := []entry{ok}
	for i := range coordinator.MaxArchiveFiles {
		many = append(many, entry{name: fmt.Sprintf("f%d", i)})
	}
	var fat []entry
	for i := range 5 {
		fat = append(fat, entry{name: fmt.Sprintf("f%d", i), body: strings.Repeat("x", coordinator.MaxArchiveFile-1)})
	}
	// Sparse files declare much and bring little.
	for _, tt := range []struct {
		name, want string
		code       coordinator.Code
		data       []byte
	}{
		{"parent", "leads outside", coordinator.CodeInvalid, tarOf(t, ok, entry{name: "../evil.tf"})},
		{"inner parent", "leads outside", coordinator.CodeInvalid, tarOf(t, ok, entry{name: "a/../../evil.tf"})},
		{"parent that stays inside", "leads outside", coordinator.CodeInvalid, tarOf(t, ok, entry{name: "a/../b.tf"})},
		{"absolute", "leads outside", coordinator.CodeInvalid, tarOf(t, ok, entry{name: "/etc/evil"})},
		{"symlink", "is a link", coordinator.CodeInvalid, tarOf(t, ok, entry{name: "l", typ: tar.TypeSymlink, link: "/etc"})},
		{"hard link", "is a link", coordinator.CodeInvalid, tarOf(t, ok, entry{name: "l", typ: tar.TypeLink, link: "main.tf"})},
		{"device", "neither a file", coordinator.CodeInvalid, tarOf(t, ok, entry{name: "d", typ: tar.TypeChar})},
		{"pipe", "neither a file", coordinator.CodeInvalid, tarOf(t, ok, entry{name: "d", typ: tar.TypeFifo})},
		{"twice", "twice", coordinator.CodeInvalid, tarOf(t, ok, entry{name: "./main.tf"})},
		{"file and directory", "twice", coordinator.CodeInvalid, tarOf(t, ok, entry{name: "a"}, entry{name: "a/b"})},
		{"directory and file", "twice", coordinator.CodeInvalid, tarOf(t, ok, entry{name: "a/b"}, entry{name: "a"})},
		{"control character", "not allowed", coordinator.CodeInvalid, tarOf(t, ok, entry{name: "a\x1b[31m"})},
		{"long path", "longer than", coordinator.CodeInvalid, tarOf(t, ok, entry{name: strings.Repeat("d/", 140) + "f"})},
		{"many files", "more than 2000", coordinator.CodeTooLarge, tarOf(t, many...)},
		{"declared bomb", "larger than 8 MiB", coordinator.CodeTooLarge, tarOf(t, ok, entry{name: "b", size: 1 << 40})},
		{"big file", "larger than", coordinator.CodeTooLarge, tarOf(t, ok, entry{name: "b", body: strings.Repeat("x", coordinator.MaxArchiveFile+1)})},
		{"actual bomb", "larger than 10 MiB", coordinator.CodeTooLarge, tarOf(t, fat...)},
		{"trailing bomb", "larger than 10 MiB", coordinator.CodeTooLarge, append(tarOf(t, ok), make([]byte, coordinator.MaxArchive)...)},
		{"no configuration", "no *.tf", coordinator.CodeInvalid, tarOf(t, entry{name: "dir/main.tf"})},
		{"empty", "no *.tf", coordinator.CodeInvalid, nil},
		{"cut off", "not a whole tar", coordinator.CodeInvalid, tarOf(t, entry{name: "main.tf", body: strings.Repeat("x", 5000)})[:2000]},
		{"no tar", "not a whole tar", coordinator.CodeInvalid, []byte(strings.Repeat("hello ", 200))},
	} {
		t.Run(tt.name, func(t *testing.T) {
			a := Archives{t.TempDir()}
			_, _, err := a.Put(t.Context(), bytes.NewReader(tt.data), nil)
			var e *coordinator.Error
			if !errors.As(err, &e) || e.Code != tt.code || !strings.Contains(e.Msg, tt.want) {
				t.Errorf("Put = %#v, want %s: …%s…", err, tt.code, tt.want)
			}
			if left, err := os.ReadDir(a.Dir); err != nil || len(left) != 0 {
				t.Errorf("left behind: %v, %v", left, err)
			}
			// Extract validates by itself: an archive that lies there may be anybody's.
			if tt.want != "no *.tf" && !strings.HasPrefix(tt.name, "trailing") && !strings.HasPrefix(tt.name, "actual") {
				dir := filepath.Join(t.TempDir(), "x")
				if err := ExtractTar(bytes.NewReader(tt.data), dir); err == nil {
					t.Error("ExtractTar took it")
				}
			}
		})
	}
}

// TestSparseBomb checks that what a sparse entry expands to is counted, not what it takes in the archive.
func TestSparseBomb(t *testing.T) {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	// A PAX 0.1 sparse file: one byte of data, a terabyte in all. The writer does not write these; the records do.
	h := &tar.Header{Name: "main.tf", Typeflag: tar.TypeReg, Size: 1, Mode: 0o644}
	if err := w.WriteHeader(h); err != nil {
		t.Fatal(err)
	}
	io.WriteString(w, "x") // a buffer
	w.Close()              // a buffer
	pax := ""
	for _, kv := range []string{"GNU.sparse.size=1099511627776", "GNU.sparse.numblocks=1", "GNU.sparse.map=0,1"} {
		n := len(kv) + 2
		for n != len(fmt.Sprintf("%d %s\n", n, kv)) {
			n++
		}
		pax += fmt.Sprintf("%d %s\n", n, kv)
	}
	var x bytes.Buffer
	xw := tar.NewWriter(&x)
	if err := xw.WriteHeader(&tar.Header{Name: "h", Typeflag: tar.TypeReg, Size: int64(len(pax))}); err != nil {
		t.Fatal(err)
	}
	io.WriteString(xw, pax) // a buffer
	xw.Flush()              // a buffer
	head := x.Bytes()
	head[156] = tar.TypeXHeader
	sum := 0
	copy(head[148:156], "        ")
	for _, c := range head[:512] {
		sum += int(c)
	}
	copy(head[148:156], fmt.Sprintf("%06o\x00 ", sum))
	_, _, err := Archives{t.TempDir()}.Put(t.Context(), bytes.NewReader(append(head, b.Bytes()...)), nil)
	var e *coordinator.Error
	if !errors.As(err, &e) || e.Code != coordinator.CodeTooLarge {
		t.Errorf("Put = %v, want too large", err)
	}
}

func TestArchiveRoundTrip(t *testing.T) {
	a := Archives{filepath.Join(t.TempDir(), "archives")}
	data := tarOf(t,
		entry{name: "./", typ: tar.TypeDir}, entry{name: "./main.tf", body: "# hi", mode: 0o600},
		entry{name: "./bin/", typ: tar.TypeDir}, entry{name: "./bin/run.sh", body: "#!/bin/sh\n", mode: 0o4755},
	)
	sha, size, err := a.Put(t.Context(), bytes.NewReader(data), nil)
	if err != nil || size != int64(len(data)) {
		t.Fatalf("Put = %d, %v, want %d bytes", size, err, len(data))
	}
	if again, _, err := a.Put(t.Context(), bytes.NewReader(data), nil); err != nil || again != sha {
		t.Errorf("Put again = %s, %v", again, err)
	}
	r, err := a.Open(sha)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(r); err != nil || !bytes.Equal(got, data) {
		t.Errorf("Open: other bytes, %v", err)
	}
	r.Close() // read only
	dir := filepath.Join(t.TempDir(), "module")
	if err := a.Extract(sha, dir); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(filepath.Join(dir, "bin/run.sh"))
	if err != nil || info.Mode() != 0o755 {
		t.Errorf("run.sh has mode %v, %v, want 0755 without setuid", info.Mode(), err)
	}
	if err := a.Extract(sha, dir); err == nil {
		t.Error("Extract over an extracted module")
	}
	if n, err := a.Sweep(t.Context(), time.Now(), nothing); n != 1 || err != nil {
		t.Errorf("Sweep = %d, %v, want 1", n, err)
	}
	var e *coordinator.Error
	for _, sha := range []string{sha, "../" + sha, ""} {
		if _, err := a.Open(sha); !errors.As(err, &e) || e.Code != coordinator.CodeNotFound {
			t.Errorf("Open(%q) = %v, want not found", sha, err)
		}
	}
}

func TestPutEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	a := Archives{t.TempDir()}
	if _, _, err := a.Put(ctx, bytes.NewReader(tarOf(t, entry{name: "main.tf"})), nil); !errors.Is(err, context.Canceled) {
		t.Errorf("Put = %v, want canceled", err)
	}
}

func FuzzExtract(f *testing.F) {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	w.WriteHeader(&tar.Header{Name: "main.tf", Typeflag: tar.TypeReg, Size: 1}) // a buffer
	w.Write([]byte("x"))                                                        // a buffer
	w.Close()                                                                   // a buffer
	f.Add(b.Bytes())
	f.Fuzz(func(t *testing.T, data []byte) {
		top := t.TempDir()
		_ = ExtractTar(bytes.NewReader(data), filepath.Join(top, "in")) // any error is fine, an escape is not
		if left, err := os.ReadDir(top); err != nil || len(left) != 1 || left[0].Name() != "in" {
			t.Errorf("outside: %v, %v", left, err)
		}
	})
}
