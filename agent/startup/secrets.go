package startup

import (
	"context"
	"errors"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"

	"berth/agent"
	"berth/agent/shell"
)

var (
	envName  = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]{0,127}$`)
	fileName = regexp.MustCompile(`^\.?[A-Za-z0-9_][A-Za-z0-9._-]{0,127}$`)
)

// ours names variables of the agent itself, which no session sees. Others that begin with BERTH_ stay: by one of them
// the coordinator's host finds the processes of a workspace.
func ours(name string) bool {
	return strings.HasPrefix(name, "BERTH_AGENT_") ||
		slices.Contains([]string{agent.EnvCoderDir, agent.EnvRuntimeDir, agent.EnvInsecure, "GOMEMLIMIT", "GOGC", "GODEBUG", "GOTRACEBACK"}, name)
}

// settable reports whether a template or a secret may set the variable.
func settable(name string) bool {
	return envName.MatchString(name) && !strings.HasPrefix(name, "BERTH_") && name != "SSH_AUTH_SOCK"
}

// placeSecrets writes the manifest's secrets into the runtime directory and takes away files that it no longer has.
// One that cannot be placed does not keep the others out.
func (r *Runner) placeSecrets(m *agent.Manifest) error {
	var errs []error
	if r.SetKey != nil {
		errs = append(errs, r.SetKey(m.Git))
	}
	errs = append(errs,
		r.write("token", []byte(m.Token), 0o600),
		r.write("known_hosts", []byte(withNewline(m.Git.KnownHosts)), 0o600),
		r.write("gitconfig", []byte(r.gitConfig(m)), 0o600),
	)
	keep := make(map[string]bool)
	for _, s := range m.Secrets {
		switch {
		case s.File == "":
		case !fileName.MatchString(s.File):
			errs = append(errs, fmt.Errorf("secret %.40q: its file name is not allowed", s.Name))
		default:
			keep[s.File] = true
			errs = append(errs, r.write("secrets/"+s.File, []byte(s.Value), 0o600))
		}
	}
	entries, err := os.ReadDir(r.path("secrets"))
	errs = append(errs, err)
	for _, e := range entries {
		if !keep[e.Name()] {
			errs = append(errs, os.Remove(r.path("secrets", e.Name())))
		}
	}
	return errors.Join(errs...)
}

func withNewline(s string) string {
	if s == "" || strings.HasSuffix(s, "\n") {
		return s
	}
	return s + "\n"
}

// publish makes the environment of sessions: the login's, then the Git identity, the template's, the owner's secrets,
// and Berth's own last.
func (r *Runner) publish(m *agent.Manifest) {
	var template, secrets []string
	for name, value := range m.Agent.Env {
		if name == "PATH" { // $PATH in it stands for the PATH that there would be without it
			value = expandPath(value, shell.Value(r.login, "PATH"))
		}
		if settable(name) {
			template = append(template, name+"="+value)
		}
	}
	slices.Sort(template)
	for _, s := range m.Secrets {
		if settable(s.Env) {
			secrets = append(secrets, s.Env+"="+string(s.Value))
		}
	}
	own := []string{
		"BERTH_URL=" + m.URL,
		"BERTH_TOKEN_FILE=" + r.path("token"),
		"BERTH_WORKSPACE=" + m.Owner.Name + "/" + m.Workspace,
		"BERTH_SECRETS_DIR=" + r.path("secrets"),
	}
	if r.Socket != "" {
		own = append(own, "SSH_AUTH_SOCK="+r.Socket)
	}
	env := shell.Merge(r.login, gitEnv(m, r.path("gitconfig")), template, secrets, own)
	env = shell.Merge(env, []string{"PATH=" + shell.JoinPath(r.path("bin"), shell.Value(env, "PATH"))})
	r.mu.Lock()
	r.env = env
	r.mu.Unlock()
	select {
	case <-r.ready:
	default:
		close(r.ready)
	}
}

// expandPath replaces $PATH and ${PATH} in a PATH.
func expandPath(value, path string) string {
	value = strings.ReplaceAll(value, "${PATH}", path)
	parts := strings.Split(value, ":")
	for i, p := range parts {
		if p == "$PATH" {
			parts[i] = path
		}
	}
	return strings.Join(parts, ":")
}

// secrets is the first step: the files are there already, so what is left is the CLI.
func (r *Runner) secrets(ctx context.Context, j *job, m *agent.Manifest, placed error) outcome {
	if placed != nil {
		return failed("%s", oneLine(placed))
	}
	j.logf("secrets are in place in %s", r.Dir)
	if m.CLI == nil {
		j.logf("the coordinator has no CLI for this platform")
		return ok
	}
	if err := r.fetchCLI(ctx, m); err != nil {
		return failed("%s", oneLine(err))
	}
	j.logf("the berth command is in %s", r.path("bin"))
	return ok
}

// oneLine makes one line of an error's text.
func oneLine(err error) string {
	s := strings.Join(strings.Fields(err.Error()), " ")
	if len(s) > 500 {
		s = strings.ToValidUTF8(s[:500], "") + "…"
	}
	return s
}
