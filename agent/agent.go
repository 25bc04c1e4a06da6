// Package agent is the contract between a workspace's agent and the coordinator: how the link is opened, what
// flows over its streams, and the caps that both sides hold each other to.
//
// It holds no behaviour beyond encoding, and imports the standard library only.
package agent

import (
	"crypto/ed25519"
	"log/slog"
	"time"
)

// SSHVersion is the identification string (RFC 4253, section 4.2) of every SSH server of Berth, without the
// trailing CR LF. It is a constant so that it can be sent to a client before the agent is there; it begins with
// OpenSSH because OpenSSH's client sends eow@openssh.com to such servers only.
const SSHVersion = "SSH-2.0-OpenSSH_9.9-Berth_1"

// The link: an HTTP/1.1 request that is upgraded, then yamux with the agent as its client.
const (
	LinkPath      = "/api/v1/agent/link"
	LinkUpgrade   = "berth-link/1"   // Upgrade token of the agent's link
	StreamUpgrade = "berth-stream/1" // Upgrade token of a client's stream into a workspace

	HeaderVersion   = "Berth-Version"   // the agent's version
	HeaderFeatures  = "Berth-Features"  // comma-separated features that the agent speaks
	HeaderInstance  = "Berth-Instance"  // 32 hexadecimal digits, random, made at the agent's start
	HeaderNonce     = "Berth-Nonce"     // in the 401 that challenges, and repeated in the answer
	HeaderKey       = "Berth-Key"       // the agent's Ed25519 public key, standard base64
	HeaderSignature = "Berth-Signature" // signature over LinkMessage, standard base64
	HeaderCode      = "Berth-Code"      // reason code of a refusal, one of the Code constants
)

// Reason codes in HeaderCode of a refused link.
const (
	CodeChallenge    = "challenge"     // 401: sign the nonce and ask again
	CodeUnknownToken = "unknown-token" // 401: no such workspace or agent, or a stale token
	CodeNotRunning   = "not-running"   // 403: the workspace may not run now
	CodeOtherKey     = "other-key"     // 403: the pinned agent is connected, and this is not it
	CodeReplaced     = "replaced"      // 409: another instance has taken over; exit with ExitReplaced
	CodeTooOld       = "too-old"       // 426
	CodeTryAgain     = "try-again"     // 503 with Retry-After
)

// ExitReplaced is the exit status of an agent that another instance has replaced. A supervising parent does not
// start it again.
const ExitReplaced = 70

// Caps that both sides hold each other to. Sizes are in bytes.
const (
	MaxStreamHeader   = 4 << 10
	MaxControlMessage = 64 << 10
	MaxManifest       = 4 << 20
	MaxStreams        = 1024    // open streams of one link
	MaxWindow         = 8 << 20 // yamux receive window of one stream
	MaxLogText        = 8 << 10 // text of one log line in a control message
)

// Intervals of the link's liveness.
const (
	HeartbeatInterval = 15 * time.Second
	HeartbeatTimeout  = 50 * time.Second // without a heartbeat for so long, a link is closed
	ReconnectMin      = 250 * time.Millisecond
	ReconnectMax      = 30 * time.Second
)

// LinkMessage is what an agent signs to open its link: the upgrade token, the coordinator's nonce, the workspace
// and the instance. Naming all four keeps a signature from being replayed to another coordinator or workspace.
func LinkMessage(nonce, workspace, instance string) []byte {
	return []byte(LinkUpgrade + "\n" + nonce + "\n" + workspace + "\n" + instance + "\n")
}

// VerifyLink reports whether sig is the signature of key over the link's message.
func VerifyLink(key, sig []byte, nonce, workspace, instance string) bool {
	return len(key) == ed25519.PublicKeySize && len(sig) == ed25519.SignatureSize &&
		ed25519.Verify(ed25519.PublicKey(key), LinkMessage(nonce, workspace, instance), sig)
}

// A Secret is a value that prints as [redacted]. It marshals to JSON as it is: that is what wires carry. Convert it
// to string only where it is used.
type Secret string

// String returns "[redacted]", or "" for an empty secret.
func (s Secret) String() string {
	if s == "" {
		return ""
	}
	return "[redacted]"
}

// GoString is String, for %#v.
func (s Secret) GoString() string { return s.String() }

// LogValue is String, for slog.
func (s Secret) LogValue() slog.Value { return slog.StringValue(s.String()) }

// Environment variables of the agent. A template sets the first two; berth_process sets the others too.
const (
	EnvURL        = "BERTH_AGENT_URL"   // base URL of the coordinator
	EnvToken      = "BERTH_AGENT_TOKEN" // the agent's token
	EnvTokenFile  = "BERTH_AGENT_TOKEN_FILE"
	EnvCoderDir   = "BERTH_CODER_DIR"     // directory that stands for /coder where that cannot be bound
	EnvRuntimeDir = "BERTH_RUNTIME_DIR"   // instead of /run/berth and its substitutes
	EnvCAFile     = "BERTH_AGENT_CA_FILE" // PEM: the only certificates that the agent trusts for the coordinator
	EnvInsecure   = "BERTH_INSECURE_HTTP" // 1: plain HTTP beyond loopback is allowed
)
