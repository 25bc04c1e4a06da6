package api

import (
	"context"
	"strconv"
	"strings"
	"time"

	"berth/coordinator"
	"berth/coordinator/rest"
)

type sessionsInput struct {
	PageInput
	Workspace string `query:"workspace" maxLength:"80" doc:"a workspace's name, or owner/name"`
	User      string `query:"user" maxLength:"32" doc:"who connected"`
	Open      bool   `query:"open" doc:"those only that have not ended"`
}

// listSessions lists sessions: an owner's reach goes over all, anybody else's over their own and those in their own
// workspaces.
func (s *server) listSessions(ctx context.Context, in *sessionsInput) (*output[rest.Page[rest.Session]], error) {
	before, err := in.before()
	if err != nil {
		return nil, err
	}
	a := actor(ctx)
	f := coordinator.SessionFilter{User: in.User, Workspace: in.Workspace, Open: in.Open}
	if !a.May(coordinator.PermAudit) {
		f.Of = a.User.ID
	}
	if owner, name, ok := strings.Cut(in.Workspace, "/"); ok {
		f.Owner, f.Workspace = owner, name
		if owner == "me" {
			f.Owner = a.User.Name
		}
	}
	rows, err := s.Store.Sessions(ctx, f, int64(before), in.Limit+1)
	if err != nil {
		return nil, err
	}
	return out(page(rows, in.Limit, func(r coordinator.SessionRecord) string { return strconv.FormatInt(r.Seq, 10) }, restSession)), nil
}

func restSession(r coordinator.SessionRecord) rest.Session {
	return rest.Session{
		ID: r.ID, Workspace: r.OwnerName + "/" + r.WorkspaceName, Agent: r.Agent, User: r.UserName, Via: r.Via, Peer: r.Peer,
		Key: r.Key, Token: r.Token, ToldKey: r.ToldKey, Started: r.Started, Ended: r.Ended, Lost: r.Lost,
		BytesIn: r.BytesIn, BytesOut: r.BytesOut,
	}
}

type auditInput struct {
	PageInput
	User   string    `query:"user" maxLength:"32" doc:"who did it"`
	Action string    `query:"action" maxLength:"80" doc:"noun.verb, or the noun alone"`
	Target string    `query:"target" maxLength:"200" doc:"what it was done to"`
	Since  time.Time `query:"since" doc:"no older ones"`
}

func (s *server) listAudit(ctx context.Context, in *auditInput) (*output[rest.Page[rest.AuditEntry]], error) {
	before, err := in.before()
	if err != nil {
		return nil, err
	}
	f := coordinator.AuditFilter{Actor: in.User, Action: in.Action, Target: in.Target, Since: in.Since}
	rows, err := s.Store.AuditEntries(ctx, f, int64(before), in.Limit+1)
	if err != nil {
		return nil, err
	}
	return out(page(rows, in.Limit, func(e coordinator.AuditEntry) string { return strconv.FormatInt(e.Seq, 10) }, restAudit)), nil
}

func restAudit(e coordinator.AuditEntry) rest.AuditEntry {
	return rest.AuditEntry{Time: e.Time, Actor: e.ActorName, Action: e.Action, Target: e.Target, Detail: e.Detail}
}
