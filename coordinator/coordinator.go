// Package coordinator is the vocabulary of the coordinator and its rules: users, templates, workspaces, builds, what
// their words mean and who may do what. It knows no database, no network and no terraform.
package coordinator

import (
	"crypto/rand"
	"encoding/base32"
	"regexp"
	"strings"
	"sync"

	"berth/agent"
)

// A Secret is a value that prints as [redacted].
type Secret = agent.Secret

// Ids are random and made by the coordinator, never taken from a request.
type (
	UserID      string
	KeyID       string
	TokenID     string
	TemplateID  string
	VersionID   string
	WorkspaceID string
	BuildID     string
)

var idEncoding = base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding)

// NewID returns 128 random bits as 26 lower-case letters and digits.
func NewID() string {
	var b [16]byte
	rand.Read(b[:]) //nolint:errcheck // never fails
	return idEncoding.EncodeToString(b[:])
}

// Suffix is the default suffix of workspaces' host names: dev.berth.
const Suffix = "berth"

// MaxName is the length of the longest name of a user, a template or a workspace.
const MaxName = 32

// nameRE and its like are compiled when they are first used: a program that only starts, an agent or berth connect,
// does not pay for them.
var nameRE = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,31}$`) })

// CheckName returns an Error unless name is a valid name for what (a workspace, a user, a template): 1 to 32
// lower-case letters, digits and inner hyphens, and not the reserved "berth".
func CheckName(what, name string) error {
	if !nameRE().MatchString(name) || strings.HasSuffix(name, "-") {
		return Errorf(CodeInvalid, "%q is not a valid %s name", Clip(name, 40), what).
			WithHint("use 1 to 32 lower-case letters, digits and hyphens, beginning with a letter or digit and not ending in a hyphen")
	}
	if name == "berth" {
		return Errorf(CodeInvalid, "the name \"berth\" is reserved").WithHint("choose another " + what + " name")
	}
	return nil
}

// Clip shortens s to at most n bytes for a message, on a rune boundary.
func Clip(s string, n int) string {
	if len(s) <= n {
		return s
	}
	for n > 0 && s[n]&0xC0 == 0x80 {
		n--
	}
	return s[:n] + "…"
}
