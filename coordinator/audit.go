package coordinator

import "time"

// An AuditEntry says who did what to which thing. It is written once and never changed.
type AuditEntry struct {
	Seq       int64 // the order in which they were written; the store's
	Time      time.Time
	Actor     UserID // empty for the coordinator itself
	ActorName string // as it was then; users may be deleted later
	Action    string // noun.verb: workspace.create, key.add
	Target    string // what it was done to, as a person would name it: alice/dev
	Detail    string // one line more, never a secret
}

// An AuditFilter says which entries are wanted. What is empty does not matter.
type AuditFilter struct {
	Actor  string // name
	Action string // noun.verb, or the noun alone
	Target string
	Since  time.Time
}

// A SessionRecord is one entry into a workspace: who, when, by which way, and how much was moved. It outlives the
// workspace and the user, whose names are those of then.
type SessionRecord struct {
	Seq           int64  // the order in which they began; the store's
	ID            string // the stream's id
	WorkspaceID   WorkspaceID
	WorkspaceName string
	OwnerID       UserID // the workspace's owner
	OwnerName     string
	UserID        UserID
	UserName      string
	Via           string // one of agent's Via constants
	Peer          string // the true peer, host:port
	Agent         string // the agent's name
	Key           string // fingerprint of the key that the coordinator verified; empty where it saw none
	Token         string // name of the API token that opened it; empty where it was none
	ToldKey       string // fingerprint of the key that the workspace says it accepted
	Started       time.Time
	Ended         time.Time // zero while it is open
	Lost          bool      // the coordinator did not see its end: Ended is an estimate, and the bytes are not known
	BytesIn       int64     // from the client
	BytesOut      int64     // to the client
}

// A SessionFilter says which sessions are wanted. What is empty does not matter.
type SessionFilter struct {
	Of        UserID // sessions of this user, or in a workspace of theirs
	User      string // name of who entered
	Owner     string // name of the workspace's owner
	Workspace string // its name
	Open      bool   // those only that have not ended
}

// Retention of records.
const (
	SessionRetention = 90 * 24 * time.Hour
	AuditRetention   = 365 * 24 * time.Hour
	KeepBuildLogs    = 20 // builds of a workspace, and versions of a template, whose logs are kept
	KeepStates       = 20 // revisions of a workspace's state
)
