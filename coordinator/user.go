package coordinator

import (
	"slices"
	"time"
)

// A Role gives a user rights beyond their own workspaces.
type Role string

// Roles.
const (
	RoleOwner  Role = "owner"  // everything
	RoleMember Role = "member" // their own workspaces
)

// A User is a person who signs in.
type User struct {
	ID       UserID
	Name     string
	FullName string
	Email    string
	Role     Role
	HostUID  int // uid of this user's processes on the coordinator's host; unique, allocated from HostUIDBase
	Dotfiles string
	// Personalize is the ~/personalize script that Berth writes; nil if the user stored none.
	Personalize *string
	Created     time.Time
}

// An Admission is a new user with all that comes with them. It is stored whole or not at all: half a user could not sign
// in, and would be in the way of the next try.
type Admission struct {
	User  User
	Git   GitKey
	Keys  []SSHKey
	Token Token    // with which they sign in first
	Hash  [32]byte // under which the token is stored
	Entry AuditEntry
}

// HostUIDBase is the first uid that is given to users' processes on the coordinator's own host.
const HostUIDBase = 60_100_000

// MaxPersonalize is the size of the largest ~/personalize script that is stored, in bytes.
const MaxPersonalize = 256 << 10

// An SSHKey is a public key of a user. A registered key belongs to one user.
type SSHKey struct {
	ID          KeyID
	UserID      UserID
	Name        string
	PublicKey   string  // authorized_keys form, without options
	Fingerprint string  // SHA256:…
	TokenID     TokenID // the token of the device that made it; the key is revoked with it; may be empty
	Created     time.Time
	LastUsed    time.Time
}

// MaxKeys is how many SSH public keys one user may register.
const MaxKeys = 50

// A GitKey is the key that a user's workspaces present to Git hosts. It is never accepted at the door.
type GitKey struct {
	UserID     UserID
	PrivateKey Secret // OpenSSH PEM
	PublicKey  string // authorized_keys form
	Created    time.Time
}

// A UserSecret is one of a user's own secrets: an environment variable or a file in their workspaces.
type UserSecret struct {
	UserID  UserID
	Name    string
	Env     string // environment variable, or
	File    string // file name below secrets/ in the runtime directory
	Value   Secret // empty in listings
	Updated time.Time
}

// Limits of user secrets.
const (
	MaxSecrets     = 100
	MaxSecretValue = 64 << 10 // bytes
)

// A Token is an API token. Only its SHA-256 is stored.
type Token struct {
	ID          TokenID
	UserID      UserID
	Name        string
	WorkspaceID WorkspaceID // set for a workspace's own narrow token
	Created     time.Time
	Expires     time.Time // zero: never
	LastUsed    time.Time
}

// An Actor is an authenticated caller: a user, and how far the token goes.
type Actor struct {
	User      User
	TokenID   TokenID
	TokenName string
	Workspace WorkspaceID // not empty: a workspace's own token, which can do what a workspace needs of itself
	Via       string      // way in, for the records: empty for the API by token
}

// A Permission is what a route needs of its caller.
type Permission string

// Permissions. "own" means the caller's own things; an owner's reach goes over everything.
const (
	PermPublic        Permission = "public"         // nobody needs to be signed in
	PermRead          Permission = "read"           // own workspaces, templates, oneself: workspace tokens too
	PermStopSelf      Permission = "stop-self"      // stop of one's own workspace; a workspace's token for itself only
	PermAccount       Permission = "account"        // own tokens, keys, secrets, dotfiles, personalize, sessions
	PermWorkspace     Permission = "workspace"      // create, start, delete ... own workspaces
	PermConnect       Permission = "connect"        // enter own workspaces
	PermTemplateAdmin Permission = "template-admin" // push, activate, delete templates
	PermUserAdmin     Permission = "user-admin"     // create and delete users
	PermAudit         Permission = "audit"          // read the audit log
)

var workspaceTokenPerms = []Permission{PermPublic, PermRead, PermStopSelf}

var memberPerms = []Permission{PermPublic, PermRead, PermStopSelf, PermAccount, PermWorkspace, PermConnect}

// May reports whether a may use a route that needs p. What the route is about is checked by Sees as well.
func (a Actor) May(p Permission) bool {
	switch {
	case p == PermPublic:
		return true
	case a.User.ID == "":
		return false
	case a.Workspace != "":
		return slices.Contains(workspaceTokenPerms, p)
	case a.User.Role == RoleOwner:
		return true
	default:
		return slices.Contains(memberPerms, p)
	}
}

// Owns reports whether the workspace is the actor's own, or the actor is an installation owner with a full token.
func (a Actor) Owns(owner UserID) bool {
	return a.User.ID != "" && (a.User.ID == owner || a.User.Role == RoleOwner && a.Workspace == "")
}
