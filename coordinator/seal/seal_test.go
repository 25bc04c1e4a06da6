package seal

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

func newKey(t testing.TB) *Key {
	t.Helper()
	k, err := LoadOrCreate(filepath.Join(t.TempDir(), "key"))
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func TestSealIsBoundToItsPlace(t *testing.T) {
	k, other := newKey(t), newKey(t)
	plain := []byte("the secret of the state")
	sealed := k.Seal(plain, "states", "data", "ws1", 7)
	if bytes.Contains(sealed, plain[:10]) {
		t.Fatal("the sealed value holds the plain one")
	}
	if bytes.Equal(sealed, k.Seal(plain, "states", "data", "ws1", 7)) {
		t.Error("sealing twice gives the same bytes")
	}
	cut := sealed[:len(sealed)-1]
	flipped := bytes.Clone(sealed)
	flipped[len(flipped)-3] ^= 1
	for _, tt := range []struct {
		name               string
		key                *Key
		sealed             []byte
		table, column, row string
		revision           int64
		ok                 bool
	}{
		{"its place", k, sealed, "states", "data", "ws1", 7, true},
		{"another key", other, sealed, "states", "data", "ws1", 7, false},
		{"another table", k, sealed, "secrets", "data", "ws1", 7, false},
		{"another column", k, sealed, "states", "datb", "ws1", 7, false},
		{"another row", k, sealed, "states", "data", "ws2", 7, false},
		{"another revision", k, sealed, "states", "data", "ws1", 6, false},
		{"letters moved between words", k, sealed, "statesd", "ata", "ws1", 7, false},
		{"cut", k, cut, "states", "data", "ws1", 7, false},
		{"flipped", k, flipped, "states", "data", "ws1", 7, false},
		{"short", k, sealed[:5], "states", "data", "ws1", 7, false},
		{"empty", k, nil, "states", "data", "ws1", 7, false},
	} {
		got, err := tt.key.Open(tt.sealed, tt.table, tt.column, tt.row, tt.revision)
		if tt.ok && (err != nil || !bytes.Equal(got, plain)) {
			t.Errorf("%s: %q, %v", tt.name, got, err)
		}
		if !tt.ok && !errors.Is(err, ErrOpen) {
			t.Errorf("%s: got %q, %v, want ErrOpen", tt.name, got, err)
		}
	}
}

func TestSealEmpty(t *testing.T) {
	k := newKey(t)
	got, err := k.Open(k.Seal(nil, "t", "c", "r", 0), "t", "c", "r", 0)
	if err != nil || len(got) != 0 {
		t.Errorf("got %q, %v", got, err)
	}
}

func TestKeyFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "config dir", "key")
	k, err := LoadOrCreate(path)
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]os.FileMode{path: 0o600, filepath.Dir(path): 0o700} {
		if info, err := os.Stat(name); err != nil || info.Mode().Perm() != want {
			t.Errorf("%s: %v, %v, want mode %o", name, info.Mode().Perm(), err, want)
		}
	}
	again, err := LoadOrCreate(path)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := again.Open(k.Seal([]byte("x"), "t", "c", "r", 1), "t", "c", "r", 1); err != nil || string(got) != "x" {
		t.Errorf("the key read again does not open: %q, %v", got, err)
	}
	if left, _ := filepath.Glob(filepath.Join(filepath.Dir(path), ".key-*")); len(left) != 0 {
		t.Errorf("temporary files are left: %v", left)
	}
	if s := fmt.Sprintf("%v %+v %#v", k, k, k); strings.Count(s, "[redacted]") != 3 {
		t.Errorf("a key prints as %s", s)
	}
}

func TestKeyFileRefused(t *testing.T) {
	good := filepath.Join(t.TempDir(), "good")
	if _, err := LoadOrCreate(good); err != nil {
		t.Fatal(err)
	}
	line, err := os.ReadFile(good)
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name    string
		content string
		mode    os.FileMode
		want    string
	}{
		{"readable by the group", string(line), 0o640, "open to others"},
		{"readable by others", string(line), 0o604, "open to others"},
		{"empty", "", 0o600, "not a key"},
		{"another format", "age-secret-key-1 00 00", 0o600, "not a key"},
		{"short key", "berth-key-1 0011223344556677 AAAA", 0o600, "not a key"},
		{"long file", strings.Repeat("x", maxFile+1), 0o600, "too long"},
	} {
		path := filepath.Join(t.TempDir(), "key")
		if err := os.WriteFile(path, []byte(tt.content), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, tt.mode); err != nil {
			t.Fatal(err)
		}
		_, err := LoadOrCreate(path)
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: got %v, want %q", tt.name, err, tt.want)
		}
		if b, _ := os.ReadFile(path); string(b) != tt.content {
			t.Errorf("%s: the file was changed", tt.name)
		}
	}
}

func TestKeyFileRace(t *testing.T) {
	path := filepath.Join(t.TempDir(), "key")
	keys := make([]*Key, 8)
	var wg sync.WaitGroup
	for i := range keys {
		wg.Go(func() {
			k, err := LoadOrCreate(path)
			if err != nil {
				t.Error(err)
			}
			keys[i] = k
		})
	}
	wg.Wait()
	for _, k := range keys {
		if k == nil || k.id != keys[0].id {
			t.Fatal("two processes got different keys")
		}
	}
}
