package keyring

import (
	"bytes"
	"crypto/ed25519"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// The ssh-agent protocol (draft-ietf-sshm-ssh-agent), as much as is spoken here. A frame is
//
//	uint32 length | byte type | body
//
// and the bodies are
//
//	11 REQUEST_IDENTITIES  (nothing)
//	12 IDENTITIES_ANSWER   uint32 count | count times: string key blob, string comment
//	13 SIGN_REQUEST        string key blob | string data | uint32 flags
//	14 SIGN_RESPONSE       string ( string "ssh-ed25519" | string signature )
//	 5 FAILURE             (nothing)
const (
	failure           = 5
	requestIdentities = 11
	identitiesAnswer  = 12
	signRequest       = 13
	signResponse      = 14
)

// maxFrame caps a request, as OpenSSH's agent does.
const maxFrame = 256 << 10

var errFrame = errors.New("malformed agent frame")

// readFrame reads a frame and returns its type and body.
func readFrame(r io.Reader) ([]byte, error) {
	var head [4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return nil, fmt.Errorf("read agent frame: %w", err)
	}
	n := binary.BigEndian.Uint32(head[:])
	if n == 0 || n > maxFrame {
		return nil, errFrame
	}
	// Room is made as bytes arrive, not as they are announced.
	var b bytes.Buffer
	if _, err := io.CopyN(&b, r, int64(n)); err != nil {
		return nil, fmt.Errorf("read agent frame: %w", err)
	}
	return b.Bytes(), nil
}

func writeFrame(w io.Writer, body []byte) error {
	_, err := w.Write(appendString(nil, body))
	return err
}

// sign answers the body of a SIGN_REQUEST for the Git key; nil for any other.
func (k *Keyring) sign(body []byte) []byte {
	key := k.key.Load()
	blob, data, ok := parseSign(body)
	if !ok || key == nil || !bytes.Equal(blob, key.blob) {
		return nil
	}
	sig := appendString(nil, []byte("ssh-ed25519"))
	sig = appendString(sig, ed25519.Sign(key.private, data))
	return appendString([]byte{signResponse}, sig)
}

// parseSign reads the body of a SIGN_REQUEST. Flags are about RSA only.
func parseSign(b []byte) (blob, data []byte, ok bool) {
	blob, b, ok = cutString(b)
	if !ok {
		return nil, nil, false
	}
	data, b, ok = cutString(b)
	return blob, data, ok && len(b) == 4
}

func cutString(b []byte) (s, rest []byte, ok bool) {
	if len(b) < 4 {
		return nil, nil, false
	}
	n := binary.BigEndian.Uint32(b)
	if uint64(n) > uint64(len(b)-4) {
		return nil, nil, false
	}
	return b[4 : 4+n], b[4+n:], true
}

func appendString(b, s []byte) []byte {
	return append(binary.BigEndian.AppendUint32(b, uint32(len(s))), s...)
}
