package e2e

import (
	"archive/tar"
	"bytes"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"

	"github.com/rogpeppe/go-internal/testscript"
)

// upload KIND: sends a template archive that no honest client makes and prints the answer: dotdot has a path with ../,
// link a symbolic link, bomb declares more than is allowed, garbage is no tar at all.
func cmdUpload(ts *testscript.TestScript, neg bool, args []string) {
	var body []byte
	main := tar.Header{Name: "main.tf", Mode: 0o644, Size: 2, Typeflag: tar.TypeReg}
	switch args[0] {
	case "dotdot":
		body = archive(ts, main, tar.Header{Name: "../evil.tf", Mode: 0o644, Size: 2, Typeflag: tar.TypeReg})
	case "link":
		body = archive(ts, main, tar.Header{Name: "passwd", Linkname: "/etc/passwd", Typeflag: tar.TypeSymlink})
	case "bomb":
		body = archive(ts, main, tar.Header{Name: "zeros", Mode: 0o644, Size: 9 << 20, Typeflag: tar.TypeReg})
	case "garbage":
		body = bytes.Repeat([]byte("no tar at all "), 100)
	default:
		ts.Fatalf("unknown kind %q", args[0])
	}
	req, err := http.NewRequest(http.MethodPost, ts.Getenv("URL")+"/api/v1/templates/evil/versions", bytes.NewReader(body))
	ts.Check(err)
	token, err := os.ReadFile(filepath.Join(ts.Getenv("BERTH_CONFIG_DIR"), "token"))
	ts.Check(err)
	req.Header.Set("Authorization", "Bearer "+strings.TrimSpace(string(token)))
	req.Header.Set("Content-Type", "application/x-tar")
	r, err := http.DefaultClient.Do(req)
	ts.Check(err)
	defer r.Body.Close()
	answer, err := io.ReadAll(r.Body)
	ts.Check(err)
	_, err = ts.Stdout().Write(append([]byte(r.Status+"\n"), answer...))
	ts.Check(err)
	if (r.StatusCode < 300) == !neg {
		return
	}
	ts.Fatalf("upload %s: %s %s", args[0], r.Status, answer)
}

func archive(ts *testscript.TestScript, entries ...tar.Header) []byte {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range entries {
		ts.Check(w.WriteHeader(&h))
		_, err := w.Write(make([]byte, h.Size))
		ts.Check(err)
	}
	ts.Check(w.Close())
	return b.Bytes()
}
