// Package seal encrypts values before they are stored, under one installation key that lies in a file of its own. A
// sealed value is bound to its place: moved to another table, column, row or revision it does not open, so who can
// write to the database cannot swap one secret for another or bring back an old one.
//
// A sealed value:
//
//	+---------+----------+------------+--------------------------+
//	| version | key's id | nonce      | ciphertext and tag       |
//	| 1 byte  | 8 bytes  | 24 bytes   | length of plain + 16     |
//	+---------+----------+------------+--------------------------+
package seal

import (
	"bytes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/crypto/chacha20poly1305"
)

const (
	version   = 1
	idSize    = 8
	headSize  = 1 + idSize + chacha20poly1305.NonceSizeX
	fileMagic = "berth-key-1" // first word of a key file's line; then the id in hexadecimal, then the key in base64
	maxFile   = 1 << 10
)

// ErrOpen is returned for a sealed value that this key does not open in this place.
var ErrOpen = errors.New("sealed value does not open: wrong key, or it was changed or moved")

// A Key is an installation's key. It prints as [redacted].
type Key struct {
	id   [idSize]byte
	aead cipher.AEAD
}

// String keeps a key out of messages.
func (*Key) String() string { return "[redacted]" }

// GoString keeps a key out of messages.
func (*Key) GoString() string { return "[redacted]" }

// LoadOrCreate reads the key in the file at path. If there is none it makes one, mode 0600, and its directory, mode
// 0700. It refuses a file that others than its owner can read or write.
func LoadOrCreate(path string) (*Key, error) {
	k, err := load(path)
	if !errors.Is(err, fs.ErrNotExist) {
		return k, err
	}
	if err := create(path); err != nil {
		return nil, fmt.Errorf("create key file: %w", err)
	}
	return load(path)
}

func load(path string) (*Key, error) {
	info, err := os.Stat(path)
	switch {
	case err != nil:
		return nil, fmt.Errorf("read key file: %w", err)
	case !info.Mode().IsRegular():
		return nil, fmt.Errorf("key file %s is not a regular file", path)
	case info.Mode().Perm()&0o077 != 0:
		return nil, fmt.Errorf("key file %s is open to others (mode %04o): chmod 600 it", path, info.Mode().Perm())
	case info.Size() > maxFile:
		return nil, fmt.Errorf("key file %s is too long for a key", path)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read key file: %w", err)
	}
	k, err := parse(string(b))
	if err != nil {
		return nil, fmt.Errorf("key file %s: %w", path, err)
	}
	return k, nil
}

func parse(s string) (*Key, error) {
	bad := errors.New("not a key of Berth")
	words := strings.Fields(s)
	if len(words) != 3 || words[0] != fileMagic {
		return nil, bad
	}
	id, err := hex.DecodeString(words[1])
	if err != nil || len(id) != idSize {
		return nil, bad
	}
	raw, err := base64.StdEncoding.DecodeString(words[2])
	if err != nil || len(raw) != chacha20poly1305.KeySize {
		return nil, bad
	}
	k := new(Key)
	copy(k.id[:], id)
	if k.aead, err = chacha20poly1305.NewX(raw); err != nil {
		return nil, fmt.Errorf("use key: %w", err)
	}
	return k, nil
}

// create writes a fresh key to path, durably. Where another process was quicker, its key stays.
func create(path string) error {
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	var id [idSize]byte
	var raw [chacha20poly1305.KeySize]byte
	rand.Read(id[:])                       // never fails
	rand.Read(raw[:])                      // never fails
	f, err := os.CreateTemp(dir, ".key-*") // mode 0600
	if err != nil {
		return err
	}
	defer func() { _ = os.Remove(f.Name()) }() // its content lives on under path
	_, err = fmt.Fprintf(f, "%s %x %s\n", fileMagic, id, base64.StdEncoding.EncodeToString(raw[:]))
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Link(f.Name(), path); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// Seal encrypts plain for one place: the table, column, row and revision that it will be stored in.
func (k *Key) Seal(plain []byte, table, column, row string, revision int64) []byte {
	out := make([]byte, headSize, headSize+len(plain)+k.aead.Overhead())
	out[0] = version
	copy(out[1:], k.id[:])
	rand.Read(out[1+idSize:]) // never fails
	return k.aead.Seal(out, out[1+idSize:], plain, place(out[:1+idSize], table, column, row, revision))
}

// Open decrypts what Seal returned for the same place. Any other place, key or content is ErrOpen.
func (k *Key) Open(sealed []byte, table, column, row string, revision int64) ([]byte, error) {
	if len(sealed) < headSize || sealed[0] != version || !bytes.Equal(sealed[1:1+idSize], k.id[:]) {
		return nil, ErrOpen
	}
	plain, err := k.aead.Open(nil, sealed[1+idSize:headSize], sealed[headSize:],
		place(sealed[:1+idSize], table, column, row, revision))
	if err != nil {
		return nil, ErrOpen
	}
	return plain, nil
}

// place is the associated data. Lengths keep ("ab", "c") apart from ("a", "bc").
func place(head []byte, table, column, row string, revision int64) []byte {
	b := bytes.Clone(head)
	for _, s := range []string{table, column, row} {
		b = binary.BigEndian.AppendUint32(b, uint32(len(s)))
		b = append(b, s...)
	}
	return binary.BigEndian.AppendUint64(b, uint64(revision))
}
