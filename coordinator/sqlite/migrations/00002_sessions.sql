-- +goose Up
-- Sessions outlive their workspace and their user: who was in is not for them to wipe out. So names stand here as well.
CREATE TABLE new_sessions (
	seq          INTEGER PRIMARY KEY, -- the order in which they began
	id           TEXT NOT NULL UNIQUE,
	workspace_id TEXT NOT NULL,
	workspace    TEXT NOT NULL,
	owner_id     TEXT NOT NULL,
	owner        TEXT NOT NULL,
	user_id      TEXT NOT NULL,
	user_name    TEXT NOT NULL,
	agent        TEXT NOT NULL,
	via          TEXT NOT NULL,
	peer         TEXT NOT NULL,
	key          TEXT NOT NULL, -- fingerprint that the door verified
	token        TEXT NOT NULL, -- name of the API token
	told_key     TEXT NOT NULL, -- fingerprint, as told by the workspace
	started      INTEGER NOT NULL,
	ended        INTEGER NOT NULL,
	lost         INTEGER NOT NULL, -- the coordinator did not see its end
	bytes_in     INTEGER NOT NULL,
	bytes_out    INTEGER NOT NULL
) STRICT;
INSERT INTO new_sessions (id, workspace_id, workspace, owner_id, owner, user_id, user_name, agent, via, peer, key, token, told_key, started, ended, lost, bytes_in, bytes_out)
	SELECT s.id, s.workspace_id, w.name, w.owner_id, o.name, s.user_id, coalesce(u.name, ''), s.agent, s.via, s.peer, '', '', '', s.started, s.ended, 0, s.bytes_in, s.bytes_out
	FROM sessions s JOIN workspaces w ON w.id = s.workspace_id JOIN users o ON o.id = w.owner_id LEFT JOIN users u ON u.id = s.user_id
	ORDER BY s.started, s.rowid;
DROP TABLE sessions;
ALTER TABLE new_sessions RENAME TO sessions;
CREATE INDEX sessions_user ON sessions (user_id);
CREATE INDEX sessions_owner ON sessions (owner_id);
CREATE INDEX sessions_started ON sessions (started);
CREATE INDEX sessions_open ON sessions (seq) WHERE ended = 0;

CREATE INDEX audit_actor_name ON audit (actor_name);
CREATE INDEX audit_target ON audit (target);
