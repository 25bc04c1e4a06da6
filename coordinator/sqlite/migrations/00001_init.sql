-- Times are UTC milliseconds, 0 where there is none. Columns named *_sealed hold values of package seal; their
-- associated data is table, column, the row's key and the column "revision" beside them.

-- +goose Up
CREATE TABLE installation (
	name         TEXT PRIMARY KEY,
	revision     INTEGER NOT NULL,
	value_sealed BLOB NOT NULL
) STRICT;

CREATE TABLE active (
	one     INTEGER PRIMARY KEY CHECK (one = 1),
	pid     INTEGER NOT NULL,
	boot    TEXT NOT NULL, -- the kernel's boot id
	ticks   TEXT NOT NULL, -- the process's start as the kernel tells it
	started INTEGER NOT NULL
) STRICT;

-- host_uid is never given twice, so that nobody inherits the files of a user who was deleted.
CREATE TABLE users (
	host_uid    INTEGER PRIMARY KEY AUTOINCREMENT,
	id          TEXT NOT NULL UNIQUE,
	name        TEXT NOT NULL UNIQUE,
	full_name   TEXT NOT NULL,
	email       TEXT NOT NULL,
	role        TEXT NOT NULL,
	dotfiles    TEXT NOT NULL,
	personalize TEXT,
	created     INTEGER NOT NULL
) STRICT;
INSERT INTO sqlite_sequence (name, seq) VALUES ('users', 60099999);
CREATE INDEX users_role ON users (role);

CREATE TABLE git_keys (
	user_id        TEXT PRIMARY KEY REFERENCES users (id) ON DELETE CASCADE,
	revision       INTEGER NOT NULL,
	private_sealed BLOB NOT NULL,
	public_key     TEXT NOT NULL,
	fingerprint    TEXT NOT NULL UNIQUE,
	created        INTEGER NOT NULL
) STRICT;

CREATE TABLE user_secrets (
	user_id      TEXT NOT NULL REFERENCES users (id) ON DELETE CASCADE,
	name         TEXT NOT NULL,
	env          TEXT NOT NULL,
	file         TEXT NOT NULL,
	revision     INTEGER NOT NULL,
	value_sealed BLOB NOT NULL,
	updated      INTEGER NOT NULL,
	PRIMARY KEY (user_id, name)
) STRICT;
CREATE UNIQUE INDEX user_secrets_env ON user_secrets (user_id, env) WHERE env <> '';
CREATE UNIQUE INDEX user_secrets_file ON user_secrets (user_id, file) WHERE file <> '';

CREATE TABLE templates (
	id          TEXT PRIMARY KEY,
	name        TEXT NOT NULL UNIQUE,
	description TEXT NOT NULL,
	active_id   TEXT NOT NULL, -- of template_versions, or empty
	created     INTEGER NOT NULL
) STRICT;

CREATE TABLE template_versions (
	id          TEXT PRIMARY KEY,
	template_id TEXT NOT NULL REFERENCES templates (id) ON DELETE CASCADE,
	number      INTEGER NOT NULL,
	message     TEXT NOT NULL,
	archive     TEXT NOT NULL,
	status      TEXT NOT NULL CHECK (status IN ('importing', 'ready', 'failed')),
	error       TEXT NOT NULL,
	import      TEXT NOT NULL, -- JSON
	activate    INTEGER NOT NULL,
	created_by  TEXT NOT NULL,
	created     INTEGER NOT NULL,
	UNIQUE (template_id, number)
) STRICT;
CREATE INDEX template_versions_importing ON template_versions (created) WHERE status = 'importing';

CREATE TABLE workspaces (
	id             TEXT PRIMARY KEY,
	name           TEXT NOT NULL,
	owner_id       TEXT NOT NULL REFERENCES users (id),
	template_id    TEXT NOT NULL REFERENCES templates (id),
	version_id     TEXT NOT NULL REFERENCES template_versions (id),
	params         TEXT NOT NULL, -- JSON
	generation     INTEGER NOT NULL,
	revision       INTEGER NOT NULL,
	agent_sealed   BLOB NOT NULL,
	ed25519_sealed BLOB NOT NULL,
	ecdsa_sealed   BLOB NOT NULL,
	created        INTEGER NOT NULL,
	last_used      INTEGER NOT NULL,
	UNIQUE (owner_id, name)
) STRICT;
CREATE INDEX workspaces_template ON workspaces (template_id);
CREATE INDEX workspaces_version ON workspaces (version_id);

CREATE TABLE tokens (
	id           TEXT PRIMARY KEY,
	user_id      TEXT NOT NULL REFERENCES users (id) ON DELETE CASCADE,
	name         TEXT NOT NULL,
	hash         BLOB NOT NULL UNIQUE,
	workspace_id TEXT REFERENCES workspaces (id) ON DELETE CASCADE,
	created      INTEGER NOT NULL,
	expires      INTEGER NOT NULL,
	last_used    INTEGER NOT NULL
) STRICT;
CREATE INDEX tokens_user ON tokens (user_id, created);
CREATE INDEX tokens_workspace ON tokens (workspace_id, created) WHERE workspace_id IS NOT NULL;
CREATE INDEX tokens_expires ON tokens (expires) WHERE expires > 0;

CREATE TABLE ssh_keys (
	id          TEXT PRIMARY KEY,
	user_id     TEXT NOT NULL REFERENCES users (id) ON DELETE CASCADE,
	name        TEXT NOT NULL,
	public_key  TEXT NOT NULL,
	fingerprint TEXT NOT NULL UNIQUE,
	token_id    TEXT REFERENCES tokens (id) ON DELETE CASCADE, -- revoked with it
	created     INTEGER NOT NULL,
	last_used   INTEGER NOT NULL
) STRICT;
CREATE INDEX ssh_keys_user ON ssh_keys (user_id, created);
CREATE INDEX ssh_keys_token ON ssh_keys (token_id) WHERE token_id IS NOT NULL;

-- seq is the order of the queue.
CREATE TABLE builds (
	seq              INTEGER PRIMARY KEY,
	id               TEXT NOT NULL UNIQUE,
	workspace_id     TEXT NOT NULL REFERENCES workspaces (id) ON DELETE CASCADE,
	number           INTEGER NOT NULL,
	transition       TEXT NOT NULL CHECK (transition IN ('start', 'stop', 'delete')),
	reason           TEXT NOT NULL,
	initiator        TEXT NOT NULL,
	version_id       TEXT NOT NULL REFERENCES template_versions (id),
	params           TEXT NOT NULL, -- JSON
	allow_destroy    TEXT NOT NULL, -- JSON
	then_start       TEXT,          -- JSON
	status           TEXT NOT NULL CHECK (status IN ('queued', 'running', 'succeeded', 'failed', 'canceled')),
	cancel_requested INTEGER NOT NULL,
	error            TEXT NOT NULL,
	address          TEXT NOT NULL,
	timings          TEXT NOT NULL, -- JSON
	resources        TEXT NOT NULL, -- JSON
	state_serial     INTEGER NOT NULL,
	created          INTEGER NOT NULL,
	started          INTEGER NOT NULL,
	ended            INTEGER NOT NULL,
	UNIQUE (workspace_id, number)
) STRICT;
CREATE UNIQUE INDEX builds_open ON builds (workspace_id) WHERE status IN ('queued', 'running');
CREATE INDEX builds_queued ON builds (seq) WHERE status = 'queued';
CREATE INDEX builds_running ON builds (seq) WHERE status = 'running';
CREATE INDEX builds_version ON builds (version_id);

CREATE TABLE workspace_agents (
	workspace_id    TEXT NOT NULL REFERENCES workspaces (id) ON DELETE CASCADE,
	id              TEXT NOT NULL,
	build_id        TEXT NOT NULL,
	record          TEXT NOT NULL, -- JSON
	pinned_key      BLOB,
	first_connected INTEGER NOT NULL,
	last_seen       INTEGER NOT NULL,
	ready           INTEGER NOT NULL,
	steps           TEXT NOT NULL, -- JSON
	PRIMARY KEY (workspace_id, id)
) STRICT;

CREATE TABLE states (
	workspace_id TEXT NOT NULL REFERENCES workspaces (id) ON DELETE CASCADE,
	revision     INTEGER NOT NULL,
	build_id     TEXT NOT NULL,
	version_id   TEXT NOT NULL,
	serial       INTEGER NOT NULL,
	data_sealed  BLOB NOT NULL,
	created      INTEGER NOT NULL,
	PRIMARY KEY (workspace_id, revision)
) STRICT;

-- job_id is a build's or, for the log of an import, a template version's.
CREATE TABLE log_lines (
	job_id  TEXT NOT NULL,
	source  TEXT NOT NULL,
	seq     INTEGER NOT NULL,
	time    INTEGER NOT NULL,
	stage   TEXT NOT NULL,
	level   TEXT NOT NULL,
	address TEXT NOT NULL,
	text    TEXT NOT NULL,
	elapsed INTEGER NOT NULL, -- nanoseconds
	PRIMARY KEY (job_id, source, seq)
) STRICT, WITHOUT ROWID;

-- +goose StatementBegin
CREATE TRIGGER builds_log AFTER DELETE ON builds BEGIN
	DELETE FROM log_lines WHERE job_id = OLD.id;
END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER template_versions_log AFTER DELETE ON template_versions BEGIN
	DELETE FROM log_lines WHERE job_id = OLD.id;
END;
-- +goose StatementEnd

CREATE TABLE audit (
	id         INTEGER PRIMARY KEY,
	time       INTEGER NOT NULL,
	actor      TEXT NOT NULL,
	actor_name TEXT NOT NULL,
	action     TEXT NOT NULL,
	target     TEXT NOT NULL,
	detail     TEXT NOT NULL
) STRICT;
CREATE INDEX audit_time ON audit (time);

CREATE TABLE sessions (
	id           TEXT PRIMARY KEY,
	workspace_id TEXT NOT NULL REFERENCES workspaces (id) ON DELETE CASCADE,
	user_id      TEXT NOT NULL,
	via          TEXT NOT NULL,
	peer         TEXT NOT NULL,
	agent        TEXT NOT NULL,
	started      INTEGER NOT NULL,
	ended        INTEGER NOT NULL,
	bytes_in     INTEGER NOT NULL,
	bytes_out    INTEGER NOT NULL
) STRICT;
CREATE INDEX sessions_workspace ON sessions (workspace_id);
CREATE INDEX sessions_started ON sessions (started);

CREATE TABLE deleted_workspaces (
	id       TEXT PRIMARY KEY,
	owner    TEXT NOT NULL,
	name     TEXT NOT NULL,
	template TEXT NOT NULL,
	builds   INTEGER NOT NULL,
	created  INTEGER NOT NULL,
	deleted  INTEGER NOT NULL
) STRICT;
CREATE INDEX deleted_workspaces_deleted ON deleted_workspaces (deleted);
