package arch

import (
	"bytes"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const root = "../.."

// TestTable checks that the table has no circle: every edge points up the page, and every row has its package.
func TestTable(t *testing.T) {
	var seen []string
	for _, r := range rows {
		for _, m := range r.may {
			if !slices.Contains(seen, m) {
				t.Errorf("%s: imports %s, which is not above it", r.pkg, m)
			}
		}
		if _, err := os.Stat(filepath.Join(root, r.pkg)); err != nil {
			t.Errorf("%s: in the table, but not in the tree", r.pkg)
		}
		seen = append(seen, r.pkg)
	}
}

// TestTree checks that the production source obeys the table and the fences.
func TestTree(t *testing.T) {
	may := map[string][]string{}
	for _, r := range rows {
		may[r.pkg] = r.may
	}
	walkGo(t, func(path string) {
		pkg := filepath.ToSlash(filepath.Dir(path))
		if strings.HasPrefix(pkg, "scripts") || strings.HasSuffix(path, "_test.go") {
			return
		}
		allowed, known := may[pkg]
		if !known {
			t.Errorf("%s: not in the table", pkg)
			return
		}
		f, err := parser.ParseFile(token.NewFileSet(), filepath.Join(root, path), nil, parser.ImportsOnly)
		if err != nil {
			t.Error(err)
			return
		}
		for _, spec := range f.Imports {
			imp, err := strconv.Unquote(spec.Path.Value)
			if err != nil {
				t.Errorf("%s: %v", path, err)
			}
			if own, ok := strings.CutPrefix(imp, "berth/"); ok && !slices.Contains(allowed, own) {
				t.Errorf("%s: may not import %s", path, own)
			}
			for heavy, who := range fences {
				if (imp == heavy || strings.HasPrefix(imp, heavy+"/")) && !slices.Contains(who, pkg) {
					t.Errorf("%s: may not import %s", path, imp)
				}
			}
		}
	})
}

// forbidden are words that stand nowhere in the source, with the reason.
var forbidden = map[string]string{
	"InsecureSkip" + "Verify":       "certificates are checked",
	"StrictHostKey" + "Checking no": "host keys are checked",
	"StrictHostKey" + "Checking=no": "host keys are checked",
	"InsecureIgnore" + "HostKey":    "host keys are checked",
}

// TestWords checks that no unsafe switch of TLS or SSH is written anywhere, tests included.
func TestWords(t *testing.T) {
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			if n := d.Name(); n == ".git" || n == "bin" || n == ".berth" || n == "node_modules" {
				return fs.SkipDir
			}
			return nil
		}
		switch filepath.Ext(path) {
		case ".go", ".sh", ".txtar", ".tf", "":
		default:
			return nil // documents may name what is not done
		}
		b, err := os.ReadFile(path)
		if err != nil || bytes.IndexByte(b, 0) >= 0 {
			return err
		}
		for w, why := range forbidden {
			if strings.Contains(string(b), w) {
				t.Errorf("%s: holds %q; %s", path, w, why)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestMains checks that the programs are thin.
func TestMains(t *testing.T) {
	for _, dir := range []string{"agent/berth-agent", "coordinator/berthd", "cli/berth"} {
		b, err := os.ReadFile(filepath.Join(root, dir, "main.go"))
		if err != nil {
			t.Error(err)
			continue
		}
		if n := bytes.Count(b, []byte("\n")); n > 25 {
			t.Errorf("%s/main.go has %d lines, at most 25 are allowed", dir, n)
		}
	}
}

func walkGo(t *testing.T, each func(path string)) {
	t.Helper()
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && (d.Name() == "testdata" || strings.HasPrefix(d.Name(), ".") && len(d.Name()) > 2) {
			return fs.SkipDir
		}
		if !d.IsDir() && strings.HasSuffix(path, ".go") {
			rel, err := filepath.Rel(root, path)
			if err != nil {
				return err
			}
			each(rel)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
