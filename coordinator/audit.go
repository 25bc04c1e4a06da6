package coordinator

import "time"

// An AuditEntry says who did what to which thing. It is written once and never changed.
type AuditEntry struct {
	Time      time.Time
	Actor     UserID // empty for the coordinator itself
	ActorName string // as it was then; users may be deleted later
	Action    string // noun.verb: workspace.create, key.add
	Target    string // what it was done to, as a person would name it: alice/dev
	Detail    string // one line more, never a secret
}

// A SessionRecord is one entry into a workspace: who, when, by which way, and how much was moved.
type SessionRecord struct {
	ID          string // the stream's id
	WorkspaceID WorkspaceID
	UserID      UserID
	Via         string // one of agent's Via constants
	Peer        string // the true peer, host:port
	Agent       string // the agent's name
	Started     time.Time
	Ended       time.Time // zero while it is open
	BytesIn     int64     // from the client
	BytesOut    int64     // to the client
}

// Retention of records.
const (
	SessionRetention = 90 * 24 * time.Hour
	AuditRetention   = 365 * 24 * time.Hour
	KeepBuildLogs    = 20 // builds of a workspace, and versions of a template, whose logs are kept
	KeepStates       = 20 // revisions of a workspace's state
)
