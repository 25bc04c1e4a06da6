package provider

import (
	"context"

	"berth/coordinator"
)

const defaultTimeout = float64(coordinator.DefaultConnectionTimeout / 1e9)

var agentKind = &kind{
	name: "berth_agent",
	doc:  "An agent: the process inside of the workspace that people reach by ssh. A resource has to run it with this token.",
	attrs: []attr{
		{name: "id", typ: text, doc: "Id of the agent."},
		{name: "os", typ: text, role: required, doc: "Operating system where it runs: linux."},
		{name: "arch", typ: text, role: required, doc: "Architecture where it runs: amd64 or arm64."},
		{name: "name", typ: text, role: optional, def: "main", doc: "Name of the agent, unique within the template."},
		{name: "env", typ: textMap, role: optional, doc: "Environment of everything that people run."},
		{name: "user", typ: text, role: optional, doc: "Whom to run everything as, where the agent starts as root."},
		{name: "dir", typ: text, role: optional, doc: "Directory where shells begin; by default the home directory."},
		{name: "connection_timeout", typ: number, role: optional, def: defaultTimeout, doc: "Seconds that the agent may take to connect."},
		{name: "motd", typ: text, role: optional, doc: "Text that a terminal shows at login."},
		{name: "token", typ: text, sensitive: true, doc: "The agent's token, for BERTH_AGENT_TOKEN."},
		{name: "init_script", typ: text, doc: "Shell script that fetches the agent and starts it."},
	},
	check:  checkAgent,
	plan:   planAgent,
	create: createAgent,
	read:   readAgent,
}

func checkAgent(v values) error {
	if v.has("os") && v.text("os") != "linux" {
		return coordinator.Errorf(coordinator.CodeInvalid, "os: there is no agent for %q", coordinator.Clip(v.text("os"), 40)).WithHint("use linux")
	}
	if arch := v.text("arch"); v.has("arch") && arch != "amd64" && arch != "arm64" {
		return coordinator.Errorf(coordinator.CodeInvalid, "arch: there is no agent for %q", coordinator.Clip(arch, 40)).WithHint("use amd64 or arm64")
	}
	if v.has("name") {
		if err := coordinator.CheckName("agent", v.text("name")); err != nil {
			return err
		}
	}
	if n := v.number("connection_timeout"); n != nil && (*n < 1 || *n > 86400 || *n != float64(int(*n))) {
		return coordinator.Errorf(coordinator.CodeInvalid, "connection_timeout: %v is not a number of seconds from 1 to 86400", *n)
	}
	return nil
}

// planAgent keeps id and token unknown until the agent is made. Later they are known while planning, so that a
// machine that got them is not replaced; the token changes with the job's generation only.
func planAgent(s *Session, prior, next values) error {
	if prior.there() {
		s.fill(next)
	}
	return nil
}

func createAgent(_ context.Context, s *Session, v values) error {
	v.set("id", coordinator.NewID())
	s.fill(v)
	return nil
}

func readAgent(_ context.Context, s *Session, v values) (bool, error) {
	s.saw(v.text("id"))
	return true, nil
}

// fill sets what the job gives an agent. The token is always one of the job's workspace, whatever the id.
func (s *Session) fill(v values) {
	id := v.text("id")
	s.saw(id)
	v.set("token", string(coordinator.AgentToken(s.job.AgentKey, s.job.WorkspaceID, id, s.job.Generation)))
	v.set("init_script", s.job.InitScript)
}
