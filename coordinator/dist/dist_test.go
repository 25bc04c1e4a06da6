package dist

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"testing/fstest"
	"time"
)

// agentScript stands in for the agent: it tells what it was started with.
const agentScript = "#!/bin/sh\necho \"agent url=$BERTH_AGENT_URL token=$BERTH_AGENT_TOKEN ca=${BERTH_AGENT_CA_FILE:-} args=$#\"\n"

func carry(t *testing.T, files map[string]string) *Set {
	t.Helper()
	dir := fstest.MapFS{}
	var m struct {
		Version string `json:"version"`
		Files   []File `json:"files"`
	}
	for what, content := range files {
		part := strings.Split(what, "/")
		sum := sha256.Sum256([]byte(content))
		f := File{
			Name: part[2], OS: part[0], Arch: part[1], SHA256: hex.EncodeToString(sum[:]), Size: int64(len(content)),
			Gzip: strings.ReplaceAll(what, "/", "-") + ".gz",
		}
		var z bytes.Buffer
		w := gzip.NewWriter(&z)
		_, _ = io.WriteString(w, content)
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		dir[f.Gzip] = &fstest.MapFile{Data: z.Bytes()}
		m.Files = append(m.Files, f)
	}
	b, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	dir["manifest.json"] = &fstest.MapFile{Data: b}
	s, err := read(dir)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func serve(s *Set, dir string) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /dist/{sha256}/{name}", s.Handler(dir))
	return mux
}

func TestEmbedded(t *testing.T) {
	s, err := Embedded()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range s.files {
		if err := f.copyTo(io.Discard); err != nil {
			t.Error(err)
		}
	}
	empty, err := read(fstest.MapFS{"README": {}})
	if err != nil || !empty.Empty() {
		t.Errorf("without assets: %v, %v", empty, err)
	}
}

func TestBeside(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, Agent), []byte("agent"), 0o755); err != nil {
		t.Fatal(err)
	}
	s, err := Beside(dir)
	if err != nil {
		t.Fatal(err)
	}
	f, ok := s.Find(Agent, runtime.GOOS, runtime.GOARCH)
	if !ok || f.Size != 5 {
		t.Errorf("got %+v, %v", f, ok)
	}
	if _, ok := s.Find(CLI, runtime.GOOS, runtime.GOARCH); ok {
		t.Error("found a program that is not there")
	}
}

func TestHandler(t *testing.T) {
	s := carry(t, map[string]string{"linux/amd64/berth-agent": "new agent", "linux/amd64/berth": "cli"})
	dir := t.TempDir()
	older := carry(t, map[string]string{"linux/amd64/berth-agent": "old agent"})
	if _, err := older.Extract(dir, "linux", "amd64"); err != nil {
		t.Fatal(err)
	}
	h := serve(s, dir)
	for _, tt := range []struct {
		name, path string
		status     int
		body       string
	}{
		{"agent", "/dist/" + s.files[0].SHA256 + "/" + s.files[0].Name, 200, map[string]string{Agent: "new agent", CLI: "cli"}[s.files[0].Name]},
		{"older release", "/dist/" + older.files[0].SHA256 + "/berth-agent", 200, "old agent"},
		{"wrong name", "/dist/" + older.files[0].SHA256 + "/berth", 404, ""},
		{"unknown digest", "/dist/" + strings.Repeat("0", 64) + "/berth-agent", 404, ""},
		{"no digest", "/dist/..%2f..%2fetc/passwd", 404, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := httptest.NewRecorder()
			h.ServeHTTP(w, httptest.NewRequest("GET", tt.path, nil))
			if w.Code != tt.status || tt.body != "" && w.Body.String() != tt.body {
				t.Errorf("got %d %q", w.Code, w.Body)
			}
		})
	}
}

func TestExtract(t *testing.T) {
	dir := t.TempDir()
	var last string
	for i := range keepReleases + 3 {
		s := carry(t, map[string]string{"linux/amd64/berth-agent": strings.Repeat("x", i+1), "linux/arm64/berth-agent": strings.Repeat("y", i+1)})
		path, err := s.Extract(dir, "linux", "amd64")
		if err != nil {
			t.Fatal(err)
		}
		st, err := os.Stat(path)
		if err != nil || st.Size() != int64(i+1) || st.Mode().Perm() != 0o755 {
			t.Fatalf("extracted %v, %v", st, err)
		}
		for _, f := range s.files {
			when := time.Now().Add(time.Duration(i-1000) * time.Minute)
			if err := os.Chtimes(filepath.Join(dir, f.SHA256), when, when); err != nil {
				t.Fatal(err)
			}
		}
		last = path
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	if len(entries) != keepReleases+2 {
		t.Errorf("%d releases are kept, want %d and the carried ones", len(entries), keepReleases)
	}
	if _, err := os.Stat(last); err != nil {
		t.Errorf("the carried agent was removed: %v", err)
	}
}

func TestExtractDamaged(t *testing.T) {
	s := carry(t, map[string]string{"linux/amd64/berth-agent": "agent"})
	s.files[0].SHA256 = strings.Repeat("a", 64)
	dir := t.TempDir()
	if _, err := s.Extract(dir, "linux", "amd64"); err == nil {
		t.Error("a damaged asset was extracted")
	}
	if left, err := filepath.Glob(filepath.Join(dir, "*", "*")); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}
