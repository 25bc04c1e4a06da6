package rest

import "time"

// A Session is one connection to a workspace. Names are those of then.
type Session struct {
	ID        string    `json:"id"`
	Workspace string    `json:"workspace"` // owner/name
	Agent     string    `json:"agent"`
	User      string    `json:"user"`
	Via       string    `json:"via" doc:"connect, jump, door or console"`
	Peer      string    `json:"peer" doc:"host:port that it came from"`
	Key       string    `json:"key,omitempty" doc:"fingerprint of the key that the coordinator verified"`
	Token     string    `json:"token,omitempty" doc:"name of the API token that opened it"`
	ToldKey   string    `json:"told_key,omitempty" doc:"fingerprint of the key that the workspace says it accepted"`
	Started   time.Time `json:"started"`
	Ended     time.Time `json:"ended,omitzero" doc:"absent while it is open"`
	Lost      bool      `json:"lost,omitempty" doc:"the coordinator did not see its end: ended is an estimate, and the bytes are not known"`
	BytesIn   int64     `json:"bytes_in" doc:"to the workspace; 0 while it is open"`
	BytesOut  int64     `json:"bytes_out" doc:"from the workspace; 0 while it is open"`
}

// An AuditEntry says who did what to which thing.
type AuditEntry struct {
	Time   time.Time `json:"time"`
	Actor  string    `json:"actor,omitempty" doc:"absent for the coordinator itself"`
	Action string    `json:"action" doc:"noun.verb"`
	Target string    `json:"target"`
	Detail string    `json:"detail,omitempty"`
}
