package provider

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"path/filepath"
	"strings"

	"berth/coordinator"
	"berth/coordinator/host"
)

var processKind = &kind{
	name: "berth_process",
	doc:  "An agent as a process on the coordinator's own host.",
	attrs: []attr{
		{name: "id", typ: text, doc: "Id of the process."},
		{name: "agent_id", typ: text, role: required, replace: true, doc: "Id of the berth_agent to run."},
		{name: "home", typ: text, role: optional, replace: true, doc: "Id of the berth_home that is the home directory. Without it the host user's own, where isolation is none."},
		{name: "coder_dir", typ: text, role: optional, replace: true, doc: "Directory of the template that stands at /coder."},
		{name: "isolation", typ: text, role: optional, def: string(host.Auto), doc: "auto, bubblewrap, or none, which berthd has to allow."},
		{name: "env", typ: textMap, role: optional, replace: true, doc: "Environment of the agent, besides what Berth gives it."},
		{name: "runs", typ: text, replace: true, doc: "Digest of what runs besides: isolation, coordinator, token's generation, the template's archive where coder_dir is set."},
	},
	check:  checkProcess,
	plan:   planProcess,
	create: createProcess,
	read: func(ctx context.Context, s *Session, v values) (bool, error) {
		return s.host.ProcessAlive(ctx, v.text("id"))
	},
	destroy: func(ctx context.Context, s *Session, v values) error {
		return s.host.StopProcess(ctx, v.text("id"))
	},
}

func checkProcess(v values) error {
	if i := host.Isolation(v.text("isolation")); v.has("isolation") && i != host.Auto && i != host.Bubblewrap && i != host.None {
		return coordinator.Errorf(coordinator.CodeInvalid, "isolation: %q is not known", coordinator.Clip(string(i), 40)).WithHint("use auto, bubblewrap or none")
	}
	return host.CheckEnv(v.textMap("env"))
}

// planProcess refuses before anything is made what could not run, and has the process replaced where it would run
// something else than before.
func planProcess(s *Session, _, next values) error {
	if s.count() == 0 {
		return coordinator.Errorf(coordinator.CodeInvalid, "a berth_process may not run while the workspace is stopped").
			WithHint("gate it: count = data.berth_workspace.me.start_count")
	}
	archive := ""
	if next.has("coder_dir") {
		if _, err := s.inTemplate(next.text("coder_dir")); err != nil {
			return err
		}
		archive = s.job.Archive
	}
	if s.job.Import || !next.known("isolation") { // what the host can do is a question for the build
		return nil
	}
	home := next.has("home") || !next.known("home")
	isolation, err := s.host.Resolve(host.Isolation(next.text("isolation")), home)
	if err != nil {
		return err
	}
	sum := sha256.New()
	fmt.Fprintf(sum, "%q %q %q %q %q %d", isolation, archive, s.job.AgentURL, s.job.Workspace, s.job.Owner.Name, s.job.Generation)
	next.set("runs", hex.EncodeToString(sum.Sum(nil)[:16]))
	return nil
}

func createProcess(ctx context.Context, s *Session, v values) error {
	agentID := v.text("agent_id")
	if !s.knows(agentID) { // its token would be no agent's
		return coordinator.Errorf(coordinator.CodeDenied, "%q is not an agent of this workspace", coordinator.Clip(agentID, 40)).
			WithHint("refer to the agent: agent_id = berth_agent.main.id")
	}
	spec := host.Spec{
		ID:        coordinator.NewID(),
		AgentID:   agentID,
		Home:      v.text("home"),
		Isolation: host.Isolation(v.text("isolation")),
		Env:       v.textMap("env"),
		URL:       s.job.AgentURL,
		Token:     coordinator.AgentToken(s.job.AgentKey, s.job.WorkspaceID, agentID, s.job.Generation),
	}
	if v.has("coder_dir") {
		dir, err := s.inTemplate(v.text("coder_dir"))
		if err != nil {
			return err
		}
		spec.CoderDir = dir
	}
	if _, err := s.host.StartProcess(ctx, spec); err != nil {
		return err
	}
	v.set("id", spec.ID)
	return nil
}

// inTemplate returns the directory of the template that dir names, relative to its root module, and refuses whatever
// lies outside: a template must not show its workspaces another part of the host.
func (s *Session) inTemplate(dir string) (string, error) {
	root, err := filepath.EvalSymlinks(s.job.ModuleDir)
	if err != nil {
		return "", fmt.Errorf("find the template's directory: %w", err)
	}
	path := dir
	if !filepath.IsAbs(path) {
		path = filepath.Join(root, "module", path)
	}
	path, err = filepath.EvalSymlinks(path)
	if err != nil {
		return "", coordinator.Errorf(coordinator.CodeInvalid, "coder_dir: the template has no directory %q", coordinator.Clip(dir, 80)).
			WithHint("name one of the template's own directories: coder_dir = \"${path.module}/coder\"").WithCause(err)
	}
	if !strings.HasPrefix(path, root+string(filepath.Separator)) {
		return "", coordinator.Errorf(coordinator.CodeDenied, "coder_dir: %q is not in the template", coordinator.Clip(dir, 80)).
			WithHint("name one of the template's own directories: coder_dir = \"${path.module}/coder\"")
	}
	return path, nil
}
