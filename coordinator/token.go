package coordinator

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"fmt"
	"strings"
	"time"
)

// Prefixes of tokens, so that scanners for leaked secrets can tell them.
const (
	APITokenPrefix   = "bt1_" // API token of a user or of a workspace
	AgentTokenPrefix = "ba1_" // ba1_<workspace>_<agent id>_<HMAC>
	SetupTokenPrefix = "bs1_" // the one-time setup token
)

// TokenLifetime is how long an API token lives unless told otherwise.
const TokenLifetime = 90 * 24 * time.Hour

// NewAPIToken returns a fresh token with the given prefix and the hash under which it is stored.
func NewAPIToken(prefix string) (Secret, [32]byte) {
	var b [32]byte
	rand.Read(b[:]) //nolint:errcheck // never fails
	t := Secret(prefix + base64.RawURLEncoding.EncodeToString(b[:]))
	return t, HashToken(t)
}

// HashToken returns the SHA-256 under which a token is stored and found.
func HashToken(t Secret) [32]byte { return sha256.Sum256([]byte(t)) }

// AgentToken returns the token of one agent of a workspace, derived from the workspace's agent key and a generation,
// so that a runner can mint it while the coordinator is down and the coordinator can verify it unseen.
func AgentToken(key []byte, ws WorkspaceID, agentID string, generation int) Secret {
	m := hmac.New(sha256.New, key)
	fmt.Fprintf(m, "ba1\x00%s\x00%s\x00%d", ws, agentID, generation)
	return Secret(AgentTokenPrefix + string(ws) + "_" + agentID + "_" + base64.RawURLEncoding.EncodeToString(m.Sum(nil)))
}

// SplitAgentToken returns the workspace and agent that a token names, unverified.
func SplitAgentToken(t Secret) (ws WorkspaceID, agentID string, ok bool) {
	rest, ok := strings.CutPrefix(string(t), AgentTokenPrefix)
	if !ok || len(rest) > 200 {
		return "", "", false
	}
	parts := strings.SplitN(rest, "_", 3) // the HMAC may hold underscores, ids do not
	if len(parts) != 3 || parts[0] == "" || parts[1] == "" {
		return "", "", false
	}
	return WorkspaceID(parts[0]), parts[1], true
}

// VerifyAgentToken reports, in constant time, whether t is the token that it claims to be.
func VerifyAgentToken(t Secret, key []byte, ws WorkspaceID, agentID string, generation int) bool {
	want := AgentToken(key, ws, agentID, generation)
	return subtle.ConstantTimeCompare([]byte(want), []byte(t)) == 1
}
