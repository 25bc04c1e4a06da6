package hub

import (
	"crypto/hmac"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/binary"
	"io"
	"sync"
	"time"

	"berth/coordinator"
)

// A nonce is, in base64 without padding:
//
//	time in nanoseconds 8 | random 8 | MAC 16
//
// The MAC covers the workspace, the agent and the instance that asked for it, so that giving one out costs no memory.
// It is good for one use: of each agent only nonces younger than the last used one are taken.
const nonceLife = 30 * time.Second

type nonces struct {
	secret [32]byte
	random io.Reader

	mu   sync.Mutex
	used map[nonceOwner]int64 // time of the last used nonce; guarded by mu
}

type nonceOwner struct {
	ws      coordinator.WorkspaceID
	agentID string
}

func newNonces(random io.Reader) *nonces {
	n := &nonces{random: random, used: make(map[nonceOwner]int64)}
	_, _ = io.ReadFull(random, n.secret[:]) // crypto/rand never fails
	return n
}

var nonceEncoding = base64.RawURLEncoding

func (n *nonces) make(o nonceOwner, instance string, now time.Time) string {
	var b [32]byte
	binary.BigEndian.PutUint64(b[:], uint64(now.UnixNano()))
	_, _ = io.ReadFull(n.random, b[8:16]) // crypto/rand never fails
	copy(b[16:], n.mac(b[:16], o, instance))
	return nonceEncoding.EncodeToString(b[:])
}

func (n *nonces) mac(head []byte, o nonceOwner, instance string) []byte {
	m := hmac.New(sha256.New, n.secret[:])
	m.Write(head)
	_, _ = io.WriteString(m, string(o.ws)+"\x00"+o.agentID+"\x00"+instance) // a hash takes everything
	return m.Sum(nil)[:16]
}

// genuine reports whether the nonce was given to this agent and instance a moment ago.
func (n *nonces) genuine(nonce string, o nonceOwner, instance string, now time.Time) bool {
	t, ok := n.parse(nonce, o, instance)
	age := now.Sub(time.Unix(0, t))
	return ok && age >= 0 && age < nonceLife
}

func (n *nonces) parse(nonce string, o nonceOwner, instance string) (t int64, ok bool) {
	if len(nonce) != nonceEncoding.EncodedLen(32) {
		return 0, false
	}
	b, err := nonceEncoding.DecodeString(nonce)
	if err != nil || subtle.ConstantTimeCompare(b[16:], n.mac(b[:16], o, instance)) != 1 {
		return 0, false
	}
	return int64(binary.BigEndian.Uint64(b)), true
}

// use takes a genuine nonce, once. It is called after the signature was verified, so that only agents cost memory.
func (n *nonces) use(nonce string, o nonceOwner, instance string, now time.Time) bool {
	t, ok := n.parse(nonce, o, instance)
	n.mu.Lock()
	defer n.mu.Unlock()
	if !ok || t <= n.used[o] {
		return false
	}
	if len(n.used) >= 256 { // forget those that have expired, now and then
		dead := now.Add(-nonceLife).UnixNano()
		for k, at := range n.used {
			if at < dead {
				delete(n.used, k)
			}
		}
	}
	n.used[o] = t
	return true
}
