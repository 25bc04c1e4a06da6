package dist

import (
	"errors"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
)

// Handler serves GET /dist/{sha256}/{name}: what s carries, and what an older release extracted to dir. The digest in
// the path is the only thing that is trusted, so what is served never changes.
func (s *Set) Handler(dir string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		sum, name := r.PathValue("sha256"), r.PathValue("name")
		if !isDigest(sum) || (name != Agent && name != CLI) {
			http.Error(w, "no such file", http.StatusNotFound)
			return
		}
		body, size, err := s.find(dir, sum, name)
		if err != nil {
			http.Error(w, "this coordinator does not carry that file", http.StatusNotFound)
			return
		}
		defer body.Close() //nolint:errcheck // it was only read
		h := w.Header()
		h.Set("Content-Type", "application/octet-stream")
		h.Set("Content-Length", strconv.FormatInt(size, 10))
		h.Set("Cache-Control", "public, max-age=31536000, immutable")
		h.Set("ETag", `"`+sum+`"`)
		if r.Method == http.MethodHead {
			return
		}
		_, _ = io.Copy(w, body) // the client checks size and digest
	})
}

func (s *Set) find(dir, sum, name string) (io.ReadCloser, int64, error) {
	if f, ok := s.digest(sum, name); ok {
		r, err := f.open()
		return r, f.Size, err
	}
	f, err := os.Open(filepath.Join(dir, sum, name))
	if err != nil {
		return nil, 0, err
	}
	st, err := f.Stat()
	if err != nil || !st.Mode().IsRegular() {
		return nil, 0, errors.Join(os.ErrNotExist, err, f.Close())
	}
	return f, st.Size(), nil
}
